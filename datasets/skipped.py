"""Describe the files that a dataset skips."""

from __future__ import annotations

import io
import mimetypes
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from pggan.console import escape_for_terminal

from .images import HEIC_SUFFIXES, open_image
from .listing import get_suffix

MAX_LISTED = 5  # our choice: names or extensions that still fit in one or two terminal lines
# Extensions of image formats that Pillow cannot read without plugins, or that are unsafe to read; see `images.FORMATS`
UNSUPPORTED = HEIC_SUFFIXES | set(".jxl .psd .svg .eps .exr .hdr .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf".split())


def format_names(names: Sequence[str], most: int = MAX_LISTED) -> str:
    """Return the first `most` names for a message, and the number of the others: "a.png, b.png and 3 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def format_counts(pairs: Iterable[tuple[str, int]]) -> str:
    """Return names with their counts for a message: "cat (1,200), dog (800)"."""
    return ", ".join(f"{escape_for_terminal(name)} ({count:,})" for name, count in pairs)


def describe_skipped_files(names: Sequence[str], open_file: Callable[[str], str | io.BytesIO]) -> list[str]:
    """Return a sentence that counts skipped files by extension, or [] without any.

    The first file of each extension is opened: if it is an image after all, the sentence suggests renaming.

    Args:
        names: names of the files, all without an image extension.
        open_file: returns the path or content of a file.
    """
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_suffix[get_suffix(name)].append(name)
    # Image formats come first, however few the files: only for them can the user do something.
    most = sorted(by_suffix.items(), key=lambda item: (item[0] not in UNSUPPORTED, -len(item[1])))
    parts = []
    for suffix, files in most[:MAX_LISTED]:
        hint = ""
        if suffix in UNSUPPORTED:
            remedy = "pip install pillow-heif, or convert" if suffix in HEIC_SUFFIXES else "convert"
            hint = f" (not supported: {remedy} them to .jpg or .png)"
        elif could_be_image(suffix) and has_image_content(files[0], open_file):
            hint = " (images according to their content: rename them to end in .jpg or .png)"
        parts.append(f"{len(files):,} {escape_for_terminal(suffix) or 'without an extension'}{hint}")
    rest = sum(len(files) for _, files in most[MAX_LISTED:])
    parts += [f"{rest:,} of {len(most) - MAX_LISTED:,} other types"] if rest else []
    return [f"skipped files: {', '.join(parts)}"] if names else []


def could_be_image(suffix: str) -> bool:
    """Return whether an extension belongs to an image format, or is unknown."""
    media_type, _ = mimetypes.guess_type(f"file{suffix}")
    return media_type is None or media_type.startswith("image/")


def has_image_content(name: str, open_file: Callable[[str], str | io.BytesIO]) -> bool:
    """Return whether a file is an image according to its content."""
    try:
        open_image(open_file(name)).close()
    except Exception:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
        return False
    return True
