"""Does augmentation help on a small dataset? Train with none, diffaug and ada; score the images as training goes on.

    export OMP_NUM_THREADS=1
    python -m benchmarks.small_sets cifar10 --images 300 --out runs/small-300          # hours on a CPU
    python -m benchmarks.small_sets cifar10 --images 300 --out runs/try --kimg 4 --every 2 --scored 64 --seeds 0
    python -m benchmarks.small_sets --out runs/small-300 --write                       # table, curves, samples

All runs of a folder train on the same few images of DATA, with the networks and the loss of --budget. Every --every
thousand images, the average of G is scored by KID against images of DATA that no run has seen. Interrupted runs resume,
so run the same command again to resume.
"""

import argparse
import json
import statistics
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pggan import load
from pggan.config import TrainConfig
from pggan.datasets import Preparation, open_pyramid, open_source
from pggan.metrics import Suite, default_folder
from pggan.training import train
from pggan.training.device import keep_freed_memory
from pggan.training.evaluation import Evaluator

from .compare_architectures import RELATIVISTIC, check_settings, draw_samples, parse_options

MODES = ("none", "diffaug", "ada")
RESOLUTION, CHANNELS = 32, 3
LATE = 4  # log lines to average the overfitting signal over, since a single line is noisy
# Options that must be the same for all runs in a folder
SHARED_SETTINGS = "data", "images", "unseen", "scored", "kimg", "every", "ada_kimg", "precision"


def main() -> None:
    p = argparse.ArgumentParser(
        "python -m benchmarks.small_sets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("data", nargs="?", help="the images, in any form that train.py accepts; not needed with --write")
    p.add_argument("--out", required=True, type=Path, help="folder for the runs and their scores")
    p.add_argument("--images", type=int, default=300, help="number of training images (default: %(default)s)")
    p.add_argument("--unseen", type=int, default=2500, help="number of held-out images for KID (default: %(default)s)")
    p.add_argument("--scored", type=int, default=1000, help="number of generated images for KID (default: %(default)s)")
    p.add_argument("--kimg", type=float, default=240, help="length of a run, thousand images (default: %(default)s)")
    p.add_argument("--every", type=float, default=40, help="thousand images between scores (default: %(default)s)")
    p.add_argument("--ada-kimg", type=float, default=100, help="see train.py (default: %(default)s, for these lengths)")
    p.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="precision of training and of Inception (default: %(default)s)",
    )
    p.add_argument("--inception-weights", metavar="FILE", help="Inception's weights (default: downloaded)")
    p.add_argument("--modes", nargs="+", default=[*MODES], choices=MODES, help="augmentations to try (default: all)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED", help="one run each (default: 0 1)")
    p.add_argument("--write", action="store_true", help="draw curves.png and samples.png, without training")
    a = p.parse_args()
    if not (a.data or a.write):
        p.error("DATA is missing")
    if not a.write:
        run_experiment(a)
    scores = read_scores(a.out)
    if not scores:
        raise SystemExit(f"{a.out} has no scores.jsonl; specify the folder of finished runs")
    print("\n".join(format_table(scores)))
    if a.write:
        draw_curves(scores, a.out / "curves.png")
        runs = dict.fromkeys((line["mode"], line["seed"]) for line in scores)
        draw_samples({f"{m}, seed {s}": a.out / f"{m}-{s}" for m, s in runs}, a.out / "samples.png")


