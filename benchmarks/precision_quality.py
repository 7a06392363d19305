"""Is bf16 as good as fp32? The same short runs in both, three seeds each, judged by FID.

    python benchmarks/precision_quality.py .assets/cifar10/train.npz --out runs/precision     hours on a CPU
    python benchmarks/precision_quality.py .assets/cifar10/train.npz --kimg 6 --seeds 0 --out runs/try

Where the difference of the means is within the spread over seeds, bf16 loses nothing. Runs that are there already are
not trained again, so the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRECISIONS = ("fp32", "bf16")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", help="real images, as train.py takes them")
    p.add_argument("--out", required=True, type=Path, help="folder of the runs and of results.json")
    p.add_argument("--kimg", type=float, default=24, help="thousands of images seen (default: %(default)s)")
    p.add_argument("--num-images", type=int, default=2048, help="to judge by (default: %(default)s)")
    p.add_argument("--seeds", default="0,1,2", help="(default: %(default)s)")
    a = p.parse_args()
    a.out = a.out.resolve()
    results = [judged(a, seed, precision) for seed in a.seeds.split(",") for precision in PRECISIONS]
    (a.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("precision  FID by seed                mean  spread  steps left out  seconds of training")
    for precision in PRECISIONS:
        runs = [r for r in results if r["precision"] == precision]
        fids = [r["fid"] for r in runs]
        spread = statistics.stdev(fids) if len(fids) > 1 else 0.0
        each = "  ".join(f"{fid:.2f}" for fid in fids)
        print(
            f"{precision:<9}  {each:<24}  {statistics.mean(fids):.2f}  {spread:6.2f}  "
            f"{sum(r['skipped'] for r in runs):>14}  {sum(r['seconds'] for r in runs):.0f}"
        )


def judged(a: argparse.Namespace, seed: str, precision: str) -> dict:
    """Train one run through its whole schedule, and judge what it generates."""
    run = a.out / f"{precision}-{seed}"
    options = f"--preset cifar10-cpu --total-kimg {a.kimg} --metrics none --track none --seed {seed}"
    stages = f"--fade-kimg {a.kimg / 12} --stabilize-kimg {a.kimg / 12} --tick-kimg {a.kimg / 12}"
    if not (run / "checkpoints" / "stage-0032.pt").exists():
        python(
            ROOT / "train.py", a.data, *options.split(), *stages.split(), "--precision", precision, "--out", run
        )  # fmt: skip
    evaluate = ("-m", "pggan", "evaluate", run, "--data", a.data, "--metrics", "fid", "--json")
    fid = json.loads(python(*evaluate, "--num-images", a.num_images))["fid"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    print(f"{precision} {seed}: FID {fid:.2f}", file=sys.stderr, flush=True)
    skipped, seconds = sum(line["skipped"] for line in lines), lines[-1]["seconds"]
    return {"precision": precision, "seed": seed, "fid": fid, "kimg": a.kimg, "skipped": skipped, "seconds": seconds}


def python(*arguments: object) -> str:
    """What a command of this project prints; its progress is shown."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
