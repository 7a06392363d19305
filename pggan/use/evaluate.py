"""python -m pggan evaluate: compute metrics of a run's checkpoints, as a table for a paper."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from pggan.checkpoints import RunDirectory, resolve_checkpoint
from pggan.checkpoints.run_directory import append_line, read_lines
from pggan.datasets import Pyramid, Source, open_pyramid, open_source
from pggan.metrics import (
    METRICS,
    PROVENANCE_LABELS,
    MetricError,
    Provenance,
    Suite,
    add_network_options,
    default_folder,
    is_out_of_memory,
)
from pggan.metrics.statistics_file import has_statistics, read_statistics

from ..config import ConfigError, TrainConfig, parse_metric_names
from ..paths import find_run_folder, is_missing, make_absolute
from ..training.augment import split_holdout
from ..training.device import choose_device
from ..training.evaluation import Evaluator, StatisticsEvaluator, synthetic_mode_metric
from ..training.plan import format_table
from ..training.ranks import SINGLE_PROCESS, Ranks, connect_ranks, silence_other_ranks
from .ema import parse_stds, write_averages
from .options import Commands, add_checkpoint, add_command, add_device, int_parser
from .trained import Trained, load

TEXT = """\
Compute metrics of a run's checkpoints, each with its EMA generator at the stage it was saved in.

Prints one row per checkpoint, below a row of real images against other real images: what a perfect generator would
reach, if its numbers of images are the same. Adds the rows, with everything that affects the numbers, to
evaluations.jsonl in the run directory.
"""
EXAMPLES = """\
  python -m pggan evaluate runs/faces-128                      the newest checkpoint, on the run's own images
  python -m pggan evaluate runs/faces-128 --checkpoints all --num-seeds 3
  python -m pggan evaluate runs/faces-128/checkpoints/stage-0064.pt --metrics kid --num-images 5000
  python -m pggan evaluate latest.pt --data faces --metrics fid --json
  python -m pggan evaluate runs/cifar10-32 --data cifar10-stats.npz --metrics fid --resize tf1
  torchrun --nproc-per-node 8 -m pggan evaluate runs/faces-128
