"""Sets of image files: a folder with all its subfolders, a zip or a tar read in place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .base import DAMAGED, DataError, Header, Source, shown
from .images import MAX_FILE_BYTES, SUFFIXES, open_picture
from .parallel import cores, in_parallel

MAX_CLASSES = 1 << 16
LABEL_FILE = "dataset.json"  # of the StyleGAN2 and StyleGAN3 tools: {"labels": [["00000/img.png", 3], ...]}


class ImageFiles(Source):
    """What folders and archives have in common: names that end like an image's, and what follows from the names.

    With labels, the classes are those of a dataset.json beside the images, or else the first-level subfolders.

    Args:
        path: the folder or archive. names: of all files in it, relative to it. labels: read classes.
    """

    def __init__(self, path: Path, names: Iterable[str], labels: bool):
        self.path, self.name = path, path.resolve().name
        visible = [name for name in names if not hidden(name)]
        self.names = sorted(filter(is_image, visible), key=path_order)
        self.others = sorted(map(shown, set(visible) - set(self.names) - {LABEL_FILE}))
        if not self.names:
            raise DataError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders")
        self.classes, self.labels = [], None
        if labels:
            chosen = self.json_labels() if LABEL_FILE in visible else self.folder_labels()
            self.classes, self.labels = chosen[0], np.array(chosen[1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return shown(str(self.path / self.names[index]))

    def open(self, name: str) -> str | io.BytesIO:
        """The file for Pillow to read."""
        raise NotImplementedError

    def header(self, index: int) -> Header:
        with self.picture(index) as picture:
            return Header(*picture.size, picture.mode, picture.has_transparency_data)

    def picture(self, index: int, resolution: int = 0, channels: int = 0) -> Image.Image:
        """A JPEG of more than six times the resolution is halved while it is decoded, which is much quicker."""
        picture = open_picture(self.open(self.names[index]))
        if resolution:
            picture.draft(picture.mode, (3 * resolution, 3 * resolution))
        return picture

    def folder_labels(self) -> tuple[list[str], list[int]]:
        if loose := next((name for name in self.names if "/" not in name), None):
            raise DataError(f"--labels needs every image in a class subfolder of {self.path}, but {loose} is in none")
        first = [name.split("/", 1)[0] for name in self.names]
        classes = sorted(set(first))
        number = {name: i for i, name in enumerate(classes)}
        return classes, [number[name] for name in first]

    def json_labels(self) -> tuple[list[str], list[int]]:
        where = f"{self.path / LABEL_FILE}"
        file = self.open(LABEL_FILE)
        try:
            listed = json.loads(Path(file).read_bytes() if isinstance(file, str) else file.read())["labels"]
            table = None if listed is None else {name: label for name, label in listed}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise DataError(f'{where} is not JSON like {{"labels": [["folder/image.png", 3], ...]}}') from None
        if table is None:
            raise DataError(f"{where} has no labels; leave --labels out")
        if missing := next((name for name in self.names if table.get(name) is None), None):
            raise DataError(f"{where} has no label for {missing}")
        labels = [table[name] for name in self.names]
        if not all(type(label) is int and 0 <= label < MAX_CLASSES for label in labels):
            raise DataError(f"{where}: labels must be class numbers from 0 to {MAX_CLASSES - 1}")
        return self.class_names(labels), labels

    def class_names(self, labels: list[int]) -> list[str]:
        """Of numbered classes: their subfolders' names where each class has one of its own, else the numbers."""
        folders = [name.split("/", 1)[0] if "/" in name else "" for name in self.names]
        of_class = dict(zip(labels, folders, strict=True))
        own = len(set(zip(labels, folders, strict=True))) == len(of_class) == len(set(folders) - {""})
        return [of_class.get(i, str(i)) if own else str(i) for i in range(max(labels) + 1)]


class Folder(ImageFiles):
    """Images in a folder and all its subfolders, links followed."""

    def __init__(self, folder: Path, labels: bool = False):
        super().__init__(folder, walk(folder), labels)

    def open(self, name: str) -> str:
        return f"{self.path}/{name}"

    def paths(self) -> Iterator[str]:
        return map(self.open, self.names)

    def stamp(self) -> str:
        return stamp(self.path, self.paths())

    def content(self) -> str:
        paths = list(self.paths())
        spans = [(start, paths[start : start + 64]) for start in range(0, len(paths), 64)]
        found = sorted(in_parallel(file_digests, spans, min(cores(), len(spans))))
        return combined(chain.from_iterable(digests for _, digests in found))


