"""python -m pggan upscale: large images that a small one could have come from."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config import ConfigError
from ..networks.progressive import check_resolution
from .options import Commands, add_checkpoint, add_command, open_trained
from .output import Output, default_path
from .search import Found, Loss, add_search, as_tensor, decibels, read_image, root_mean_square, search, write_found

TEXT = """\
Super-resolution by latent search (PULSE: Menon et al. 2020, arXiv 2003.03808): several images of the generator whose
box-averaged small version is the given one, to within --tolerance. They are images that could have been, not the one
that was: what is not in the small image is made up.

A small image of more numbers than the latent has can in general not be met closely: 8x8 RGB are 192, 16x16 are 768.
"""
EXAMPLES = """\
  python -m pggan upscale runs/faces-128 face-8x8.png
  python -m pggan upscale runs/faces-128 face-16x16.png --searches 16 --steps 1000 --tolerance 12 --device cuda
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "upscale", run, "find large images that a small one could have come from", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument("image", type=Path, metavar="IMAGE", help="square, 4, 8, 16, ... pixels wide, below the generator's")
    p.add_argument(
        "--tolerance", type=grey_levels, default=8.0, metavar="E",
        help="root mean square error of the small version, in grey levels of 255; worse solutions are left out "
        "(default: 8, the paper's squared error of 0.001 on a scale of 0 to 1)",
    )  # fmt: skip
    add_search(p, searches=6, steps=300)


def grey_levels(text: str) -> float:
    """A parser of numbers above 0, up to 255."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 255:
        raise argparse.ArgumentTypeError(f"{text} is outside the range from 0 to 255")
    return value


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments)
    if trained.resolution == 4:
        raise ConfigError("--resolution: at 4x4 there is no smaller image to start from")
    default = default_path(arguments.checkpoint, trained, "upscale", arguments.image.stem, suffix="")
    output = Output(arguments.out or default, arguments.force, ("",))
    picture = read_image(arguments.image, trained.generator.channels)
    check_size(picture, trained.resolution, arguments.image)
    small = as_tensor(picture)
    found = search(trained, distance_of_small_versions(small), arguments)
    errors = small_errors(found.images, small).tolist()
    good = [i for i, error in enumerate(errors) if error <= arguments.tolerance]
    if not good:
        raise ConfigError(
            f"none of {len(errors)} searches came within {arguments.tolerance:g} grey levels of {arguments.image}, the "
            f"best is {min(errors):.1f} away; more --searches or --steps may, or raise --tolerance"
        )
    found = Found(found.latents[good], None if found.labels is None else found.labels[good], found.images[good])
    errors = [errors[i] for i in good]
    made_by = {
        "checkpoint": str(arguments.checkpoint),
        "image": str(arguments.image),
        "steps": arguments.steps,
        "tolerance": arguments.tolerance,
    }
    with output.writing() as temporary:
        write_found(temporary, small, found, errors, made_by)
    worst = max(errors)
    print(
        f"{len(good)} of {arguments.searches} solutions within {arguments.tolerance:g}: their small versions are "
        f"{min(errors):.1f} to {worst:.1f} of 255 grey levels from the input (PSNR {decibels(worst):.1f} dB or more)"
    )


def check_size(picture: Image.Image, resolution: int, path: Path) -> None:
    """Raises ConfigError for a picture that is not square, or whose width the generator has no smaller stage for."""
    try:
        if picture.width != picture.height or picture.width == resolution:
            raise ValueError
        check_resolution(picture.width, resolution)
    except ValueError:
        raise ConfigError(
            f"{path} is {picture.width}x{picture.height}; to become {resolution}x{resolution} it must be square and "
            f"{', '.join(f'{4 << i}' for i in range(resolution.bit_length() - 3))} pixels wide"
        ) from None


def small_version(images: Tensor, size: int) -> Tensor:
    """[N, C, r, r] -> [N, C, size, size] by averaging boxes."""
    return F.avg_pool2d(images, images.shape[-1] // size)


def distance_of_small_versions(small: Tensor) -> Loss:
    """The loss of a search: mean squared difference, in [-1, 1], from the small picture."""

    def loss(images: Tensor) -> Tensor:
        difference = small_version(images, small.shape[-1]) - (small.to(images) / 127.5 - 1)
        return difference.square().mean(dim=(1, 2, 3))

    return loss


def small_errors(images: Tensor, small: Tensor) -> Tensor:
    """Root mean square error [N], in grey levels, of the small versions of uint8 images."""
    return root_mean_square(small_version(images.float(), small.shape[-1]) - small.float())
