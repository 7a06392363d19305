"""What every set of images offers, and what is raised where it cannot."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image


class DataError(ValueError):
    """Images that cannot be found or used, in one sentence that says what to do."""


# What zipfile, NumPy and the decompressors raise for archives that are damaged or made to harm
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)


def parse_fraction(text: str | float) -> float:
    """A share in [0, 1] from "1%", "0.01" or 0.01. Raises ValueError."""
    value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not between 0% and 100%")
    return value


def has_too_many_bad(bad: int, count: int, max_bad: float) -> bool:
    """Whether more than this share of images cannot be read; 7 of 1,000 are not more than 0.7%."""
    return bad > round(max_bad * count, 6) or bad == count


def escape_for_terminal(name: str) -> str:
    """A name for a line of text: line breaks, escape codes and bytes that are no text are written as in Python."""
    return name if name.isprintable() else repr(name)[1:-1]


class Header(NamedTuple):
    """What is known of an image before its pixels are decoded: sides in pixels, Pillow mode, any transparency."""

    width: int
    height: int
    mode: str
    transparent: bool = False


@dataclass(frozen=True)
class Format:
    """What images are by themselves: the largest power of two that the smallest one allows, and their channels.

    note: what the user should know of it, or "".
    """

    resolution: int
    channels: int
    note: str = field(default="", compare=False)


class Source(Protocol):
    """A set of images.

    Attributes:
        name: for messages. classes: their names, [] where there are none.
        labels: class indices [len], int64, or None.
        others: names of files beside the images that are not taken for images.
        notes: sentences on how the images and classes were found.
    """

    name: str
    classes: list[str]
    labels: np.ndarray | None
    others: list[str]
    notes: Sequence[str] = ()

    def __len__(self) -> int: ...

    def skipped(self) -> list[str]:
        """Sentences on `others`, by kind of file."""
        return []

    def stamp(self) -> str:
        """Stays while nobody touches the files; known in a moment."""

    def content_digest(self) -> str:
        """Stands for the images' bytes in their order: the same for a copy. Reads them all, decodes none."""

    def header(self, index: int) -> Header:
        """Raises as `read_image` does."""

    def read_image(self, index: int, resolution: int, channels: int) -> Image.Image:
        """The image as it is stored; sets that are drawn, or stored in several sizes, give the one asked for.

        Raises OSError, ValueError or what else Pillow raises for an image that cannot be read.
        """

    def describe(self, index: int) -> str:
        """The image's name in messages."""
