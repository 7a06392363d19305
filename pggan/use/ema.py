"""python -m pggan ema: average G's weights over a length of your choice, after training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pggan.checkpoints import CheckpointError, RunDirectory, load, save

from ..config import ConfigError
from ..training.power_ema import MAX_STD, MIN_STD, STDS, Snapshot, solve_weights
from .options import Commands, add_command, int_parser

# relative error of the average's profile: lengths from 0.015 to 0.25 are below it with 20 snapshots, 0.03 to 0.2 with 5
MAX_ERROR = 0.2

TEXT = """\
Average the generator's weights over lengths of your choice, from the snapshots of a run with --power-ema. Writes one
checkpoint for each, which all commands accept. To find the best length: evaluate RUN --ema 0.02,0.05,0.10,0.15.
"""
EXAMPLES = """\
  python -m pggan ema runs/faces-128 --std 0.05,0.10,0.15
  python -m pggan ema runs/faces-128 --std 0.10 --images 2000000          as it would have been then
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "ema", run, "average weights over other lengths, after training", TEXT, EXAMPLES)
    p.add_argument("folder", metavar="RUN", help="run directory, of a run with --power-ema")
    p.add_argument(
        "--std",
        type=parse_stds,
        required=True,
        metavar="STD,...",
        help=f"lengths: the average's standard deviation as a fraction of the run, {MIN_STD} to {MAX_STD}",
    )
    p.add_argument(
        "--images",
        type=int_parser(1),
        metavar="N",
        help="images seen at the end of the average; the last snapshot up to there is used (default: all)",
    )


def parse_stds(text: str) -> list[float]:
    """Return the numbers of "0.05,0.10"."""
    try:
        stds = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.05,0.10") from None
    for std in stds:
        if not MIN_STD <= std <= MAX_STD:
            raise argparse.ArgumentTypeError(f"{std:g} is outside the range from {MIN_STD} to {MAX_STD}")
    return stds


def run(arguments: argparse.Namespace) -> None:
    for path in write_averages(RunDirectory(arguments.folder), arguments.std, arguments.images):
        print(path)


def write_averages(directory: RunDirectory, stds: Sequence[float], images: int | None = None) -> list[Path]:
    """Write a checkpoint with the average of each length, checkpoints/ema-STD.pt; return the paths.

    Warns on standard error of lengths that the snapshots cannot represent.

    Args:
        stds: relative standard deviations. images: the averages end at the last snapshot up to there; None: the last.

    Raises:
        ConfigError: this is no run, it has no snapshots up to `images`, or two lengths have the same file name.
        CheckpointError: a snapshot is damaged or lacks the run's start, or the folder cannot be written.
    """
    if not directory.exists():
        raise ConfigError(f"{directory.folder} is not a run directory; pass one of a run with --power-ema")
    paths = {int(path.stem.split("-")[1]): path for path in directory.average_paths()}
    times = sorted(time for time in paths if images is None or time <= images)
    if not times:
        found = (
            f"no snapshots up to {images:,} images" if paths else "no snapshots; train with --power-ema to keep them"
        )
        raise ConfigError(f"{directory.folder} has {found}")
    files = {std: directory.checkpoints / f"ema-{std:.3f}.pt" for std in stds}
    if len(set(files.values())) < len(files):
        lengths = ", ".join(map(str, files))
        raise ConfigError(
            f"--std: {lengths} would be written to the same file; use lengths that differ in three decimals"
        )
    if images is not None and times[-1] != images:
        print(f"averaging up to {times[-1]:,} images, the last snapshot before {images:,}", file=sys.stderr)
    start = read_start(paths[times[-1]])
    times = [time for time in times if time > start]
    weights = solve_all_weights(times, start, stds)
    sums: dict[float, dict[str, torch.Tensor]] = {std: {} for std in stds}
    for row, time in enumerate(times):
        content = load(paths[time])
        try:
            averages = [content["state"]["power_averages"][f"{std:g}"] for std in STDS]
            for std in stds:
                for weight, average in zip(weights[std][row], averages, strict=True):
                    add_weighted(sums[std], average, float(weight))
        except (KeyError, TypeError, AttributeError, RuntimeError):
            raise CheckpointError(f"{paths[time]} is damaged, or not a snapshot of this run") from None
    for std, path in files.items():
        try:
            save(path, {**content, "state": {"G_ema": sums[std]}})
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror}") from None
    return list(files.values())


def read_start(path: Path) -> int:
    """Return the images that a snapshot's run counts its averages from: 0, or where --resume put it.

    Raises:
        CheckpointError: the snapshot is damaged, or does not record it.
    """
    content = load(path)
    try:
        start = content.get("start", 0 if content["config"].get("resume") is None else None)
        if start is not None and 0 <= int(start) < content["images"]:
            return int(start)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path} is damaged, or not a snapshot of a run") from None
    raise CheckpointError(
        f"{path} does not record how many images its run had seen when --resume started it, so it cannot be averaged"
    )


def solve_all_weights(times: Sequence[int], start: int, stds: Sequence[float]) -> dict[float, np.ndarray]:
    """Return, for each length, the weights of all snapshots [len(times), len(STDS)]; warn if they fit it badly.

    Args:
        times: images seen at each snapshot. start: images seen when the run began.
    """
    snapshots = [Snapshot(std, time - start) for time in times for std in STDS]
    found = {}
    for std in stds:
        weights, error = solve_weights(snapshots, Snapshot(std, times[-1] - start))
        if error > MAX_ERROR:
            print(
                f"warning: the {len(times)} snapshots represent --std {std:g} with an error of {error:.0%}; use a "
                f"length closer to {STDS[0]:g} or {STDS[1]:g}, or train with a smaller --tick-kimg, for more snapshots",
                file=sys.stderr,
            )
        found[std] = weights.reshape(len(times), len(STDS))
    return found


def add_weighted(total: dict[str, torch.Tensor], average: dict[str, torch.Tensor], weight: float) -> None:
    """Add `weight` times an average to a sum, in float32; integers, which are counts, are those of the last one."""
    for name, value in average.items():
        if value.is_floating_point():
            total[name] = total.get(name, torch.zeros_like(value, dtype=torch.float32)) + weight * value.float()
        else:
            total[name] = value
