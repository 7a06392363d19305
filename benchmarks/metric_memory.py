"""Measure the peak memory, the disk space and the time of an evaluation of random images.

python benchmarks/metric_memory.py 1024 10000 --metrics swd
python benchmarks/metric_memory.py 256 500 --metrics fid,mind,swd --inception-weights .assets/inception/pool3.pt

The images come from memory, so that the metrics alone are measured.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.metrics import Suite, estimate_metric_memory
from pggan.metrics.swd import PatchDescriptors

BATCH = 64  # images, as in an evaluation


def read_peak_memory() -> int:
    """Return this process's largest memory so far, in bytes; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("side", type=int, help="pixels per side")
    p.add_argument("count", type=int, help="images per dataset")
    p.add_argument("--metrics", default="swd", help="comma-separated names (default: %(default)s)")
    p.add_argument("--inception-weights", metavar="FILE", help="file with the 2015 Inception weights")
    p.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of Inception (default: %(default)s)")
    a = p.parse_args()
    names = a.metrics.split(",")

    def make_batches() -> Iterator[Tensor]:
        for first in range(0, a.count, BATCH):
            yield images[: min(BATCH, a.count - first)]

    images = torch.randint(0, 256, (BATCH, 3, a.side, a.side), dtype=torch.uint8)
    start, before = time.perf_counter(), read_peak_memory()
    suite = Suite(names, a.inception_weights, precision=a.precision)
    sides = [suite.compute_statistics(make_batches()) for _ in range(2)]
    collected, collecting = read_peak_memory(), time.perf_counter() - start
    suite.compare(*sides)
    levels = [level for side in sides for level in side.accumulators[PatchDescriptors].levels.values()]
    result = {
        "metrics": names,
        "side": a.side,
        "images_per_dataset": a.count,
        "threads": torch.get_num_threads(),
        "libraries_and_batch_mb": before >> 20,
        "collecting_mb": collected - before >> 20,
        "peak_mb": read_peak_memory() - before >> 20,
        "estimated_mb": estimate_metric_memory(names, a.count, a.count, 3, a.side)[0] >> 20,
        "disk_mb": sum(4 * level.count * level.size for level in levels) >> 20,
        "collecting_seconds": round(collecting, 1),
        "comparing_seconds": round(time.perf_counter() - start - collecting, 1),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
