"""Does growing help? Train systems for the same time, growing and not, and compare their images.

    export OMP_NUM_THREADS=1
    python -m benchmarks.compare_architectures cifar10 --out runs/compare
    python -m benchmarks.compare_architectures synthetic --quick --out runs/try     # one seed, minutes
    python -m benchmarks.compare_architectures --out runs/compare --write           # table and samples of finished runs

Equal time. In each group, the growing network trains on --kimg thousand images, the other systems until they have used
as much time. Time is CPU time on one thread (OMP_NUM_THREADS=1), without evaluation: waiting for other processes does
not count, but their use of caches and memory does. Starting to train counts: once for the growing network, two or
three times for the others, which are timed first.

Resuming. Finished runs are not trained again and interrupted runs resume, so run the same command again to resume
(after kill -9, the time since the last start is not counted). All systems run with one seed before the next, so that
the table is useful at any time. Two processes can share a folder with different --seeds. All runs in a folder have the
same length and evaluation; experiment.json records them, and other options are refused.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from pggan import load
from pggan.config import TrainConfig, add_options, resolve_config
from pggan.datasets import make_grid, open_pyramid, open_source
from pggan.metrics import Suite, default_folder
from pggan.training import train
from pggan.training.device import keep_freed_memory
from pggan.training.evaluation import Evaluator, synthetic_mode_metric
from pggan.use.film import add_caption

ROOT = Path(__file__).parents[1]
# --budget's networks, batches and losses; an average with a half-life of 2,800 images
OURS = "--fmap-base 256 --fmap-max 64 --latent-size 64 --batch-size 8 --lr 0.003 --ema-decay 0.998"
RELATIVISTIC = f"{OURS} --loss relativistic --penalty r1+r2 --r-weight 0.1 --penalty-every 8"
# the paper's loss, with the learning rate that --preset cifar10-cpu has at 32x32
WGAN_GP = f"{OURS} --loss wgan-gp --lr 0.002"
# Radford et al. 2016; the same half-life in batches of 16
DCGAN = (
    "--arch dcgan --fmap-base 512 --fmap-max 64 --latent-size 64 --batch-size 16 --lr 0.0002 --adam-beta1 0.5 "
    "--adam-beta2 0.999 --loss nonsaturating --ema-decay 0.996"
)
GROUPS = {  # options by system; the time of the first of each group is the limit of those that do not grow
    "relativistic": {
        "growing": RELATIVISTIC,
        "growing, slower G": f"{RELATIVISTIC} --lr 0.001 --d-lr 0.003",
        "not growing": f"{RELATIVISTIC} --no-growing",
        "multi-scale": f"{RELATIVISTIC} --arch msg",
        "multi-scale, consistent": f"{RELATIVISTIC} --arch msg --scale-consistency 1",
        "DCGAN": DCGAN,
    },
    "WGAN-GP": {
        "growing, WGAN-GP": WGAN_GP,
        "not growing, WGAN-GP": f"{WGAN_GP} --no-growing",
    },
}
GROWING = ("growing", "growing, slower G", "growing, WGAN-GP")
OPTIONS = {system: options for group in GROUPS.values() for system, options in group.items()}
REFERENCE = {system: next(iter(group)) for group in GROUPS.values() for system in group}
SCORES = {"fid": "FID", "kid": "KID x 1000", "mind": "MIND", "swd": "SWD x 1000", "modes": "modes of 32"}
SCALES = {"kid": 1000}
RESOLUTION = 32  # the size of CIFAR-10: four stages, which fit in a short run
# Options that must be the same for all runs in a folder.
SHARED_SETTINGS = "data", "kimg", "metric_images", "metrics", "precision", "mirror"


def main() -> None:
    p = argparse.ArgumentParser(
        "python -m benchmarks.compare_architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("data", nargs="?", help="the images, in any form that train.py accepts; not needed with --write")
    p.add_argument("--out", required=True, type=Path, help="folder for the runs, each with its result.json")
    p.add_argument(
        "--kimg",
        type=float,
        default=200.0,
        help="length of the growing network's run, thousands of images (default: %(default)s)",
    )
    p.add_argument(
        "--metric-images",
        type=int,
        default=5000,
        help="number of real and of generated images for evaluation (default: %(default)s)",
    )
    p.add_argument("--metrics", default="fid,kid,mind", help="metrics to evaluate (default: %(default)s)")
    p.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="precision of training and of Inception (default: %(default)s)",
    )
    p.add_argument("--inception-weights", metavar="FILE", help="Inception's weights (default: downloaded)")
    p.add_argument("--mirror", action="store_true", help="train on mirrored images as well")
    p.add_argument(
        "--systems",
        nargs="+",
        default=[*OPTIONS],
        choices=[*OPTIONS],
        metavar="SYSTEM",
        help=f"systems to train: {', '.join(map(repr, OPTIONS))}; the growing network of their group must have been "
        "trained, or be among them (default: all)",
    )
    p.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="SEED",
        help="one run of each system per seed (default: 0 1 2)",
    )
    p.add_argument("--quick", action="store_true", help="smoke test: 1,500 images, one seed, SWD of 64 images")
    p.add_argument(
        "--write", action="store_true", help="update docs/experiments.md from finished runs, without training"
    )
    a = p.parse_args()
    if not (a.data or a.write):
        p.error("DATA is missing")
    if a.quick:
        a.kimg, a.metric_images, a.metrics, a.seeds = 1.5, 64, "swd", [0]
    if not a.write:
        run_experiment(a)
    results = [json.loads(path.read_text()) for path in sorted(a.out.glob("*/result.json"))]
    text = "\n".join(format_table(results))
    print(text)
    if a.write:
        write_page(text, results, a.out)


def run_experiment(a: argparse.Namespace) -> None:
    """Train and evaluate all runs; write the result of each as it finishes."""
    check_settings(a.out, {name: getattr(a, name) for name in SHARED_SETTINGS})
    keep_freed_memory()
    channels = build_config(a, a.systems[0], a.seeds[0]).channels
    pyramid = open_pyramid(open_source(a.data), RESOLUTION, channels, allow_upscale=True)  # MNIST is 28x28
    more = synthetic_mode_metric(a.data, channels)
    suite = Suite(a.metrics.split(","), a.inception_weights, precision=a.precision, more=more, cache=default_folder())
    evaluator = Evaluator(pyramid, suite, a.metric_images, seed=0, mirror=a.mirror)
    for seed, system in product(a.seeds, [system for system in OPTIONS if system in a.systems]):
        run = find_run(a.out, system, seed)
        if not (run / "result.json").exists():
            spent = train_system(a, system, seed)
            scores = evaluator(load(run).generator, RESOLUTION, 1.0)  # outside the measured time
            how = evaluator.describe(RESOLUTION).to_dict()
            result = how | {"system": system, "seed": seed} | spent | scores
            (run / "result.json").write_text(json.dumps(result) + "\n")


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Record the settings in the folder's experiment.json; raise SystemExit if its earlier runs used others."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "experiment.json"
    if not record.exists():
        record.write_text(json.dumps(settings) + "\n")
    recorded = json.loads(record.read_text())
    if recorded != settings:
        raise SystemExit(
            f"{folder} contains runs with {recorded}, but these options are {settings}; specify another --out"
        )


def find_run(out: Path, system: str, seed: int) -> Path:
    """Return a run's folder, such as runs/compare/not-growing-0."""
    return out / f"{system.replace(', ', '-').replace(' ', '-').lower()}-{seed}"


