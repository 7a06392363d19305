"""Decide by name which files of a folder or archive are its images."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .images import SUFFIXES

LABEL_FILE = "dataset.json"  # format of the StyleGAN2 and StyleGAN3 tools: {"labels": [["00000/img.png", 3], ...]}
RUN_FILES = {"config.json", "log.jsonl", "metrics.jsonl"}  # in a run directory, see checkpoints/run_directory.py
RUN_GRID = re.compile(r"(fakes-\d{8,}|reals-\d{4})\.png")  # sample grids in a run directory's samples/
# Files that a run writes when its directory is also the images' folder
RUN_WRITES = re.compile(rf"samples/{RUN_GRID.pattern}|(checkpoints|outputs|tensorboard|wandb)/.*")
SIGNED_FILES = (LABEL_FILE, "found.json", "config.json")  # pggan's output folders contain one of them, with "made_by"
# Folders that systems add: macOS to zips, Synology (thumbnails, bin), QNAP and Windows (bins), ext4 to its top
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found"}
# Common folder names for the parts of a dataset: "train", "val", "test_images", "training-1"; trainA and testB are
# CycleGAN's, unlabeled STL-10's, extra SVHN's
SPLIT = re.compile(
    r"(train|training|val|valid|validation|dev|eval|evaluation|test|testing|holdout|held[-_ ]?out|unlabell?ed|extra)"
    r"([-_ ]?(set|split|data|images|[ab]|\d+))?",
    re.I,
)


def normalize_path(name: str) -> str:
    """Return a file's path with "/" between folders (Windows programs write "\\" into zips) and no leading "./"."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


def normalize_unicode(name: str) -> str:
    """Return a name in Unicode's composed form, NFC: macOS decomposes accents in file names, other systems do not."""
    return unicodedata.normalize("NFC", name)


def is_image(name: str) -> bool:
    """Return whether a file has an image extension and is not hidden."""
    return not is_hidden(name) and get_suffix(name) in SUFFIXES


def get_suffix(name: str) -> str:
    """Return a name's extension with the dot, in lower case; "" without one."""
    return os.path.splitext(name)[1].lower()


def is_hidden(name: str) -> bool:
    """Return whether a file is a dot file, or in a dot folder or a folder that a system added."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in normalize_path(name).split("/"))


def get_folder_order(name: str) -> list[str]:
    """Return a sort key that keeps each folder's files together: "a/x" before "a-b/x", unlike plain strings."""
    return name.split("/")


def find_common_folder(names: Iterable[str]) -> str:
    """Return the first-level folder that contains all files, as in "photos/", or ""."""
    first = {name.split("/", 1)[0] if "/" in name else "" for name in names}
    return f"{first.pop()}/" if len(first) == 1 and "" not in first else ""


def find_class_root(names: list[str], has_labels: Callable[[str], bool]) -> str:
    """Return the folder whose subfolders are the classes, as in "train/".

    It is the innermost folder that contains all images, or the outermost of these with a label file; "" for the top.

    Args:
        names: the images' paths, with "/".
        has_labels: returns whether a folder contains a label file.
    """
    root = ""
    while not has_labels(root):
        inner = root + find_common_folder(name[len(root) :] for name in names)
        if inner == root or not (has_labels(inner) or all("/" in name[len(inner) :] for name in names)):
            break
        root = inner
    return root


def find_splits(names: list[str]) -> list[str]:
    """Return the first-level folders if there are several and all have names like train, val or test, else []."""
    first = sorted({name.split("/", 1)[0] for name in names})
    return first if len(first) > 1 and all(map(SPLIT.fullmatch, first)) else []


def looks_like_split(name: str) -> bool:
    """Return whether a folder is named like a split, or its name ends like one, as in "seg_train"."""
    return any(map(SPLIT.fullmatch, (name, re.split("[-_ ]", name)[-1])))


def find_run_folders(names: Iterable[str]) -> set[str]:
    """Return the folders with at least two of a run's files and folders, as in "runs/photos-16/"; "" for the top.

    A folder below the top that contains only grids of fakes and of reals is a copy of a run's samples/.
    """
    marks: dict[str, set[str]] = defaultdict(set)
    grids: dict[str, set[str]] = defaultdict(set)
    for name in names:  # two marks, because other projects have a config.json or a folder checkpoints/, too
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


def find_output_folders(names: list[str], is_signed: Callable[[str], bool]) -> dict[str, str]:
    """Return the folders that this project wrote, with a description of each: "a run directory", "generated images".

    Args:
        names: the paths of all files, with "/".
        is_signed: returns whether a JSON file names this project as its author.
    """
    found = dict.fromkeys(find_run_folders(names), "a run directory")
    for name in names:
        folder, slash, file = name.rpartition("/")
        if slash and file in SIGNED_FILES and is_signed(name):
            found.setdefault(folder + slash, "generated images")
    return found


def find_enclosing_output(name: str, folders: dict[str, str]) -> str | None:
    """Return the folder out of `folders` (see `find_output_folders`) that contains a file, or None.

    If the images' folder is itself a run directory, return "" for the files that a run writes and None for the images.
    """
    if "" in folders and RUN_WRITES.fullmatch(name):
        return ""
    inside = ""
    for part in name.split("/")[:-1]:
        inside += f"{part}/"
        if inside in folders:
            return inside
    return None


def class_folders(classes: Sequence[str]) -> list[str]:
    """Return a folder name for each class: its name, or 00000, 00001, ... for all if any name would not be safe.

    Safe names are valid on Linux, macOS and Windows: no separators or reserved characters, no leading or trailing dots
    or spaces, and unique regardless of case. This also keeps names such as ".." inside the output folder.
    """
    # Windows reserves \ / : * ? " < > | in names, and drops trailing dots and spaces.
    plain = all(name and not set(name) & set('/\\:*?"<>|\0') and name.strip(". ") == name for name in classes)
    # macOS and Windows ignore case: "Cat" and "cat" would be one folder
    unique = len({name.lower() for name in classes}) == len(classes)
    return list(classes) if plain and unique else [f"{i:05d}" for i in range(len(classes))]
