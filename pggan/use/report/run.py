"""What a run directory tells, read with the care that a stranger's files need."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from checkpoints import CheckpointError, RunDirectory, load
from checkpoints.run_directory import read_lines

from ...config import ConfigError, TrainConfig
from ...training.growth import GrowthController, Row
from .charts import Line

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
    config = directory.read_config()
    log = read_log(directory.log)
    if not log:
        raise CheckpointError(f"{directory.log} has no line yet: there is nothing to report before the first tick")
    try:
        saved = list(load(directory.latest)["versions"].items())
        versions = {str(name)[:100]: str(version)[:100] for name, version in saved[:20]}
    except (CheckpointError, KeyError, AttributeError):
        versions = {}
    metrics = read_log(directory.metrics)
    return Run(directory, config, log, metrics, versions, plan_rows(config, metrics))


def read_log(path: Path) -> list[Line]:
    """Lines of log.jsonl or metrics.jsonl, in order of images."""
    lines = read_lines(path) if path.is_file() else []
    for line in lines:
        if line.get("resolution") not in RESOLUTIONS:
            line["resolution"] = None
    return sorted(lines, key=lambda line: line["images"])


def plan_rows(config: dict[str, Any], metrics: list[Line]) -> list[Row]:
    """The plan, as far as adaptive growth has decided on it, or [] where these options are none of this version's."""
    early = {line["resolution"]: line["images"] for line in metrics if line.get("stage_end") is True}
    known = {f.name for f in fields(TrainConfig)}
    try:
        options = TrainConfig(**{k: v for k, v in config.items() if k in known})
        return list(GrowthController(options, early if options.growth == "adaptive" else None).rows())
    except (ConfigError, TypeError, OverflowError):
        return []