"""
REAL_ROW = "real images"  # stands in the place of a checkpoint's name
NOT_METRICS = {"images", "alpha", "data_images", "num_images", "num_reals", *(f.name for f in fields(Provenance))}
DETAIL = re.compile(r"_(std|error|[0-9]+)$")  # standard deviations and pyramid levels: no column of their own


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "evaluate", run, "compute metrics of a run's checkpoints", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument(
        "--checkpoints",
        choices=["latest", "best", "stages", "all"],
        help="which of a run directory's checkpoints (default: latest)",
    )
    add_evaluation_options(p, "50000")
    p.add_argument(
        "--num-seeds",
        type=int_parser(1),
        default=1,
        metavar="N",
        help="seeds to average over, --seed and those after it; with 2 or more, ± is their standard deviation "
        "(default: %(default)s)",
    )
    p.add_argument(
        "--ema",
        type=parse_stds,
        metavar="STD,...",
        help="evaluate averages of these lengths instead, see the command ema; needs a run with --power-ema",
    )
    p.add_argument("--json", action="store_true", help="print one line of JSON per checkpoint instead of a table")


def add_evaluation_options(p: argparse.ArgumentParser, num_images: str) -> None:
    """Add the options of `open_evaluator`; `num_images` is the default number of generated images."""
    p.add_argument(
        "--data",
        metavar="IMAGES",
        help="real images: a folder, a dataset name, or for FID an .npz of statistics (default: the training images)",
    )
    p.add_argument("--metrics", default="fid,is,swd", help=f"any of {','.join(METRICS)} (default: %(default)s)")
    p.add_argument(
        "--num-images",
        type=int_parser(2),
        default=num_images,
        metavar="N",
        help="generated images (default: %(default)s)",
    )
    p.add_argument(
        "--num-reals",
        type=parse_num_reals,
        default="all",
        metavar="N",
        help="real images at most, or all (default: %(default)s)",
    )
    add_network_options(p)
    p.add_argument(
        "--seed", type=int_parser(0), default=0, help="random seed of the latents, 0 or more (default: %(default)s)"
    )
    add_device(p)


def parse_num_reals(text: str) -> int:
    """Return the number in --num-reals; "all" is the largest integer."""
    if text == "all":
        return sys.maxsize
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer nor all")
    return int_parser(2)(text)


def run(arguments: argparse.Namespace) -> None:
    with silence_other_ranks(), connect_ranks() as ranks:
        paths = find_checkpoints(arguments.checkpoint, arguments.checkpoints)
        if arguments.ema:
            if arguments.checkpoints:
                raise ConfigError("--checkpoints: --ema evaluates averages instead of checkpoints; omit either option")
            with ranks.rank_by_rank():
                paths = write_averages(RunDirectory(arguments.checkpoint), arguments.ema)
        folder = find_run_folder(paths[0])
        directory = None if folder is None else RunDirectory(folder)
        rows = []
        with explain_out_of_memory():
            for row in evaluate_run(paths, directory, arguments, ranks):
                if arguments.json and row["checkpoint"] != REAL_ROW:
                    print(json.dumps(row), flush=True)
                rows.append(row)
        if ranks.is_first and not arguments.json:
            print(format_rows(rows))
            print(f"\n{describe_provenance(rows)}")
            for line in describe_unequal_counts(rows):
                print(line)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Report that an evaluation ran out of memory as a MetricError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MetricError(
            "--device: out of memory while generating images or computing their features; free memory on it, or use "
            "another device"
        ) from None


def find_checkpoints(path: str | Path, which: str | None) -> list[Path]:
    """Return the checkpoints to evaluate, in the order of images seen; several names of the same file count once.

    Raises:
        ConfigError: `which` is specified for something other than a run directory, or the run has no such checkpoint.
        checkpoints.CheckpointError: there is no checkpoint.
    """
    if which is None:
        return [resolve_checkpoint(path)]
    directory = RunDirectory(path)
    if not directory.exists():
        raise ConfigError(f"--checkpoints: {path} is not a run directory; omit the option to evaluate one checkpoint")
    stages = sorted(directory.checkpoints.glob("stage-*.pt"))
    others = [*directory.earlier_paths()[::-1], directory.latest, directory.best]
    found = {"latest": [directory.latest], "best": [directory.best], "stages": stages, "all": [*stages, *others]}[which]
    paths = {(p.stat().st_dev, p.stat().st_ino): p for p in reversed(found) if p.exists()}
    if not paths:
        missing = {"stages": "no checkpoint of a stage's end", "all": "no checkpoints"}.get(
            which, f"no {which} checkpoint"
        )
        raise ConfigError(
            f"--checkpoints: {directory.checkpoints} has {missing}{'' if which == 'all' else '; use --checkpoints all'}"
        )
    return list(reversed(paths.values()))


def evaluate_run(
    paths: list[Path], directory: RunDirectory | None, options: argparse.Namespace, ranks: Ranks
) -> Iterator[dict[str, Any]]:
    """Evaluate checkpoints that share their real images, and add each row to the run's evaluations.jsonl.

    Yields:
        Rows of evaluations.jsonl, on rank 0: for each resolution the real images', then the checkpoints'.
    """
    device, evaluator, resolutions = choose_device(options.device, ranks), None, set()
    for trained, path in sorted(((load(path, device), path) for path in paths), key=lambda pair: pair[0].images):
        evaluator = evaluator or open_evaluator(trained, options, ranks)
        if trained.resolution not in resolutions and not isinstance(evaluator, StatisticsEvaluator):
            resolutions.add(trained.resolution)
            if row := compare_reals(evaluator, trained, directory, ranks):
                yield row
        row = evaluate_checkpoint(evaluator, trained, path, options)
        if ranks.is_first:
            record(row | {"checkpoint": path.name}, directory)  # without the folder: runs are moved
            yield row


def compare_reals(
    evaluator: Evaluator, trained: Trained, directory: RunDirectory | None, ranks: Ranks
) -> dict[str, Any] | None:
    """Return the row of real images against other real images, from evaluations.jsonl if it is there.

    None on other ranks than 0, and if there are too few images.
    """
    others = evaluator.choose_others(find_held_out(trained, evaluator.pyramid))
    num_reals = evaluator.num_reals - int((others < evaluator.num_reals).sum())
    how = evaluator.describe(trained.resolution, len(others), num_reals)
    row = {"checkpoint": REAL_ROW, "images": 0, "resolution": trained.resolution, "alpha": 1.0}
    row |= {"metrics": list(evaluator.suite.metrics), **how.to_dict()}
    earlier = read_lines(directory.evaluations) if directory and ranks.is_first else []
    found = next((line for line in earlier if row.items() <= {k: line.get(k) for k in row}.items()), None)
    if found := ranks.broadcast(found):
        return found if ranks.is_first else None
    try:
        results = evaluator.compare_reals(trained.resolution, others)
    except MetricError as error:
        print(f"warning: no row of real images: {error}", file=sys.stderr)
        return None
    if not ranks.is_first:
        return None
    record(row := row | results, directory)
    return row


def find_held_out(trained: Trained, pyramid: Pyramid) -> np.ndarray:
    """Return the indices of the images that training held out, [] if they are unknown."""
    try:
        if are_training_images(trained, pyramid):
            return split_holdout(TrainConfig(**trained.config), len(pyramid))[1]
    except (TypeError, ConfigError):  # options of another version
        pass
    return np.array([], int)


def record(row: dict[str, Any], directory: RunDirectory | None) -> None:
    """Add a row to the run's evaluations.jsonl; print a warning if it cannot be written."""
    if directory is None or not directory.exists():
        return
    try:
        append_line(directory.evaluations, row)
    except OSError as error:
        print(f"warning: cannot write {directory.evaluations}: {error.strerror}", file=sys.stderr)


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Return a text table with the metrics as columns, "-" for missing values."""
    numbers = [key for row in rows for key, value in row.items() if type(value) in (int, float)]
    names = [key for key in dict.fromkeys(numbers) if key not in NOT_METRICS and not DETAIL.search(key)]
    cells = []
    for row in rows:
        name, side, *counts = (
            str(row.get(key, "?")) for key in ("checkpoint", "resolution", "metric_images", "metric_reals")
        )
        kimg = "-" if name == REAL_ROW else f"{row['images'] / 1000:g}"
        cells.append([Path(name).name, f"{side}x{side}", kimg, *counts, *(format_value(row, name) for name in names)])
    return format_table(["checkpoint", "resolution", "kimg", "generated", "real", *names], cells)


def format_value(row: dict[str, Any], name: str) -> str:
    """Return a metric with its standard deviation, if there is one."""
    spread = next((row[name + suffix] for suffix in ("_std", "_error") if name + suffix in row), None)
    if name not in row:
        return "-"
    figure = f"{row[name]:.5g}" if isinstance(row[name], float) else str(row[name])
    return figure + ("" if spread is None else f" ± {spread:.2g}")


def describe_provenance(rows: Sequence[dict[str, Any]]) -> str:
    """Return how rows were computed, as one line; values that differ are separated by slashes."""
    words = {True: "yes", False: "no", None: "not recorded"}
    parts = [f"training images: {words[rows[-1]['training_images']]}"]
    for key, label in PROVENANCE_LABELS.items():
        if values := list(dict.fromkeys(str(row[key]) for row in rows if key in row)):
            parts.append(f"{label}: {' / '.join(values)}")
    return "; ".join(parts)


def describe_unequal_counts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line if FIDs of the row of real images and of checkpoints are of different numbers of images."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if any(name.endswith("fid") for name in row):
            found[row["checkpoint"] == REAL_ROW].append(f"{row['num_images']:,} with {row['num_reals']:,} images")
    real, others = (list(dict.fromkeys(found[is_real])) for is_real in (True, False))
    if not real or not others or real == others:
        return []
    return [
        f"the row of real images compares {', '.join(real)}, the others {', '.join(others)}: their FIDs are not "
        "comparable, since FID depends on these numbers; compare KID"
    ]


def open_real_images(trained: Trained, data: str | None) -> tuple[Source, Pyramid]:
    """Open the real images to compare with: `data`, or the checkpoint's training images; labeled if it has classes.

    Raises:
        ConfigError: `data` is None, and the training images are unknown, missing or changed.
        pggan.datasets.DataError: the images cannot be used.
    """
    recorded = trained.config.get("data")
    if data is None:
        if not isinstance(recorded, str):
            raise ConfigError(
                "--data is missing: the checkpoint does not record its training images; use --data IMAGES"
            )
        if is_missing(recorded):
            raise ConfigError(
                f"--data: the checkpoint was trained on {recorded}, which does not exist here; use --data IMAGES with "
                f"the present path of those images, or with others"
            )
    source = open_source(str(recorded) if data is None else data, labels=bool(trained.classes))
    names = "fit", "background", "allow_upscale", "max_bad"
    options = {name: trained.config[name] for name in names if name in trained.config}
    pyramid = open_pyramid(source, trained.generator.resolution, trained.generator.channels, **options)
    if are_training_images(trained, pyramid) is False:
        if data is None:
            raise ConfigError(
                f"--data: the images in {recorded} are not those that the checkpoint was trained on; restore those, or "
                f"use --data {quote(str(recorded))} to compare with the present ones"
            )
        print(f"warning: {data} does not contain the images that the checkpoint was trained on", file=sys.stderr)
    return source, pyramid


def are_training_images(trained: Trained, pyramid: Pyramid) -> bool | None:
    """Return whether the images are those the checkpoint was trained on; None if it does not record them."""
    return trained.digest == pyramid.compute_digest() if trained.digest else None


def open_evaluator(trained: Trained, options: argparse.Namespace, ranks: Ranks = SINGLE_PROCESS) -> Evaluator:
    """Open the real images and the metrics for a checkpoint, and others with the same images.

    options: as added by `add_evaluation_options`.

    Raises:
        ConfigError, MetricError, datasets.DataError: an unusable option, metric or dataset.
    """
    try:
        names = parse_metric_names(options.metrics)
    except ValueError as error:
        raise ConfigError(f"--metrics: {error}") from None
    if is_statistics := options.data is not None and has_statistics(options.data):
        stored = read_statistics(options.data)
        if names != ("fid",):
            raise ConfigError("--metrics: statistics in --data support fid only; use --metrics fid, or images")
    else:
        with ranks.rank_by_rank():  # the first builds the cache
            pyramid = open_real_images(trained, options.data)[1]
        check_classes(trained, pyramid)
    data = make_absolute(options.data or trained.config["data"])
    with ranks.rank_by_rank():  # the first downloads the weights
        suite = Suite(
            names,
            options.inception_weights,
            next(trained.generator.parameters()).device,
            features=options.features,
            resize=options.resize,
            precision=options.precision,
            more=synthetic_mode_metric(data, trained.generator.channels) if names else {},
            cache=default_folder(),
        )
    if not suite.metrics:
        problem = f"none of {', '.join(names)} can be computed here" if names else "needs at least one metric"
        raise MetricError(f"--metrics: {problem}; choose from {', '.join(METRICS)}")
    if is_statistics:
        stored.check_settings(options.data, suite.settings(), is_resize_given=options.resize is not None)
        counts = trained.class_counts or [1] * len(trained.classes)
        return StatisticsEvaluator(stored, suite, options.num_images, options.seed, ranks, data, counts)
    return Evaluator(
        pyramid,
        suite,
        options.num_images,
        options.seed,
        ranks=ranks,
        data=data,
        num_reals=options.num_reals,
        mirror=bool(trained.config.get("mirror")),
    )


def check_classes(trained: Trained, pyramid: Pyramid) -> None:
    """Raise ConfigError unless the images have the checkpoint's classes, and no class it was not trained on."""
    if pyramid.classes != trained.classes:
        raise ConfigError(
            f"--data: the images have classes {pyramid.classes}, the checkpoint {trained.classes}; use images with the "
            f"same classes"
        )
    if absent := [
        name for i, name in enumerate(trained.classes) if pyramid.class_counts[i] and i not in trained.drawable
    ]:
        raise ConfigError(
            f"--data: the checkpoint was trained without images of class {', '.join(absent)}; remove these images"
        )


