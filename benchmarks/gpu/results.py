"""Results on disk after every item: results.json with everything, results.md with a short table."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# of rows that a second start measures again
EXTRAPOLATED, MISSING = "extrapolated from", "peer missing"


class NotAvailable(Exception):
    """An item cannot run here; carries the reason, such as a missing package or GPU."""


@dataclass(frozen=True)
class Measurement:
    """A row of the table.

    Attributes:
        value: a number, or a word. at_least, at_most: the target, if there is one.
    """

    name: str
    value: float | str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self) -> bool | None:
        """Return whether the value meets the target; None without a target. NaN meets none."""
        if isinstance(self.value, str) or (self.at_least is None and self.at_most is None):
            return None
        low, high = (-float("inf") if self.at_least is None else self.at_least, self.at_most)
        return low <= self.value and (high is None or self.value <= high)


@dataclass(frozen=True)
class Clock:
    """The time limit of a part: `end` in seconds of time.monotonic(), which all processes share."""

    end: float

    def remaining(self) -> float:
        return self.end - time.monotonic()


@dataclass(frozen=True)
class Item:
    """A unit of work whose result is written when it is done.

    Attributes:
        measure: returns the rows, and raw data for results.json. Raises NotAvailable.
        seconds: the item is skipped if less time remains. is_repeated: a second start measures it again.
    """

    name: str
    measure: Callable[[Clock], tuple[list[Measurement], dict[str, Any]]]
    seconds: float = 0.0
    is_repeated: bool = False


class Results:
    """The folder of results. One process at a time writes to it.

    Attributes:
        content: {"setup": {...}, "parts": {part: {item: {"rows", "data", "seconds"} or with "error"}}}.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "results.json"
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"setup": {}, "parts": {}}
        for entries in self.content["parts"].values():
            for entry in entries.values():  # earlier versions recorded the hardware of all items together
                entry.setdefault("hardware", self.content["setup"].get("hardware"))

    def is_done(self, part: str, item: str) -> bool:
        """Return whether an item has been measured in full, on this hardware."""
        entry = self.content["parts"].get(part, {}).get(item)
        if entry is None or "error" in entry or entry.get("hardware") != self.content["setup"].get("hardware"):
            return False
        return not any(row.value == MISSING or EXTRAPOLATED in row.name for row in read_rows(entry))

    def record(self, part: str, item: str, entry: dict[str, Any]) -> None:
        self.content["parts"].setdefault(part, {})[item] = entry
        self.write()

    def write(self) -> None:
        """Write both files atomically, so that a kill leaves the previous ones."""
        write_atomically(self.folder / "results.json", (json.dumps(self.content, indent=1) + "\n").encode())
        write_atomically(self.folder / "results.md", (self.format_table() + "\n").encode())

    def format_summary(self) -> str:
        """Return a line per item, as is printed at the end."""
        lines = [", ".join(f"{name} {value}" for name, value in self.content["setup"].items())]
        for part, items in self.content["parts"].items():
            lines += [f"{part}: {item}: {format_entry(entry)}" for item, entry in items.items()]
        return "\n".join(lines)

    def format_table(self) -> str:
        """Return the rows of all items as a Markdown table; of an item without rows, its error."""
        lines = [", ".join(f"{name} {value}" for name, value in self.content["setup"].items()), ""]
        lines += ["| part | item | measurement | value | target | met |", "|---|---|---|---|---|---|"]
        here = self.content["setup"].get("hardware")
        for part, items in self.content["parts"].items():
            for item, entry in items.items():
                where = entry.get("hardware", here)
                title = item if where == here else f"{item} ({where})"
                for row in read_rows(entry):
                    lines.append(f"| {part} | {title} | {row.name} | {' | '.join(format_row(row))} |")
                if "error" in entry:
                    lines.append(f"| {part} | {item} | | {entry['error'].replace('|', '/')} | | |")
        return "\n".join(lines)


def read_rows(entry: dict[str, Any]) -> list[Measurement]:
    return [Measurement(**row) for row in entry.get("rows", [])]


def format_entry(entry: dict[str, Any]) -> str:
    """Return an item's result in one line: the error, or all rows; only a count if all of them meet their targets."""
    rows = read_rows(entry)
    if rows and all(row.is_met() for row in rows):
        return f"ok, {len(rows)} of {len(rows)} targets met"
    found = [f"{row.name} {' '.join(filter(None, mark_target(row)))}" for row in rows]
    return "; ".join([*found, *([entry["error"]] if "error" in entry else [])])


def mark_target(row: Measurement) -> tuple[str, str]:
    """Return a row's value, and its target with whether it is met."""
    value, target, met = format_row(row)
    return value, target and f"({target}: {met})"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what training prints; the end of the output is for results."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def format_row(row: Measurement) -> tuple[str, str, str]:
    """Return value, target and whether it is met, as text."""
    value = row.value if isinstance(row.value, str) else f"{row.value:,.0f}" if row.value >= 1e4 else f"{row.value:.4g}"
    bounds = [f"{sign} {x:,.6g}" for sign, x in ((">=", row.at_least), ("<=", row.at_most)) if x is not None]
    return f"{value} {row.unit}".strip(), " and ".join(bounds), {True: "yes", False: "NO", None: ""}[row.is_met()]


def run_items(part: str, items: Iterable[Item], results: Results, clock: Clock) -> None:
    """Run a part's items in order, those that are already done excepted; record each result or error."""
    for item in items:
        if results.is_done(part, item.name) and not item.is_repeated:
            continue
        if clock.remaining() < item.seconds:
            results.record(part, item.name, {"error": f"skipped: {max(clock.remaining(), 0):.0f} s remained"})
            continue
        start, entry = time.monotonic(), {}
        try:
            rows, data = item.measure(clock)
            entry = {"rows": [asdict(row) for row in rows], "data": data}
        except NotAvailable as reason:
            entry = {"error": f"not available: {reason}"}
        except Exception as error:  # whatever fails here must not keep the other items from running
            text = next(iter(str(error).splitlines()), "")
            entry = {"error": f"{type(error).__name__}: {text}", "traceback": traceback.format_exc()}
        entry["seconds"], entry["hardware"] = (
            round(time.monotonic() - start, 2),
            results.content["setup"].get("hardware"),
        )
        results.record(part, item.name, entry)
        print(f"{part}: {item.name} ({entry['seconds']:.1f} s): {format_entry(entry)}", flush=True)


def write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(content)
    os.replace(temporary, path)
