"""python -m pggan info: describe a checkpoint and the progress of its run."""

from __future__ import annotations

import argparse
import json

from pggan import checkpoints
from pggan.checkpoints import RunDirectory
from pggan.checkpoints.run_directory import read_lines

from ..paths import find_run_folder
from ..training.plan import print_stages
from .evaluate import format_rows
from .options import Commands, add_checkpoint, add_command
from .trained import load, read_plan

TEXT = """\
Describe a checkpoint: stage, images seen, networks and their sizes, options and versions.

If it is in a run directory, also list its other checkpoints, metrics up to this one, and evaluations.
"""
EXAMPLES = """\
  python -m pggan info runs/faces-128
  python -m pggan info runs/faces-128/checkpoints/stage-0064.pt --json
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "info", run, "describe a checkpoint", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument("--json", action="store_true", help="print one line of JSON instead of text")


def run(arguments: argparse.Namespace) -> None:
    path = checkpoints.resolve_checkpoint(arguments.checkpoint)
    trained, content = load(path), checkpoints.load(path)
    folder = find_run_folder(path)
    directory = None if folder is None else RunDirectory(folder)
    lines = [] if directory is None else read_lines(directory.metrics)
    # Up to this checkpoint: a run's file also has the metrics of later ones.
    evaluations = [line for line in lines if line["images"] <= trained.images]
    table = [] if directory is None else read_lines(directory.evaluations)
    if arguments.json:
        # everything but the weights
        plain = {key: content.get(key) for key in ("images", "stage", "classes", "versions", "networks", "config")}
        print(
            json.dumps(
                {
                    "checkpoint": str(path),
                    "bytes": path.stat().st_size,
                    **plain,
                    "metrics": evaluations,
                    "evaluations": table,
                }
            )
        )
        return
    print("\n".join(checkpoints.describe(path, content)))
    if (plan := read_plan(trained.config, content)) and (whole := plan.total_images):
        print(f"planned {whole / 1000:g} kimg, {trained.images / whole:.0%} done")
    if directory is not None:
        print("kept    " + ", ".join(sorted(file.name for file in directory.checkpoints.glob("*.pt"))))
        if any(line["stage_end"] for line in evaluations):
            print("\nmetrics at the end of each stage")
            print_stages(evaluations, directory, content["state"].get("start", 0))
        if table:
            print(f"\nevaluations of checkpoints\n{format_rows(table)}")
