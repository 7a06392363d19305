"""What a run directory tells, read with the care that a stranger's files need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from checkpoints import CheckpointError, RunDirectory, load
from checkpoints.run_directory import read_lines

from ...config import ConfigError, TrainConfig
from ...training.growth import GrowthController, Row
from .charts import Line

LARGEST_FILE = 64 << 20  # bytes
RESOLUTIONS = [4 << level for level in range(9)]


@dataclass(frozen=True)
class Run:
    """What a run directory tells, checked. log, metrics: in order of images. versions: {} where unknown."""

    directory: RunDirectory
    config: dict[str, Any]
    log: list[Line]
    metrics: list[Line]
    versions: dict[str, str]
    rows: list[Row]

    @property
    def seen(self) -> int:
        return self.log[-1]["images"]


def read_run(folder: str | Path) -> Run:
    """The run in a directory, also an unfinished one.

    Raises:
        CheckpointError: no run directory, one without a log line yet, or a damaged one.
    """
    directory = RunDirectory(folder)
    if not directory.folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; name a run directory, such as runs/faces-128")
    if not directory.exists():
        raise CheckpointError(f"{folder} is no run directory: it has no config.json")
    with readable(directory.config):
        config = directory.read_config()
    if not isinstance(config, dict):
        raise CheckpointError(f"{directory.config} holds no options")
    log = read_log(directory.log)
    if not log:
        raise CheckpointError(f"{directory.log} has no line yet: there is nothing to report before the first tick")
    try:
        saved = list(load(directory.latest)["versions"].items())
        versions = {str(name)[:100]: str(version)[:100] for name, version in saved[:20]}
    except (CheckpointError, KeyError, AttributeError):
        versions = {}
    return Run(directory, config, log, read_log(directory.metrics), versions, plan_rows(config))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuses a file that is too large to be a run's, and says what kept it from being read."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError(f"{path} is larger than {LARGEST_FILE >> 20} MB; no run writes that much")
        yield
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def read_log(path: Path) -> list[Line]:
    """Lines of log.jsonl or metrics.jsonl, those without usable "images" refused."""
    if not path.is_file():
        return []
    with readable(path):
        lines = read_lines(path)
    for place, line in enumerate(lines, 1):
        images = line.get("images") if isinstance(line, dict) else None
        if not isinstance(images, int) or isinstance(images, bool) or not 0 <= images < 10**12:
            raise CheckpointError(f"{path}, line {place} does not say a number of images")
        if line.get("resolution") not in RESOLUTIONS:
            line["resolution"] = None
    return sorted(lines, key=lambda line: line["images"])


def plan_rows(config: dict[str, Any]) -> list[Row]:
    """The plan, or [] where these options are none of this version's."""
    known = {f.name for f in fields(TrainConfig)}
    try:
        return list(GrowthController(TrainConfig(**{k: v for k, v in config.items() if k in known})).rows())
    except (ConfigError, TypeError, OverflowError):
        return []
