"""Measure how well FID, KID and MIND tell clean from damaged images, by the number of images.

    python benchmarks/metric_separation.py .assets/cifar10 --out benchmarks/results/metric-separation

The folder holds CIFAR-10 as train.npz and test.npz, each with arrays x, uint8 [N, 32, 32, 3], and y, classes. In each
trial, n test images are the reference; n training images are the clean sample, and n others the damaged ones: a part
of them is blurred, or a class is missing. A metric is good if the damaged sample scores worse whatever was drawn. Needs
the 2015 Inception weights; the features (10,000 images a side, and 2,500 blurred ones) are kept in --features-cache.
Writes separation.json and separation.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pggan.metrics.features import Features  # noqa: E402
from pggan.metrics.inception import Inception  # noqa: E402
from pggan.metrics.kid import polynomial_mmd  # noqa: E402
from pggan.metrics.mind import MIND  # noqa: E402
from pggan.metrics.weights import load_weights  # noqa: E402

POOL, BLURRED = 10000, 2500  # images from which trials draw; the training images are chosen at random
BLUR = 0.5  # pixels, standard deviation
TRIALS = {150: 60, 300: 60, 1000: 30, 5000: 6}  # by number of images: more cost too much, fewer say too little
DAMAGES = {"5% blurred": 0.05, "20% blurred": 0.2, "one of 10 classes missing": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", type=Path, metavar="FOLDER", help="folder with train.npz and test.npz")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--features-cache", type=Path, default=Path("features"), help="folder (default: %(default)s)")
    parser.add_argument("--inception-weights", metavar="FILE", help="file with the 2015 Inception weights")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of Inception (%(default)s)")
    arguments = parser.parse_args()
    features, classes = load_features(arguments)
    rows = []
    for count, trials in TRIALS.items():
        rows += measure(features, classes, count, trials)
        arguments.out.mkdir(parents=True, exist_ok=True)
        table = format_table(rows)
        (arguments.out / "separation.md").write_text(table)
        report = {"command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(), "rows": rows}
        (arguments.out / "separation.json").write_text(json.dumps(report | {"torch": torch.__version__}, indent=1))
    print(table)


def load_features(arguments: argparse.Namespace) -> tuple[dict[str, Tensor], np.ndarray]:
    """Return pool3 features of the "test", "train" and "blur" images, and the classes of the training images."""
    sides = {}
    for side in ("test", "train"):
        with np.load(arguments.cifar10 / f"{side}.npz") as file:
            sides[side] = file["x"], file["y"].ravel()
    chosen = np.random.RandomState(0).choice(len(sides["train"][0]), POOL, replace=False)
    train = sides["train"][0][chosen]
    images = {"test": sides["test"][0][:POOL], "train": train, "blur": train[:BLURRED]}
    features: dict[str, Tensor] = {}
    arguments.features_cache.mkdir(parents=True, exist_ok=True)
    network = None
    for name, pixels in images.items():
        path = arguments.features_cache / f"{name}-{arguments.precision}.npy"
        if not path.exists():
            network = network or Inception(load_weights(arguments.inception_weights), precision=arguments.precision)
            if name == "blur":
                pixels = np.stack([blur(image) for image in pixels])
            batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().split(64)
            np.save(path, torch.cat([network(batch)[0] for batch in tqdm(batches, desc=name)]).numpy())
        features[name] = torch.from_numpy(np.load(path))
    return features, sides["train"][1][chosen]


def blur(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR)))


def measure(features: dict[str, Tensor], classes: np.ndarray, count: int, trials: int) -> list[dict]:
    """Return a row per damage and metric, for trials of `count` images a side."""
    scores: dict[tuple[str, str], list[float]] = {}
    for trial in tqdm(range(trials), desc=f"{count} images"):
        rng = np.random.default_rng((count, trial))
        real = features["test"][rng.permutation(POOL)[:count]]
        samples = {"clean": features["train"][rng.permutation(POOL)[:count]]}
        for name, share in DAMAGES.items():
            order = rng.permutation(POOL)
            if share is None:
                order = order[classes[order] != rng.integers(10)]
            blurred = features["blur"][rng.permutation(BLURRED)[: round((share or 0) * count)]]
            samples[name] = torch.cat([blurred, features["train"][order[: count - len(blurred)]]])
        for name, fake in samples.items():
            for metric, compute in METRICS.items():
                scores.setdefault((metric, name), []).append(compute(real, fake))
    rows = []
    for damage in DAMAGES:
        for metric in METRICS:
            clean, damaged = (np.array(scores[metric, name]) for name in ("clean", damage))
            rows.append(
                {
                    "images": count,
                    "trials": trials,
                    "damage": damage,
                    "metric": metric,
                    "clean": clean.mean(),
                    "damaged": damaged.mean(),
                    "clean_std": clean.std(ddof=1),
                    "damaged_std": damaged.std(ddof=1),
                    "separation": (damaged.mean() - clean.mean()) / np.sqrt((clean.var() + damaged.var()) / 2),
                    "right": (damaged[:, None] > clean[None]).mean(),
                }
            )
    return rows


def accumulate(x: Tensor) -> Features:
    features = Features()
    features.update(x)
    return features


def fid(real: Tensor, fake: Tensor) -> float:
    """Return FID. Tr (C1 C2)^(1/2) is the nuclear norm of A B^T, C1 = A^T A and C2 = B^T B: small for few images."""
    a, b = ((x.double() - x.double().mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (real, fake))
    if len(a) > a.shape[1]:  # more images than dimensions: triangular factors have as few rows as dimensions
        a, b = torch.linalg.qr(a, mode="r").R, torch.linalg.qr(b, mode="r").R
    product = a @ b.T
    roots = torch.linalg.eigvalsh(product @ product.T).clamp_min(0).sqrt()
    means = (real.double().mean(dim=0) - fake.double().mean(dim=0)).square().sum()
    return (means + a.square().sum() + b.square().sum() - 2 * roots.sum()).item()


def kid(real: Tensor, fake: Tensor) -> float:
    """Return KID over all images at once; the usual average over subsets of 1,000 takes 10 times as long."""
    return polynomial_mmd(real, fake)


def mind(real: Tensor, fake: Tensor) -> float:
    return MIND().compare(accumulate(real), accumulate(fake))["mind"]


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {"fid": fid, "kid": kid, "mind": mind}


def format_table(rows: list[dict]) -> str:
    """Return a Markdown table with a row per damage and number of images."""
    lines = ["| damage | images per side | FID | KID | MIND |", "|---|---|---|---|---|"]
    for damage in DAMAGES:
        for count in dict.fromkeys(row["images"] for row in rows):
            cells = [
                f"{row['separation']:.1f} ({100 * row['right']:.0f}%)"
                for metric in METRICS
                for row in rows
                if (row["images"], row["damage"], row["metric"]) == (count, damage, metric)
            ]
            lines.append(f"| {damage} | {count:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
