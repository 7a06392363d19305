"""The first lines of a run: how many images, of which sizes and classes, and what was skipped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import Source, escape_for_terminal
from .skipped import list_counts, listed
from .survey import known_survey, size_range, survey_some
from .synthetic import SyntheticShapes

MOST_CLASSES = 10  # listed one by one
LOOKED_AT = 1000  # images, of which the headers are read if nobody has read them all: a second on a local disk


def summarize(source: Source) -> list[str]:
    """Return lines of text on the images that a source holds. Reads the headers of at most 1,000 of them."""
    return [
        f"{len(source):,} images in {escape_for_terminal(source.name)}, {sizes(source)}",
        *classes(source),
        *source.skipped(),
        *source.notes,
    ]


def sizes(source: Source) -> str:
    """As in "all 128x128", or "640x480 to 4032x3024 pixels, median 1024x768"."""
    if isinstance(source, SyntheticShapes):
        return "drawn at the resolution of the run"
    if (found := known_survey(source)) is None:
        found = survey_some(source, LOOKED_AT)
    if found is None:
        return "of unknown sizes"
    looked = len(found.indices) + len(found.unreadable)
    small, middle, large = size_range(found)
    text = f"all {small}" if small == large else f"{small} to {large} pixels, median {middle}"
    return text if looked == len(source) else f"{text} (by {looked:,} of them)"


def numbering(names: Sequence[str]) -> list[str]:
    """A line if classes are called by numbers that are not their indices: sorted as text, with gaps, or from 1."""
    other = next((i for i, name in enumerate(names) if name.isdecimal() and int(name) != i), None)
    if other is None or not all(name.isdecimal() for name in names):
        return []
    return [
        f"class indices follow the order of the names, {listed(names, MOST_CLASSES)}: class {names[other]} has index "
        f"{other} in Python; commands take the names"
    ]


def classes(source: Source) -> list[str]:
    """Lines on the classes and the number of images in each; [] without labels."""
    if source.labels is None:
        return []
    counts = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    pairs = list(zip(source.classes, counts, strict=True))
    full = [pair for pair in pairs if pair[1]]
    empty = [escape_for_terminal(name) for name, count in pairs if not count]
    text = f"{len(full):,} class{'es' if len(full) > 1 else ''}: "
    if len(full) <= MOST_CLASSES:
        text += list_counts(full)
    else:
        (least, few), (most, many) = (choose(full, key=lambda pair: pair[1]) for choose in (min, max))
        ends = f"{few:,} ({escape_for_terminal(least)}) to {many:,} ({escape_for_terminal(most)})"
        text += f"{few:,} image{'s' if few > 1 else ''} in each" if few == many else f"{ends} images in each"
    lines = [text, *numbering(source.classes)]
    if empty:
        which = f"class{'es' if len(empty) > 1 else ''} {listed(empty, MOST_CLASSES)}"
        lines.append(f"no images in {which}: never drawn")
    if len(full) == 1:
        lines.append(
            f"warning: all images are of one class, {escape_for_terminal(full[0][0])}, so labels add nothing; omit "
            "--labels, or pass the folder that contains the class folders"
        )
    return lines
