"""Sets of image files: a folder with all its subfolders, a zip or a tar read in place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import stat
import tarfile
import zipfile
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from .base import DAMAGED, DataError, Header, Source, escape_for_terminal
from .images import MAX_FILE_BYTES, SUFFIXES, open_image
from .listing import (
    LABEL_FILE,
    class_root,
    composed,
    ending,
    folder_around,
    is_hidden,
    is_image,
    looks_like_split,
    output_folder_of,
    output_folders,
    path_order,
    place,
    splits,
)
from .parallel import count_cores, map_parallel
from .skipped import kinds_of_files, list_counts, listed

MAX_CLASSES = 1 << 16
MAX_LINKS, MAX_LINK_BYTES = 8, 4096  # steps from link to link in an archive; the longest path of Linux
LABELS_LIKE = '{"labels": [["folder/image.png", 3], ...]}'


class ImageFiles(Source):
    """What folders and archives have in common: names that end like an image's, and what follows from the names.

    With labels, the classes are those of a dataset.json beside the images, or else the first-level subfolders. Single
    folders around all images are passed over. What runs and commands of this project wrote is no data.

    Args:
        path: the folder or archive. names: of all files in it, relative to it. labels: read classes.
        notes: sentences on links that were not followed.
    """

    def __init__(self, path: Path, names: Iterable[str], labels: bool, notes: Iterable[str] = ()):
        self.path, self.name = path, path.resolve().name
        self.notes: list[str] = list(notes)
        visible = [name for name in names if not is_hidden(name) and not name.endswith(("/", "\\"))]
        visible = self.without_output(visible)
        self.names = sorted(filter(is_image, visible), key=path_order)
        unread = set(visible) - set(self.names)
        self.unread = sorted(name for name in unread if posixpath.basename(place(name)) != LABEL_FILE)
        self.others = sorted(map(escape_for_terminal, self.unread))
        if not self.names:
            why = "".join(f"; {note}" for note in [*self.skipped(), *self.notes])
            raise DataError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders{why}")
        self.classes: list[str] = []
        self.labels: np.ndarray | None = None
        if labels:
            self.read_labels(visible)
        else:
            places = [place(name) for name in self.names]
            self.note_splits(places, class_root(places, lambda folder: False))

    def note_splits(self, places: list[str], root: str) -> None:
        """Note that the images of all splits are used, which a user may not know. places: of the images."""
        inside = [name[len(root) :] for name in places]
        within = [name.partition("/")[2] for name in inside]  # folders of splits in those of classes
        parts, names = (found, inside) if (found := splits(inside)) else (splits(within), within)
        if parts:
            counts = Counter(name.split("/", 1)[0] for name in names)
            remedy = f"; to use one, {self.name_folder(root + training_split(parts))}" if names is inside else ""
            self.notes.append(f"all splits are used: {list_counts((part, counts[part]) for part in parts)}{remedy}")

    def skipped(self) -> list[str]:
        return kinds_of_files(self.unread, self.open)

    def without_output(self, names: list[str]) -> list[str]:
        """Return the files that this project did not write, and note the others."""
        places = [place(name) for name in names]
        found = output_folders(places, lambda name: self.is_signed(names[places.index(name)]))
        if not found:
            return names
        where = {name: output_folder_of(inside, found) for name, inside in zip(names, places, strict=True)}
        counts = Counter(folder for name, folder in where.items() if folder is not None and is_image(name))
        for folder, count in sorted((folder, count) for folder, count in counts.items() if folder is not None):
            what = (
                f"{escape_for_terminal(folder)}: {found[folder]}"
                if folder
                else "samples/ and outputs/: a run wrote them here"
            )
            self.notes.append(f"skipped {plural(count, 'image')} in {what}")
        return [name for name in names if where[name] is None]

    def is_signed(self, name: str) -> bool:
        """Whether a JSON file says that a command of this project made it and what lies beside it."""
        try:
            return b'"made_by"' in self.read(name)
        except (OSError, ValueError):
            return False

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises OSError, ValueError."""
        file = self.open(name)
        return Path(file).read_bytes() if isinstance(file, str) else file.read()

    def name_folder(self, folder: str) -> str:
        """Return what to do to use only one of the folders."""
        return f"name {escape_for_terminal(str(self.path / folder))}"

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        return escape_for_terminal(str(self.path / self.names[index]))

    def open(self, name: str) -> str | io.BytesIO:
        """The file for Pillow to read."""
        raise NotImplementedError

    def header(self, index: int) -> Header:
        with self.read_image(index) as picture:
            return Header(*picture.size, picture.mode, picture.has_transparency_data)

    def read_image(self, index: int, resolution: int = 0, channels: int = 0) -> Image.Image:
        """A JPEG of more than six times the resolution is halved while it is decoded, which is much quicker."""
        picture = open_image(self.open(self.names[index]))
        if resolution:
            picture.draft(picture.mode, (3 * resolution, 3 * resolution))
        return picture

    def read_labels(self, visible: list[str]) -> None:
        """Read classes and labels from a dataset.json or the class folders. Raises DataError."""
        files = {place(name): name for name in visible if posixpath.basename(place(name)) == LABEL_FILE}
        root = class_root([place(name) for name in self.names], lambda folder: folder + LABEL_FILE in files)
        places = [place(name)[len(root) :] for name in self.names]
        if root:
            self.notes.append(f"the classes are in {escape_for_terminal(root)}")
        index = files.pop(root + LABEL_FILE, None)
        if files:
            where = "the class folders" if index is None else escape_for_terminal(index)
            unused = [escape_for_terminal(name) for name in sorted(files)]
            self.notes.append(f"classes are those of {where}; skipped {listed(unused)}")
        classes, labels = (
            self.read_folder_labels(places, root) if index is None else self.read_json_labels(places, index)
        )
        self.classes, self.labels = classes, np.array(labels, dtype=np.int64)

    def read_folder_labels(self, places: list[str], root: str) -> tuple[list[str], list[int]]:
        if loose := next((name for name in places if "/" not in name), None):
            where = self.path / root
            raise DataError(
                f"--labels needs every image in a class subfolder of {escape_for_terminal(str(where))}, but "
                f"{escape_for_terminal(loose)} is in none"
            )
        parts = splits(places)
        if parts and any(name.count("/") > 1 for name in places):
            raise DataError(
                f"--labels: {escape_for_terminal(str(self.path / root))} has the splits "
                f"{' and '.join(map(escape_for_terminal, parts))}, not classes; "
                f"{self.name_folder(root + training_split(parts))}"
            )
        first = [name.split("/", 1)[0] for name in places]
        classes = sorted(set(first))
        if parts:
            self.notes.append(
                f"the classes {', '.join(map(escape_for_terminal, parts))} look like splits; if so, leave --labels out"
            )
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
            one = self.name_folder(root + training_split(nested))
            self.notes.append(
                f"warning: folders that may be splits containing the classes: {list_names(parts)}; if so, {one}"
            )
        elif parts:
            where = escape_for_terminal(str(self.path))
            self.notes.append(f"classes that may be splits: {list_names(parts)}; if so, move them out of {where}")
        else:
            self.note_shared_subfolders(inner, root)
        unread = [place(name)[len(root) :] for name in self.unread if place(name).startswith(root)]
        if empty := sorted({name.split("/", 1)[0] for name in unread if "/" in name} - inner.keys()):
            self.notes.append(f"folders without images are not classes: {list_names(empty)}")

    def note_shared_subfolders(self, inner: dict[str, set[str]], root: str) -> None:
        """Note class folders that contain the same subfolders. inner: subfolders of each, "" for images outside any."""
        alike: dict[frozenset[str], list[str]] = defaultdict(list)
        for folder, found in inner.items():
            alike[frozenset(found)].append(folder)
        for found, folders in alike.items():
            if len(folders) > 1 and len(found) > 1 and "" not in found and not splits([f"{name}/" for name in found]):
                self.notes.append(
                    f"warning: the classes {list_names(folders)} have the same subfolders "
                    f"({list_names(sorted(found))}); if those are the classes, {self.name_folder(root + folders[0])}"
                )

    def read_json_labels(self, places: list[str], index: str) -> tuple[list[str], list[int]]:
        """Return classes and labels from the file named `index`; places: of the images, relative to its folder."""
        where = escape_for_terminal(str(self.path / index))
        table = self.label_table(index, where)
        by_composed = {composed(name): label for name, label in table.items()}
        labels: list[Any] = [table.get(name, by_composed.get(composed(name))) for name in places]
        if None in labels:
            raise DataError(f"{where} has no label for {escape_for_terminal(places[labels.index(None)])}")
        odd = (i for i, label in enumerate(labels) if not (type(label) is int and 0 <= label < MAX_CLASSES))
        if (first := next(odd, None)) is not None:
            raise DataError(
                f"{where}: the label of {escape_for_terminal(places[first])} is {json.dumps(labels[first])}, but "
                f"labels must be class numbers from 0 to {MAX_CLASSES - 1}"
            )
        if (absent := len(table) - len(places)) > 0:
            self.notes.append(f"{where} lists {plural(absent, 'image')} more than there are")
        return class_names(places, labels), labels

    def label_table(self, index: str, where: str) -> dict[str, Any]:
        """Return labels by the images' places. Raises DataError for a file that is not one of labels."""
        table: dict[str, Any] = {}
        try:
            listed = json.loads(self.read(index))["labels"]
            for name, label in listed or ():
                if table.setdefault(place(name), label) != label:
                    raise DataError(
                        f"{where} lists {escape_for_terminal(name)} under two labels, {table[place(name)]} and "
                        f"{label}; an image has one label: correct the file"
                    )
        except json.JSONDecodeError as error:
            at = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{where} is not JSON like {LABELS_LIKE}: {error.msg} at {at}") from None
        except DataError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(f"{where} is not JSON like {LABELS_LIKE}") from None
        if listed is None:
            raise DataError(f"{where} has no labels; leave --labels out")
        return table


