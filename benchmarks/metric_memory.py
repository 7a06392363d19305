"""Measure the peak memory, the disk space and the time of SWD for synthetic images.

python benchmarks/metric_memory.py 256 500

Measure two numbers of images and extrapolate: disk space and time grow linearly, and so does the part of the memory
that holds projections, 32 KiB per image and side.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.metrics import estimate_metric_memory
from pggan.metrics.swd import SWD, PatchDescriptors

BATCH = 64  # images, as in an evaluation


def read_peak_memory() -> int:
    """Return this process's largest memory so far, in bytes; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("side", type=int, help="pixels per side")
    p.add_argument("count", type=int, help="images per dataset")
    a = p.parse_args()
    start, before = time.perf_counter(), read_peak_memory()
    batch = torch.randint(0, 256, (BATCH, 3, a.side, a.side), dtype=torch.uint8)
    sides = [PatchDescriptors(), PatchDescriptors()]
    for descriptors in sides:
        for first in range(0, a.count, BATCH):
            descriptors.update(batch[: min(BATCH, a.count - first)])
    collected, collecting = read_peak_memory(), time.perf_counter() - start
    SWD().compare(*sides)
    result = {
        "side": a.side,
        "images_per_dataset": a.count,
        "libraries_mb": before >> 20,
        "collecting_mb": collected - before >> 20,
        "peak_mb": read_peak_memory() - before >> 20,
        "estimated_mb": estimate_metric_memory(["swd"], a.count, a.count, 3, a.side)[0] >> 20,
        "disk_mb": sum(4 * level.count * level.size for d in sides for level in d.levels.values()) >> 20,
        "collecting_seconds": round(collecting, 1),
        "comparing_seconds": round(time.perf_counter() - start - collecting, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
