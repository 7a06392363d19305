"""Compare architectures, growing and not, at equal numbers of images and at equal training time.

    python -m benchmarks.compare_architectures --mnist FILE --cifar10 FILE --out runs/compare
    python -m benchmarks.compare_architectures --quick --out runs/try       # synthetic dataset, one seed, minutes
    python -m benchmarks.compare_architectures --out runs/compare --write   # table and plots of the finished runs

Objectives. Each system is trained with its own objective, and with a common one: relativistic pairs with R1 and R2
(Huang et al. 2024). None of the systems uses it by default; it converges without extra discriminator steps and at the
same learning rate.

Equal time. All systems train on the same number of images. Those that need less time than the growing network continue
until they have used as much; for slower ones, the score at that time is interpolated. Time is CPU time on one thread
(OMP_NUM_THREADS=1): waiting for other processes does not count, but their use of caches and memory does, so run this on
an idle machine.

Resuming. Finished runs are not trained again and interrupted runs resume, so run the same command again to resume. Each
seed is run on all datasets before the next seed, so that the table is useful at any time. Two processes can share a
folder, one with --no-synthetic, the other without --mnist and --cifar10. All runs in a folder have the same length and
evaluation; experiment.json records them, and other options are refused.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import product
from pathlib import Path

from PIL import Image

from pggan import load
from pggan.config import add_options, resolve_config
from pggan.datasets import make_grid, open_pyramid, open_source
from pggan.metrics import Suite, default_folder
from pggan.training import train
from pggan.training.device import keep_freed_memory
from pggan.training.evaluation import Evaluator, synthetic_mode_metric
from pggan.use.film import add_caption

ROOT = Path(__file__).parents[1]
# Options that train within hours on one CPU thread: narrow networks, small batches, an EMA for short runs.
NARROW = "--fmap-base 512 --fmap-max 64 --batch-size 8 --ema-decay 0.99"
# The momentum of 0.5 is from the DCGAN paper (Radford et al. 2016).
OLDER = "--latent-size 64 --batch-size 16 --adam-beta1 0.5 --adam-beta2 0.999 --ema-decay 0.99"
SYSTEMS = {  # options of the networks, and of each system's own objective
    "mlp": (f"--arch mlp {OLDER} --lr 0.0005", "--loss nonsaturating"),
    "dcgan": (f"--arch dcgan --fmap-base 512 --fmap-max 64 {OLDER} --lr 0.0002", "--loss nonsaturating"),
    "hybrid": (f"--arch hybrid {OLDER} --lr 0.0005", "--loss nonsaturating"),
    "pggan, not growing": (f"--no-growing {NARROW} --lr 0.002", "--loss wgan-gp"),
    "pggan": (f"{NARROW} --lr 4:0.005,32:0.002", "--loss wgan-gp"),
    "msg": (f"--arch msg {NARROW} --lr 0.002", "--loss wgan-gp"),
}
# The objective that all systems are also trained with.
COMMON = "--loss relativistic --penalty r1+r2 --r-weight 1"
ABLATIONS = {  # options added to "pggan", with its own objective only
    "pggan, penalty by native pixels": "--penalty-pixels native",
    "pggan, adaptive growth": "--growth adaptive",
    "pggan, float32": "--precision fp32",  # only with --precision bf16
}
# Columns of the table, by name in the results.
SCORES = {"fid": "FID", "is": "IS", "swd": "SWD x 1000", "modes": "modes of 32"}
# Matplotlib's default colors, gray for the simplest system.
COLORS = ("#888888", "#d62728", "#9467bd", "#ff7f0e", "#1f77b4", "#2ca02c")
GROWING = ("pggan", *ABLATIONS)
# Options that must be the same for all runs in a folder.
SHARED_SETTINGS = "kimg", "resolution", "metric_images", "metrics", "precision"


def main() -> None:
    p = argparse.ArgumentParser(
        "python -m benchmarks.compare_architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--out", required=True, type=Path, help="folder for the runs, each with its result.json")
    p.add_argument("--no-synthetic", action="store_true", help="skip the synthetic dataset")
    p.add_argument("--mnist", help="MNIST, in any form that train.py accepts (default: skipped)")
    p.add_argument("--cifar10", help="CIFAR-10, in any form that train.py accepts (default: skipped)")
    p.add_argument(
        "--kimg",
        type=float,
        default=40.0,
        help="length of each run, thousands of images; faster systems continue to equal time (default: %(default)s)",
    )
    p.add_argument(
        "--metric-images",
        type=int,
        default=500,
        help="number of real and of generated images for evaluation (default: %(default)s)",
    )
    p.add_argument("--metrics", default="fid,is,swd", help="metrics to evaluate (default: %(default)s)")
    p.add_argument(
        "--precision",
        default="fp32",
        choices=["fp32", "bf16"],
        help="precision of training and of Inception (default: %(default)s)",
    )
    p.add_argument(
        "--systems",
        nargs="+",
        default=[*SYSTEMS, *ABLATIONS],
        choices=[*SYSTEMS, *ABLATIONS],
        metavar="SYSTEM",
        help=f"systems to train: {', '.join(map(repr, [*SYSTEMS, *ABLATIONS]))}; 'pggan' is always trained, since its "
        "time is the reference (default: all)",
    )
    p.add_argument(
        "--objectives",
        nargs="+",
        default=["own", "common"],
        choices=["own", "common"],
        metavar="OBJECTIVE",
        help="own, common, or both; ablations use own only (default: both)",
    )
    p.add_argument(
        "--seeds", type=int, default=3, help="number of seeds on the synthetic dataset and MNIST (default: %(default)s)"
    )
    p.add_argument("--cifar-seeds", type=int, default=1, help="number of seeds on CIFAR-10 (default: %(default)s)")
    p.add_argument("--quick", action="store_true", help="smoke test: 1,500 images, one seed, SWD, 16x16")
    p.add_argument("--write", action="store_true", help="update docs/experiments.md and its plots without training")
    a = p.parse_args()
    a.resolution = 32  # the size of CIFAR-10: four stages, which fit in a short run
    if a.precision == "fp32":  # that ablation would be "pggan" again
        a.systems = [system for system in a.systems if system != "pggan, float32"]
    if a.quick:
        a.kimg, a.metric_images, a.metrics, a.seeds, a.resolution = 1.5, 64, "swd", 1, 16
    if not a.write:
        check_settings(a)
        keep_freed_memory()
        for result in run_experiment(a):
            (a.out / result["run"] / "result.json").write_text(json.dumps(result) + "\n")
    results = [json.loads(path.read_text()) for path in sorted(a.out.glob("*/result.json"))]
    text = "\n".join(format_table(results))
    print(text)
    if a.write:
        write_page(text, results, a.out)


def check_settings(a: argparse.Namespace) -> None:
    """Record the options in IN_COMMON in the folder; raise SystemExit if its earlier runs used others."""
    wanted = {name: getattr(a, name) for name in SHARED_SETTINGS}
    a.out.mkdir(parents=True, exist_ok=True)
    kept = a.out / "experiment.json"
    if not kept.exists():
        kept.write_text(json.dumps(wanted) + "\n")
    there = json.loads(kept.read_text())
    if there != wanted:
        raise SystemExit(f"{a.out} contains runs with {there}, but these options are {wanted}; specify another --out")


def run_experiment(a: argparse.Namespace) -> Iterator[dict]:
    """Train all runs, and yield the result of each as it finishes."""
    synthetic = None if a.no_synthetic else "synthetic"
    sets = {"synthetic": (synthetic, a.seeds), "MNIST": (a.mnist, a.seeds), "CIFAR-10": (a.cifar10, a.cifar_seeds)}
    suite = partial(Suite, a.metrics.split(","), precision=a.precision)
    judges = {}  # one per dataset: it computes the features of the real images once
    for seed, (data, (source, seeds)) in product(range(max(a.seeds, a.cifar_seeds)), sets.items()):
        if not source or seed >= seeds:
            continue
        if data not in judges:
            # allow_upscale: MNIST is 28x28
            pyramid = open_pyramid(open_source(source), a.resolution, 1 if data == "MNIST" else 3, allow_upscale=True)
            more = synthetic_mode_metric(source, pyramid.channels)
            judges[data] = Evaluator(pyramid, suite(more=more, cache=default_folder()), a.metric_images, seed=0)
        run = partial(train_and_evaluate, a, data, source, judges[data], seed)
        for objective in a.objectives:
            grown = run("pggan", objective)  # first, since its time is the limit of the others
            yield grown
            for system in a.systems:
                if system != "pggan" and (system in SYSTEMS or objective == "own"):
                    yield run(system, objective, grown["seconds"])


def train_and_evaluate(
    a: argparse.Namespace,
    data: str,
    source: str,
    judge: Evaluator,
    seed: int,
    system: str,
    objective: str,
    seconds: float = 0.0,
) -> dict:
    """Train and evaluate one run up to a.kimg and up to `seconds`, or read its results if it has finished.

    Args:
        data: name of the dataset.
        source: the dataset, in any form that train.py accepts.
        objective: "own" or "common".
        seconds: CPU time that the growing network took; 0 for the growing network itself.

    Returns:
        The scores at a.kimg; "course", the scores at every point that was evaluated; "health", problems detected.
    """
    run = a.out / run_name(data, system, objective, seed)
    networks, own = SYSTEMS.get(system, SYSTEMS["pggan"])
    options = (
        f"{networks} {own if objective == 'own' else COMMON} {plan_schedule(system, a.kimg)} "
        f"--resolution {a.resolution} --allow-upscale --seed {seed} --track none --tick-kimg {a.kimg / 2:.4f} "
        f"--metric-images {a.metric_images} --device cpu --precision {a.precision} "
        f"--out {run} {ABLATIONS.get(system, '')}"
    )
    if a.resolution < 32:  # with --quick, where the stage of the second learning rate does not exist
        options = options.replace("4:0.005,32:0.002", "0.005")
    options = [source, *options.split()]
    course = []
    reach = partial(append_score, a.out, run, options, judge, a.resolution, course)
    if system in GROWING:  # evaluated when it has reached the last resolution, and twice on the way to the end
        for part in (0.8, 0.9, 1) if "adaptive" in system else (0.55, 0.75, 1):  # at the last resolution by then
            reach(part * a.kimg)
    else:
        # The first quarter tells the speed, from which follows the number of images at equal time.
        reach(a.kimg / 4)
        # in proportion: without growing, every image takes the same time
        equal_time = a.kimg / 4 * seconds / course[0]["seconds"]
        for kimg in sorted({a.kimg, max(equal_time, a.kimg / 4)}):
            reach(kimg)
    # problems that the health checks detected at any tick
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    signs = sorted({sign for line in log for sign in line["health"]})
    what = {"run": run.name, "data": data, "system": system, "objective": objective, "seed": seed}
    at_images = next(moment for moment in course if moment["images"] >= a.kimg * 1000)
    return what | at_images | {"course": course, "health": signs}


def run_name(data: str, system: str, objective: str, seed: int) -> str:
    """Return the name of a run's folder, such as cifar-10-pggan-own-0."""
    return "-".join([data, system.replace(", ", "-").replace(" ", "-"), objective, str(seed)]).lower()


