"""Measure what large datasets cost: seconds and memory of each command on folders of many tiny images.

python benchmarks/data_scale.py                                   50,000, 100,000 and 200,000 images
python benchmarks/data_scale.py --counts 1000 --code OTHER_CLONE  the same for another version of the code
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16  # pixels: so small that the cost per file, not per pixel, is what is measured
PER_FOLDER = 1000
TRAIN = (
    "train.py DATA --out RUN --fmap-base 16 --fmap-max 16 --batch-size 4 --fade-kimg 0.02 --stabilize-kimg 0.016 "
    "--metrics none --track none --precision fp32 --device cpu --holdout 0"
)
# Each step in this order; the cache is emptied before those marked "cold".
STEPS = {
    "import": "-c 'import pggan.datasets'",
    "walk": "-c 'from pggan.datasets import open_source; open_source(\"DATA\")'",
    "plan, cold": "-m datasets plan DATA",
    "inspect, cold": "-m datasets inspect DATA",
    "first start, cold": TRAIN,
    "start": TRAIN,
    "resume": TRAIN,
    "build after a touch": "-m datasets build DATA",
    "build, cold": "-m datasets build DATA",
}


def write_images(folder: Path, count: int) -> None:
    """Write PNGs of noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        part = folder / f"{i // PER_FOLDER:04d}"
        part.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(part / f"{i % PER_FOLDER:04d}.png", compress_level=1)


def pack(folder: Path, archive: Path) -> None:
    """Write a zip of a folder, stored."""
    shutil.make_archive(str(archive.with_suffix("")), "zip", folder)


def measure(words: list[str], code: Path, cache: Path) -> dict[str, float]:
    """Run Python with these arguments and return its seconds, CPU seconds of all its processes, and the memory of
    its largest process in MB. Raises RuntimeError if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=code,
        env=os.environ | {"PGGAN_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: {errors}")
    cpu = used.ru_utime + used.ru_stime
    # Linux counts ru_maxrss in KiB
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu, "peak_mb": used.ru_maxrss * 1024 / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[50_000, 100_000, 200_000], help="numbers of images")
    parser.add_argument("--code", type=Path, default=Path(__file__).resolve().parent.parent, help="clone to measure")
    parser.add_argument("--zip", action="store_true", help="measure a zip of the images instead of a folder")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in STEPS}
    for count in options.counts:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            data, cache, run = work / "images", work / "cache", work / "run"
            write_images(data, count)
            if options.zip:
                pack(data, data := work / "images.zip")
            for step, command in STEPS.items():
                if step.endswith("cold"):
                    shutil.rmtree(cache, ignore_errors=True)
                if step == "start":
                    shutil.rmtree(run)
                if "touch" in step:
                    for path in [data] if options.zip else data.glob("*/*"):
                        path.touch()
                words = [w.replace("DATA", str(data)) for w in shlex.split(command)]
                words = [str(run) if w == "RUN" else w for w in words]
                found = results[step][str(count)] = measure(words, options.code, cache)
                print(f"{step:<20} {count:>8} " + "  ".join(f"{k} {v:.2f}" for k, v in found.items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
