"""Time of one image of the explorer, from slider values to PNG bytes, with untrained weights.

    python benchmarks/explore_speed.py

64x64, at the paper's widths and at narrow ones, with the threads that the explorer chooses at its start.
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

from checkpoints import save
from pggan import Generator, load
from pggan.use.explorer_view import View, picture, prepared

LEVEL, DRAWS = 4, 20  # 4x4 is level 0


def main() -> None:
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for fmap_base, fmap_max in ((8192, 512), (512, 64)):
        trained = prepared(untrained({"fmap_base": fmap_base, "fmap_max": fmap_max}))
        for alpha in (1.0, 0.5):
            seconds = []
            for seed in range(DRAWS):
                start = time.perf_counter()
                picture(trained, View(seed=seed, level=LEVEL, alpha=alpha, truncation=0.7))
                seconds.append(time.perf_counter() - start)
            print(
                f"fmap {fmap_base}/{fmap_max}, alpha {alpha}, {torch.get_num_threads()} threads: "
                f"median {1000 * statistics.median(seconds):.0f} ms, largest {1000 * max(seconds):.0f} ms"
            )


def untrained(widths: dict[str, int]):
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
