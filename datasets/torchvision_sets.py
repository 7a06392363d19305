"""torchvision's datasets by name, downloaded if there is network access."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .base import DataError, Header, Source
from .content import new_digest
from .files import Folder
from .lsun import LSUN

# name: torchvision's class, its arguments, and the attribute that holds the labels
SETS: dict[str, tuple[str, dict[str, Any], str]] = {
    "cifar10": ("CIFAR10", {"train": True}, "targets"),
    "cifar100": ("CIFAR100", {"train": True}, "targets"),
    "mnist": ("MNIST", {"train": True}, "targets"),
    "fashion-mnist": ("FashionMNIST", {"train": True}, "targets"),
    "svhn": ("SVHN", {"split": "train"}, "labels"),
    "stl10": ("STL10", {"split": "train+unlabeled"}, "labels"),
}
NAMES = (*SETS, "celeba", "lsun-CATEGORY")
TIMEOUT = 10.0  # seconds to wait for an answer or the next bytes; behind some firewalls none ever come


def is_torchvision_name(data: str) -> bool:
    """Return whether `data` names one of torchvision's datasets."""
    return data in SETS or data == "celeba" or data.startswith("lsun-")


def open_torchvision_set(name: str, root: Path, labels: bool = False) -> Source:
    """Open a dataset by name, from files as torchvision has them. Raises DataError as the classes."""
    if name.startswith("lsun-"):
        return LSUN(name, root / f"{name.removeprefix('lsun-')}_train_lmdb", labels)
    return open_celeba(root, labels) if name == "celeba" else TorchvisionSet(name, root, labels)


def open_celeba(root: Path, labels: bool) -> Folder:
    """Open all images of CelebA, downloaded and unpacked by torchvision if they are missing."""
    if labels:
        raise DataError("celeba has no classes; omit --labels")
    folder = root / "celeba" / "img_align_celeba"
    if not folder.is_dir():
        load("celeba", "CelebA", root, {"split": "all", "download": True})
    images = Folder(folder)
    images.name = "celeba"
    return images


class TorchvisionSet(Source):
    """One of torchvision's datasets that it holds in memory: its training images (without labels, also stl10's others).

    Args:
        name: cifar10, cifar100, mnist, fashion-mnist, svhn or stl10.
        root: folder for torchvision's files.

    Raises:
        DataError: torchvision is missing, the files are missing and cannot be downloaded, or there are no labels.
    """

    def __init__(self, name: str, root: Path, labels: bool = False):
        self.name, self.classes, self.labels, self.others = name, [], None, []
        kind, options, attribute = SETS[name]
        options = options | {"download": True}
        if labels and name == "stl10":
            options |= {"split": "train"}
        self.images = load(name, kind, root, options)
        if labels:
            self.labels = np.asarray(getattr(self.images, attribute), dtype=np.int64)
            names = getattr(self.images, "classes", range(self.labels.max() + 1))
            self.classes = [str(c) for c in names]

    def __len__(self) -> int:
        return len(self.images)

    def describe(self, index: int) -> str:
        return f"{self.name} image {index}"

    def stamp(self) -> str:
        return self.content_digest()

    def content_digest(self) -> str:
        digest = new_digest()
        digest.update(f"{self.name} {len(self)}".encode())
        digest.update(np.ascontiguousarray(self.images.data))
        return digest.hexdigest()

    def header(self, index: int) -> Header:
        picture = self.read_image(index)
        return Header(*picture.size, picture.mode)

    def read_image(
        self, index: int, resolution: int = 0, channels: int = 0, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        return self.images[index][0]


def load(name: str, kind: str, root: Path, options: dict[str, Any]) -> Any:
    """Return one of torchvision's datasets, downloaded if necessary. Raises DataError.

    Args:
        name: for messages. kind: torchvision's class. options: its arguments.
    """
    try:
        import torchvision
    except ImportError:
        raise DataError(f"reading {name} needs torchvision: pip install torchvision") from None
    try:
        root.mkdir(parents=True, exist_ok=True)
        with limit_silence(TIMEOUT):
            return getattr(torchvision.datasets, kind)(root=str(root), **options)
    except ModuleNotFoundError as error:
        raise DataError(f"{name} needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # torchvision raises RuntimeError, URLError, OSError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} is not in {root} and could not be downloaded ({reason}); without network access, put the files "
            f"there as torchvision.datasets.{kind} expects them"
        ) from None


@contextmanager
def limit_silence(seconds: float) -> Iterator[None]:
    """Make connections that stay silent for so long fail: torchvision's downloads would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
