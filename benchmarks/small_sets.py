"""Compare augmentation on a small dataset: none, diffaug and ada, trained for the same number of images.

    python benchmarks/small_sets.py cifar10 --out runs/small-sets            # 1,000 images, two seeds: hours on a CPU
    python benchmarks/small_sets.py train.npz --kimg 40 --seeds 0 --out runs/try

All runs train on the same few images of DATA. FID is computed at the end, against images of DATA that no run has seen.
Finished runs are not trained again: if the command is interrupted, run it again to resume.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.datasets import Preparation, open_source

ROOT = Path(__file__).parents[1]
MODES = ("none", "diffaug", "ada")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", help="dataset of 32x32 or larger images, in any form that train.py accepts")
    p.add_argument("--out", required=True, help="folder for the runs and results.json")
    p.add_argument("--images", type=int, default=1000, help="number of training images (default: %(default)s)")
    p.add_argument(
        "--unseen",
        type=int,
        default=5000,
        help="number of held-out images for FID, and of generated images (default: %(default)s)",
    )
    p.add_argument(
        "--kimg", type=float, default=72, help="length of each run, thousands of images seen (default: %(default)s)"
    )
    p.add_argument(
        "--seeds", default="0,1", help="comma-separated seeds, one run each per augmentation (default: %(default)s)"
    )
    a = p.parse_args()
    out = Path(a.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    split_images(a, out)
    results = [train_and_evaluate(a, out, mode, seed) for mode in MODES for seed in a.seeds.split(",")]
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print("augment  seed     FID  overfitting  augment_p")
    for r in results:
        print("{mode:<7}  {seed:>4}  {fid:>6.2f}  {overfitting:>11.3f}  {augment_p:>9.3f}".format(**r))


def split_images(a: argparse.Namespace, out: Path) -> None:
    """Write the training images to few.npz and the held-out ones to unseen.npz, chosen at random."""
    source, prepare = open_source(a.data), Preparation(32, 3)
    if len(source) < a.images + a.unseen:
        sys.exit(
            f"{a.data} has {len(source)} images, fewer than --images + --unseen ({a.images + a.unseen}); lower either"
        )
    # seed 0, whichever seeds the runs have: all of them train on the same images
    chosen = np.random.default_rng(0).permutation(len(source))[: a.images + a.unseen]
    for name, indices in (("few", chosen[: a.images]), ("unseen", chosen[a.images :])):
        pixels = np.stack([prepare(source.read_image(int(i), 32, 3)) for i in indices])
        np.savez(out / f"{name}.npz", images=pixels)


def train_and_evaluate(a: argparse.Namespace, out: Path, mode: str, seed: str) -> dict:
    """Train one run, or resume it, and return its FID against the held-out images and its overfitting signal."""
    run = out / f"{mode}-{seed}"
    options = f"--preset cifar10-cpu --total-kimg {a.kimg} --augment {mode} --seed {seed} --metrics none --track none"
    # Each fade and stabilization takes a twelfth of the run, and 32x32 also the five twelfths that remain. ADA may
    # raise p from 0 to 1 within a quarter of the run, since its default of 500 kimg is longer than the whole run.
    quarter = f"--fade-kimg {a.kimg / 12} --stabilize-kimg {a.kimg / 12} --ada-kimg {a.kimg / 4}"
    run_python(ROOT / "train.py", out / "few.npz", *options.split(), *quarter.split(), "--out", run)
    evaluate = ("-m", "pggan", "evaluate", run, "--data", out / "unseen.npz", "--metrics", "fid", "--json")
    fid = json.loads(run_python(*evaluate, "--num-images", a.unseen))["fid"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    # The mean of the last five ticks: the signal of a single one is noisy.
    late = [line["overfitting"] for line in lines[-5:] if line.get("overfitting") is not None]
    overfitting = float(np.mean(late)) if late else float("nan")
    # diffaug always augments; only ada logs a probability
    p = {"none": 0.0, "diffaug": 1.0}.get(mode, lines[-1].get("augment_p"))
    print(f"{mode} {seed}: FID {fid:.2f}", file=sys.stderr, flush=True)
    return {"mode": mode, "seed": seed, "fid": fid, "overfitting": overfitting, "augment_p": p, "kimg": a.kimg}


def run_python(*arguments: object) -> str:
    """Run a Python command of this project and return what it prints; its progress (stderr) is shown."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
