"""python -m pggan evaluate: judge what was saved."""

from __future__ import annotations

import argparse
import json
import sys

from checkpoints import CheckpointError, newest
from datasets import DataError, open_pyramid, open_source
from metrics import MetricError, Suite

from .config import ConfigError, metric_names
from .training.device import choose_device
from .training.evaluation import Judge
from .use import explore, load, report

EXAMPLES = """examples:
  python -m pggan evaluate runs/faces-128                      the newest checkpoint, on the run's own images
  python -m pggan evaluate runs/faces-128/checkpoints/stage-0064.pt --num-images 50000
  python -m pggan evaluate latest.pt --data faces --metrics fid --json
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pggan", description="Use trained generators.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_evaluate(commands)
    report.add_parser(commands)
    explore.add_parser(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (ConfigError, DataError, CheckpointError, MetricError) as error:
        print(f"python -m pggan: {error}", file=sys.stderr)
        sys.exit(2)


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser(
        "evaluate",
        help="compute metrics of a checkpoint",
        description="Compute metrics of a checkpoint's EMA generator, at the stage it was saved in.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT", help="a checkpoint, or a run directory for its latest")
    p.add_argument("--data", metavar="IMAGES", help="real images: a folder or a set's name (default: the run's own)")
    p.add_argument("--metrics", default="fid,is,swd", help="any of fid,is,swd (default: %(default)s)")
    p.add_argument(
        "--num-images", type=positive, default=10000, metavar="N",
        help="generated images, and at most as many real ones (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--inception-weights", metavar="FILE", help="file of the 2015 Inception weights")
    p.add_argument("--seed", type=seed, default=0, help="of the latents, 0 or more (default: %(default)s)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print one line of JSON")
    p.set_defaults(run=evaluate)


def positive(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is too few; at least 2 are needed")
    return value


def seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def evaluate(arguments: argparse.Namespace) -> None:
    device = choose_device(arguments.device)
    try:
        names = metric_names(arguments.metrics)
    except ValueError as error:
        raise ConfigError(f"--metrics: {error}") from None
    path = newest(arguments.checkpoint)
    trained = load(path, device)
    config = trained.config
    source = open_source(arguments.data or config["data"], labels=bool(trained.classes))
    pyramid = open_pyramid(source, config["resolution"], config["channels"])
    if pyramid.classes != trained.classes:
        raise ConfigError(f"--data: its classes are {pyramid.classes}, the checkpoint's {trained.classes}")
    suite = Suite(names, arguments.inception_weights, device)
    judge = Judge(pyramid, suite, arguments.num_images, arguments.seed)
    results = judge(trained.generator, trained.resolution, trained.alpha)
    if not results:
        raise MetricError(f"none of {', '.join(names) or 'no metrics'} can be computed here")
    report = {
        "checkpoint": str(path),
        "images": trained.images,
        "resolution": trained.resolution,
        "alpha": trained.alpha,
        "num_images": arguments.num_images,
        "num_reals": min(arguments.num_images, len(pyramid)),
        **results,
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, value in report.items():
            print(f"{name:<12}{value:.4f}" if isinstance(value, float) else f"{name:<12}{value}")


if __name__ == "__main__":
    main()
