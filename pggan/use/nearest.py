"""python -m pggan nearest: is it memorised?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import Pyramid, Source, contact_sheet
from metrics.inception import Inception
from metrics.weights import load_weights

from ..config import ConfigError
from ..training.device import choose_device
from ..training.state import draws
from .evaluate import real_images
from .options import (
    Commands,
    add_checkpoint,
    add_command,
    add_device,
    add_out,
    add_seeds,
    add_stage,
    open_trained,
    seed_text,
    whole_number,
)
from .output import Output, default_path

BATCH = 32
MAX_ROWS = 256
PROBES = 500  # reals whose own nearest neighbours say what distance is usual

TEXT = """\
Show each sample beside the real images nearest to it, by Euclidean distance between Inception pool3 features.

How near is suspicious depends on the data, so real images are also measured against each other. A generator that has
memorised shows samples much nearer to a real image than real images are to one another (a ratio well below 1), and
pairs that look the same.
"""
EXAMPLES = """\
  python -m pggan nearest runs/faces-128
  python -m pggan nearest runs/faces-128 --seeds 0-15 --neighbours 5 --num-reals 70000 --device cuda
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "nearest", run, "each sample beside its nearest real images", TEXT, EXAMPLES)
    add_checkpoint(p)
    add_seeds(p, "0-7")
    p.add_argument(
        "--neighbours", type=whole_number(1, 20), default=7, metavar="K",
        help="real images beside each sample (default: %(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--data", metavar="IMAGES", help="real images: a folder or a dataset's name (default: those it was trained on)"
    )
    p.add_argument(
        "--num-reals", type=whole_number(2), default=10000, metavar="N",
        help="at most so many real images, drawn at random (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--inception-weights", metavar="FILE", help="file of the 2015 Inception weights")
    add_stage(p, alpha=False)
    add_out(p, "a .png with a row for each sample")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    trained, seeds = open_trained(arguments), arguments.seeds
    name = f"seeds-{seed_text(seeds)}"
    path = arguments.out or default_path(arguments.checkpoint, trained, "nearest", name, suffix=".png")
    output = Output(path, arguments.force, (".png",))
    if len(seeds) > MAX_ROWS:
        raise ConfigError(f"--seeds: {len(seeds)} are too many to look at; take at most {MAX_ROWS}")
    source, pyramid = real_images(trained, arguments.data)
    chosen = np.sort(draws(0, 0, "judged reals").permutation(len(pyramid))[: arguments.num_reals])
    if len(chosen) <= arguments.neighbours:
        raise ConfigError(f"--neighbours: {arguments.neighbours} need more real images than {len(chosen)}")
    inception = Inception(load_weights(arguments.inception_weights), choose_device(arguments.device))
    samples = trained.draw(trained.latents(seeds), trained.labels(seeds))
    fakes = features(inception, samples.split(BATCH), len(samples), "samples")
    reals = features(inception, real_batches(pyramid, trained.resolution, chosen), len(chosen), "reals")
    distances, places = torch.cdist(fakes, reals).topk(arguments.neighbours, largest=False)
    indices = chosen[places.numpy()]
    say_how_near(seeds, distances[:, 0], indices[:, 0], usual_distance(reals), pyramid, source)
    neighbours = torch.from_numpy(pyramid.images(trained.resolution, indices.ravel())).unflatten(0, places.shape)
    gap = torch.full_like(samples, 255)
    rows = torch.cat([torch.stack([samples, gap], dim=1), neighbours], dim=1)
    with output.writing() as temporary:
        contact_sheet(rows.flatten(0, 1).numpy(), side=1024, columns=rows.shape[1]).save(temporary)


def real_batches(pyramid: Pyramid, resolution: int, indices: np.ndarray) -> Iterator[Tensor]:
    """uint8 images [n, C, r, r] of these indices, BATCH at a time."""
    for start in range(0, len(indices), BATCH):
        yield torch.from_numpy(pyramid.images(resolution, indices[start : start + BATCH]))


def features(inception: Inception, batches: Iterable[Tensor], count: int, what: str) -> Tensor:
    """uint8 images [n, C, r, r] in batches -> pool3 features [count, 2048] on the CPU."""
    parts = []
    with tqdm(total=count, desc=f"looking at {what}", unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            parts.append(inception(batch)[0].cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def usual_distance(reals: Tensor) -> float:
    """Median distance of real images to their nearest other one, over the first PROBES of them."""
    distances = torch.cdist(reals[:PROBES], reals)
    distances.fill_diagonal_(float("inf"))
    return distances.min(dim=1).values.median().item()


def say_how_near(
    seeds: list[int], distances: Tensor, indices: np.ndarray, usual: float, pyramid: Pyramid, source: Source
) -> None:
    """One line for each sample with its nearest image, and the median."""
    left_out = {name for name, _ in pyramid.bad}
    names = [name for name in map(source.describe, range(len(source))) if name not in left_out]
    for seed, distance, index in zip(seeds, distances.tolist(), indices.tolist(), strict=True):
        print(f"seed {seed}: nearest to {names[index]}, at {distance:.2f}, {distance / usual:.2f} of what is usual")
    median = distances.median().item()
    print(f"usual between a real image and its nearest: {usual:.2f}; samples: {median:.2f}, {median / usual:.2f} of it")
