"""python -m pggan sample: generate images, as one grid or as a dataset of any size."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from tqdm import tqdm

from pggan.checkpoints import resolve_checkpoint
from pggan.datasets import make_grid

from ..config import ConfigError
from .image_set import SUFFIXES, Batch, write_image_set
from .options import (
    MAX_SEEDS,
    Commands,
    add_checkpoint,
    add_command,
    add_device,
    add_out,
    add_seeds,
    add_stage,
    add_truncation,
    find_class,
    format_seeds,
    int_parser,
    open_trained,
)
from .output import Output, default_path
from .trained import Trained

BATCH = 64  # images generated at a time; bounds memory
BATCH_PER_CORE = 4  # our choice: on a CPU with many cores, few of them wait for the last images of a batch
MAX_GRID, MAX_SIDE = 10000, 16384  # images in a grid; pixels per side, up to 0.8 GB uncompressed

TEXT = """\
Generate images from seeds, as one grid or as a dataset.

With --labels, each seed is drawn with each label; otherwise a conditional generator derives the label from the seed.
A folder or zip has a subfolder for each class and a dataset.json with the labels: train.py reads the folder with
--labels, StyleGAN's training the zip. An .npz contains arr_0 (uint8 [N, height, width, channels]) and arr_1 (labels).
"""
EXAMPLES = """\
  python -m pggan sample runs/faces-128                                      a grid of seeds 0 to 63
  python -m pggan sample runs/faces-128 --seeds 3,8,20-29 --truncation 0.7 --out best.png
  python -m pggan sample runs/faces-128 --resolution 64 --alpha 0.5          halfway through the fade to 64x64
  python -m pggan sample runs/digits-32 --seeds 0-9 --labels all             one row per seed, one column per class
  python -m pggan sample runs/digits-32 --count 10000 --out more-digits      a dataset: a folder, x.zip or x.npz
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "sample", run, "generate images: a grid, or a dataset of any size", TEXT, EXAMPLES)
    add_checkpoint(p)
    which = p.add_mutually_exclusive_group()
    add_seeds(which, "0-63")
    which.add_argument("--count", type=int_parser(1, MAX_SEEDS), metavar="N", help="use the seeds 0 to N - 1")
    p.add_argument("--labels", metavar="LIST", help="classes by name or index from 0, such as cat,dog; or all")
    add_truncation(p)
    add_stage(p)
    add_out(p, "a .png for a grid; a folder, .zip or .npz for a dataset")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments)
    seeds = arguments.seeds if arguments.count is None else list(range(arguments.count))
    classes = parse_classes(trained, arguments.labels)
    name = [f"seeds-{format_seeds(seeds)}", f"labels-{arguments.labels}" if classes else ""]
    name.append(f"psi-{arguments.truncation:g}" if arguments.truncation != 1 else "")
    path = arguments.out or default_path(arguments.checkpoint, trained, "sample", *name, suffix=".png")
    output = Output(path, arguments.force, (".png", *SUFFIXES))
    count = len(seeds) * max(len(classes), 1)
    if output.suffix == ".png":
        check_grid(count, trained.resolution)
    batches = draw_batches(trained, seeds, classes, arguments.truncation)
    with output.write_atomically() as temporary:
        if output.suffix == ".png":
            images = torch.cat([torch.from_numpy(batch.images) for batch in batches])
            make_grid(images.numpy(), columns=len(classes) if len(classes) > 1 else None).save(temporary)
        else:
            made_by = {
                "checkpoint": str(resolve_checkpoint(arguments.checkpoint)),
                "images_seen": trained.images,
                "resolution": trained.resolution,
                "alpha": trained.alpha,
                "truncation": arguments.truncation,
            }
            write_image_set(temporary, batches, count, trained.classes, made_by)


def parse_classes(trained: Trained, text: str | None) -> list[int]:
    """Return the class indices of --labels; [] if each seed has its own label."""
    if text is None:
        return []
    if text == "all" and trained.classes:
        return trained.drawable
    return [find_class(trained, part, "--labels") for part in text.split(",")]


def check_grid(count: int, resolution: int) -> None:
    """Refuse grids of too many images.

    Raises:
        ConfigError: more than MAX_GRID images or MAX_SIDE pixels per side.
    """
    side = (count**0.5 + 1) * resolution
    if count > MAX_GRID or side > MAX_SIDE:
        raise ConfigError(
            f"--out: {count} images of {resolution}x{resolution} are too many for a grid; use fewer, or write a "
            "folder, .zip or .npz, such as --out images.zip"
        )


def draw_batches(trained: Trained, seeds: list[int], classes: list[int], truncation: float) -> Iterator[Batch]:
    """Yield the images of every seed with every class, [] for the seed's own, in batches."""
    size = max(BATCH, BATCH_PER_CORE * torch.get_num_threads())
    each = [seed for seed in seeds for _ in range(len(classes) or 1)]
    with tqdm(total=len(each), desc="drawing", unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(each), size):
            part = each[start : start + size]
            labels = trained.labels(part)
            if classes:
                labels = torch.tensor([classes[i % len(classes)] for i in range(start, start + len(part))])
            images = trained.draw(trained.latents(part), labels, truncation)
            yield Batch(images.numpy(), part, None if labels is None else labels.tolist())
            bar.update(len(part))
