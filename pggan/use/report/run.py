"""Read a run directory for its report. The files may be damaged or come from a stranger, so every value is checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pggan.checkpoints import CheckpointError, RunDirectory, load
from pggan.checkpoints.run_directory import read_lines

from ...config import ConfigError, TrainConfig
from ...training.growth import GrowthController, PlanRow
from .charts import Line

RESOLUTIONS = [4 << level for level in range(9)]  # 4 to 1024, the largest of the paper


@dataclass(frozen=True)
class Run:
    """The checked contents of a run directory.

    Attributes:
        log: lines of log.jsonl, at least one, in order of images.
        metrics: lines of metrics.jsonl, in order of images. evaluations: those of evaluations.jsonl.
        versions: software versions of the latest checkpoint, {} if it cannot be read.
        rows: the training schedule, [] if this version cannot derive it from the options.
    """

    directory: RunDirectory
    config: dict[str, Any]
    log: list[Line]
    metrics: list[Line]
    evaluations: list[Line]
    versions: dict[str, str]
    rows: list[PlanRow]

    @property
    def images_seen(self) -> int:
        """Real images seen so far."""
        return self.log[-1]["images"]


def read_run(folder: str | Path) -> Run:
    """Read a run directory, finished or still training.

    Raises:
        CheckpointError: the folder is not a run directory, is damaged, or has no log line yet.
    """
    directory = RunDirectory(folder)
    if not directory.folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; specify a run directory, such as runs/faces-128")
    if not directory.exists():
        raise CheckpointError(
            f"{folder} is not a run directory: it has no config.json; specify one such as runs/faces-128"
        )
    config = directory.read_config()
    log = read_log(directory.log)
    if not log:
        raise CheckpointError(
            f"{directory.log} has no line yet; wait for the first tick of training, then run report again"
        )
    try:
        saved = list(load(directory.latest)["versions"].items())
        # bounded, as everything the page shows: the file may come from a stranger
        versions = {str(name)[:100]: str(version)[:100] for name, version in saved[:20]}
    except (CheckpointError, KeyError, AttributeError):
        versions = {}
    metrics = read_log(directory.metrics)
    evaluations = read_log(directory.evaluations)
    return Run(directory, config, log, metrics, evaluations, versions, build_plan_rows(config, metrics))


def read_log(path: Path) -> list[Line]:
    """Return the lines of log.jsonl or metrics.jsonl in order of images; an unknown resolution becomes None."""
    lines = read_lines(path) if path.is_file() else []
    for line in lines:
        if line.get("resolution") not in RESOLUTIONS:
            line["resolution"] = None
    return sorted(lines, key=lambda line: line["images"])


def build_plan_rows(config: dict[str, Any], metrics: list[Line]) -> list[PlanRow]:
    """Return the training schedule, or [] if this version cannot derive it from the options.

    With adaptive growth or --budget, stages that have ended have their actual length, and later ones the planned one.
    """
    early = {line["resolution"]: line["images"] for line in metrics if line.get("stage_end") is True}
    known = {f.name for f in fields(TrainConfig)}  # options that other versions added are ignored
    try:
        options = TrainConfig(**{k: v for k, v in config.items() if k in known})
        return list(GrowthController(options, early if options.growth == "adaptive" or options.budget else None).rows())
    except (ConfigError, TypeError, OverflowError):
        return []
