"""Charts of a run's logged numbers against images seen, as SVG coordinates for the page template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

# SVG units; page.html repeats these numbers in its viewBox and clip path.
WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 18, 148  # of the plot area: tick labels are to its left and below, stages above
POINTS = 400  # per curve: the plot area is 308 units wide, so more points could not be told apart
MAX_VALUE = 1e30  # a diverged run logs numbers so large that differences of them overflow; they count as missing

Line = Mapping[str, Any]


def to_number(value: Any) -> float | None:
    """Return a logged value as a float, or None if it is missing, not a number, not finite or beyond MAX_VALUE."""
    # bool is a subclass of int; 10**400 is a valid JSON number that float() refuses, so compare before converting
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -MAX_VALUE < value < MAX_VALUE else None


def format_short(value: float) -> str:
    """Format a number with four significant digits, or as an integer from 10,000 on: 0.0001, 12.34, 12,345, 1.2e+09."""
    if 1e4 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Stage:
    """A resolution's part of the x axis, in SVG units: the fade-in lasts from `start` to `stable`."""

    resolution: int
    start: float
    stable: float
    end: float


class Axis:
    """The x axis that all charts of a page share: images seen, with stages and ticks.

    It begins at the start of the first log line's tick and ends at the last line.

    Args:
        log: at least one line of log.jsonl, in order of images.

    Attributes:
        start, end: images seen.
        stages: in SVG units.
        ticks: (position in SVG units, thousands of images as text).
    """

    def __init__(self, log: Sequence[Line]):
        # A line is written at the end of its tick: the first tick is taken to be as long as the second.
        step = log[1]["images"] - log[0]["images"] if len(log) > 1 else log[0]["images"]
        self.start = max(log[0]["images"] - step, 0)
        self.end = max(log[-1]["images"], self.start + 1)  # never an empty axis, which would divide by zero
        self.stages, start = [], self.start
        for resolution, group in groupby(log, lambda line: line.get("resolution")):
            lines = list(group)
            # the last tick at alpha below 1; a missing alpha counts as fading
            fading = [line["images"] for line in lines if (to_number(line.get("alpha")) or 0) < 1]
            end = lines[-1]["images"]
            if isinstance(resolution, int):  # None: the log is damaged there
                self.stages.append(Stage(resolution, self.x(start), self.x(max([start, *fading])), self.x(end)))
            start = end
        self.ticks = [
            (self.x(kimg * 1000), format_short(kimg)) for kimg in compute_ticks(self.start / 1000, self.end / 1000, 6)
        ]

    def x(self, images: float) -> float:
        """Return the x coordinate of a number of images seen, in SVG units."""
        return round(LEFT + (RIGHT - LEFT) * (images - self.start) / (self.end - self.start), 1)


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: name in the legend.
        points: coordinates of the values that are not missing.
        path: SVG path through them.
        values: the numbers themselves, None where missing.
    """

    label: str
    points: list[tuple[float, float]]
    path: str
    values: list[float | None]


@dataclass(frozen=True)
class Chart:
    """Curves that share both axes.

    Attributes:
        note: one line below the title: what the numbers mean.
        positions: x coordinates of the values.
        kimg: thousands of images seen at the values.
        ticks: of the y axis: (coordinate, text).
        target: y coordinate of the value to aim at, or None.
        outside: number of values above or below the plot area.
    """

    title: str
    note: str
    axis: Axis
    curves: list[Curve]
    positions: list[float]
    kimg: list[float]
    ticks: list[tuple[float, str]]
    target: float | None
    outside: int

    @property
    def data(self) -> dict[str, Any]:
        """Values as text and their x coordinates, for the page's script to show the values under the pointer."""
        series = [[None if v is None else format_short(v) for v in curve.values] for curve in self.curves]
        return {"x": self.positions, "kimg": [format_short(k) for k in self.kimg], "series": series}


def build_chart(
    title: str,
    note: str,
    names: Mapping[str, str],
    lines: Sequence[Line],
    axis: Axis,
    target: float | None = None,
    apart: bool = False,
) -> Chart | None:
    """Return a chart of some of the numbers in the lines, or None if no line has any of them.

    Args:
        names: label in the legend by key of the lines.
        target: value to aim at, drawn as a dashed line.
        apart: break the curves between resolutions, for numbers that are not comparable across them.
    """
    parts = thin_lines(lines)
    breaks = [apart and a[-1].get("resolution") != b[-1].get("resolution") for a, b in pairwise(parts)]
    columns = {
        label: [mean_of_numbers(line.get(key) for line in part) for part in parts] for key, label in names.items()
    }
    columns = {label: values for label, values in columns.items() if any(v is not None for v in values)}
    known = [v for values in columns.values() for v in values if v is not None]
    if not known:
        return None
    low, high = compute_limits([*known, *([] if target is None else [target])])

    def y(value: float) -> float:
        share = min(max((value - low) / (high - low), -1), 2)  # clipped by the page; the bounds keep coordinates small
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    positions = [axis.x(part[-1]["images"]) for part in parts]
    curves = []
    for label, values in columns.items():
        heights = [None if v is None else y(v) for v in values]
        points = [(x, height) for x, height in zip(positions, heights, strict=True) if height is not None]
        curves.append(Curve(label, points, build_path(positions, heights, [True, *breaks]), values))
    return Chart(
        title,
        note,
        axis,
        curves,
        positions,
        [part[-1]["images"] / 1000 for part in parts],
        [(y(value), format_short(value)) for value in compute_ticks(low, high)],
        None if target is None else y(target),
        sum(not low <= v <= high for v in known),
    )


def thin_lines(lines: Sequence[Line]) -> list[Sequence[Line]]:
    """Return the lines in at most POINTS groups of consecutive ones; each group is drawn as its mean."""
    size = max(math.ceil(len(lines) / POINTS), 1)
    return [lines[i : i + size] for i in range(0, len(lines), size)]


def mean_of_numbers(values: Any) -> float | None:
    """Return the mean of the values that are numbers, or None if there are none."""
    known = [v for v in map(to_number, values) if v is not None]
    return sum(known) / len(known) if known else None


def compute_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the y axis: all values, or without outliers if they would flatten the other 90%.

    Two heuristics: values are outliers if the full range exceeds five times the range from the 5th to the 95th
    percentile, and the axis then extends one such range beyond either percentile.
    """
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    inner_low, inner_high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    spread = inner_high - inner_low
    if 0 < spread * 5 < high - low:
        low, high = max(low, inner_low - spread), min(high, inner_high + spread)
    size = max(abs(low), abs(high))
    if not size:
        return -0.04, 1.04  # all zero, such as skipped steps: show no negative numbers
    # 4% above and below, so that extremes do not touch the frame; 10% around a constant (to float precision)
    margin = (high - low) * 0.04 if high - low > 1e-9 * size else size / 10
    margin = max(margin, 1e-9)
    return low - margin, high + margin


def compute_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers (multiples of 1, 2 or 5 times a power of ten) from low to high."""
    # the smallest step of 1, 2, 5 or 10 times a power of ten that gives at most `count` intervals
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= (high - low) / count)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def build_path(positions: Sequence[float], heights: Sequence[float | None], breaks: Sequence[bool]) -> str:
    """Return an SVG path through the points, interrupted at missing heights (None).

    Args:
        breaks: whether to interrupt the path before each point.
    """
    commands, pen = [], False
    for x, y, broken in zip(positions, heights, breaks, strict=True):
        if y is not None:
            commands.append(f"{'L' if pen and not broken else 'M'}{x} {y}")
        pen = y is not None  # the first point after a gap starts with M (move to), not L (line to)
    return "".join(commands)
