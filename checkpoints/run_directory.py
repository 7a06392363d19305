"""runs/NAME/: config.json, log.jsonl, metrics.jsonl, samples/, checkpoints/."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .file import CheckpointError, load, save


class RunDirectory:
    """Where a run keeps everything. Nothing is written before `create`."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.log = self.folder / "log.jsonl"
        self.metrics = self.folder / "metrics.jsonl"
        self.samples = self.folder / "samples"
        self.checkpoints = self.folder / "checkpoints"
        self.latest = self.checkpoints / "latest.pt"

    def exists(self) -> bool:
        return self.config.is_file()

    def create(self, config: dict[str, Any]) -> None:
        """Make the folders and write the config, atomically.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        try:
            for folder in (self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(self.config, json.dumps(config, indent=2) + "\n")
        except OSError as error:
            raise CheckpointError(f"cannot write the run directory {self.folder}: {error.strerror}") from None

    def read_config(self) -> dict[str, Any]:
        try:
            return json.loads(self.config.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.config} cannot be read: {error}") from None

    def save(self, content: dict[str, Any]) -> None:
        save(self.latest, content)

    def keep_stage(self, resolution: int) -> Path:
        """Keep the latest checkpoint under the stage's own name; the two share one file on disk where they can."""
        kept = self.stage(resolution)
        if kept.exists() and kept.samefile(self.latest):
            return kept
        temporary = kept.with_name(f".{kept.name}.writing")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.latest, temporary)
        except OSError:
            temporary.write_bytes(self.latest.read_bytes())
        os.replace(temporary, kept)
        return kept

    def stage(self, resolution: int) -> Path:
        return self.checkpoints / f"stage-{resolution:04d}.pt"

    def load_latest(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None before the first."""
        return load(self.latest) if self.latest.exists() else None

    def cut_logs(self, images: int) -> None:
        """Drop the lines written after a checkpoint, and a last line cut short: they will be written again."""
        for path in (self.log, self.metrics):
            kept = [line for line in read_lines(path) if line["images"] <= images]
            if path.exists():
                write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def append_line(path: Path, values: dict[str, Any]) -> None:
    """One more line of JSON."""
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; a last line that was cut short is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    values = []
    for number, line in enumerate(lines):
        try:
            values.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise CheckpointError(f"{path}, line {number + 1} is not JSON") from None
    return values


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
