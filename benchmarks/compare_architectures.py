"""Does growing help? Every architecture at equal images and at equal time, and what its parts are worth.

    python -m benchmarks.compare_architectures --mnist FILE --cifar10 FILE --out runs/compare
    python -m benchmarks.compare_architectures --quick --out runs/try       the synthetic set, one seed, minutes
    python -m benchmarks.compare_architectures --out runs/compare --write   the table and the plot of what is there

Each system is trained for the same number of images, once with its own objective and once with one for all:
relativistic pairs under R1 and R2 (Huang et al. 2024), which is nobody's own here, converges without a discriminator
that is trained more often, and asks for no other learning rate. What the growing network took is then every other
one's time: they are trained again for as many images as they see in it. Runs that are there are not trained again, and
a run that was broken off goes on, so the command can be stopped and given again. Nothing else should run meanwhile.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NARROW = "--fmap-base 512 --fmap-max 64 --batch-size 16 --ema-decay 0.99"
OLDER = "--latent-size 64 --batch-size 32 --adam-beta1 0.5 --adam-beta2 0.999 --ema-decay 0.99 --lr 0.0005"
SYSTEMS = {  # options of the networks, and of their own objective
    "mlp": (f"--arch mlp {OLDER}", "--loss nonsaturating"),
    "dcgan": (f"--arch dcgan --fmap-base 512 --fmap-max 64 {OLDER}", "--loss nonsaturating"),
    "hybrid": (f"--arch hybrid {OLDER}", "--loss nonsaturating"),
    "pggan, not growing": (f"--no-growing {NARROW} --lr 0.002", "--loss wgan-gp"),
    "pggan": (f"{NARROW} --lr 4:0.005,32:0.002", "--loss wgan-gp"),
    "msg": (f"--arch msg {NARROW} --lr 0.002", "--loss wgan-gp"),
}
COMMON = "--loss relativistic --penalty r1+r2 --r-weight 1"
ABLATIONS = {
    "pggan, penalty by native pixels": "--penalty-pixels native",
    "pggan, adaptive growth": "--growth adaptive",
}
COLOURS = ("#888888", "#d62728", "#9467bd", "#ff7f0e", "#1f77b4", "#2ca02c")
MARK = "<!-- compare_architectures -->"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, type=Path, help="folder of the runs and of results.json")
    p.add_argument("--mnist", help="MNIST, as train.py takes it (default: left out)")
    p.add_argument("--cifar10", help="CIFAR-10, as train.py takes it (default: left out)")
    p.add_argument("--kimg", type=float, default=40.0, help="thousands of images for each (default: %(default)s)")
    p.add_argument("--points", type=int, default=4, help="times each run is judged (default: %(default)s)")
    p.add_argument("--metric-images", type=int, default=500, help="images of each kind (default: %(default)s)")
    p.add_argument("--metrics", default="fid,is,swd", help="(default: %(default)s)")
    p.add_argument("--seeds", type=int, default=3, help="on the synthetic set and MNIST (default: %(default)s)")
    p.add_argument("--cifar-seeds", type=int, default=1, help="on CIFAR-10 (default: %(default)s)")
    p.add_argument("--quick", action="store_true", help="1,500 images, one seed, SWD, 16x16: to see that it works")
    p.add_argument("--write", action="store_true", help="write docs/experiments.md and its plot, and train nothing")
    a = p.parse_args()
    a.resolution = 32
    if a.quick:
        a.kimg, a.points, a.metric_images, a.metrics, a.seeds, a.resolution = 1.5, 2, 64, "swd", 1, 16
    a.out = a.out.resolve()
    a.out.mkdir(parents=True, exist_ok=True)
    path = a.out / "results.json"
    results = json.loads(path.read_text()) if path.exists() else []
    if not a.write:
        for result in experiment(a):
            results = [r for r in results if r["run"] != result["run"]] + [result]
            path.write_text(json.dumps(results, indent=1) + "\n")
    text = "\n".join(table(results))
    print(text)
    if a.write:
        write_page(text, results)


def experiment(a: argparse.Namespace):
    """The result of each run, as it ends."""
    sets = {"synthetic": ("synthetic", a.seeds), "MNIST": (a.mnist, a.seeds), "CIFAR-10": (a.cifar10, a.cifar_seeds)}
    for data, (source, seeds) in sets.items():
        for seed in range(seeds if source else 0):
            for objective in ("own", "common"):
                grown = trained(a, data, source, seed, "pggan", objective, "images", a.kimg)
                yield grown
                for system in (name for name in SYSTEMS if name != "pggan"):
                    same = trained(a, data, source, seed, system, objective, "images", a.kimg)
                    yield same
                    kimg = a.kimg * grown["seconds"] / same["seconds"]
                    yield trained(a, data, source, seed, system, objective, "time", kimg)
            for system in ABLATIONS:
                yield trained(a, data, source, seed, system, "own", "images", a.kimg)


def trained(
    a: argparse.Namespace, data: str, source: str, seed: int, system: str, objective: str, budget: str, kimg: float
) -> dict:
    """Train and judge one run, or read what it left."""
    run = a.out / "-".join([data, system.replace(", ", "-").replace(" ", "-"), objective, budget, str(seed)]).lower()
    done = run / "result.json"
    if not done.exists():
        networks, own = SYSTEMS.get(system, SYSTEMS["pggan"])
        options = (
            f"{networks} {own if objective == 'own' else COMMON} {ABLATIONS.get(system, '')} {schedule(system, kimg)}"
        )
        common = f"--resolution {a.resolution} --allow-upscale --seed {seed} --track none --metrics {a.metrics}"
        common += (
            f" --metric-images {a.metric_images} --metric-every-kimg {kimg / a.points:.3f} --tick-kimg {kimg / 8:.3f}"
        )
        if a.resolution < 32:
            options = options.replace("4:0.005,32:0.002", "0.005")
        begun = run / "config.json"  # a run that was begun goes on with the length it began with
        if begun.exists():
            common += f" --total-kimg {json.loads(begun.read_text())['total_kimg']}"
        command = [sys.executable, ROOT / "train.py", source, *options.split(), *common.split(), "--out", run]
        print(f"{run.name}: {kimg:.1f} kimg", file=sys.stderr, flush=True)
        with (a.out / f"{run.name}.txt").open("w") as log:
            subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
        what = {"run": run.name, "data": data, "system": system, "objective": objective, "budget": budget, "seed": seed}
        done.write_text(json.dumps(what | outcome(run)) + "\n")
    return json.loads(done.read_text())


def schedule(system: str, kimg: float) -> str:
    """Of growing networks: four stages, the last one with half of the images; of the others: one."""
    if "growing" in system or not system.startswith("pggan"):
        return f"--stabilize-kimg {kimg:.4f} --total-kimg {kimg:.4f}"
    if "adaptive" in system:
        window = kimg / 16
        return (
            f"--fade-kimg {kimg / 12:.4f} --stabilize-kimg {kimg / 6:.4f} --min-stabilize-kimg {window:.4f} "
            f"--growth-window {window:.4f} --metric-every-kimg {window / 2:.4f} --total-kimg {kimg:.4f}"
        )
    return f"--fade-kimg {kimg / 12:.4f} --stabilize-kimg {kimg / 12:.4f} --total-kimg {kimg:.4f}"


def outcome(run: Path) -> dict:
    """Scores at the end, seconds of training, and the course of the scores."""
    lines = {
        name: [json.loads(t) for t in (run / f"{name}.jsonl").read_text().splitlines()] for name in ("log", "metrics")
    }
    seconds = {line["images"]: line["seconds"] for line in lines["log"]}
    scores = ("fid", "is", "swd", "modes")
    course = [
        {"images": m["images"], "seconds": seconds[m["images"]], "resolution": m["resolution"]}
        | {name: m[name] for name in scores if name in m}
        for m in lines["metrics"]
    ]
    return course[-1] | {"course": course, "health": sorted({sign for line in lines["log"] for sign in line["health"]})}


def table(results: list[dict]) -> list[str]:
    """Markdown: means over seeds, with the standard deviation where there are several."""
    scores = [name for name in ("fid", "is", "swd", "modes") if any(name in r for r in results)]
    names = {"fid": "FID", "is": "IS", "swd": "SWD x 1000", "modes": "modes of 32"}
    rows = [
        "| data | objective | equal | system | seeds | kimg | seconds | images/s | "
        + " | ".join(map(names.get, scores))
        + " |"
    ]
    rows.append("|---" * (8 + len(scores)) + "|")
    groups: dict[tuple, list[dict]] = {}
    for r in results:
        budgets = ("images", "time") if r["system"] == "pggan" else (r["budget"],)
        for budget in budgets:
            groups.setdefault((r["data"], r["objective"], budget, r["system"]), []).append(r)
    order = [*SYSTEMS, *ABLATIONS]
    for key in sorted(groups, key=lambda k: (*k[:3], order.index(k[3]))):
        runs = groups[key]
        kimg, seconds = (statistics.fmean(r[name] for r in runs) for name in ("images", "seconds"))
        cells = [*key, len(runs), f"{kimg / 1000:.1f}", f"{seconds:.0f}", f"{kimg / seconds:.0f}" if seconds else ""]
        cells += [spread([r[name] for r in runs if name in r]) for name in scores]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


def spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def plot(results: list[dict], data: str, score: str) -> str:
    """An SVG of a score against seconds of training: own objective, seed 0, what was trained for equal time."""
    width, height, left, bottom = 640, 360, 60, 40
    chosen = [
        r for r in results
        if r["data"] == data and r["objective"] == "own" and r["seed"] == 0 and r["system"] in SYSTEMS
        and (r["budget"] == "time" or r["system"] == "pggan")
    ]  # fmt: skip
    points = {
        r["system"]: [(c["seconds"], c[score]) for c in r["course"] if score in c and c["seconds"]] for r in chosen
    }
    every = [p for curve in points.values() for p in curve]
    if not every:
        return ""
    low, high = (f(v for _, v in every) for f in (min, max))
    first, last = (math.log10(f(s for s, _ in every)) for f in (min, max))

    def place(seconds: float, value: float) -> str:
        x = left + (width - left - 150) * (math.log10(seconds) - first) / max(last - first, 1e-9)
        y = 20 + (height - bottom - 20) * (high - value) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for value in (low, (low + high) / 2, high):
        parts.append(
            f'<text x="{left - 6}" y="{place(10**first, value).split(",")[1]}" text-anchor="end">{value:.0f}</text>'
        )
    for at in (first, (first + last) / 2, last):
        x = place(10**at, low).split(",")[0]
        parts.append(f'<text x="{x}" y="{height - 20}" text-anchor="middle">{10**at:.0f} s</text>')
    for number, (system, colour) in enumerate(zip(SYSTEMS, COLOURS, strict=True)):
        if curve := points.get(system):
            line = " ".join(place(*p) for p in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{width - 145}" y="{30 + 18 * number}" fill="{colour}">{system}</text>')
    parts.append(
        f'<text x="{left}" y="14">{score.upper()} on {data} against seconds of training (logarithmic)</text></svg>'
    )
    return "\n".join(parts) + "\n"


def write_page(text: str, results: list[dict]) -> None:
    """Put the table and the plots into docs/experiments.md, between its marks."""
    page = ROOT / "docs" / "experiments.md"
    pictures = []
    for data in dict.fromkeys(r["data"] for r in results):
        score = "fid" if any("fid" in r for r in results) else "swd"
        name = f"{score}-against-time-{data.lower()}.svg"
        if svg := plot(results, data, score):
            (ROOT / "docs" / "pictures" / name).write_text(svg)
            pictures.append(f"![{score.upper()} on {data} against seconds of training](pictures/{name})")
    before, _, after = page.read_text().split(MARK)
    page.write_text(f"{before}{MARK}\n\n{text}\n\n" + "\n\n".join([*pictures, f"{MARK}{after}"]))


if __name__ == "__main__":
    main()
