"""python -m pggan interpolate: a film of a walk from latent to latent."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from datasets import contact_sheet

from ..config import ConfigError
from .film import SUFFIXES, add_fps, check_film, write_film
from .options import (
    Commands,
    add_checkpoint,
    add_command,
    add_device,
    add_out,
    add_seeds,
    add_stage,
    add_truncation,
    class_index,
    open_trained,
    seed_text,
    whole_number,
)
from .output import Output, default_path

MAX_FRAMES = 100_000  # nearly an hour

TEXT = """\
Film a walk through the latents of seeds, in the order given, along great circles: the generator normalises its
latents, so only their direction counts, and a straight line between two would rush through its middle.
"""
EXAMPLES = """\
  python -m pggan interpolate runs/faces-128                                 from seed 0 to 7, two seconds each
  python -m pggan interpolate runs/faces-128 --seeds 3,20,8 --loop --out walk.webp
  python -m pggan interpolate runs/digits-32 --label 7 --frames 30 --fps 15 --out seven.gif
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "interpolate", run, "film a walk between seeds", TEXT, EXAMPLES)
    add_checkpoint(p)
    add_seeds(p, "0-7")
    p.add_argument(
        "--frames", type=whole_number(1, 10000), default=60, metavar="N",
        help="from each seed to the next (default: %(default)s)",
    )  # fmt: skip
    add_fps(p, 30)
    p.add_argument("--loop", action="store_true", help="walk back from the last seed to the first")
    p.add_argument("--label", metavar="CLASS", help="name or index (default: that of the first seed)")
    add_truncation(p)
    add_stage(p)
    add_out(p, "an .mp4, .gif or .webp")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained, seeds = open_trained(arguments), arguments.seeds
    if len(seeds) < 2:
        raise ConfigError("--seeds: a walk needs at least two seeds")
    if len(seeds) * arguments.frames > MAX_FRAMES:
        raise ConfigError(f"--frames: {len(seeds)} times {arguments.frames} are more than {MAX_FRAMES} in all")
    label = trained.labels(seeds[:1])
    if arguments.label is not None:
        label = torch.tensor([class_index(trained, arguments.label)])
    names = [f"seeds-{seed_text(seeds)}", "loop" if arguments.loop else ""]
    path = arguments.out or default_path(arguments.checkpoint, trained, "interpolate", *names, suffix=".mp4")
    output = Output(path, arguments.force, SUFFIXES)
    check_film(output.suffix)
    steps = walk(trained.latents(seeds), arguments.frames, arguments.loop)
    frames = (contact_sheet(trained.draw(z[None], label, arguments.truncation).numpy()) for z in steps)
    with output.writing() as temporary:
        write_film(temporary, frames, len(steps), arguments.fps)


def walk(latents: Tensor, frames: int, loop: bool) -> Tensor:
    """[N, L] -> the walk from each latent to the next, `frames` steps each, [M, L].

    A loop ends one step before its first latent, for a film that starts again; a walk ends at its last one.
    """
    ends = torch.roll(latents, -1, dims=0)
    if not loop:
        latents, ends, last = latents[:-1], ends[:-1], latents[-1:]
    weights = torch.arange(frames, dtype=torch.float64) / frames
    steps = torch.cat([slerp(a, b, weights) for a, b in zip(latents, ends, strict=True)])
    return steps if loop else torch.cat([steps, last])


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985) of directions, linear of lengths: [L], [L], [M] -> [M, L].

    Lengths count where a label stands beside the latent when both are normalised.
    """
    x, y, t = a.double(), b.double(), weights.double()[:, None]
    length = torch.lerp(x.norm(), y.norm(), t)
    x, y = x / x.norm(), y / y.norm()
    angle = torch.acos((x @ y).clamp(-1, 1))
    if torch.sin(angle) < 1e-6:  # the same direction, or opposite ones with no shortest way
        return (length * torch.lerp(x, y, t)).to(a.dtype)
    direction = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)
    return (length * direction).to(a.dtype)
