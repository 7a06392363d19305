"""python -m pggan nearest: check for memorization by showing the nearest real images of each sample."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import Pyramid, Source, make_grid
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
# Real images whose nearest-neighbor distances give the reference. The standard error of a median of 500 is 6% of their
# standard deviation (1.25 / sqrt(500)).
PROBES = 500

TEXT = """\
Show each sample next to its nearest real images, by Euclidean distance between Inception pool3 features.

How small a distance is suspicious depends on the dataset, so distances are also reported relative to the reference: the
median distance from a real image to its nearest other real image. A generator that has memorized its training images
gives ratios well below 1, and pairs that look identical.
"""
EXAMPLES = """\
  python -m pggan nearest runs/faces-128
  python -m pggan nearest runs/faces-128 --seeds 0-15 --neighbours 5 --num-reals 70000 --device cuda
"""


def add_parser(commands: Commands) -> None:
    p = add_command(
        commands, "nearest", run, "check for memorization: nearest real images of each sample", TEXT, EXAMPLES
    )
    add_checkpoint(p)
    add_seeds(p, "0-7")
    p.add_argument(
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
        "--inception-weights", metavar="FILE", help="file with the 2015 Inception weights (default: downloaded once)"
    )
    add_stage(p, alpha=False)
    add_out(p, "a .png with one row per sample")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained, seeds = open_trained(arguments), arguments.seeds
    name = f"seeds-{format_seeds(seeds)}"
    path = arguments.out or default_path(arguments.checkpoint, trained, "nearest", name, suffix=".png")
    output = Output(path, arguments.force, (".png",))
    if len(seeds) > MAX_ROWS:
        raise ConfigError(f"--seeds: {len(seeds)} seeds do not fit in one grid; specify at most {MAX_ROWS}")
    source, pyramid = open_real_images(trained, arguments.data)
    # Drawn as evaluation draws them, so both use the same real images; sorted, to read them from disk in order.
    chosen = np.sort(random_generator(0, 0, "judged reals").permutation(len(pyramid))[: arguments.num_reals])
    if len(chosen) <= arguments.neighbours:
        raise ConfigError(
            f"--neighbours: {arguments.neighbours} neighbors need more than {len(chosen)} real images; specify fewer"
        )
    inception = Inception(load_weights(arguments.inception_weights), choose_device(arguments.device))
    samples = trained.draw(trained.latents(seeds), trained.labels(seeds))
    # Distances in features rather than pixels: a shifted or recolored copy of a training image is also memorized.
    fakes = extract_features(inception, samples.split(BATCH), len(samples), "samples")
    reals = extract_features(
        inception, read_real_batches(pyramid, trained.resolution, chosen), len(chosen), "real images"
    )
    distances, places = torch.cdist(fakes, reals).topk(arguments.neighbours, largest=False)
    indices = chosen[places.numpy()]
    print_nearest(seeds, distances[:, 0], indices[:, 0], typical_distance(reals), pyramid, source)
    neighbors = torch.from_numpy(pyramid.read_images(trained.resolution, indices.ravel())).unflatten(0, places.shape)
    # a white cell separates the sample from its neighbors
    gap = torch.full_like(samples, 255)
    rows = torch.cat([torch.stack([samples, gap], dim=1), neighbors], dim=1)
    with output.write_atomically() as temporary:
        make_grid(rows.flatten(0, 1).numpy(), side=1024, columns=rows.shape[1]).save(temporary)


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


def typical_distance(reals: Tensor) -> float:
    """Return the median distance from a real image to its nearest other one, over the first PROBES of `reals`.

    Args:
        reals: features [N, 2048] of all real images that are searched, N at least 2.
    """
    distances = torch.cdist(reals[:PROBES], reals)
    distances.fill_diagonal_(float("inf"))  # row i is real image i: its distance to itself does not count
    return distances.min(dim=1).values.median().item()


def print_nearest(
    seeds: list[int], distances: Tensor, indices: np.ndarray, usual: float, pyramid: Pyramid, source: Source
) -> None:
    """Print each sample's nearest real image and distance, then the medians."""
    skipped = {name for name, _ in pyramid.bad}
    names = [name for name in map(source.describe, range(len(source))) if name not in skipped]
    for seed, distance, index in zip(seeds, distances.tolist(), indices.tolist(), strict=True):
        print(
            f"seed {seed}: nearest real image {names[index]}, distance {distance:.2f}, "
            f"{distance / usual:.2f} x reference"
        )
    median = distances.median().item()
    print(
        f"median distance of samples {median:.2f}, of real images (reference) {usual:.2f}, ratio {median / usual:.2f}"
    )