def class_names(places: list[str], labels: list[int]) -> list[str]:
    """Return names of numbered classes: their subfolders' if each class has one of its own, else the numbers.

    A class without images has its number, unless a subfolder is called so.
    """
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in places]
    pairs = set(zip(labels, folders, strict=True))
    of_class = dict(pairs)
    if not len(pairs) == len(of_class) == len(set(folders) - {""}):
        return [str(i) for i in range(max(labels) + 1)]
    taken = set(folders)
    return [of_class.get(i, f"{i} (empty)" if str(i) in taken else str(i)) for i in range(max(labels) + 1)]


def list_names(names: Sequence[str]) -> str:
    """Return names as text, of a long list the first ones."""
    return listed([escape_for_terminal(name) for name in names])


def training_split(parts: list[str]) -> str:
    """Return the one of several splits to train on."""
    return next((part for part in parts if "train" in part.lower()), parts[0])


def plural(count: int, noun: str) -> str:
    """As in "1 image" and "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Folder(ImageFiles):
    """Images in a folder and all its subfolders, links followed."""

    def __init__(self, folder: Path, labels: bool = False):
        names, notes = list_files(folder, shallow_first=labels)
        super().__init__(folder, names, labels, notes)

    def open(self, name: str) -> str:
        return f"{self.path}/{name}"

    def list_paths(self) -> Iterator[str]:
        return map(self.open, self.names)

    def stamp(self) -> str:
        return compute_stamp(self.path, self.list_paths())

    def content_digest(self) -> str:
        paths = list(self.list_paths())
        spans = [(start, paths[start : start + 64]) for start in range(0, len(paths), 64)]
        found = sorted(map_parallel(hash_files, spans, min(count_cores(), len(spans))))
        return combine_digests(chain.from_iterable(digests for _, digests in found))


class Archive(ImageFiles):
    """What zips and tars have in common. A single folder around all images is passed over, unless it is their class.

    Args:
        members: by name, how each file is found. links: names of links to what is not in the archive, or to folders.
        followed: whether any link was followed that earlier versions did not.
    """

    def __init__(self, path: Path, members: dict[str, Any], labels: bool, links: list[str], followed: bool):
        images = [name for name in members if is_image(name)]
        around = folder_around(images)
        classes = labels and f"{around}{LABEL_FILE}" not in members
        if LABEL_FILE in members or (classes and any("/" not in name[len(around) :] for name in images)):
            around = ""
        self.members = {name.removeprefix(around): member for name, member in members.items()}
        lost = [name for name in links if not is_hidden(name)]
        note = f"skipped {plural(len(lost), 'link')} to folders or out of the archive: {listed(lost)}"
        super().__init__(path, self.members, labels, [note] if lost else [])
        by_ending = {name for name in self.members if ending(name) in SUFFIXES}
        left_out = by_ending - set(self.names)
        self.is_usual = not followed and all("/." in f"/{name}" or name.startswith("__MACOSX/") for name in left_out)

    def stamp(self) -> str:
        return self.with_names(compute_stamp(self.path, [self.path]))

    def content_digest(self) -> str:
        return self.with_names(hash_file(self.path).hex())

    def with_names(self, digest: str) -> str:
        """Return a digest that also depends on the choice of the images, if that is not by their endings alone.

        Caches of other archives are known by the archive's digest, so theirs must not change.
        """
        if self.is_usual:
            return digest
        return combine_digests(text.encode("utf-8", "surrogateescape") for text in [digest, *self.names])

    def name_folder(self, folder: str) -> str:
        return f"unpack {escape_for_terminal(str(self.path))} and name its folder {escape_for_terminal(folder)}"


class Zip(Archive):
    """Images in a zip, read in place."""

    def __init__(self, path: Path, labels: bool = False):
        self.opened: tuple[int, zipfile.ZipFile] | None = None
        self.path = path
        try:
            found = {i.filename.removeprefix("./"): i for i in self.archive().infolist() if not i.is_dir()}
            targets = {
                name: posixpath.join(posixpath.dirname(name), os.fsdecode(self.archive().read(info)))
                for name, info in found.items()
                if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= MAX_LINK_BYTES
            }
        except DAMAGED as error:
            raise DataError(f"{path} is damaged: {error}") from None
        followed, lost = follow(targets, found)
        members = found | followed
        for link in lost:
            del members[link]
        super().__init__(path, members, labels, lost, bool(targets))

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
                by_name = {m.name: m for m in archive}
        except tarfile.TarError as error:
            raise DataError(f"{path} is no plain tar ({error}); a compressed one must be unpacked first") from None
        found = {name.removeprefix("./"): m for name, m in by_name.items()}
        targets = {
            name: m.linkname if m.islnk() else posixpath.join(posixpath.dirname(name), m.linkname)
            for name, m in found.items()
            if m.islnk() or m.issym()
        }
        followed, lost = follow(targets, found)
        members = {name: (m.offset_data, m.size) for name, m in (found | followed).items() if is_plain_file(m)}
        newly = any(found[link].issym() or found[link].linkname not in by_name for link in followed)
        super().__init__(path, members, labels, lost, newly)

    def open(self, name: str) -> io.BytesIO:
        offset, size = self.members[name]
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{size / 1e6:.0f} MB, more than {MAX_FILE_BYTES / 1e6:.0f}")
        with open(self.path, "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """A file with its bytes in one piece, no link and no device."""
    return member.isreg() and not member.issparse()


def follow(targets: dict[str, str], members: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the files that an archive's links lead to, by the links' names, and the links that lead to none.

    targets: by link, the name that it leads to, seen from the archive's top. members: by name, all there is.
    """
    by_place = {posixpath.normpath(name): name for name in members}
    followed, lost = {}, []
    for link in targets:
        name: str | None = link
        for _ in range(MAX_LINKS):
            name = by_place.get(posixpath.normpath(targets[name])) if name in targets else name
        if name is None or name in targets or is_folder(members[name]):
            lost.append(link)
        else:
            followed[link] = members[name]
    return followed, lost


