"""Size and time of a checkpoint.

python benchmarks/checkpoint_cost.py --out benchmarks/results/faults/checkpoint_cost.json
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from checkpoints import RunDirectory
from pggan.config import resolve
from pggan.training.state import TrainState

RUNS = {"demo": {"preset": "demo"}, "paper 1024x1024": {"preset": "paper-v2", "resolution": 1024}}


def cost(options: dict, times: int, folder: str) -> dict:
    """Megabytes, and the median and largest seconds of a save that ends on the disk, of a run's whole state."""
    config = resolve({"data": "synthetic", "channels": 3, **options})
    state = TrainState(config, 0, torch.device("cpu"))
    for network, optimizer in ((state.G, state.g_optimizer), (state.D, state.d_optimizer)):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    numbers = {"images": 0, "stage": {}, "config": config.to_dict(), "networks": state.arguments}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        directory, seconds = RunDirectory(place), []
        directory.create({})
        for images in range(times):
            start = time.perf_counter()
            directory.save(numbers | {"images": images, "state": state.state_dict()}, keep_last=2)
            seconds.append(time.perf_counter() - start)
        size = directory.latest.stat().st_size
    return {"megabytes": round(size / 1e6, 1), "median_s": round(statistics.median(seconds), 4),
            "largest_s": round(max(seconds), 4), "saves": times}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="saves of each (default: %(default)s)")
    parser.add_argument("--folder", default=".", help="on the disk to measure (default: here)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    found = {name: cost(options, arguments.times, arguments.folder) for name, options in RUNS.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"torch": torch.__version__, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
