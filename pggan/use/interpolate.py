"""python -m pggan interpolate: video of a walk through latent space."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from pggan.datasets import make_grid

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
    find_class,
    format_seeds,
    int_parser,
    open_trained,
)
from .output import Output, default_path

MAX_FRAMES = 100_000  # 55 minutes at the default 30 frames per second; more is likely a typing error

TEXT = """\
Make a video that interpolates between the latents of several seeds, in the order of --seeds.

The path follows great circles (slerp). The generator normalizes its latents, so only their direction matters, and
linear interpolation would change the image fastest halfway between two seeds.
"""
EXAMPLES = """\
  python -m pggan interpolate runs/faces-128                                 # seeds 0 to 7, two seconds each
  python -m pggan interpolate runs/faces-128 --seeds 3,20,8 --loop --out walk.webp
  python -m pggan interpolate runs/digits-32 --label 7 --frames 30 --fps 15 --out seven.gif
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "interpolate", run, "video of a latent-space walk between seeds", TEXT, EXAMPLES)
    add_checkpoint(p)
    add_seeds(p, "0-7")
    p.add_argument(
        "--frames",
        type=int_parser(1, 10000),
        default=60,
        metavar="N",
        help="number of frames from each seed to the next, 1 to 10000 (default: %(default)s)",
    )
    add_fps(p, 30)
    p.add_argument(
        "--loop",
        action="store_true",
        help="return from the last seed to the first, for a video that repeats seamlessly",
    )
    p.add_argument(
        "--label",
        metavar="CLASS",
        help="class of all frames, by name or index from 0 (default: the first seed's class)",
    )
    add_truncation(p)
    add_stage(p)
    add_out(p, "an .mp4, .gif or .webp video")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained, seeds = open_trained(arguments), arguments.seeds
    if len(seeds) < 2:
        raise ConfigError("--seeds: interpolation needs at least two seeds, for example --seeds 0-7")
    if len(seeds) * arguments.frames > MAX_FRAMES:
        raise ConfigError(
            f"--frames: {len(seeds)} seeds x {arguments.frames} frames exceed {MAX_FRAMES}; specify fewer of either"
        )
    # one class throughout: labels are discrete, and a change between two seeds would be a jump
    label = trained.labels(seeds[:1])
    if arguments.label is not None:
        label = torch.tensor([find_class(trained, arguments.label)])
    names = [f"seeds-{format_seeds(seeds)}", "loop" if arguments.loop else ""]
    path = arguments.out or default_path(arguments.checkpoint, trained, "interpolate", *names, suffix=".mp4")
    output = Output(path, arguments.force, SUFFIXES)
    check_film(output.suffix)
    steps = interpolate_latents(trained.latents(seeds), arguments.frames, arguments.loop)
    frames = (make_grid(trained.draw(z[None], label, arguments.truncation).numpy()) for z in steps)
    with output.write_atomically() as temporary:
        write_film(temporary, frames, len(steps), arguments.fps)


def interpolate_latents(latents: Tensor, frames: int, loop: bool) -> Tensor:
    """Return the latents [M, L] along a walk through `latents` [N, L], `frames` steps from each one to the next.

    A loop ends one step before its first latent, so that a repeating video shows no frame twice; M = N * frames.
    Without `loop` the walk ends at the last latent; M = (N - 1) * frames + 1.
    """
    ends = torch.roll(latents, -1, dims=0)  # each latent's successor; the last one's is the first
    if not loop:
        latents, ends, last = latents[:-1], ends[:-1], latents[-1:]
    weights = torch.arange(frames, dtype=torch.float64) / frames  # without 1, which is the next pair's 0
    steps = torch.cat([slerp(a, b, weights) for a, b in zip(latents, ends, strict=True)])
    return steps if loop else torch.cat([steps, last])


def slerp(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Interpolate spherically from `a` [L] to `b` [L] at `weights` [M] in [0, 1]; return latents [M, L].

    Directions follow the great circle (Shoemake 1985, "Animating rotation with quaternion curves"), in float64.
    Lengths are interpolated linearly. They matter to conditional generators, which normalize the latent together with
    the one-hot label, so a longer latent weakens the label.
    """
    x, y, t = a.double(), b.double(), weights.double()[:, None]
    length = torch.lerp(x.norm(), y.norm(), t)
    x, y = x / x.norm(), y / y.norm()
    angle = torch.acos((x @ y).clamp(-1, 1))  # rounding may exceed 1, whose acos is NaN
    if torch.sin(angle) < 1e-6:  # 0/0 below: equal directions, or opposite ones, between which no path is shortest
        return (length * torch.lerp(x, y, t)).to(a.dtype)
    direction = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)
    return (length * direction).to(a.dtype)
