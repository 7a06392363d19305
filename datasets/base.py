"""What every set of images offers, and what is raised where it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class DataError(ValueError):
    """Images that cannot be found or used, in one sentence that says what to do."""


@dataclass(frozen=True)
class Format:
    """What images are by themselves: the largest power of two that the smaller sides allow, and their channels."""

    resolution: int
    channels: int


class Source(Protocol):
    """A set of images.

    Attributes:
        name: for file names and messages. classes: their names, [] where there are none.
        labels: class indices [len], int64, or None.
    """

    name: str
    classes: list[str]
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes when the images do; does not decode them."""

    def native_format(self) -> Format: ...

    def image(self, index: int, resolution: int, channels: int) -> np.ndarray:
        """uint8 [channels, resolution, resolution]. Raises OSError or ValueError for an image that cannot be read."""

    def describe(self, index: int) -> str:
        """The image's name in messages."""