def append_score(
    folder: Path, run: Path, options: list[str], judge: Evaluator, resolution: int, course: list[dict], kimg: float
) -> None:
    """Train a run up to `kimg` unless it got there earlier, evaluate it, and append its scores to the course."""
    moment = run / f"after-{kimg:.3f}-kimg.json"
    if not moment.exists():
        print(f"{run.name}: {kimg:.1f} kimg", file=sys.stderr, flush=True)
        parser = argparse.ArgumentParser()
        add_options(parser)
        config = resolve_config(vars(parser.parse_args([*options, "--total-kimg", f"{kimg:.4f}"])), None)
        # the console output of each run goes to a file of its own
        with (folder / f"{run.name}.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            # CPU time adds up over interruptions: it is saved even if training fails or is stopped
            spent, start = run / "cpu-seconds.txt", time.process_time()
            try:
                train(config)
            finally:
                seconds = time.process_time() - start + (float(spent.read_text()) if spent.exists() else 0)
                spent.write_text(str(seconds))
            # outside the measured time
            scores = judge(load(run).generator, resolution, 1.0)
        images = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["images"]
        scores = {name: scores[name] for name in SCORES if name in scores}
        moment.write_text(json.dumps({"images": images, "seconds": seconds} | scores) + "\n")
    course.append(json.loads(moment.read_text()))


def plan_schedule(system: str, kimg: float) -> str:
    """Return schedule options: four stages for growing networks, the last with half of the images; otherwise one."""
    if system not in GROWING:
        return f"--stabilize-kimg {kimg:.4f} --metrics none"
    if "adaptive" not in system:
        return f"--fade-kimg {kimg / 12:.4f} --stabilize-kimg {kimg / 12:.4f} --metrics none"
    window = kimg / 16  # the adaptive controller needs several evaluations within the shortest stage
    return (
        f"--fade-kimg {kimg / 12:.4f} --stabilize-kimg {kimg / 6:.4f} --min-stabilize-kimg {window:.4f} "
        f"--growth-window {window:.4f} --metrics swd --metric-every-kimg {window / 2:.4f}"
    )


def interpolate_at(course: list[dict], seconds: float) -> dict:
    """Return a run's scores after `seconds` of training, interpolated linearly between its evaluations.

    Scores that the earlier evaluation lacks are taken from the later one.
    """
    later = next((i for i, moment in enumerate(course) if moment["seconds"] >= seconds), len(course) - 1)
    before, after = course[max(later - 1, 0)], course[later]
    part = (seconds - before["seconds"]) / ((after["seconds"] - before["seconds"]) or 1)
    now = {name: before[name] + min(part, 1) * (after[name] - before[name]) for name in before.keys() & after.keys()}
    return after | now | {"seconds": seconds}


def format_table(results: list[dict]) -> list[str]:
    """Return a Markdown table of means over seeds, with standard deviations if there are several seeds."""
    scores = {name: title for name, title in SCORES.items() if any(name in r for r in results)}
    at_time = [f"{title}, equal time" for title in scores.values()]
    heads = ["data", "objective", "system", "seeds", "images/s", *scores.values(), "kimg at equal time", *at_time]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    groups: dict[tuple, list[tuple[dict, dict]]] = {}
    for r in results:
        # the growing network with the same dataset, objective and seed: its time is the reference
        rivals = [o for o in results if o["system"] == "pggan" and has_same(o, r, "data", "objective", "seed")]
        if rivals:
            moments = r, interpolate_at(r["course"], rivals[0]["seconds"])
            groups.setdefault((r["data"], r["objective"], r["system"]), []).append(moments)
    order = [*SYSTEMS, *ABLATIONS]
    for key, moments in sorted(groups.items(), key=lambda item: (*item[0][:2], order.index(item[0][2]))):
        speed = statistics.fmean(images["images"] / images["seconds"] for images, _ in moments)
        cells = [*key, len(moments), f"{speed:.0f}"]
        cells += [format_spread([images[name] for images, _ in moments if name in images]) for name in scores]
        cells += [f"{statistics.fmean(time['images'] for _, time in moments) / 1000:.1f}"]
        cells += [format_spread([time[name] for _, time in moments if name in time]) for name in scores]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


def has_same(a: dict, b: dict, *names: str) -> bool:
    """Return whether two results agree in these fields."""
    return all(a[name] == b[name] for name in names)


def format_spread(values: list[float]) -> str:
    """Return the mean of the values as text, with their standard deviation if there are several."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def plot(results: list[dict], data: str, score: str, path: Path) -> None:
    """Plot a score versus CPU seconds for each system with its own objective; one line per seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for system, color in zip(SYSTEMS, COLORS, strict=True):
        for r in results:
            if has_same(r, {"data": data, "objective": "own", "system": system}, "data", "objective", "system"):
                points = [(m["seconds"], m[score]) for m in r["course"] if score in m]
                label = system if r["seed"] == 0 else None
                axes.plot(*zip(*points, strict=True), color=color, label=label, marker=".", linewidth=1)
    axes.set(xlabel="CPU seconds", ylabel=SCORES[score], title=data, xscale="log")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})  # so that the same plot gives the same file
    plt.close(figure)


