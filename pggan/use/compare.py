"""python -m pggan compare: metrics and samples of several checkpoints, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pggan.checkpoints import resolve_checkpoint
from pggan.datasets import make_grid

from ..config import ConfigError
from ..training.device import choose_device
from ..training.plan import format_table
from .evaluate import add_evaluation_options, evaluate_checkpoint, explain_out_of_memory, open_evaluator
from .film import add_caption
from .options import Commands, add_command, add_force, add_seeds
from .output import Output
from .sample import check_grid
from .trained import Trained, load

GAP = 16  # pixels between two grids

TEXT = """\
Compute metrics of two or more checkpoints, each at the stage it was saved at, and draw the same seeds with each.

Networks with latents of the same size get identical latents; networks with other sizes share only the seeds.
"""
EXAMPLES = """\
  python -m pggan compare runs/faces-a runs/faces-b
  python -m pggan compare runs/faces-128/checkpoints/stage-00*.pt --metrics none --seeds 0-15 --out stages.png
  python -m pggan compare a.pt b.pt --data faces --num-images 50000 --metrics fid --json
"""


def add_parser(commands: Commands) -> None:
    p = add_command(
        commands, "compare", run, "metrics and samples of several checkpoints, side by side", TEXT, EXAMPLES
    )
    p.add_argument(
        "checkpoints", nargs="+", metavar="RUN_OR_CHECKPOINT", help="two or more checkpoints or run directories"
    )
    add_seeds(p, "0-35")
    add_evaluation_options(p, "10000")
    p.add_argument("--json", action="store_true", help="print one line of JSON per checkpoint instead of a table")
    p.add_argument(
        "--out", type=Path, default="compare.png", help="output: a .png of the sample grids (default: %(default)s)"
    )
    add_force(p)


def run(arguments: argparse.Namespace) -> None:
    if len(arguments.checkpoints) < 2:
        raise ConfigError("compare needs two or more runs or checkpoints; use evaluate for a single one")
    output = Output(arguments.out, arguments.force, (".png",))
    device = choose_device(arguments.device)
    # Grids first: they take seconds and find unreadable checkpoints before the metrics take minutes.
    models = [load(path, device) for path in arguments.checkpoints]
    check_grid(len(arguments.seeds), max(model.resolution for model in models))
    with explain_out_of_memory():
        grids = draw_grids(models, arguments.seeds)
        results = [] if arguments.metrics == "none" else evaluate_models(models, arguments)
    if results:
        print("\n".join(map(json.dumps, results)) if arguments.json else format_results(arguments.checkpoints, results))
    with output.write_atomically() as temporary:
        join_grids(grids, arguments.checkpoints).save(temporary)


def evaluate_models(models: list[Trained], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the models' metrics; models trained on the same images share the statistics of the real ones."""
    results, evaluators = [], {}
    for path, model in zip(options.checkpoints, models, strict=True):
        images = model.digest, model.config.get("data"), model.generator.resolution, bool(model.config.get("mirror"))
        if images not in evaluators:
            evaluators[images] = open_evaluator(model, options)
        results.append(evaluate_checkpoint(evaluators[images], model, resolve_checkpoint(path), options))
    return results


def format_results(names: list[str], results: list[dict[str, Any]]) -> str:
    """Return a text table of the results: metrics as rows, checkpoints as columns, "-" for missing values."""
    rows = []
    # all names in order of appearance: checkpoints may have different metrics, such as the levels of SWD
    skipped = {"checkpoint", "metric_images", "metric_reals"}  # the header; the same as num_images and num_reals
    for name in dict.fromkeys(key for result in results for key in result if key not in skipped):
        values = [result.get(name, "-") for result in results]
        rows.append([name, *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values)])
    return format_table(["", *names], rows)


def draw_grids(models: list[Trained], seeds: list[int]) -> list[Image.Image]:
    """Return a grid of the same seeds for each model; lower resolutions are enlarged by repeating pixels."""
    largest = max(model.resolution for model in models)
    grids = []
    for model in models:
        images = model.draw(model.latents(seeds), model.labels(seeds)).numpy()
        factor = largest // model.resolution  # both are powers of two
        grids.append(make_grid(np.repeat(np.repeat(images, factor, axis=2), factor, axis=3)).convert("RGB"))
    return grids


def join_grids(grids: list[Image.Image], names: list[str]) -> Image.Image:
    """Return one image of the grids from left to right, each with its name below it."""
    grids = [add_caption(grid, name) for grid, name in zip(grids, names, strict=True)]
    width, height = grids[0].size
    page = Image.new("RGB", (len(grids) * (width + GAP) - GAP, height), "white")
    for i, grid in enumerate(grids):
        page.paste(grid, (i * (width + GAP), 0))
    return page
