"""Measure the time of one explorer image, from slider values to PNG bytes.

    python benchmarks/explore_speed.py

The generator is untrained, at 64x64, with the paper's feature maps and with narrow ones. The number of threads is the
one the explorer chooses when it starts. docs/report.md quotes the results.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan import Generator, load
from pggan.checkpoints import save
from pggan.use.explorer_view import View, prepare_for_rendering, render_png

LEVEL, DRAWS = 4, 20  # level 4 is 64x64 (4x4 is level 0); 20 images take a few seconds at the paper's widths


def main() -> None:
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for fmap_base, fmap_max in ((8192, 512), (512, 64)):  # the paper's, and cifar10-cpu's
        trained = prepare_for_rendering(untrained({"fmap_base": fmap_base, "fmap_max": fmap_max}))
        for alpha in (1.0, 0.5):
            seconds = []
            for seed in range(DRAWS):
                start = time.perf_counter()
                render_png(trained, View(seed=seed, level=LEVEL, alpha=alpha, truncation=0.7))
                seconds.append(time.perf_counter() - start)
            print(
                f"fmap {fmap_base}/{fmap_max}, alpha {alpha}, {torch.get_num_threads()} threads: "
                f"median {1000 * statistics.median(seconds):.0f} ms, maximum {1000 * max(seconds):.0f} ms"
            )


def untrained(widths: dict[str, int]):
    """Return an untrained 64x64 generator with these feature maps, loaded from a checkpoint as the explorer does."""
    # speed does not depend on the weights' values, so an untrained generator will do
    arguments = {"resolution": 64, "channels": 3, "label_size": 0, **widths}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.pt"
        networks = {"generator": arguments}
        state = {"G_ema": Generator(**arguments).state_dict()}
        stage = {"resolution": 64, "alpha": 1.0}
        save(path, {"images": 0, "stage": stage, "config": {}, "networks": networks, "classes": [], "state": state})
        return load(path, torch.device("cpu"))


if __name__ == "__main__":
    main()
