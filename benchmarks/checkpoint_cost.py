"""Measure the size of a checkpoint, and the time to save it and each part of saving it.

python benchmarks/checkpoint_cost.py --out benchmarks/results/faults/checkpoint_cost.json
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.checkpoints import RunDirectory
from pggan.checkpoints.file import iterate_tensors
from pggan.config import resolve_config
from pggan.training.state import TrainState

# The smallest and the largest run this project documents.
RUNS = {"cifar10-cpu": {"preset": "cifar10-cpu"}, "paper 1024x1024": {"preset": "paper-v2", "resolution": 1024}}


def measure_cost(options: dict, times: int, folder: str) -> dict:
    """Measure saves of a run's whole state to disk.

    Args:
        options: of the run, as TrainConfig has them.
        times: number of saves.
        folder: on the disk to measure.

    Returns:
        Megabytes of a checkpoint, median and maximum seconds of a save including fsync, and the seconds of its parts.
    """
    config = resolve_config({"data": "synthetic", "channels": 3, **options})
    state = TrainState(config, 0, torch.device("cpu"))
    # One step with arbitrary gradients, since an optimizer has no state to save before its first step.
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
        parts = time_parts(state.state_dict(), directory.folder / "plain", times)
    return {
        "megabytes": round(size / 1e6, 1),
        "median_s": round(statistics.median(seconds), 4),
        "largest_s": round(max(seconds), 4),
        "saves": times,
        "parts_s": parts,
    }


class NullFile(io.RawIOBase):
    """A file that discards what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview) -> int:
        return len(data)


def time_parts(state: dict, path: Path, times: int) -> dict[str, list[float]]:
    """Return the seconds that each part of a save takes, `times` times each.

    The parts are checksums (torch.save to nowhere), writing as many bytes, and fsync. "copy" is the copy of all tensors
    that saving in a background thread would need first.
    """
    found: dict[str, list[float]] = {"checksums": [], "copy": [], "plain write": [], "disk": []}
    tensors = list(iterate_tensors(state))

    def took(part: str) -> None:
        """Book the time since the last call to `part`."""
        nonlocal last
        now = time.perf_counter()
        found[part].append(round(now - last, 4))
        last = now

    for _ in range(times):
        last = time.perf_counter()
        torch.save(state, NullFile())
        took("checksums")
        copied = [tensor.clone() for tensor in tensors]
        took("copy")
        with path.open("wb") as file:
            for tensor in copied:
                file.write(memoryview(tensor.flatten().numpy()))
            took("plain write")
            os.fsync(file.fileno())
            took("disk")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="number of saves per run (default: %(default)s)")
    parser.add_argument("--folder", default=".", help="folder on the disk to measure (default: current folder)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    found = {name: measure_cost(options, arguments.times, arguments.folder) for name, options in RUNS.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"torch": torch.__version__, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