def build_config(a: argparse.Namespace, system: str, seed: int) -> TrainConfig:
    """Return the options of a run of --kimg."""
    schedule = f"--fade-kimg {a.kimg / 12:.4f} --stabilize-kimg {a.kimg / 12:.4f}"  # 7/12 of the images at 32x32
    options = [
        *(a.data, "--out", str(find_run(a.out, system, seed))),
        *OPTIONS[system].split(),
        *(schedule if system in GROWING else "").split(),
        *f"--resolution {RESOLUTION} --allow-upscale --seed {seed} --metrics none --track none --device cpu".split(),
        *f"--precision {a.precision} --tick-kimg {a.kimg / 20:.4f} --total-kimg {a.kimg:.4f}".split(),
        *(["--mirror"] if a.mirror else []),
    ]
    return parse_options(options)


def parse_options(options: list[str]) -> TrainConfig:
    """Return the options of a run from the arguments of train.py."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return resolve_config(vars(parser.parse_args(options)), None)


def train_system(a: argparse.Namespace, system: str, seed: int) -> dict[str, Any]:
    """Train a run to its end; return the images that it has seen, its CPU seconds and the problems detected."""
    config = build_config(a, system, seed)
    if system in GROWING:
        return train_to(config, a.kimg)
    reference = find_run(a.out, REFERENCE[system], seed) / "result.json"
    if not reference.exists():
        raise SystemExit(f"{system!r} trains as long as {REFERENCE[system]!r}, which has not run with seed {seed}")
    limit = json.loads(reference.read_text())["seconds"]
    spent = train_to(config, a.kimg / 10)  # tells the speed: without growing, every image takes the same time
    while spent["seconds"] < 0.99 * limit:
        spent = train_to(config, spent["images"] / 1000 * limit / spent["seconds"])
    return spent


def train_to(config: TrainConfig, kimg: float) -> dict[str, Any]:
    """Train a run to `kimg` thousand images, unless it has seen more.

    Returns:
        The images that it has seen, its CPU seconds and the problems detected, from its start on.
    """
    run = Path(config.out)
    record = run.with_suffix(".cpu-seconds")  # adds up over interruptions
    seconds = float(record.read_text()) if record.exists() else 0.0
    if not (run / "checkpoints" / "latest.pt").exists() or load(run).images < 1000 * kimg:
        print(f"{run.name}: to {kimg:.1f} kimg", file=sys.stderr, flush=True)
        # the console output of each run goes to a file of its own
        with run.with_suffix(".txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            start = time.process_time()
            try:
                train(replace(config, total_kimg=kimg))
            finally:  # also if training fails or is stopped
                seconds += time.process_time() - start
                record.write_text(str(seconds))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    health = sorted({sign for line in lines for sign in line["health"]})
    return {"images": load(run).images, "seconds": round(seconds, 1), "health": health}


def format_table(results: list[dict]) -> list[str]:
    """Return a Markdown table of means over seeds, with standard deviations if there are several seeds."""
    scores = {name: title for name, title in SCORES.items() if any(name in r for r in results)}
    heads = ["system", "seeds", "CPU minutes", "images", *scores.values()]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for system in OPTIONS:
        runs = [r for r in results if r["system"] == system]
        if runs:
            minutes, images = (statistics.fmean(r[name] for r in runs) for name in ("seconds", "images"))
            cells = [system, str(len(runs)), f"{minutes / 60:.1f}", f"{images:,.0f}"]
            cells += [format_spread([r[name] * SCALES.get(name, 1) for r in runs if name in r]) for name in scores]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def format_spread(values: list[float]) -> str:
    """Return the mean of the values as text, with their standard deviation if there are several."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def draw_samples(runs: dict[str, Path], path: Path) -> None:
    """Draw 32 samples from the end of each run, below its title."""
    grids = []
    for title, run in runs.items():
        model = load(run)
        images = model.draw(model.latents(list(range(32))))
        grids.append(add_caption(make_grid(images.numpy(), columns=16).convert("RGB"), title))
    width, height = grids[0].size  # all have the same
    page = Image.new("RGB", (width, len(grids) * height), "white")
    for i, grid in enumerate(grids):
        page.paste(grid, (0, i * height))
    page.save(path)