def is_folder(member: zipfile.ZipInfo | tarfile.TarInfo) -> bool:
    """Whether a member of an archive is a folder."""
    return member.is_dir() if isinstance(member, zipfile.ZipInfo) else member.isdir()


def list_files(folder: Path, shallow_first: bool = False) -> tuple[list[str], list[str]]:
    """Return all files' names relative to the folder, with slashes, and sentences on links that were not followed.

    Links to folders are followed, but a folder is read once, under the first name that it is met by. Hidden folders are
    not read.

    Args:
        shallow_first: meet the folders of a level before those within them, real ones before links: class folders that
            are links keep their images.

    Raises:
        DataError: a folder that cannot be read.
    """
    names: list[str] = []
    read: dict[str, str] = {}
    again, broken = [], []
    waiting = deque([""])
    while waiting:
        inside = waiting.popleft()
        real = os.path.realpath(folder / inside)
        if real in read:
            again.append(f"{escape_for_terminal(inside)} (used as {escape_for_terminal(read[real])})")
            continue
        read[real] = inside or "./"
        folders = []
        for entry in entries_of(folder / inside, shallow_first):
            name = f"{inside}{entry.name}"
            if is_broken_link(entry) and not is_image(name):
                broken.append(escape_for_terminal(name))
            elif not leads_to_folder(entry):
                names.append(name)
            elif not is_hidden(entry.name):
                folders.append(f"{name}/")
        waiting.extend(folders) if shallow_first else waiting.extendleft(reversed(folders))
    broken = [name for name in broken if not is_hidden(name)]
    notes = (
        [f"skipped {plural(len(again), 'folder')} already used under another name: {listed(again)}"] if again else []
    )
    notes += [f"skipped {plural(len(broken), 'broken link')}: {listed(broken)}"] if broken else []
    return names, notes


def entries_of(folder: Path, links_last: bool) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name. Raises DataError for a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (links_last and entry.is_symlink(), entry.name))
    except OSError as error:
        raise_unreadable(error)


def is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to what does not exist."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def raise_unreadable(error: OSError) -> NoReturn:
    """Raises DataError: images in there would be missing without a word."""
    raise DataError(
        f"{escape_for_terminal(str(error.filename))} cannot be read ({error.strerror}); change that, or move it away"
    )


def compute_stamp(where: Path, files: Iterable[str | Path]) -> str:
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


def hash_file(path: str | Path) -> bytes:
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


def hash_files(span: tuple[int, list[str]]) -> tuple[int, list[bytes]]:
    """Of files one after the other, with the number of the first."""
    return span[0], list(map(hash_file, span[1]))


def combine_digests(digests: Iterable[bytes]) -> str:
    """One digest of many, in hexadecimal."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()