def run_experiment(a: argparse.Namespace) -> None:
    """Train and score all runs; each score is written to scores.jsonl as it is computed."""
    check_settings(a.out, {name: getattr(a, name) for name in SHARED_SETTINGS})
    split_images(a)
    keep_freed_memory()
    pyramid = open_pyramid(open_source(str(a.out / "unseen.npz")), RESOLUTION, CHANNELS)
    suite = Suite(["kid"], a.inception_weights, precision=a.precision, cache=default_folder())
    evaluator = Evaluator(pyramid, suite, a.scored, seed=0, num_reals=a.unseen)
    points = [a.every * i for i in range(1, round(a.kimg / a.every) + 1)]
    for seed, mode in product(a.seeds, a.modes):
        done = {line["kimg"] for line in read_scores(a.out) if (line["mode"], line["seed"]) == (mode, seed)}
        for kimg in (kimg for kimg in points if kimg not in done):
            config = build_config(a, mode, seed, kimg)
            # the console output of each run goes to a file of its own
            with Path(f"{config.out}.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
                train(config)
            model = load(config.out)
            line = {"mode": mode, "seed": seed, "kimg": kimg, "images": model.images, **summarize_log(config)}
            line |= evaluator(model.generator, RESOLUTION, 1.0)
            with (a.out / "scores.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)


def split_images(a: argparse.Namespace) -> None:
    """Write the training images to few.npz and the held-out ones to unseen.npz, chosen at random.

    The held-out images are the same for every --images.
    """
    source, prepare = open_source(a.data), Preparation(RESOLUTION, CHANNELS)
    if len(source) < a.images + a.unseen:
        raise SystemExit(
            f"{a.data} has {len(source)} images, fewer than --images + --unseen ({a.images + a.unseen}); lower either"
        )
    # seed 0, whichever seeds the runs have: all of them train on the same images
    order = np.random.default_rng(0).permutation(len(source))
    for name, indices in (("few", order[: a.images]), ("unseen", order[len(order) - a.unseen :])):
        if not (path := a.out / f"{name}.npz").exists():
            pixels = np.stack([prepare(source.read_image(int(i), RESOLUTION, CHANNELS)) for i in indices])
            np.savez(part := a.out / f"partial-{name}.npz", images=pixels)
            part.replace(path)  # never a part of the file under its name


def build_config(a: argparse.Namespace, mode: str, seed: int, kimg: float) -> TrainConfig:
    """Return the options of a run up to `kimg` thousand images; the last stage begins after 5/48 of --kimg."""
    options = [
        *(str(a.out / "few.npz"), "--out", str(a.out / f"{mode}-{seed}")),
        *RELATIVISTIC.split(),
        *f"--fade-kimg {a.kimg / 48} --stabilize-kimg {a.kimg / 48} --total-kimg {kimg} --seed {seed}".split(),
        *f"--augment {mode} --ada-kimg {a.ada_kimg} --mirror --resolution {RESOLUTION} --metrics none".split(),
        *f"--precision {a.precision} --tick-kimg {a.every / LATE} --track none --device cpu".split(),
    ]
    return parse_options(options)


def summarize_log(config: TrainConfig) -> dict[str, Any]:
    """Return the mean overfitting signal of the last log lines, and the last probability (diffaug's is 1)."""
    lines = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    signal = [line["overfitting"] for line in lines[-LATE:] if line.get("overfitting") is not None]
    p = {"none": 0.0, "diffaug": 1.0}.get(config.augment, lines[-1].get("augment_p"))
    return {"overfitting": statistics.fmean(signal) if signal else None, "augment_p": p}


def read_scores(out: Path) -> list[dict[str, Any]]:
    """Return the lines of scores.jsonl, none if there is no such file."""
    path = out / "scores.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def format_table(scores: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of KID x 1000 at each point, one row per run."""
    points = sorted({line["kimg"] for line in scores})
    rows = [f"| augment | seed | {' | '.join(f'{kimg:g}' for kimg in points)} |", "|---" * (len(points) + 2) + "|"]
    for mode, seed in dict.fromkeys((line["mode"], line["seed"]) for line in scores):
        by_point = {line["kimg"]: line["kid"] for line in scores if (line["mode"], line["seed"]) == (mode, seed)}
        cells = (f"{1000 * by_point[kimg]:.1f}" if kimg in by_point else "" for kimg in points)
        rows.append(f"| {mode} | {seed} | {' | '.join(cells)} |")
    return rows


def draw_curves(scores: list[dict[str, Any]], path: Path) -> None:
    """Draw KID, the overfitting signal and the probability over the length of training, one line per run."""
    import matplotlib.pyplot as plt

    charts = {"kid": "KID x 1000, unseen images", "overfitting": "overfitting signal", "augment_p": "probability"}
    figure, axes = plt.subplots(1, len(charts), figsize=(13, 3.6), layout="constrained")
    colors = dict(zip(MODES, ("C0", "C1", "C2"), strict=True))
    for axis, (key, title) in zip(axes, charts.items(), strict=True):
        for mode, seed in dict.fromkeys((line["mode"], line["seed"]) for line in scores):
            run = [line for line in scores if (line["mode"], line["seed"]) == (mode, seed)]
            scale = 1000 if key == "kid" else 1
            heights = [float("nan") if line[key] is None else scale * line[key] for line in run]
            style = "solid" if seed == 0 else "dashed"
            axis.plot(
                [line["kimg"] for line in run],
                heights,
                linestyle=style,
                color=colors[mode],
                label=f"{mode}, seed {seed}",
            )
        axis.set(title=title, xlabel="thousand images seen")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
