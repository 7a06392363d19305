"""torchvision's datasets by name, downloaded if there is network access."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .base import DataError, Header, Source

# name: torchvision's class, its arguments, and the attribute that holds the labels, if any
SETS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "cifar10": ("CIFAR10", {"train": True}, "targets"),
    "cifar100": ("CIFAR100", {"train": True}, "targets"),
    "mnist": ("MNIST", {"train": True}, "targets"),
    "fashion-mnist": ("FashionMNIST", {"train": True}, "targets"),
    "svhn": ("SVHN", {"split": "train"}, "labels"),
    "stl10": ("STL10", {"split": "train+unlabeled"}, "labels"),
    "celeba": ("CelebA", {"split": "all"}, None),
}
NAMES = (*SETS, "lsun-CATEGORY")
TIMEOUT = 10.0  # seconds to wait for an answer or the next bytes; behind some firewalls none ever come


def is_torchvision_name(data: str) -> bool:
    """Return whether `data` names one of torchvision's datasets."""
    return data in SETS or data.startswith("lsun-")


class TorchvisionSet(Source):
    """One of torchvision's datasets: its training images (all of celeba; without labels, also stl10's unlabeled).

    Args:
        name: cifar10, cifar100, mnist, fashion-mnist, svhn, stl10, celeba, or lsun-bedroom and other categories.
        root: folder for torchvision's files.

    Raises:
        DataError: torchvision is missing, the files are missing and cannot be downloaded, or there are no labels.
    """

    def __init__(self, name: str, root: Path, labels: bool = False):
        self.name, self.classes, self.labels, self.others = name, [], None, []
        if name.startswith("lsun-"):
            kind, options, attribute = "LSUN", {"classes": [f"{name.removeprefix('lsun-')}_train"]}, None
        else:
            kind, options, attribute = SETS[name]
            options = options | {"download": True}
        if labels and name == "stl10":
            options |= {"split": "train"}
        if labels and attribute is None:
            raise DataError(f"{name} has no classes; omit --labels")
        try:
            import torchvision
        except ImportError:
            raise DataError(f"reading {name} needs torchvision: pip install torchvision") from None
        self.images = self.load(getattr(torchvision.datasets, kind), root, options)
        if labels and attribute:
            self.labels = np.asarray(getattr(self.images, attribute), dtype=np.int64)
            names = getattr(self.images, "classes", range(self.labels.max() + 1))
            self.classes = [str(c) for c in names]

    def load(self, kind: Callable[..., Any], root: Path, options: dict[str, Any]) -> Any:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with limit_silence(TIMEOUT):
                return kind(root=str(root), **options)
        except ModuleNotFoundError as error:
            raise DataError(f"{self.name} needs {error.name}: pip install {error.name}") from None
        except Exception as error:  # torchvision raises RuntimeError, URLError, OSError, lmdb.Error and others
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.name} is not in {root} and could not be downloaded ({reason}); without network access, put "
                f"the files there as torchvision.datasets.{kind.__name__} expects them"
            ) from None

    def __len__(self) -> int:
        return len(self.images)

    def describe(self, index: int) -> str:
        return f"{self.name} image {index}"

    def stamp(self) -> str:
        return self.content_digest()

    def content_digest(self) -> str:
        """Return a digest: these datasets are fixed, and torchvision verifies most of their files by MD5."""
        digest = hashlib.blake2b(f"{self.name} {len(self)}".encode(), digest_size=16)
        data = getattr(self.images, "data", None)
        digest.update(np.ascontiguousarray(data) if data is not None else b"")
        return digest.hexdigest()

    def header(self, index: int) -> Header:
        picture = self.read_image(index)
        return Header(*picture.size, picture.mode)

    def read_image(self, index: int, resolution: int = 0, channels: int = 0) -> Image.Image:
        return self.images[index][0]


@contextmanager
def limit_silence(seconds: float) -> Iterator[None]:
    """Make connections that stay silent for so long fail: torchvision's downloads would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
