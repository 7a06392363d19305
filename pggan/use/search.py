"""Latent search: minimize a loss of the generated image by gradient descent on the sphere of normalized latents."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import make_grid
from pggan.datasets.images import apply_orientation, convert_channels, open_image

from ..config import ConfigError
from ..networks import to_one_hot
from .image_set import to_pillow
from .options import add_device, add_out, add_stage, find_class, int_parser
from .output import FOUND
from .trained import Trained

CANDIDATES = 64  # random latents per search, which starts from the best: cheap beside the hundreds of steps that follow
MAX_PIXELS = 2**20  # of one backward pass: one image at 1024x1024, 64 at 128x128; bounds the memory it needs
LEARNING_RATE = 0.4  # Adam's, as in the code of PULSE (Menon et al. 2020, arXiv 2003.03808)

Loss = Callable[[Tensor], Tensor]  # images [N, C, r, r] in [-1, 1] -> one loss per image [N]


@dataclass(frozen=True)
class SearchResult:
    """Results of N searches, lowest loss first: latents [N, L], labels [N] or None, uint8 images [N, C, r, r]."""

    latents: Tensor
    labels: Tensor | None
    images: Tensor


def add_search(p: argparse.ArgumentParser, searches: int, steps: int) -> None:
    """Add the options of a latent search, with these defaults."""
    p.add_argument(
        "--searches",
        type=int_parser(1, 1000),
        default=searches,
        metavar="N",
        help="number of searches, each from its own random start, 1 to 1000 (default: %(default)s)",
    )
    p.add_argument(
        "--steps",
        type=int_parser(1, 100000),
        default=steps,
        metavar="N",
        help="gradient steps per search, 1 to 100000 (default: %(default)s)",
    )
    p.add_argument(
        "--seed",
        type=int_parser(0),
        default=0,
        metavar="N",
        help="seed of the random starts, 0 or more (default: %(default)s)",
    )
    p.add_argument(
        "--label",
        metavar="CLASS",
        help="class of all searches, by name or index from 0 (default: each search's best start decides)",
    )
    add_stage(p, alpha=False)
    add_out(p, "a new folder")
    add_device(p)


def search(trained: Trained, loss: Loss, arguments: argparse.Namespace) -> SearchResult:
    """Run `searches` latent searches and return their results, best first.

    Search i starts from the best of seeds `seed` + i * CANDIDATES and the CANDIDATES - 1 that follow, so results do not
    depend on how many searches are run at a time, up to rounding.

    Args:
        loss: the loss to minimize.
        arguments: searches, steps, seed and label, as `add_search` declares them.
    """
    device = next(trained.generator.parameters()).device
    # Consecutive seeds rather than a random generator: a result's start can be reproduced with `sample`.
    seeds = range(arguments.seed, arguments.seed + arguments.searches * CANDIDATES)
    latents, labels = trained.latents(seeds), trained.labels(seeds)
    if arguments.label is not None:
        labels = torch.full((len(seeds),), find_class(trained, arguments.label))
    at_once = max(MAX_PIXELS // trained.resolution**2, 1)
    found, found_labels, losses = [], [], []
    total = arguments.searches * (CANDIDATES + arguments.steps)
    with tqdm(total=total, desc="searching", unit="image", disable=None, leave=False) as bar:
        for first in range(0, arguments.searches, at_once):
            part = slice(first * CANDIDATES, min(first + at_once, arguments.searches) * CANDIDATES)
            z, y = latents[part].to(device), None if labels is None else labels[part].to(device)
            z, y = find_best_starts(trained, loss, z, y, at_once, bar)
            z, values = descend(trained, loss, z, y, arguments.steps, bar)
            found.append(z.cpu())
            losses.append(values.cpu())
            found_labels += [] if y is None else [y.cpu()]
    order = torch.cat(losses).argsort()  # best first
    z = torch.cat(found)[order]
    y = torch.cat(found_labels)[order] if found_labels else None
    # Drawn again, as `sample` would: on a GPU the images of the search may differ from these by a gray level.
    return SearchResult(z, y, trained.draw(z, y))


def find_best_starts(
    trained: Trained, loss: Loss, latents: Tensor, labels: Tensor | None, at_once: int, bar: tqdm
) -> tuple[Tensor, Tensor | None]:
    """Return the latent of lowest loss in each group of CANDIDATES, [n * CANDIDATES, L] -> [n, L], and its label."""
    values = []
    with torch.no_grad():
        for start in range(0, len(latents), at_once):
            y = None if labels is None else labels[start : start + at_once]
            values.append(loss(render(trained, latents[start : start + at_once], y)))
            bar.update(len(values[-1]))
    best = torch.cat(values).view(-1, CANDIDATES).argmin(dim=1)
    chosen = best + CANDIDATES * torch.arange(len(best), device=best.device)
    return latents[chosen], None if labels is None else labels[chosen]


def descend(
    trained: Trained, loss: Loss, latents: Tensor, labels: Tensor | None, steps: int, bar: tqdm
) -> tuple[Tensor, Tensor]:
    """Run Adam on latents [n, L], projecting them back to the sphere after every step.

    The learning rate follows half a cosine from LEARNING_RATE to 0.

    Returns:
        The best latents seen on the way [n, L], and their losses [n].
    """
    z = project_to_sphere(latents.clone()).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=LEARNING_RATE)
    best, best_loss = z.detach().clone(), torch.full((len(z),), float("inf"), device=z.device)
    for step in range(steps + 1):  # the last pass only evaluates
        values = loss(render(trained, z, labels))
        better = values.detach() < best_loss  # false for NaN
        best[better], best_loss[better] = z.detach()[better], values.detach()[better]
        if step == steps:
            break
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        values.sum().backward()  # a sum: the searches are independent, and Adam scales each coordinate by itself
        optimizer.step()
        with torch.no_grad():  # projected gradient descent: step, then back to the sphere
            z.copy_(project_to_sphere(z))
        bar.update(len(z))
        bar.set_postfix_str(f"loss {best_loss.min():.4f}", refresh=False)
    return best, best_loss


def project_to_sphere(latents: Tensor) -> Tensor:
    """Scale each latent [N, L] to root mean square 1, as the generator's pixel norm does."""
    return latents * latents.square().mean(dim=1, keepdim=True).rsqrt()


