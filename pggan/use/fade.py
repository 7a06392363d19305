"""python -m pggan fade: video of a stage fading in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from PIL import Image

from pggan.datasets import make_grid

from ..config import ConfigError
from .film import SUFFIXES, add_caption, add_fps, check_film, write_film
from .options import (
    Commands,
    add_checkpoint,
    add_command,
    add_device,
    add_out,
    add_seeds,
    add_stage,
    format_seeds,
    int_parser,
    open_trained,
)
from .output import Output, default_path
from .trained import Trained

TEXT = """\
Render fixed latents as a stage fades in: alpha goes from 0 (the lower stage's image, upscaled) to 1 (the new block's
image). The output is a video, or a .png with one row per seed and one column per alpha.

After a fade-in, the lower stage's RGB layer is no longer trained, while the blocks below it are. With a later
checkpoint, the start of a fade therefore looks rougher than it did during training.
"""
EXAMPLES = """\
  python -m pggan fade runs/faces-128                                        # seed 0, at the checkpoint's stage
  python -m pggan fade runs/faces-128/checkpoints/stage-0064.pt --seeds 0-15 --out fade.webp
  python -m pggan fade runs/faces-128 --resolution 32 --seeds 0-3 --frames 9 --out fade.png
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "fade", run, "video of a stage fading in, alpha 0 to 1", TEXT, EXAMPLES)
    add_checkpoint(p)
    add_seeds(p, "0")
    p.add_argument(
        "--frames",
        type=int_parser(2, 1000),
        metavar="N",
        help="number of alpha values, evenly spaced from 0 to 1, 2 to 1000 (default: 61; 9 for .png)",
    )
    add_fps(p, 20)
    add_stage(p, alpha=False)
    add_out(p, "an .mp4, .gif or .webp video, or a .png grid")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    # At alpha 1, whatever the checkpoint's: alpha is varied below, and file names should not contain it.
    trained = open_trained(arguments).at(alpha=1.0)
    if not trained.is_grown:
        raise ConfigError("this network was not grown progressively, so no stage fades in; use sample instead")
    if trained.resolution == 4:
        raise ConfigError("--resolution: 4x4 is the first stage and does not fade in; choose a higher resolution")
    # 64 images make a grid of 8x8, or rows that are still 16 pixels high on a screen.
    if len(arguments.seeds) > 64:
        raise ConfigError(f"--seeds: {len(arguments.seeds)} seeds do not fit in one frame; specify at most 64")
    seeds = f"seeds-{format_seeds(arguments.seeds)}"
    path = arguments.out or default_path(arguments.checkpoint, trained, "fade", seeds, suffix=".mp4")
    output = Output(path, arguments.force, (*SUFFIXES, ".png"))
    check_film(output.suffix)
    # 61: three seconds at 20 frames per second with both ends; 9: alpha in steps of 1/8, columns wide enough to see
    count = arguments.frames or (9 if output.suffix == ".png" else 61)
    alphas = torch.linspace(0, 1, count).tolist()
    with output.write_atomically() as temporary:
        if output.suffix == ".png":
            draw_rows(trained, arguments.seeds, alphas).save(temporary)
        else:
            write_film(temporary, draw_frames(trained, arguments.seeds, alphas), count, arguments.fps)


def draw_at_alpha(trained: Trained, seeds: list[int], alpha: float) -> torch.Tensor:
    """Return the seeds' images at this alpha, uint8 [len(seeds), C, r, r] on the CPU."""
    return trained.at(alpha=alpha).draw(trained.latents(seeds), trained.labels(seeds))


def draw_frames(trained: Trained, seeds: list[int], alphas: list[float]) -> Iterator[Image.Image]:
    """Yield a captioned grid of the seeds' images for each alpha."""
    for alpha in alphas:
        grid = make_grid(draw_at_alpha(trained, seeds, alpha).numpy())
        yield add_caption(grid, f"{trained.resolution}x{trained.resolution}  alpha {alpha:.2f}")


def draw_rows(trained: Trained, seeds: list[int], alphas: list[float]) -> Image.Image:
    """Return a grid with one row per seed and one column per alpha."""
    images = torch.stack([draw_at_alpha(trained, seeds, alpha) for alpha in alphas], dim=1)
    # side 1024: wide enough for nine cells of 113 pixels
    return make_grid(images.flatten(0, 1).numpy(), side=1024, columns=len(alphas))
