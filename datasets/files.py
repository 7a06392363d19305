"""Datasets of image files: a folder with all its subfolders, or a zip or tar archive read in place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import shlex
import stat
import tarfile
import zipfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from pggan.console import escape_for_terminal
from pggan.untrusted.files import check_unpacked_size

from .base import DAMAGED, DataError, Header, Source
from .content import combine_digests, compute_stamp, hash_images, update_with_file
from .images import HEIC_SUFFIXES, MAX_FILE_BYTES, SUFFIXES, open_image, read_header
from .listing import (
    LABEL_FILE,
    find_class_root,
    find_common_folder,
    find_enclosing_output,
    find_output_folders,
    find_splits,
    get_folder_order,
    get_suffix,
    is_hidden,
    is_image,
    looks_like_split,
    normalize_path,
    normalize_unicode,
)
from .skipped import describe_skipped_files, format_counts, format_names

MAX_CLASSES = 1 << 16  # our choice, three times ImageNet-21k's classes: larger labels are mistakes, such as image ids
MAX_LINKS = 8  # links to links in an archive, our choice; enough for real archives, and ends circles
ENCRYPTED = 1  # bit of a zip member's flags (APPNOTE.TXT, section 4.4.4)
MAX_LINK_BYTES = 4096  # longest link target: PATH_MAX of Linux
LABELS_EXAMPLE = '{"labels": [["folder/image.png", 3], ...]}'


class ImageFiles(Source):
    """Base of folders and archives: choose the images by extension and derive classes from their paths.

    With labels, the classes come from a dataset.json beside the images, or else from the first-level subfolders; a
    folder that contains all images, such as "train/", is not a class, but its subfolders can be. Files that this
    project's runs and commands wrote are skipped.

    Args:
        path: the folder or archive.
        names: paths of all files in it, relative to it.
        labels: whether to read classes.
        notes: sentences on links that were not followed.

    Raises:
        DataError: there are no images, or labels are requested and missing.
    """

    is_hashed_by_image = True

    def __init__(self, path: Path, names: Iterable[str], labels: bool, notes: Iterable[str] = ()):
        self.path, self.name = path, path.resolve().name
        self.notes: list[str] = list(notes)
        visible = [name for name in names if not is_hidden(name) and not name.endswith(("/", "\\"))]
        visible = self.exclude_output(visible)
        self.names = sorted(filter(is_image, visible), key=get_folder_order)
        unread = set(visible) - set(self.names)
        self.unread = sorted(name for name in unread if posixpath.basename(normalize_path(name)) != LABEL_FILE)
        self.others = sorted(map(escape_for_terminal, self.unread))
        if not self.names:
            notes = "".join(f"; {note}" for note in [*self.describe_skipped(), *self.notes])
            raise DataError(
                f"{path} and its subfolders contain no images ({', '.join(sorted(SUFFIXES))}); "
                f"pass a folder or archive with images{notes}"
            )
        self.classes: list[str] = []
        self.labels: np.ndarray | None = None
        if labels:
            self.read_labels(visible)
        else:
            places = [normalize_path(name) for name in self.names]
            self.note_splits(places, find_class_root(places, lambda folder: False))

    def note_splits(self, places: list[str], root: str) -> None:
        """Add a note if the images of several splits (train, test) are used together, which users may not expect.

        Args:
            places: the images' normalized paths.
            root: see `find_class_root`.
        """
        inner = [name[len(root) :] for name in places]
        in_classes = [name.partition("/")[2] for name in inner]  # split folders inside class folders
        splits, names = (found, inner) if (found := find_splits(inner)) else (find_splits(in_classes), in_classes)
        if splits:
            counts = Counter(name.split("/", 1)[0] for name in names)
            remedy = ""
            if names is inner:
                remedy = f"; to use one, {self.suggest_folder(root + choose_training_split(splits))}"
            self.notes.append(f"all splits are used: {format_counts((s, counts[s]) for s in splits)}{remedy}")

    def describe_skipped(self) -> list[str]:
        return describe_skipped_files(self.unread, self.open)

    def exclude_output(self, names: list[str]) -> list[str]:
        """Return the files that this project did not write, and add notes on the images that it did."""
        places = [normalize_path(name) for name in names]
        stored = dict(zip(places, names, strict=True))
        outputs = find_output_folders(places, lambda place: self.is_signed(stored[place]))
        if not outputs:
            return names
        folders = {name: find_enclosing_output(place, outputs) for name, place in zip(names, places, strict=True)}
        counts = Counter(folder for name, folder in folders.items() if folder is not None and is_image(name))
        for folder, count in sorted((folder, count) for folder, count in counts.items() if folder is not None):
            reason = (
                f"{escape_for_terminal(folder)}: {outputs[folder]}"
                if folder
                else "samples/ and outputs/: a training run wrote them"
            )
            self.notes.append(f"skipped {format_count(count, 'image')} in {reason}")
        return [name for name in names if folders[name] is None]

    def is_signed(self, name: str) -> bool:
        """Return whether a JSON file was written, with the files beside it, by a command of this project."""
        try:
            return b'"made_by"' in self.read(name)
        except (OSError, ValueError):
            return False

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises OSError, ValueError."""
        file = self.open(name)
        return Path(file).read_bytes() if isinstance(file, str) else file.read()

    def suggest_folder(self, folder: str) -> str:
        """Return the remedy for a message: how to use only one of the folders."""
        return f"pass {escape_for_terminal(str(self.path / folder))}"

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return escape_for_terminal(str(self.path / self.names[index]))

    def open(self, name: str) -> str | io.BytesIO:
        """Return the file in a form that Pillow reads: its path, or its content."""
        raise NotImplementedError

    def header(self, index: int) -> Header:
        with self.read_image(index) as picture:
            return read_header(picture)

    def content_digest(self) -> str:
        return hash_images(self)

    def hash_image(self, index: int, digest: hashlib.blake2b) -> None:
        read_and_hash(self.open(self.names[index]), digest)

    def read_image(
        self, index: int, resolution: int = 0, channels: int = 0, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        file = self.open(self.names[index])
        return open_image(file if digest is None else read_and_hash(file, digest), resolution)

    def read_labels(self, visible: list[str]) -> None:
        """Read classes and labels from a dataset.json or the class folders. Raises DataError."""
        files = {
            normalize_path(name): name for name in visible if posixpath.basename(normalize_path(name)) == LABEL_FILE
        }
        root = find_class_root(
            [normalize_path(name) for name in self.names], lambda folder: folder + LABEL_FILE in files
        )
        places = [normalize_path(name)[len(root) :] for name in self.names]
        if root:
            self.notes.append(f"the classes are in {escape_for_terminal(root)}")
        index = files.pop(root + LABEL_FILE, None)
        if files:
            where = "the class folders" if index is None else escape_for_terminal(index)
            unused = [escape_for_terminal(name) for name in sorted(files)]
            self.notes.append(f"the classes come from {where}; skipped {format_names(unused)}")
        classes, labels = (
            self.read_folder_labels(places, root) if index is None else self.read_json_labels(places, index)
        )
        self.classes, self.labels = classes, np.array(labels, dtype=np.int64)

    def read_folder_labels(self, places: list[str], root: str) -> tuple[list[str], list[int]]:
        """Return classes and labels from the images' first-level folders. Raises DataError."""
        if loose := next((name for name in places if "/" not in name), None):
            raise DataError(
                f"--labels: {escape_for_terminal(loose)} is not in a class folder; move each image into a subfolder of "
                f"{escape_for_terminal(str(self.path / root))} with its class's name, or omit --labels"
            )
        splits = find_splits(places)
        if splits and any(name.count("/") > 1 for name in places):
            raise DataError(
                f"--labels: {escape_for_terminal(str(self.path / root))} contains the splits "
                f"{' and '.join(map(escape_for_terminal, splits))}, not classes; "
                f"{self.suggest_folder(root + choose_training_split(splits))}"
            )
        first = [name.split("/", 1)[0] for name in places]
        classes = sorted(set(first))
        if splits:
            names = ", ".join(map(escape_for_terminal, splits))
            self.notes.append(f"the classes {names} look like splits; if they are, omit --labels")
        else:
            self.note_splits(places, "")
            self.note_doubtful_classes(places, root)
        number = {name: i for i, name in enumerate(classes)}
        return classes, [number[name] for name in first]

    def note_doubtful_classes(self, places: list[str], root: str) -> None:
        """Note class folders that may be splits or hold the classes, and folders without images.

        places: of the images, relative to the folder `root`.
        """
        inner: dict[str, set[str]] = defaultdict(set)
        for name in places:
            folder, *within = name.split("/")[:-1]
            inner[folder].update(within[:1] or [""])
        parts = list(filter(looks_like_split, inner))
        if nested := [folder for folder in parts if "train" in folder.lower() and "" not in inner[folder]]:
            one = self.suggest_folder(root + choose_training_split(nested))
            self.notes.append(
                f"warning: folders that may be splits containing the classes: {join_names(parts)}; if so, {one}"
            )
        elif parts:
            where = escape_for_terminal(str(self.path))
            self.notes.append(f"classes that may be splits: {join_names(parts)}; if so, move them out of {where}")
        else:
            self.note_shared_subfolders(inner, root)
        unread = [normalize_path(name)[len(root) :] for name in self.unread if normalize_path(name).startswith(root)]
        if empty := sorted({name.split("/", 1)[0] for name in unread if "/" in name} - inner.keys()):
            self.notes.append(f"folders without images are not classes: {join_names(empty)}")

    def note_shared_subfolders(self, inner: dict[str, set[str]], root: str) -> None:
        """Note class folders that contain the same subfolders. inner: subfolders of each, "" for images outside any."""
        alike: dict[frozenset[str], list[str]] = defaultdict(list)
        for folder, found in inner.items():
            alike[frozenset(found)].append(folder)
        for found, folders in alike.items():
            if (
                len(folders) > 1
                and len(found) > 1
                and "" not in found
                and not find_splits([f"{name}/" for name in found])
            ):
                self.notes.append(
                    f"warning: the classes {join_names(folders)} have the same subfolders "
                    f"({join_names(sorted(found))}); if those are the classes, {self.suggest_folder(root + folders[0])}"
                )

    def read_json_labels(self, places: list[str], index: str) -> tuple[list[str], list[int]]:
        """Return classes and labels from a label file.

        Args:
            places: the images' paths, relative to the file's folder.
            index: the file's name.

        Raises:
            DataError: the file is damaged, or lacks an image.
        """
        file = escape_for_terminal(str(self.path / index))
        table = self.load_label_table(index, file)
        by_normalized = {normalize_unicode(name): label for name, label in table.items()}
        labels: list[Any] = [table.get(name, by_normalized.get(normalize_unicode(name))) for name in places]
        if None in labels:
            image = escape_for_terminal(places[labels.index(None)])
            raise DataError(f"{file} has no label for {image}; add one, remove the image, or omit --labels")
        odd = (i for i, label in enumerate(labels) if not (type(label) is int and 0 <= label < MAX_CLASSES))
        if (first := next(odd, None)) is not None:
            raise DataError(
                f"{file}: the label of {escape_for_terminal(places[first])} is {json.dumps(labels[first])}, but labels "
                f"must be class numbers from 0 to {MAX_CLASSES - 1}; correct the file"
            )
        if (absent := len(table) - len(places)) > 0:
            self.notes.append(f"{file} lists {format_count(absent, 'image')} more than exist")
        return derive_class_names(places, labels), labels

    def load_label_table(self, index: str, file: str) -> dict[str, Any]:
        """Return the labels in a label file by the images' normalized paths.

        Args:
            index: the file's name.
            file: its path for messages.

        Raises:
            DataError: the file has another format, or two labels for an image.
        """
        table: dict[str, Any] = {}
        try:
            entries = json.loads(self.read(index))["labels"]
            for name, label in entries or ():
                if table.setdefault(normalize_path(name), label) != label:
                    raise DataError(
                        f"{file} lists {escape_for_terminal(name)} under two labels, {table[normalize_path(name)]} and "
                        f"{label}; an image has one label: correct the file"
                    )
        except json.JSONDecodeError as error:
            position = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{file} is not JSON like {LABELS_EXAMPLE}: {error.msg} at {position}") from None
        except DataError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{file} is not JSON like {LABELS_EXAMPLE}") from None
        if entries is None:  # the StyleGAN tools write "labels": null for datasets without classes
            raise DataError(f"{file} has no labels; omit --labels")
        return table


def read_and_hash(file: str | io.BytesIO, digest: hashlib.blake2b) -> str | io.BytesIO:
    """Add a file's content to a digest; return the file to be read again, from memory unless it is very large.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, io.BytesIO):
        digest.update(file.getbuffer())
        return file
    if not os.path.isfile(file):  # reading a pipe would block, and a device may never end
        return file
    if os.path.getsize(file) > MAX_FILE_BYTES:
        update_with_file(digest, file)
        return file
    content = Path(file).read_bytes()
    digest.update(content)
    return io.BytesIO(content)


def derive_class_names(places: list[str], labels: list[int]) -> list[str]:
    """Return names for numbered classes: their folders' if classes and folders correspond one to one, else the numbers.

    A class without images is named by its number, or "3 (empty)" if a folder has that name.
    """
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in places]
    pairs = set(zip(labels, folders, strict=True))
    of_class = dict(pairs)
    if not len(pairs) == len(of_class) == len(set(folders) - {""}):
        return [str(i) for i in range(max(labels) + 1)]
    used = set(folders)
    return [of_class.get(i, f"{i} (empty)" if str(i) in used else str(i)) for i in range(max(labels) + 1)]


def choose_training_split(splits: Sequence[str]) -> str:
    """Return the split to train on: the first whose name contains "train", else the first."""
    return next((split for split in splits if "train" in split.lower()), splits[0])


def join_names(names: Sequence[str]) -> str:
    """Return names as text, of a long list the first ones."""
    return format_names([escape_for_terminal(name) for name in names])


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun in the right number: "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Folder(ImageFiles):
    """Images in a folder and all its subfolders; symbolic links are followed."""

    def __init__(self, folder: Path, labels: bool = False):
        names, notes = list_files(folder, shallow_first=labels)
        super().__init__(folder, names, labels, notes)

    def open(self, name: str) -> str:
        return f"{self.path}/{name}"

    def stamp(self) -> str:
        return compute_stamp(self.path, map(self.open, self.names))


class Archive(ImageFiles):
    """Base of zip and tar archives. A folder that contains all images is stripped from the names, unless it is a class.

    Args:
        members: the location of each file, by name.
        links: names of links to folders, or to files outside the archive.
        followed: whether a link was followed that earlier versions of this code did not follow.
    """

    def __init__(self, path: Path, members: dict[str, Any], labels: bool, links: list[str], followed: bool):
        images = [name for name in members if is_image(name)]
        around = find_common_folder(images)
        classes = labels and f"{around}{LABEL_FILE}" not in members
        if LABEL_FILE in members or (classes and any("/" not in name[len(around) :] for name in images)):
            around = ""
        # The folder's name is stripped so that an archive and its unpacked folder have the same names and classes.
        self.members = {name.removeprefix(around): member for name, member in members.items()}
        lost = [name for name in links if not is_hidden(name)]
        note = f"skipped {format_count(len(lost), 'link')} to folders or outside the archive: {format_names(lost)}"
        super().__init__(path, self.members, labels, [note] if lost else [])
        omitted = {name for name in self.members if get_suffix(name) in SUFFIXES | HEIC_SUFFIXES} - set(self.names)
        self.is_usual = (
            not followed
            and all("/." in f"/{name}" or name.startswith("__MACOSX/") for name in omitted)
            and not any(get_suffix(name) in HEIC_SUFFIXES for name in self.names)  # depend on an optional package
        )

    def stamp(self) -> str:
        """Return a digest as `Source.stamp`, of the names of the images, too, if other than hidden files were skipped.

        For all other archives it does not, so that caches built by earlier versions stay valid.
        """
        stamp = compute_stamp(self.path, [self.path])
        if self.is_usual:
            return stamp
        return combine_digests(text.encode("utf-8", "surrogateescape") for text in [stamp, *self.names])

    def suggest_folder(self, folder: str) -> str:
        return f"unpack {escape_for_terminal(str(self.path))} and pass its folder {escape_for_terminal(folder)}"


class Zip(Archive):
    """Images in a zip archive, read in place."""

    def __init__(self, path: Path, labels: bool = False):
        try:
            with zipfile.ZipFile(path) as archive:
                found = {i.filename.removeprefix("./"): i for i in archive.infolist() if not i.is_dir()}
                targets = {
                    name: posixpath.join(posixpath.dirname(name), os.fsdecode(archive.read(info)))
                    for name, info in found.items()
                    # the upper 16 bits of external_attr are the Unix mode; a link's content is its target
                    if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= MAX_LINK_BYTES
                }
        except DAMAGED as error:
            raise DataError(f"{path} is damaged: {error}") from None
        followed, lost = resolve_links(targets, found)
        members = found | followed
        for link in lost:
            del members[link]
        super().__init__(path, members, labels, lost, bool(targets))

    def open(self, name: str) -> io.BytesIO:
        member = self.members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{member.file_size / 1e6:.0f} MB unpacked, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
        check_unpacked_size(member)
        if member.flag_bits & ENCRYPTED:
            raise ValueError("encrypted; unpack the archive with its password and pass the folder")
        try:
            return io.BytesIO(read_zip_member(self.path, member))
        except DAMAGED as error:  # also compressed with an unknown method
            raise ValueError(str(error)) from None


def read_zip_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Return a file in a zip archive whose directory has been read already: `zipfile.ZipFile` would read it again.

    Raises:
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError: it is damaged, or compressed by another method.
    """
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)  # APPNOTE.TXT, section 4.3.7; it ends with the lengths of the name and the extra field
        if header[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("the file's header is damaged")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        with zipfile.ZipExtFile(file, "r", member) as unpacked:
            return unpacked.read()


class Tar(Archive):
    """Images in an uncompressed tar archive, read in place."""

    def __init__(self, path: Path, labels: bool = False):
        try:
            with tarfile.open(path, "r:") as archive:
                by_name = {m.name: m for m in archive}
        except (tarfile.TarError, *DAMAGED) as error:
            raise DataError(
                f"{path} is not an uncompressed tar archive ({error}); unpack it and pass the folder: "
                f"mkdir unpacked && tar -xf {shlex.quote(str(path))} -C unpacked"
            ) from None
        found = {name.removeprefix("./"): m for name, m in by_name.items()}
        targets = {
            # hard links are relative to the archive's top, symbolic links to their own folder
            name: m.linkname if m.islnk() else posixpath.join(posixpath.dirname(name), m.linkname)
            for name, m in found.items()
            if m.islnk() or m.issym()
        }
        followed, lost = resolve_links(targets, found)
        members = {name: (m.offset_data, m.size) for name, m in (found | followed).items() if is_plain_file(m)}
        newly = any(found[link].issym() or found[link].linkname not in by_name for link in followed)
        super().__init__(path, members, labels, lost, newly)

    def open(self, name: str) -> io.BytesIO:
        offset, size = self.members[name]
        if not 0 <= size <= MAX_FILE_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f} MB")
        with open(self.path, "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))  # without tarfile, whose position in the file processes would share


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Return whether a tar member is a regular file stored contiguously: no link, device or sparse file."""
    return member.isreg() and not member.issparse()


def resolve_links(targets: dict[str, str], members: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the files that an archive's links point to, by the links' names, and the links that point to no file.

    Args:
        targets: target of each link, relative to the archive's top.
        members: all members of the archive, by name.
    """
    by_place = {posixpath.normpath(name): name for name in members}
    followed, lost = {}, []
    for link in targets:
        name: str | None = link
        for _ in range(MAX_LINKS):
            name = by_place.get(posixpath.normpath(targets[name])) if name in targets else name
        if name is None or name in targets or is_folder_member(members[name]):
            lost.append(link)
        else:
            followed[link] = members[name]
    return followed, lost


def is_folder_member(member: zipfile.ZipInfo | tarfile.TarInfo) -> bool:
    """Return whether a member of an archive is a folder."""
    return member.is_dir() if isinstance(member, zipfile.ZipInfo) else member.isdir()


def list_files(folder: Path, shallow_first: bool = False) -> tuple[list[str], list[str]]:
    """Return all files' paths relative to the folder, with "/", and sentences on links that were not followed.

    Links to folders are followed, but each folder is read only once, under the first path that leads to it. Hidden
    folders are skipped.

    Args:
        shallow_first: list breadth first, and folders before links to them, so that class folders that are links are
            read under the class's name.

    Raises:
        DataError: a folder cannot be read.
    """
    names: list[str] = []
    read: dict[str, str] = {}  # path relative to `folder`, by real path
    again, broken = [], []
    waiting = deque([""])  # a queue for breadth-first order, a stack for depth-first
    while waiting:
        inside = waiting.popleft()
        real = os.path.realpath(folder / inside)  # the same for all links to a folder, so circles end
        if real in read:
            again.append(f"{escape_for_terminal(inside)} (used as {escape_for_terminal(read[real])})")
            continue
        read[real] = inside or "./"
        folders = []
        for entry in list_entries(folder / inside, shallow_first):
            name = f"{inside}{entry.name}"
            if is_broken_link(entry) and not is_image(name):
                broken.append(escape_for_terminal(name))
            elif not is_folder_entry(entry):
                names.append(name)
            elif not is_hidden(entry.name):
                folders.append(f"{name}/")
        waiting.extend(folders) if shallow_first else waiting.extendleft(reversed(folders))
    broken = [name for name in broken if not is_hidden(name)]
    notes = (
        [f"skipped {format_count(len(again), 'folder')} already used under another name: {format_names(again)}"]
        if again
        else []
    )
    notes += [f"skipped {format_count(len(broken), 'broken link')}: {format_names(broken)}"] if broken else []
    return names, notes


def list_entries(folder: Path, links_last: bool) -> list[os.DirEntry[str]]:
    """Return a folder's entries in order of their names. Raises DataError if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (links_last and entry.is_symlink(), entry.name))
    except OSError as error:
        raise_unreadable(error)


def is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder's entry is a link whose target does not exist."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links that point to each other
        return False


def raise_unreadable(error: OSError) -> NoReturn:
    """Raise DataError for a folder that cannot be read: skipping it would silently lose its images."""
    folder = escape_for_terminal(str(error.filename))
    raise DataError(f"{folder} cannot be read ({error.strerror}); change its permissions, or move it elsewhere")
