"""Summarize a dataset at the start of a run: number of images, their sizes and classes, skipped files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pggan.console import escape_for_terminal

from .base import DataError, Source
from .build import describe_small_images
from .images import Preparation
from .skipped import format_counts, format_names
from .survey import Survey, find_survey, format_size_range, survey_sample
from .synthetic import SyntheticShapes

MAX_LISTED_CLASSES = 10  # our choice, as many as CIFAR-10 has; of more, only the smallest and largest are printed
MAX_HEADERS = 1000  # headers to read if no survey of all images exists; about a second on a local disk


def summarize(source: Source, prepare: Preparation | None = None) -> list[str]:
    """Return lines that describe the images of a source. Reads the headers of at most 1,000 images.

    prepare: how they become training images; if specified, crops, conversions and unreadable images are reported too.
    """
    survey = survey_some(source)
    return [
        f"{len(source):,} images in {escape_for_terminal(source.name)}, {describe_sizes(source, survey)}",
        *describe_classes(source),
        *source.describe_skipped(),
        *source.notes,
        *(describe_losses(source, survey, prepare) if prepare and survey else []),
    ]


def survey_some(source: Source) -> Survey | None:
    """Return the survey of all images, if there is one, or of at most MAX_HEADERS; None if no header can be read."""
    return find_survey(source) or survey_sample(source, MAX_HEADERS)


def describe_losses(source: Source, survey: Survey, prepare: Preparation) -> list[str]:
    """Return a line for each way in which images change: cropped, converted to gray or RGB, or not readable."""
    if isinstance(source, SyntheticShapes):
        return []
    count, gray = len(survey.indices), survey.count_gray()
    of_all = (
        f"of {count:,} images" if count + len(survey.unreadable) == len(source) else f"of a sample of {count:,} images"
    )
    lines = []
    if survey.unreadable:
        tried = count + len(survey.unreadable)
        lines.append(f"{tried - count:,} of {tried:,} images cannot be read (python -m datasets inspect lists them)")
    oblong = int((survey.sizes[:, 0] != survey.sizes[:, 1]).sum())
    if oblong and prepare.fit == "center-crop":
        lines.append(f"{oblong:,} {of_all} are not square and are center-cropped (--fit pad keeps all of them)")
    if prepare.channels == 1 and gray < count:
        lines.append(f"{count - gray:,} {of_all} are in color and become grayscale, since the networks have 1 channel")
    if prepare.channels == 3 and gray == count:
        lines.append("all images are gray and become RGB, since the networks have 3 channels (--channels 1 is faster)")
    return lines


def check_sizes(source: Source, prepare: Preparation) -> None:
    """Raise DataError if images are smaller than the resolution, by the headers of all or of a sample of them."""
    survey = survey_some(source)
    if survey is None or isinstance(source, SyntheticShapes):
        return
    if (survey.compute_limiting_sides(prepare.fit) < prepare.resolution).any():
        raise DataError(describe_small_images(source, prepare))


def describe_sizes(source: Source, survey: Survey | None) -> str:
    """Return the images' sizes: "all 128x128", or "640x480 to 4032x3024 pixels, median 1024x768"."""
    if isinstance(source, SyntheticShapes):
        return "drawn at the resolution of the run"
    if survey is None:
        return "of unknown sizes"
    surveyed = len(survey.indices) + len(survey.unreadable)
    small, middle, large = format_size_range(survey)
    text = f"all {small}" if small == large else f"{small} to {large} pixels, median {middle}"
    return text if surveyed == len(source) else f"{text} (in a sample of {surveyed:,})"


def describe_numbering(names: Sequence[str]) -> list[str]:
    """Return a line if class names are numbers other than their indices: sorted as text, with gaps, or from 1."""
    other = next((i for i, name in enumerate(names) if name.isdecimal() and int(name) != i), None)
    if other is None or not all(name.isdecimal() for name in names):
        return []
    return [
        f"class indices follow the order of the names, {format_names(names, MAX_LISTED_CLASSES)}: class {names[other]} "
        f"has index {other} in Python; commands take the names"
    ]


def describe_classes(source: Source) -> list[str]:
    """Return lines with the classes and their numbers of images; [] without labels."""
    if source.labels is None:
        return []
    counts = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    pairs = list(zip(source.classes, counts, strict=True))
    full = [pair for pair in pairs if pair[1]]
    empty = [escape_for_terminal(name) for name, count in pairs if not count]
    text = f"{len(full):,} class{'es' if len(full) > 1 else ''}: "
    if len(full) <= MAX_LISTED_CLASSES:
        text += format_counts(full)
    else:
        (least, few), (most, many) = (choose(full, key=lambda pair: pair[1]) for choose in (min, max))
        ends = f"{few:,} ({escape_for_terminal(least)}) to {many:,} ({escape_for_terminal(most)})"
        text += f"{few:,} image{'s' if few > 1 else ''} in each" if few == many else f"{ends} images in each"
    lines = [text, *describe_numbering(source.classes)]
    if empty:
        names = format_names(empty, MAX_LISTED_CLASSES)
        lines.append(f"class{'es' if len(empty) > 1 else ''} without images, never generated in training: {names}")
    if len(full) == 1:
        lines.append(
            f"warning: all images are of one class, {escape_for_terminal(full[0][0])}, so labels add nothing; omit "
            "--labels, or pass the folder that contains the class folders"
        )
    return lines