def render(trained: Trained, latents: Tensor, labels: Tensor | None) -> Tensor:
    """Return images [N, C, r, r] clipped to [-1, 1], as they would be saved.

    Gradients pass straight through the clipping (Bengio et al. 2013, arXiv 1308.3432): saturated pixels would otherwise
    have no gradient.
    """
    hot = to_one_hot(labels, trained.generator.label_size)
    whole = trained.generator(latents, hot, resolution=trained.resolution, alpha=trained.alpha)
    return whole + (whole.clamp(-1, 1) - whole).detach()


def read_image(path: Path, channels: int) -> Image.Image:
    """Read an image file as training does: rotated according to its EXIF data, in 8 bits, with 1 to 4 `channels`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open_image(str(path)) as file:
            return convert_channels(apply_orientation(file), channels)
    except Exception as error:  # Pillow's decoders raise many types
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def image_to_tensor(image: Image.Image) -> Tensor:
    """Return an image's pixels as a uint8 tensor [C, H, W]."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def compute_rms(differences: Tensor) -> Tensor:
    """Return the root mean square of each item: [N, ...] -> [N]."""
    return differences.flatten(1).square().mean(dim=1).sqrt()


def psnr(error: float) -> float:
    """Return the PSNR in dB of a root mean square error in gray levels (0 to 255)."""
    return 20 * math.log10(255 / max(error, 1e-3))  # an exact match would be infinite; here it is 108 dB


def write_results(
    folder: Path, given: Tensor, found: SearchResult, errors: list[float], made_by: dict[str, Any]
) -> None:
    """Write the results of a search to a new folder.

    It contains image-00.png and so on, best first; side-by-side.png, with the target first; latents.npz; and found.json
    with each image's error.

    Args:
        given: the target image, uint8 [C, h, w]; it may be smaller than the results by a whole factor.
        errors: root mean square error of each image, in gray levels.
        made_by: recorded in found.json; must be JSON.
    """
    folder.mkdir()
    names = [f"image-{i:02d}.png" for i in range(len(found.images))]
    for name, image in zip(names, found.images.numpy(), strict=True):
        to_pillow(image).save(folder / name)
    factor = found.images.shape[-1] // given.shape[-1]  # 1 for project; upscale enlarges its input to compare
    large = given.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    cells = torch.cat([large[None], found.images]).numpy()
    # 5 columns: the target and the default 4 searches fill one row
    make_grid(cells, columns=min(len(cells), 5)).save(folder / "side-by-side.png")
    arrays: dict[str, Any] = {"latents": found.latents.numpy()} | (
        {} if found.labels is None else {"labels": found.labels.numpy()}
    )
    np.savez(folder / "latents.npz", **arrays)
    rows = [
        {"file": n, "rms_error": round(e, 3), "psnr": round(psnr(e), 2)} for n, e in zip(names, errors, strict=True)
    ]
    (folder / FOUND).write_text(json.dumps({"made_by": made_by, "images": rows}, indent=2) + "\n")
