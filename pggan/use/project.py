"""python -m pggan project: the latent of a given image."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..config import ConfigError
from .options import Commands, add_checkpoint, add_command, open_trained
from .output import Output, default_path
from .search import Loss, add_search, as_tensor, decibels, read_image, root_mean_square, search, write_found

TEXT = """\
Search for the latent whose image is nearest to a given one: Adam in latent space, on the sphere of normalised latents,
by the squared error at every scale from 4x4 to the full image. The folder holds the images found, all beside the given
one (side-by-side.png), and the latents; the best come first.

What a generator has not learnt it cannot show: the error says how far the image is from what it can.
"""
EXAMPLES = """\
  python -m pggan project runs/faces-128 face.png
  python -m pggan project runs/faces-128 holiday.jpg --fit --searches 8 --steps 1000 --out me
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "project", run, "find the latent of an image", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument("image", type=Path, metavar="IMAGE", help="of the generator's size")
    p.add_argument("--fit", action="store_true", help="cut the square in its middle and resize it, as for training")
    add_search(p, searches=4, steps=300)


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments)
    default = default_path(arguments.checkpoint, trained, "project", arguments.image.stem, suffix="")
    output = Output(arguments.out or default, arguments.force, ("",))
    picture = read_image(arguments.image, trained.generator.channels)
    target = as_tensor(of_size(picture, trained.resolution, arguments))
    found = search(trained, distance_at_every_scale(target), arguments)
    errors = root_mean_square(found.images.float() - target.float()).tolist()
    made_by = {"checkpoint": str(arguments.checkpoint), "image": str(arguments.image), "steps": arguments.steps}
    with output.writing() as temporary:
        write_found(temporary, target, found, errors, made_by)
    print(f"root mean square error {errors[0]:.1f} of 255 grey levels (PSNR {decibels(errors[0]):.1f} dB)")


def of_size(picture: Image.Image, resolution: int, arguments: argparse.Namespace) -> Image.Image:
    """The picture, if it has the generator's size or --fit makes it so. Raises ConfigError."""
    if arguments.fit:
        return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)
    if picture.size != (resolution, resolution):
        raise ConfigError(
            f"{arguments.image} is {picture.width}x{picture.height}, the generator's images are "
            f"{resolution}x{resolution}; give --fit to cut and resize it"
        )
    return picture


def distance_at_every_scale(target: Tensor) -> Loss:
    """Mean over scales, from the full image down to 4x4, of the mean squared error between box-averaged images.

    The coarse scales lead to the right place from far away; at full size alone a shifted edge counts as two.
    """

    def loss(images: Tensor) -> Tensor:
        difference = images - (target.to(images) / 127.5 - 1)
        terms = [difference.square().mean(dim=(1, 2, 3))]
        while difference.shape[-1] > 4:
            difference = F.avg_pool2d(difference, 2)
            terms.append(difference.square().mean(dim=(1, 2, 3)))
        return torch.stack(terms).mean(dim=0)

    return loss
