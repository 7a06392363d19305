"""python -m pggan evaluate: compute metrics of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from shlex import quote
from typing import Any

from pggan.checkpoints import resolve_checkpoint
from pggan.datasets import Pyramid, Source, open_pyramid, open_source
from pggan.metrics import METRICS, RESIZES, MetricError, Suite, default_folder

from ..config import ConfigError, parse_metric_names
from ..paths import is_missing, make_absolute
from ..training.device import choose_device
from ..training.evaluation import Evaluator, synthetic_mode_metric
from .options import Commands, add_checkpoint, add_command, add_device, int_parser
from .trained import Trained, load

EXAMPLES = """\
  python -m pggan evaluate runs/faces-128                      the newest checkpoint, on the run's own images
  python -m pggan evaluate runs/faces-128/checkpoints/stage-0064.pt --num-images 50000
  python -m pggan evaluate latest.pt --data faces --metrics fid --json
"""


def add_parser(commands: Commands) -> None:
    p = add_command(
        commands,
        "evaluate",
        run,
        "compute metrics of a checkpoint",
        "Compute metrics of a checkpoint's EMA generator, at the stage it was saved in.",
        EXAMPLES,
    )
    add_checkpoint(p)
    add_evaluation_options(p)
    p.add_argument("--json", action="store_true", help="print one line of JSON")


def add_evaluation_options(p: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate_checkpoint`."""
    p.add_argument(
        "--data", metavar="IMAGES", help="real images: a folder or dataset name (default: the training images)"
    )
    p.add_argument("--metrics", default="fid,is,swd", help=f"any of {','.join(METRICS)} (default: %(default)s)")
    p.add_argument(
        "--num-images",
        type=int_parser(2),
        default=10000,
        metavar="N",
        help="generated images, and real images at most (default: %(default)s)",
    )
    p.add_argument(
        "--resize",
        choices=list(RESIZES),
        default="tf1",
        help="resizing to Inception's 299x299, as in the 2015 graph, pytorch-fid or clean-fid (default: %(default)s)",
    )
    p.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic of Inception (default: %(default)s)"
    )
    p.add_argument("--inception-weights", metavar="FILE", help="file of the 2015 Inception weights")
    p.add_argument(
        "--seed", type=int_parser(0), default=0, help="random seed of the latents, 0 or more (default: %(default)s)"
    )
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    report = evaluate_checkpoint(arguments.checkpoint, arguments)
    if arguments.json:
        print(json.dumps(report))
    else:
        words = {True: "yes", False: "no", None: "not recorded"}
        for name, value in (report | {"training_images": words[report["training_images"]]}).items():
            print(f"{name:<20}{value:.6g}" if isinstance(value, float) else f"{name:<20}{value}")


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
        print(f"warning: {data} has other images than the checkpoint was trained on", file=sys.stderr)
    return source, pyramid


def are_training_images(trained: Trained, pyramid: Pyramid) -> bool | None:
    """Return whether the images are those the checkpoint was trained on; None if it does not record them."""
    return trained.digest == pyramid.compute_digest() if trained.digest else None


def evaluate_checkpoint(checkpoint: str | Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return a checkpoint's stage, metrics and how they were computed, by name.

    options: as added by `add_evaluation_options`.

    Raises:
        ConfigError, MetricError, DataError, CheckpointError: an unusable option, metric, dataset
            or checkpoint.
    """
    device = choose_device(options.device)
    try:
        names = parse_metric_names(options.metrics)
    except ValueError as error:
        raise ConfigError(f"--metrics: {error}") from None
    path = resolve_checkpoint(checkpoint)
    trained = load(path, device)
    _, pyramid = open_real_images(trained, options.data)
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
    data = make_absolute(options.data or trained.config["data"])
    suite = Suite(
        names,
        options.inception_weights,
        device,
        resize=options.resize,
        precision=options.precision,
        more=synthetic_mode_metric(data, trained.generator.channels) if names else {},
        cache=default_folder(),
    )
    evaluator = Evaluator(pyramid, suite, options.num_images, options.seed)
    results = evaluator(trained.generator, trained.resolution, trained.alpha)
    if not results:
        problem = f"none of {', '.join(names)} can be computed here" if names else "needs at least one metric"
        raise MetricError(f"--metrics: {problem}; choose from {', '.join(METRICS)}")
    return {
        "checkpoint": str(path),
        "images": trained.images,
        "resolution": trained.resolution,
        "alpha": trained.alpha,
        "data": data,
        "data_images": len(pyramid),
        "training_images": are_training_images(trained, pyramid),
        "num_images": options.num_images,
        "num_reals": min(options.num_images, len(pyramid)),
        **suite.settings(),
        **results,
    }
