"""What is said of files that are not read."""

from __future__ import annotations

import io
import mimetypes
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .base import escape_for_terminal
from .images import open_image
from .listing import ending

LONGEST_LIST = 5
# Pictures of kinds that Pillow does not read by itself, or that are not safe to read: see `images.FORMATS`
UNREADABLE = set(".heic .heif .hif .jxl .psd .svg .eps .exr .hdr .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf".split())


def listed(names: Sequence[str], most: int = LONGEST_LIST) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def list_counts(pairs: Iterable[tuple[str, int]]) -> str:
    """As in "cat (1,200), dog (800)"."""
    return ", ".join(f"{escape_for_terminal(name)} ({count:,})" for name, count in pairs)


def kinds_of_files(names: Sequence[str], open_file: Callable[[str], str | io.BytesIO]) -> list[str]:
    """Return a sentence on files that were skipped for their names, by kind, or [].

    The first file of an ending is opened: images with unusual endings only have to be renamed.
    """
    by_ending: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_ending[ending(name)].append(name)
    most = sorted(by_ending.items(), key=lambda item: (item[0] not in UNREADABLE, -len(item[1])))
    kinds = []
    for suffix, found in most[:LONGEST_LIST]:
        hint = ""
        if suffix in UNREADABLE:
            hint = " (not supported: convert them to .jpg or .png)"
        elif could_be_picture(suffix) and holds_picture(found[0], open_file):
            hint = " (images by their content: rename them to end in .jpg or .png)"
        kinds.append(f"{len(found):,} {escape_for_terminal(suffix) or 'without an ending'}{hint}")
    rest = sum(len(found) for _, found in most[LONGEST_LIST:])
    kinds += [f"{rest:,} of {len(most) - LONGEST_LIST:,} other kinds"] if rest else []
    return [f"skipped files: {', '.join(kinds)}"] if names else []


def could_be_picture(suffix: str) -> bool:
    """Whether an ending is an image's, or says nothing."""
    kind, _ = mimetypes.guess_type(f"file{suffix}")
    return kind is None or kind.startswith("image/")


def holds_picture(name: str, open_file: Callable[[str], str | io.BytesIO]) -> bool:
    """Whether a file is an image by its content."""
    try:
        open_image(open_file(name)).close()
    except Exception:  # Pillow raises many kinds for damaged files, also struct.error and SyntaxError
        return False
    return True
