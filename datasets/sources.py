"""Which set of images a name or a path stands for."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

from . import tfrecords, torchvision_sets
from .arrays import Arrays
from .base import DataError, Source, escape_for_terminal
from .cache_files import find_cache_folder
from .files import Folder, Tar, Zip
from .synthetic import SyntheticShapes

SOURCE_TYPES = (
    f"a folder, zip or tar of images, an .npz, a folder of the official TFRecords, "
    f"{', '.join(torchvision_sets.NAMES)}, or synthetic"
)


def open_source(data: str, labels: bool = False) -> Source:
    """The set that a name or a path stands for; a path that exists comes before a name.

    Args:
        data: "synthetic", a folder, zip or tar of images, an .npz, a folder of the official multi-resolution
            TFRecords, or the name of a torchvision set.
        labels: read classes: of class folders, of a dataset.json, or the set's own.

    Raises:
        DataError: no such set or path, no images in it, or no classes where labels are asked for.
    """
    if not data:
        raise DataError(f"an empty name was given for the images; name {SOURCE_TYPES}")
    if data == "synthetic":
        return SyntheticShapes(labelled=labels)
    path = Path(data)
    if os.path.isdir(path):
        return open_folder(path, labels)
    if os.path.isfile(path):
        return open_file(path, labels)
    if torchvision_sets.is_torchvision_name(data):
        return torchvision_sets.TorchvisionSet(data, find_cache_folder() / "torchvision", labels)
    raise DataError(f"{data} does not exist; name {SOURCE_TYPES}")


def open_folder(path: Path, labels: bool) -> Source:
    """The source that a folder is. Raises DataError where it cannot be read."""
    try:
        return tfrecords.TFRecords(path, labels) if tfrecords.find_files(path) else Folder(path, labels)
    except OSError as error:
        raise DataError(f"{escape_for_terminal(str(path))} cannot be read: {error.strerror or error}") from None


def open_file(path: Path, labels: bool) -> Source:
    """The source that a file is. Raises DataError for other files."""
    try:
        if path.suffix.lower() == ".npz":
            return Arrays(path, labels)
        if zipfile.is_zipfile(path):
            return Zip(path, labels)
        if tarfile.is_tarfile(path):
            return Tar(path, labels)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raise DataError(f"{path} is a file, but no zip, tar or .npz; name {SOURCE_TYPES}")
