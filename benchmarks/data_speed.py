"""Compare data loading speed: this project's cache versus torchvision's ImageFolder, Resize and DataLoader.

    python benchmarks/data_speed.py FOLDER                         # FOLDER/CLASS/*.jpg or png
    python benchmarks/data_speed.py FOLDER --out results.json

Both read the same files. At every resolution both deliver uint8 batches [N, 3, r, r] in a new order each epoch. They
are timed alternately in one run, for two seconds per turn, and the median of three turns is reported. Later steps
(conversion to floats, mirroring) are the same for both and excluded.

Before that, the time to build the cache is compared with one ImageFolder epoch at the highest resolution, with the
same number of workers: with ImageFolder's usual bilinear filter, as uint8 and as normalized floats (ToTensor,
Normalize), and with the Lanczos filter that the cache uses, as uint8.

Needs torchvision. The files should fit in memory, so that the speed of the disk does not matter.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from pggan.datasets import Pyramid, open_pyramid, open_source
from pggan.datasets.parallel import count_cores
from pggan.training.feeding import Feeder
from pggan.training.growth import Phase

TURNS, SECONDS = 3, 2.0  # long enough to average over worker scheduling, short enough for nine resolutions


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", help="folder of images in class subfolders, as ImageFolder expects")
    p.add_argument(
        "--resolution", type=int, default=256, help="highest resolution, a power of two (default: %(default)s)"
    )
    p.add_argument("--batch-size", type=int, default=64, help="images per batch (default: %(default)s)")
    p.add_argument(
        "--workers", type=int, default=count_cores(), help="worker processes of either side (default: one per core)"
    )
    p.add_argument("--out", help="JSON file to write the results to (default: print only)")
    a = p.parse_args()
    torch.set_num_threads(1)  # torch's threads would compete with the worker processes
    rows = []
    with tempfile.TemporaryDirectory() as cache:  # not the user's, where the dataset may be cached already
        count, seconds = len(open_source(a.folder)), build_and_epochs(a, Path(cache))
        built, *epochs = (f"{statistics.median(values):.2f} s" for values in seconds.values())
        print(f"{count} images, {a.workers} workers: cache built in {built}, ", end="")
        print("one ImageFolder epoch {} (bilinear), {} (bilinear, floats), {} (Lanczos)".format(*epochs))
        pyramid = open_pyramid(open_source(a.folder), a.resolution, 3, cache=Path(cache))
        print("resolution  ours, images/s  ImageFolder, images/s  ratio")
        for resolution in pyramid.levels:
            rows.append(compare(a, pyramid, resolution))
            print("{resolution:>10}  {ours:>14,.0f}  {imagefolder:>21,.0f}  {ratio:>5.1f}".format(**rows[-1]))
    if a.out:
        about = {"images": count, "workers": a.workers, "batch_size": a.batch_size, "cores": count_cores()}
        about |= {"seconds": seconds, "machine": read_cpu_name(), "torch": torch.__version__}
        Path(a.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def build_and_epochs(a: argparse.Namespace, cache: Path) -> dict[str, list[float]]:
    """Return the seconds of building the cache and of each kind of ImageFolder epoch, measured alternately TURNS times.

    The previous cache is deleted before each build, so that its pages in memory can be reused.
    """
    seconds: dict[str, list[float]] = {
        "build": [],
        "epoch_bilinear": [],
        "epoch_bilinear_floats": [],
        "epoch_lanczos": [],
    }
    for _ in range(TURNS):
        shutil.rmtree(cache)
        work = (
            lambda: open_pyramid(open_source(a.folder), a.resolution, 3, workers=a.workers, cache=cache),
            lambda: list(map(len, make_loader(a, a.resolution))),
            lambda: list(map(len, make_loader(a, a.resolution, last=network_floats))),
            lambda: list(map(len, make_loader(a, a.resolution, InterpolationMode.LANCZOS))),
        )
        for values, do in zip(seconds.values(), work, strict=True):
            start = time.perf_counter()
            do()
            values.append(time.perf_counter() - start)
    return seconds


def make_loader(
    a: argparse.Namespace,
    resolution: int,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    last: Callable = transforms.PILToTensor,
) -> torch.utils.data.DataLoader:
    steps = [transforms.Resize(resolution, interpolation), transforms.CenterCrop(resolution), last()]
    images = ImageFolder(a.folder, transforms.Compose(steps))
    return torch.utils.data.DataLoader(images, a.batch_size, shuffle=True, num_workers=a.workers)


def network_floats() -> transforms.Compose:
    """Return the usual last transforms of GAN training scripts: floats in [-1, 1]."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])


def torchvision_batches(a: argparse.Namespace, resolution: int) -> Iterator[torch.Tensor]:
    """Yield ImageFolder's batches without end, epoch after epoch."""
    loader = make_loader(a, resolution)
    while True:
        for images, _ in loader:
            yield images


def our_batches(a: argparse.Namespace, pyramid: Pyramid, resolution: int) -> Iterator[torch.Tensor]:
    """Yield this project's batches without end."""
    feeder, seen = Feeder(pyramid, 0, torch.device("cpu")), 0
    while True:
        # alpha, learning rate and repeats do not matter for loading
        yield feeder.next_batch(seen, Phase(resolution, 1.0, a.batch_size, 0.001, 1)).images
        seen += a.batch_size


def compare(a: argparse.Namespace, pyramid: Pyramid, resolution: int) -> dict[str, float]:
    """Return images per second of both sides at one resolution, measured alternately."""
    sides = {"ours": our_batches(a, pyramid, resolution), "imagefolder": torchvision_batches(a, resolution)}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for batches in sides.values():  # start the workers, and load the level into memory
        next(batches)
    for _ in range(TURNS):
        for name, batches in sides.items():
            speeds[name].append(images_per_second(batches))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    ratio = medians["ours"] / medians["imagefolder"]
    return {"resolution": resolution, **medians, "ratio": round(ratio, 2), "turns": speeds}


def images_per_second(batches: Iterator[torch.Tensor]) -> float:
    """Return the speed at which batches arrive, measured for SECONDS."""
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < SECONDS:
        count += len(next(batches))
    return count / elapsed


def read_cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