def evaluate_checkpoint(
    evaluator: Evaluator, trained: Trained, path: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Return a checkpoint's stage, metrics and how they were computed, by name; without metrics on other ranks than 0.

    With several seeds, metrics are means, and their _std is the standard deviation over the seeds.
    """
    count = getattr(options, "num_seeds", 1)
    seeds = range(options.seed, options.seed + count)
    found = [evaluator(trained.generator, trained.resolution, trained.alpha, seed) for seed in seeds]
    results = found[0]
    if count > 1:
        shared = set.intersection(*map(set, found))  # a metric may have run out of memory
        names = [name for name in results if name in shared and not name.endswith(("_std", "_error"))]
        results = {name: statistics.fmean(values[name] for values in found) for name in names}
        results |= {f"{name}_std": statistics.stdev(values[name] for values in found) for name in names}
    how = replace(evaluator.describe(trained.resolution), seeds=count)
    pyramid = None if isinstance(evaluator, StatisticsEvaluator) else evaluator.pyramid
    return {
        "checkpoint": str(path),
        "images": trained.images,
        "resolution": trained.resolution,
        "alpha": trained.alpha,
        "data_images": how.metric_reals if pyramid is None else len(pyramid),
        "training_images": None if pyramid is None else are_training_images(trained, pyramid),
        "num_images": how.metric_images,
        "num_reals": how.metric_reals,
        **how.to_dict(),
        **results,
    }
