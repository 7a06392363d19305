"""What a run leaves on the disk, written so that what is there can always be gone on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from checkpoints import RunDirectory
from checkpoints.run_directory import append_line

from .signals import TrainingStopped
from .tracking import say

PATIENCE = 5  # ticks in a row that cannot be saved before a run stops


class Keeper:
    """Writes lines, pictures and checkpoints of a run.

    Where the disk fails, this is said and training goes on; what failed is tried again at the next tick. A checkpoint
    is written only after all lines before it: a run that goes on from one never lacks lines.

    Attributes:
        behind: whether the last checkpoint could not be written.
        cost: size and time of the last checkpoint, {} before the first.
    """

    def __init__(self, directory: RunDirectory, keep_last: int):
        self.directory, self.keep_last = directory, keep_last
        self.lines: list[tuple[Path, dict[str, Any]]] = []
        self.failures, self.behind = 0, False
        self.cost: dict[str, float] = {}

    def line(self, path: Path, values: dict[str, Any]) -> None:
        """One more line of log.jsonl or metrics.jsonl."""
        self.lines.append((path, values))
        try:
            self.write_lines()
        except OSError as error:
            self.complain("a line of " + path.name, error)

    def write_lines(self) -> None:
        while self.lines:
            append_line(*self.lines[0])
            del self.lines[0]

    def picture(self, name: str, sheet: Image.Image) -> None:
        """A PNG in samples/; one that cannot be written is left out."""
        path = self.directory.samples / f"{name}.png"
        temporary = path.with_name(f".{path.name}")
        try:
            try:
                sheet.save(temporary, format="PNG")
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self.complain(path.name, error)

    def checkpoint(self, content: dict[str, Any], needed: str = "") -> None:
        """The run's state as latest.pt.

        needed: why a run cannot go on without it, or "".

        Raises:
            TrainingStopped: it is needed, or was tried `PATIENCE` times, or the run directory is gone; and failed.
        """
        start = time.perf_counter()
        try:
            self.write_lines()
            self.directory.save(content, self.keep_last)
        except OSError as error:
            self.behind, self.failures = True, self.failures + 1
            self.give_up(error, needed)
            self.complain("the checkpoint", error)
            return
        if self.behind:
            say("the checkpoint could be saved again")
        self.behind, self.failures = False, 0
        size, seconds = self.directory.latest.stat().st_size / 1e6, time.perf_counter() - start
        if not self.cost:
            say(f"saved {self.directory.latest}: {size:.1f} MB in {seconds:.2f} s, as every tick from now on")
        self.cost = {"checkpoint_mb": round(size, 3), "checkpoint_seconds": round(seconds, 4)}

    def give_up(self, error: OSError, needed: str) -> None:
        gone = not self.directory.checkpoints.is_dir()
        if gone:
            raise TrainingStopped(f"{self.directory.folder} is gone, or no longer a run directory") from None
        if needed or self.failures >= PATIENCE:
            needed = needed or f"{PATIENCE} ticks in a row were not saved"
            saved = self.directory.latest
            after = f"goes on from {saved}" if saved.exists() else "begins anew: nothing was saved yet"
            raise TrainingStopped(
                f"{saved} could not be written: {error.strerror or error} ({needed}); mend this, and the same command "
                f"{after}"
            ) from None

    def name_stage(self, resolution: int) -> None:
        self.name(self.directory.keep_stage, resolution)

    def name_best(self) -> None:
        self.name(self.directory.keep_best)

    def name(self, keep: Any, *arguments: int) -> None:
        try:
            keep(*arguments)
        except OSError as error:
            self.complain("another name of the checkpoint", error)

    def complain(self, what: str, error: OSError) -> None:
        say(f"{what} could not be written: {error.strerror or error}; training goes on")

    def forget(self, images: int) -> None:
        """Leave out lines after so many images: the run has gone back."""
        self.lines = [(path, values) for path, values in self.lines if values["images"] <= images]
        self.directory.cut_logs(images)
