"""The interface of datasets, `Source`, and the error that they raise."""

from __future__ import annotations

import hashlib
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
    """A dataset cannot be found or used. The message is one sentence with the reason and the remedy."""


# Errors that zipfile, NumPy and the decompressors raise for damaged or malicious archives
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,  # zipfile: the member is encrypted, or its compression method unknown
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,  # NumPy: the header declares a huge array
    SyntaxError,  # NumPy: the header of an .npy is not a Python literal, as for TokenError
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
)


def parse_fraction(text: str | float) -> float:
    """Return a fraction in [0, 1] from "1%", "0.01" or 0.01. Raises ValueError for other values."""
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{text!r} is not a fraction such as 5% or 0.05") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not between 0% and 100%; write 5% or 0.05")
    if text == "1":
        raise ValueError("1 may mean 1% or 100%; write either")
    return value


def has_too_many_bad(bad: int, count: int, max_bad: float) -> bool:
    """Return whether more than the fraction `max_bad` of images is unreadable, or all of them."""
    # Rounded, because "0.7%" parses as 0.7 / 100 = 0.00699..., of which 1,000 times is less than 7.
    return bad > round(max_bad * count, 6) or bad == count


class Header(NamedTuple):
    """An image's size in pixels, Pillow mode and transparency, known before its pixels are decoded."""

    width: int
    height: int
    mode: str
    transparent: bool = False


@dataclass(frozen=True)
class Format:
    """The resolution and channels that a dataset has without any options.

    Attributes:
        resolution: the largest power of two for which no image is enlarged.
        channels: 1 if all images are gray, else 3.
        note: a warning for the user, such as mixed gray and color images, or "".
    """

    resolution: int
    channels: int
    note: str = field(default="", compare=False)


class Source(Protocol):
    """A dataset of images, with or without class labels: a snapshot, to be opened again after its files change.

    Attributes:
        name: for messages.
        classes: class names; [] without labels.
        labels: class indices [len], int64, or None.
        others: names of the other files that were found, without an image extension.
        notes: sentences on how the images and classes were found.
        is_hashed_by_image: whether `content_digest` combines the images' digests, as `read_image` can compute them.
    """

    name: str
    classes: list[str]
    labels: np.ndarray | None
    others: list[str]
    notes: Sequence[str] = ()
    is_hashed_by_image: bool = False

    def __len__(self) -> int: ...

    def describe_skipped(self) -> list[str]:
        """Return sentences that count `others` by file type."""
        return []

    def stamp(self) -> str:
        """Return a digest of the files' paths, sizes and times, which changes whenever a file does. Reads no file."""

    def content_digest(self) -> str:
        """Return a digest of the files' content in their order, the same for a copy. Reads all files, decodes none."""

    def header(self, index: int) -> Header:
        """Return an image's header. Raises as `read_image`."""

    def hash_image(self, index: int, digest: hashlib.blake2b) -> None:
        """Add an image's stored content to a digest; needed with `is_hashed_by_image`. Raises OSError, ValueError."""
        return

    def read_image(
        self, index: int, resolution: int, channels: int, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        """Return an image as it is stored.

        Args:
            resolution, channels: used by datasets that are drawn, or stored at several sizes. Others may decode at a
                reduced size that is still larger than the resolution; 0 forbids that.
            digest: add the stored content to it, as `hash_image`, so that it is read only once.

        Raises:
            OSError, ValueError: the image cannot be read. Pillow raises further types for damaged files.
        """

    def describe(self, index: int) -> str:
        """Return an image's name for messages."""
