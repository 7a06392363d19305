"""Write a run's log lines, sample grids and checkpoints so that a run can always resume from what is on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from pggan.checkpoints import RunDirectory, save
from pggan.checkpoints.run_directory import append_line

from .signals import TrainingStopped, suggest_resuming
from .tracking import log

MAX_FAILURES = 5  # consecutive ticks without a saved checkpoint after which a run stops: more work would be at risk


class RunWriter:
    """Writes log lines, sample grids and checkpoints of a run.

    If the disk fails, it warns, training continues, and the write is retried at the next tick. A checkpoint is written
    only after all earlier log lines, so that a run resumed from it has a complete log.

    Attributes:
        is_behind: whether the last checkpoint could not be written.
        checkpoint_cost: size and time of the last checkpoint, {} before the first.
    """

    def __init__(self, directory: RunDirectory, keep_last: int):
        self.directory, self.keep_last = directory, keep_last
        self.lines: list[tuple[Path, dict[str, Any]]] = []
        self.failures, self.is_behind = 0, False
        self.checkpoint_cost: dict[str, float] = {}

    def write_line(self, path: Path, values: dict[str, Any]) -> None:
        """Append a line to log.jsonl or metrics.jsonl."""
        self.lines.append((path, values))
        try:
            self.flush_lines()
        except OSError as error:
            self.warn("a line of " + path.name, error)

    def flush_lines(self) -> None:
        while self.lines:
            append_line(*self.lines[0])
            del self.lines[0]

    def write_image(self, name: str, image: Image.Image) -> None:
        """Write a PNG to samples/; if that fails, warn and skip it."""
        path = self.directory.samples / f"{name}.png"
        temporary = path.with_name(f".{path.name}")
        try:
            try:
                image.save(temporary, format="PNG")
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self.warn(path.name, error)

    def write_checkpoint(self, content: dict[str, Any], needed: str = "") -> None:
        """Write the run's state as latest.pt.

        Args:
            needed: why the run cannot continue without it, or "".

        Raises:
            TrainingStopped: it failed and is needed, or failed `MAX_FAILURES` times, or the run directory is gone.
        """
        start = time.perf_counter()
        try:
            self.flush_lines()
            self.directory.save(content, self.keep_last)
        except OSError as error:
            self.is_behind, self.failures = True, self.failures + 1
            self.raise_if_fatal(error, needed)
            self.warn("the checkpoint", error)
            return
        if self.is_behind:
            log("saved the checkpoint: writing works again")
        self.is_behind, self.failures = False, 0
        size, seconds = self.directory.latest.stat().st_size / 1e6, time.perf_counter() - start
        if not self.checkpoint_cost:
            log(f"saved {self.directory.latest}: {size:.1f} MB in {seconds:.2f} s; later ones are not reported")
        self.checkpoint_cost = {"checkpoint_mb": round(size, 3), "checkpoint_seconds": round(seconds, 4)}

    def write_averages(self, content: dict[str, Any]) -> None:
        """Write a snapshot of the power-function averages; if that fails, warn and skip it."""
        path = self.directory.average_path(content["images"])
        try:
            save(path, content)
        except OSError as error:
            self.warn(path.name, error)

    def raise_if_fatal(self, error: OSError, needed: str) -> None:
        gone = not self.directory.checkpoints.is_dir()
        if gone:
            raise TrainingStopped(
                f"{self.directory.folder} was deleted, or is no longer a run directory; restore it to resume, or start "
                "again"
            ) from None
        if needed or self.failures >= MAX_FAILURES:
            needed = needed or f"no checkpoint in {MAX_FAILURES} consecutive ticks"
            saved = self.directory.latest
            raise TrainingStopped(
                f"cannot write {saved}: {error.strerror or error} ({needed}); fix this, then {suggest_resuming(saved)}"
            ) from None

    def keep_stage(self, resolution: int) -> None:
        self.link_checkpoint(self.directory.keep_stage, resolution)

    def keep_best(self) -> None:
        self.link_checkpoint(self.directory.keep_best)

    def link_checkpoint(self, keep: Any, *arguments: int) -> None:
        try:
            keep(*arguments)
        except OSError as error:
            self.warn("a copy of the checkpoint", error)

    def warn(self, what: str, error: OSError) -> None:
        log(f"warning: cannot write {what}: {error.strerror or error}; training continues")

    def drop_lines_after(self, images: int) -> None:
        """Drop log lines after `images` images, after a rollback."""
        self.lines = [(path, values) for path, values in self.lines if values["images"] <= images]
        self.directory.cut_logs(images)