def draw(runs: Path, data: str, path: Path) -> None:
    """Draw 16 samples of each system with its own objective, from the end of the first seed's run."""
    sheets = []
    for system in SYSTEMS:
        if not (run := runs / run_name(data, system, "own", 0)).exists():
            continue
        model = load(run)
        images = model.draw(model.latents(list(range(16))))
        sheets.append(add_caption(make_grid(images.numpy(), columns=8).convert("RGB"), system))
    width, height = sheets[0].size  # all have the same
    page = Image.new("RGB", (2 * width + 8, 3 * height), "white")
    for i, sheet in enumerate(sheets):
        page.paste(sheet, (i % 2 * (width + 8), i // 2 * height))
    page.save(path)


def write_page(text: str, results: list[dict], runs: Path) -> None:
    """Insert the table, plots and sample grids into docs/experiments.md, between its marks for runs of this length."""
    kept = runs / "experiment.json"
    if not kept.exists():
        raise SystemExit(f"--out: {runs} has no experiment.json; specify the folder of finished runs")
    kimg = json.loads(kept.read_text())["kimg"]
    page, mark = ROOT / "docs" / "experiments.md", f"<!-- compare_architectures, {kimg:g} kimg -->"
    if page.read_text().count(mark) != 2:
        raise SystemExit(f"{page} has no section for runs of {kimg:g} kimg; add the line {mark} twice, around it")
    raw = ROOT / "benchmarks" / "results" / "compare-architectures" / f"{kimg:g}-kimg.jsonl"
    raw.write_text("".join(json.dumps(result) + "\n" for result in results))
    pictures = []
    for data in dict.fromkeys(r["data"] for r in results):
        score = "fid" if any("fid" in r for r in results) else "swd"
        name = f"{score}-against-time-{data.lower()}-{kimg:g}-kimg.svg"
        plot(results, data, score, ROOT / "docs" / "pictures" / name)
        pictures.append(f"![{SCORES[score]} on {data} versus CPU seconds](pictures/{name})")
        name = f"compare-{data.lower()}-{kimg:g}-kimg.png"
        draw(runs, data, ROOT / "docs" / "pictures" / name)
        pictures.append(f"![Images of {data} from each system at the end of its run](pictures/{name})")
    before, _, after = page.read_text().split(mark)
    page.write_text(f"{before}{mark}\n\n{text}\n\n" + "\n\n".join([*pictures, f"{mark}{after}"]))


if __name__ == "__main__":
    main()