class Archive(ImageFiles):
    """What zips and tars have in common. A single folder around all images is passed over, unless it is their class."""

    def __init__(self, path: Path, members: dict[str, Any], labels: bool):
        images = [name for name in members if is_image(name)]
        around = folder_around(images)
        classes = labels and f"{around}{LABEL_FILE}" not in members
        if LABEL_FILE in members or (classes and any("/" not in name[len(around) :] for name in images)):
            around = ""
        self.members = {name.removeprefix(around): member for name, member in members.items()}
        super().__init__(path, self.members, labels)

    def stamp(self) -> str:
        return stamp(self.path, [self.path])

    def content(self) -> str:
        return file_digest(self.path).hex()


class Zip(Archive):
    """Images in a zip, read in place."""

    def __init__(self, path: Path, labels: bool = False):
        self.opened: tuple[int, zipfile.ZipFile] | None = None
        self.path = path
        try:
            members = {i.filename.removeprefix("./"): i for i in self.archive().infolist() if not i.is_dir()}
        except DAMAGED as error:
            raise DataError(f"{path} is damaged: {error}") from None
        super().__init__(path, members, labels)

    def archive(self) -> zipfile.ZipFile:
        """Opened once in every process: forked ones would move one another's place in the file."""
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = os.getpid(), zipfile.ZipFile(self.path)
        return self.opened[1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"opened": None}

    def open(self, name: str) -> io.BytesIO:
        member = self.members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{member.file_size / 1e6:.0f} MB unpacked, more than {MAX_FILE_BYTES / 1e6:.0f}")
        try:
            return io.BytesIO(self.archive().read(member))
        except DAMAGED as error:  # damaged; encrypted; packed in an unknown way
            raise ValueError(str(error)) from None


class Tar(Archive):
    """Images in a plain tar, read in place."""

    def __init__(self, path: Path, labels: bool = False):
        try:
            with tarfile.open(path, "r:") as archive:
                found = {m.name: m for m in archive}
            followed = {name: found.get(m.linkname, m) if m.islnk() else m for name, m in found.items()}
            members = {name.removeprefix("./"): (m.offset_data, m.size) for name, m in followed.items() if plain(m)}
        except tarfile.TarError as error:
            raise DataError(f"{path} is no plain tar ({error}); a compressed one must be unpacked first") from None
        super().__init__(path, members, labels)

    def open(self, name: str) -> io.BytesIO:
        offset, size = self.members[name]
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f}")
        with open(self.path, "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))


def plain(member: tarfile.TarInfo) -> bool:
    """A file with its bytes in one piece, no link and no device."""
    return member.isreg() and not member.issparse()


def folder_around(names: list[str]) -> str:
    """The first-level folder that all are in, as in "photos/", or ""."""
    first = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    return f"{first.pop()}/" if len(first) == 1 and "" not in first else ""


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return not hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def hidden(name: str) -> bool:
    """Dot files, and what macOS adds to zips."""
    return "/." in f"/{name}" or name.startswith("__MACOSX/")


def path_order(name: str) -> list[str]:
    """Sort key: folder by folder."""
    return name.split("/")


def walk(folder: Path) -> Iterator[str]:
    """All files' names relative to the folder, with slashes. Raises DataError for a folder that cannot be read."""
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(parent)) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        inside = Path(parent).relative_to(folder).as_posix()
        yield from names if inside == "." else (f"{inside}/{name}" for name in names)


def unreadable(error: OSError) -> None:
    """Raises DataError: images in there would be missing without a word."""
    raise DataError(f"{shown(str(error.filename))} cannot be read ({error.strerror}); change that, or move it away")


def stamp(where: Path, files: Iterable[str | Path]) -> str:
    """Changes when a file is written, moved or touched; ctime cannot be set back as mtime can."""
    digest = hashlib.blake2b(str(where.resolve()).encode("utf-8", "surrogateescape"), digest_size=16)
    for path in files:
        try:
            stat = os.stat(path)
            version = f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        except OSError:  # a broken link: an image that cannot be read, like any other
            version = "missing"
        digest.update(f"{path}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def file_digest(path: str | Path) -> bytes:
    """Of what is in the file; of nothing, where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    if not os.path.isfile(path):  # a pipe would be waited for, a device read for ever
        return bytes(16)
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return bytes(16)
    return digest.digest()


def file_digests(span: tuple[int, list[str]]) -> tuple[int, list[bytes]]:
    """Of files one after the other, with the number of the first."""
    return span[0], list(map(file_digest, span[1]))


def combined(digests: Iterable[bytes]) -> str:
    """One digest of many, in hexadecimal."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
