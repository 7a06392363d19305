"""python -m pggan project: find the latent that best reproduces an image (GAN inversion)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from pggan.metrics.lpips import LPIPS

from ..config import ConfigError
from ..training.device import choose_device
from .options import Commands, add_checkpoint, add_command, open_trained
from .output import Output, default_path
from .perceptual import add_lpips_weights, load_lpips, reduce_size
from .search import Loss, add_search, compute_rms, image_to_tensor, psnr, read_image, search, write_results

TEXT = """\
Find the latent that best reproduces an image (GAN inversion).

Adam minimizes the squared error at every scale from 4x4 to full size, or the perceptual distance LPIPS (--loss lpips),
on the sphere of normalized latents. The output folder contains the images found, best first, their latents, and a
comparison with the input (side-by-side.png).

A generator cannot reproduce what it has not learned: the reported error says how close it comes.
"""
EXAMPLES = """\
  python -m pggan project runs/faces-128 face.png
  python -m pggan project runs/faces-128 holiday.jpg --fit --searches 8 --steps 1000 --out me
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "project", run, "find the latent that reproduces an image", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument(
        "image", type=Path, metavar="IMAGE", help="image file of the generator's resolution, or of any size with --fit"
    )
    p.add_argument(
        "--fit",
        action="store_true",
        help="center-crop the image to a square and resize it to the generator's resolution",
    )
    p.add_argument(
        "--loss",
        choices=["pixels", "lpips"],
        default="pixels",
        help="distance to minimize: pixels, at every scale; lpips, perceptual (VGG-16) (default: %(default)s)",
    )
    add_lpips_weights(p)
    add_search(p, searches=4, steps=300)


def run(arguments: argparse.Namespace) -> None:
    trained, device = open_trained(arguments), choose_device(arguments.device)
    default = default_path(arguments.checkpoint, trained, "project", arguments.image.stem, suffix="")
    output = Output(arguments.out or default, arguments.force, ("",))
    image = read_image(arguments.image, trained.generator.channels)
    target = image_to_tensor(resize_to_network(image, trained.resolution, arguments))
    loss = distance_at_every_scale(target)
    if arguments.loss == "lpips":
        loss = perceptual_distance(target, load_lpips(arguments.lpips_weights, device))
    found = search(trained, loss, arguments)
    # Reported at full size only, unlike the loss, so that the number has a unit that readers know.
    errors = compute_rms(found.images.float() - target.float()).tolist()
    made_by = {"checkpoint": str(arguments.checkpoint), "image": str(arguments.image)}
    made_by |= {"steps": arguments.steps, "loss": arguments.loss}
    with output.write_atomically() as temporary:
        write_results(temporary, target, found, errors, made_by)
    report = f"best image: root mean square error {errors[0]:.1f} of 255 gray levels (PSNR {psnr(errors[0]):.1f} dB)"
    if arguments.loss == "lpips":
        best = found.images[:1].to(device) / 127.5 - 1  # 0..255 to [-1, 1]
        with torch.no_grad():
            report += f", LPIPS {loss(best).item():.3f}"
    print(report)


def resize_to_network(image: Image.Image, resolution: int, arguments: argparse.Namespace) -> Image.Image:
    """Return the image at the generator's resolution, cropped and resized if --fit is set.

    Raises:
        ConfigError: it has another size, and --fit is not set.
    """
    if arguments.fit:
        return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    if image.size != (resolution, resolution):
        raise ConfigError(
            f"{arguments.image} is {image.width}x{image.height}, but the generator's images are "
            f"{resolution}x{resolution}; add --fit to crop and resize it"
        )
    return image


def perceptual_distance(target: Tensor, distance: LPIPS) -> Loss:
    """Return a loss: LPIPS from `target`, uint8 [C, r, r], of images averaged down to at most 256 pixels a side."""
    small = reduce_size(target[None].to(distance.device) / 127.5 - 1)  # 0..255 to [-1, 1]
    return lambda images: distance(reduce_size(images), small.expand(len(images), -1, -1, -1))


def distance_at_every_scale(target: Tensor) -> Loss:
    """Return a loss: the mean squared error from `target`, averaged over scales from full size down to 4x4.

    Scales are box averages. The coarse ones guide the search from far away, while at full size a slightly shifted edge
    costs as much as a missing one.

    Args:
        target: uint8 [C, r, r].
    """

    def loss(images: Tensor) -> Tensor:
        difference = images - (target.to(images) / 127.5 - 1)  # 0..255 to [-1, 1]
        terms = [difference.square().mean(dim=(1, 2, 3))]
        while difference.shape[-1] > 4:
            difference = F.avg_pool2d(difference, 2)
            terms.append(difference.square().mean(dim=(1, 2, 3)))
        return torch.stack(terms).mean(dim=0)

    return loss
