"""Curves of a run against images seen, with the stages marked, as coordinates for SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 352, 18, 148
POINTS = 400
LARGEST = 1e30  # numbers beyond cannot be drawn; a diverged run has them

Line = Mapping[str, Any]


def number(value: Any) -> float | None:
    """A number that can be drawn, or None: not finite, no number, or absent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -LARGEST < value < LARGEST else None


def short(value: float) -> str:
    """As in 0.0001, 12.34, 12,345, 1.2e+09."""
    if 1e4 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Stage:
    """Part of the x axis: a resolution from its first image on, its fade ending at `stable`."""

    resolution: int
    start: float
    stable: float
    end: float


class Axis:
    """Images seen, from the first log line's beginning to the last; where each stage stands on it."""

    def __init__(self, log: Sequence[Line]):
        step = log[1]["images"] - log[0]["images"] if len(log) > 1 else log[0]["images"]
        self.start = max(log[0]["images"] - step, 0)
        self.end = max(log[-1]["images"], self.start + 1)
        self.stages, start = [], self.start
        for resolution, group in groupby(log, lambda line: line.get("resolution")):
            lines = list(group)
            fading = [line["images"] for line in lines if (number(line.get("alpha")) or 0) < 1]
            end = lines[-1]["images"]
            if isinstance(resolution, int):
                self.stages.append(Stage(resolution, self.x(start), self.x(max([start, *fading])), self.x(end)))
            start = end
        self.ticks = [(self.x(kimg * 1000), short(kimg)) for kimg in ticks(self.start / 1000, self.end / 1000, 6)]

    def x(self, images: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (images - self.start) / (self.end - self.start), 1)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its points, the SVG path through them, its numbers (None where there are none)."""

    label: str
    points: list[tuple[float, float]]
    path: str
    values: list[float | None]


@dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    Attributes:
        positions, kimg: of the curves' points. ticks: of y, (position, text). target: a y to aim at, or None.
        outside: points above or below what is drawn.
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
        """What the page needs to read a value out."""
        series = [[None if v is None else short(v) for v in curve.values] for curve in self.curves]
        return {"x": self.positions, "kimg": [short(k) for k in self.kimg], "series": series}


def chart(
    title: str, note: str, names: Mapping[str, str], lines: Sequence[Line], axis: Axis, target: float | None = None,
    apart: bool = False,
) -> Chart | None:  # fmt: skip
    """The keys of `names` (key -> label) out of the lines; None where no line has a number under any of them.

    apart: the curves are broken between resolutions, since their numbers are not comparable.
    """
    parts = thinned(lines)
    breaks = [apart and a[-1].get("resolution") != b[-1].get("resolution") for a, b in pairwise(parts)]
    columns = {label: [mean(line.get(key) for line in part) for part in parts] for key, label in names.items()}
    columns = {label: values for label, values in columns.items() if any(v is not None for v in values)}
    known = [v for values in columns.values() for v in values if v is not None]
    if not known:
        return None
    low, high = limits([*known, *([] if target is None else [target])])

    def y(value: float) -> float:
        share = min(max((value - low) / (high - low), -1), 2)  # what lies outside is cut off by the page
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)

    positions = [axis.x(part[-1]["images"]) for part in parts]
    curves = []
    for label, values in columns.items():
        heights = [None if v is None else y(v) for v in values]
        points = [(x, height) for x, height in zip(positions, heights, strict=True) if height is not None]
        curves.append(Curve(label, points, path(positions, heights, [True, *breaks]), values))
    return Chart(
        title, note, axis, curves,
        positions,
        [part[-1]["images"] / 1000 for part in parts],
        [(y(value), short(value)) for value in ticks(low, high)],
        None if target is None else y(target),
        sum(not low <= v <= high for v in known),
    )  # fmt: skip


def thinned(lines: Sequence[Line]) -> list[Sequence[Line]]:
    """The lines in at most POINTS groups of neighbours, each drawn as its mean."""
    size = max(math.ceil(len(lines) / POINTS), 1)
    return [lines[i : i + size] for i in range(0, len(lines), size)]


def mean(values: Any) -> float | None:
    """Of the values that are numbers; None where none is."""
    known = [v for v in map(number, values) if v is not None]
    return sum(known) / len(known) if known else None


def limits(values: Sequence[float]) -> tuple[float, float]:
    """What to draw: everything, but where a few outliers would flatten the rest, the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    inner_low, inner_high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    spread = inner_high - inner_low
    if 0 < spread * 5 < high - low:
        low, high = max(low, inner_low - spread), min(high, inner_high + spread)
    size = max(abs(low), abs(high))
    margin = (high - low) * 0.04 if high - low > 1e-9 * size else size / 10
    margin = max(margin, 1e-9) if size else 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from low to high."""
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= (high - low) / count)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def path(positions: Sequence[float], heights: Sequence[float | None], breaks: Sequence[bool]) -> str:
    """An SVG path through the points; it begins anew after a missing one and where `breaks` says so."""
    commands, pen = [], False
    for x, y, broken in zip(positions, heights, breaks, strict=True):
        if y is not None:
            commands.append(f"{'L' if pen and not broken else 'M'}{x} {y}")
        pen = y is not None
    return "".join(commands)