def write_page(text: str, results: list[dict], runs: Path) -> None:
    """Insert the table and samples into docs/experiments.md, between its marks for runs of this length."""
    record = runs / "experiment.json"
    if not record.exists():
        raise SystemExit(f"--out: {runs} has no experiment.json; specify the folder of finished runs")
    kimg = json.loads(record.read_text())["kimg"]
    page, mark = ROOT / "docs" / "experiments.md", f"<!-- compare_architectures, {kimg:g} kimg -->"
    if page.read_text().count(mark) != 2:
        raise SystemExit(f"{page} has no section for runs of {kimg:g} kimg; add the line {mark} twice, around it")
    raw = ROOT / "benchmarks" / "results" / "compare-architectures" / f"{kimg:g}-kimg.jsonl"
    raw.write_text("".join(json.dumps(result) + "\n" for result in results))
    name = f"compare-{kimg:g}-kimg.png"
    last = {r["system"]: r["seed"] for r in sorted(results, key=lambda r: r["seed"])}
    samples = {system: find_run(runs, system, last[system]) for system in OPTIONS if system in last}
    draw_samples(samples, raw.with_name(name))
    picture = f"![Images from each system](../benchmarks/results/compare-architectures/{name})"
    before, _, after = page.read_text().split(mark)
    page.write_text(f"{before}{mark}\n\n{text}\n\n{picture}\n\n{mark}{after}")


if __name__ == "__main__":
    main()
