"""python -m pggan upscale: super-resolution by latent search."""

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
from .search import (
    Loss,
    SearchResult,
    add_search,
    compute_rms,
    image_to_tensor,
    psnr,
    read_image,
    search,
    write_results,
)

TEXT = """\
Find generated images that match a small image when downscaled (super-resolution by latent search).

The method is PULSE (Menon et al. 2020, arXiv 2003.03808): several results are searched for whose box-averaged version
matches the input to within --tolerance. They are plausible, not true: details absent from the input are invented.

An input with more values than the latent has dimensions can rarely be matched closely: 8x8 RGB has 192 values, 16x16
RGB has 768.
"""
EXAMPLES = """\
  python -m pggan upscale runs/faces-128 face-8x8.png
  python -m pggan upscale runs/faces-128 face-16x16.png --searches 16 --steps 1000 --tolerance 12 --device cuda
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "upscale", run, "super-resolution by latent search", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument(
        "image",
        type=Path,
        metavar="IMAGE",
        help="square image file of 4, 8, 16, ... pixels, below the generator's resolution",
    )
    p.add_argument(
        "--tolerance",
        type=parse_gray_levels,
        default=8.0,
        metavar="E",
        help="maximum root mean square error of the downscaled result, in gray levels above 0 up to 255; worse results "
        "are discarded (default: 8, PULSE's mean squared error of 0.001 for values from 0 to 1)",
    )
    add_search(p, searches=6, steps=300)


def parse_gray_levels(text: str) -> float:
    """Parse a number above 0 and up to 255, for argparse's `type`."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 255:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 255")
    return value


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments)
    if trained.resolution == 4:
        raise ConfigError(
            "--resolution: 4x4 is the smallest stage, so there is nothing to upscale from; choose a higher one"
        )
    default = default_path(arguments.checkpoint, trained, "upscale", arguments.image.stem, suffix="")
    output = Output(arguments.out or default, arguments.force, ("",))
    image = read_image(arguments.image, trained.generator.channels)
    check_size(image, trained.resolution, arguments.image)
    small = image_to_tensor(image)
    found = search(trained, distance_of_small_versions(small), arguments)
    errors = compute_small_errors(found.images, small).tolist()
    good = [i for i, error in enumerate(errors) if error <= arguments.tolerance]
    if not good:
        raise ConfigError(
            f"none of {len(errors)} searches came within --tolerance {arguments.tolerance:g} gray levels of "
            f"{arguments.image}: the best is {min(errors):.1f} away; increase --searches, --steps or --tolerance"
        )
    # Already sorted: the best comes first.
    found = SearchResult(found.latents[good], None if found.labels is None else found.labels[good], found.images[good])
    errors = [errors[i] for i in good]
    made_by = {
        "checkpoint": str(arguments.checkpoint),
        "image": str(arguments.image),
        "steps": arguments.steps,
        "tolerance": arguments.tolerance,
    }
    with output.write_atomically() as temporary:
        write_results(temporary, small, found, errors, made_by)
    worst = max(errors)
    print(
        f"{len(good)} of {arguments.searches} results are within --tolerance {arguments.tolerance:g}: downscaled, they "
        f"differ from the input by {min(errors):.1f} to {worst:.1f} of 255 gray levels (PSNR at least "
        f"{psnr(worst):.1f} dB)"
    )


def check_size(image: Image.Image, resolution: int, path: Path) -> None:
    """Raise ConfigError unless the image is square and as wide as one of the generator's lower stages."""
    try:
        # check_resolution accepts the full resolution too, where nothing is left to upscale
        if image.width != image.height or image.width == resolution:
            raise ValueError
        check_resolution(image.width, resolution)
    except ValueError:
        raise ConfigError(
            f"{path} is {image.width}x{image.height}; for {resolution}x{resolution} results it must be square "
            f"and {' or '.join(f'{4 << i}' for i in range(resolution.bit_length() - 3))} pixels wide"
        ) from None


def downsample_images(images: Tensor, size: int) -> Tensor:
    """Downscale images by box averaging: [N, C, r, r] -> [N, C, size, size]."""
    return F.avg_pool2d(images, images.shape[-1] // size)


def distance_of_small_versions(small: Tensor) -> Loss:
    """Return a loss: the mean squared error of the downscaled image, in [-1, 1], from `small`, uint8 [C, s, s]."""

    def loss(images: Tensor) -> Tensor:
        difference = downsample_images(images, small.shape[-1]) - (small.to(images) / 127.5 - 1)
        return difference.square().mean(dim=(1, 2, 3))

    return loss


def compute_small_errors(images: Tensor, small: Tensor) -> Tensor:
    """Return the root mean square error [N], in gray levels, of downscaled uint8 images from `small`."""
    return compute_rms(downsample_images(images.float(), small.shape[-1]) - small.float())
