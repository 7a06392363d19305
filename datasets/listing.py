"""Which files of a folder or archive are its images, by their names alone. metrics/reading.py has the same rules."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

from .images import SUFFIXES

LABEL_FILE = "dataset.json"  # of the StyleGAN2 and StyleGAN3 tools: {"labels": [["00000/img.png", 3], ...]}
RUN_FILES = {"config.json", "log.jsonl", "metrics.jsonl"}  # of a run directory, see checkpoints/run_directory.py
RUN_GRID = re.compile(r"(fakes-\d{8,}|reals-\d{4})\.png")  # in a run directory's samples/
RUN_WRITES = re.compile(rf"samples/{RUN_GRID.pattern}|(checkpoints|outputs|tensorboard|wandb)/.*")
SIGNED_FILES = (LABEL_FILE, "found.json", "config.json")  # pggan's output folders hold one of them, with "made_by"
# Folders that systems add: macOS to zips, Synology (thumbnails, bin), QNAP and Windows (bins), ext4 to its top
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found"}
SPLIT = re.compile(  # trainA and testB are CycleGAN's, unlabeled STL-10's, extra SVHN's
    r"(train|training|val|valid|validation|dev|eval|evaluation|test|testing|holdout|held[-_ ]?out|unlabell?ed|extra)"
    r"([-_ ]?(set|split|data|images|[ab]|\d+))?",
    re.I,
)


def place(name: str) -> str:
    """Return a file's name with "/" between folders, also where a Windows program wrote "\\", and no "./" before it."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


def composed(name: str) -> str:
    """Return a name in Unicode's NFC: macOS decomposes the accents of file names, other systems do not."""
    return unicodedata.normalize("NFC", name)


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return not is_hidden(name) and ending(name) in SUFFIXES


def ending(name: str) -> str:
    """Return the part of a name from its last dot on, in lower case."""
    return os.path.splitext(name)[1].lower()


def is_hidden(name: str) -> bool:
    """Whether it is a dot file, or in a dot folder or a folder that a system added."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in place(name).split("/"))


def path_order(name: str) -> list[str]:
    """Return a sort key: folder by folder."""
    return name.split("/")


def folder_around(names: Iterable[str]) -> str:
    """Return the first-level folder that all are in, as in "photos/", or ""."""
    first = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    return f"{first.pop()}/" if len(first) == 1 and "" not in first else ""


def class_root(names: list[str], has_labels: Callable[[str], bool]) -> str:
    """Return the folder whose subfolders are the classes, as in "train/": "" unless single folders are around all.

    names: of images, with "/". has_labels: whether a folder holds a file of labels, which ends the search.
    """
    root = ""
    while not has_labels(root):
        inner = root + folder_around(name[len(root) :] for name in names)
        if inner == root or not (has_labels(inner) or all("/" in name[len(inner) :] for name in names)):
            break
        root = inner
    return root


def splits(names: list[str]) -> list[str]:
    """Return the first-level folders if there are several and all are called train, val, test or the like, else []."""
    first = sorted({name.split("/", 1)[0] for name in names})
    return first if len(first) > 1 and all(map(SPLIT.fullmatch, first)) else []


def looks_like_split(name: str) -> bool:
    """Whether a folder is called like a split, or ends so, as in "seg_train"."""
    return any(map(SPLIT.fullmatch, (name, re.split("[-_ ]", name)[-1])))


def run_folders(names: Iterable[str]) -> set[str]:
    """Return the run directories, as in "runs/photos-16/", or "" for the top: with two of a run's files or folders.

    A folder below the top that holds grids of fakes and of reals alone is a copy of a run's samples/.
    """
    marks: dict[str, set[str]] = defaultdict(set)
    grids: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, slash, file = name.rpartition("/")
        is_grid = RUN_GRID.fullmatch(file)
        if slash:
            grids[folder + slash].add(file[:5] if is_grid else "another file")
        if file in RUN_FILES:
            marks[folder + slash].add(file)
            continue
        parent, slash, last = folder.rpartition("/")
        if (last == "checkpoints" and file.endswith(".pt")) or (last == "samples" and is_grid):
            marks[parent + slash].add(last)
    copies = {folder for folder, found in grids.items() if found == {"fakes", "reals"}}
    return copies | {folder for folder, found in marks.items() if len(found) > 1}


def output_folders(names: list[str], is_signed: Callable[[str], bool]) -> dict[str, str]:
    """Return the folders in which only this project writes, with what they are.

    names: of all files, with "/". is_signed: whether a file says that this project made it.
    """
    found = dict.fromkeys(run_folders(names), "a run directory")
    for name in names:
        folder, slash, file = name.rpartition("/")
        if slash and file in SIGNED_FILES and is_signed(name):
            found.setdefault(folder + slash, "generated images")
    return found


def output_folder_of(name: str, folders: dict[str, str]) -> str | None:
    """Return the one of `folders` (see `output_folders`) that a file lies in, or None.

    If a run writes into the images' own folder, that is "" for what the run writes there, and None for the images.
    """
    if "" in folders and RUN_WRITES.fullmatch(name):
        return ""
    inside = ""
    for part in name.split("/")[:-1]:
        inside += f"{part}/"
        if inside in folders:
            return inside
    return None
