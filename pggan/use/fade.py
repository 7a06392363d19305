"""python -m pggan fade: a stage's newest block coming in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from PIL import Image

from datasets import contact_sheet

from ..config import ConfigError
from .film import SUFFIXES, add_fps, captioned, check_film, write_film
from .options import (
    Commands,
    add_checkpoint,
    add_command,
    add_device,
    add_out,
    add_seeds,
    add_stage,
    open_trained,
    seed_text,
    whole_number,
)
from .output import Output, default_path
from .trained import Trained

TEXT = """\
Show the same latents while alpha goes from 0 to 1 at a stage: from the lower stage's image, upscaled, to the newest
block's own. A film, or as a .png one row for each seed.

Once a stage has faded in, the RGB layer of the one below is no longer trained, while the blocks under it are: from a
later checkpoint the start of a fade looks rougher than it was in its time.
"""
EXAMPLES = """\
  python -m pggan fade runs/faces-128                                        seed 0 at the checkpoint's stage
  python -m pggan fade runs/faces-128/checkpoints/stage-0064.pt --seeds 0-15 --out fade.webp
  python -m pggan fade runs/faces-128 --resolution 32 --seeds 0-3 --frames 9 --out fade.png
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "fade", run, "show latents at alpha 0 to 1", TEXT, EXAMPLES)
    add_checkpoint(p)
    add_seeds(p, "0")
    p.add_argument(
        "--frames", type=whole_number(2, 1000), metavar="N",
        help="values of alpha, evenly from 0 to 1 (default: 61; 9 for a .png)",
    )  # fmt: skip
    add_fps(p, 20)
    add_stage(p, alpha=False)
    add_out(p, "an .mp4, .gif, .webp, or a .png of rows")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments).at(alpha=1.0)
    if not trained.grew:
        raise ConfigError("this network did not grow: nothing in it fades in")
    if trained.resolution == 4:
        raise ConfigError("--resolution: 4x4 is the first stage and does not fade in; name a later one")
    if len(arguments.seeds) > 64:
        raise ConfigError(f"--seeds: {len(arguments.seeds)} are too many to look at; take at most 64")
    seeds = f"seeds-{seed_text(arguments.seeds)}"
    path = arguments.out or default_path(arguments.checkpoint, trained, "fade", seeds, suffix=".mp4")
    output = Output(path, arguments.force, (*SUFFIXES, ".png"))
    check_film(output.suffix)
    count = arguments.frames or (9 if output.suffix == ".png" else 61)
    alphas = torch.linspace(0, 1, count).tolist()
    with output.writing() as temporary:
        if output.suffix == ".png":
            rows(trained, arguments.seeds, alphas).save(temporary)
        else:
            write_film(temporary, frames(trained, arguments.seeds, alphas), count, arguments.fps)


def drawn_at(trained: Trained, seeds: list[int], alpha: float) -> torch.Tensor:
    """uint8 [len(seeds), C, r, r]."""
    return trained.at(alpha=alpha).draw(trained.latents(seeds), trained.labels(seeds))


def frames(trained: Trained, seeds: list[int], alphas: list[float]) -> Iterator[Image.Image]:
    """A captioned grid for each alpha, one at a time."""
    for alpha in alphas:
        sheet = contact_sheet(drawn_at(trained, seeds, alpha).numpy())
        yield captioned(sheet, f"{trained.resolution}x{trained.resolution}  alpha {alpha:.2f}")


def rows(trained: Trained, seeds: list[int], alphas: list[float]) -> Image.Image:
    """A row for each seed, a column for each alpha."""
    images = torch.stack([drawn_at(trained, seeds, alpha) for alpha in alphas], dim=1)
    return contact_sheet(images.flatten(0, 1).numpy(), side=1024, columns=len(alphas))
