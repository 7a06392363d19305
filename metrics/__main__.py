"""Command line: `python -m metrics REAL GENERATED` compares images, `python -m metrics stats` stores FID statistics."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pggan.console import command
from pggan.datasets import FITS, SOURCE_TYPES, DataError, ImageStream, Preparation, open_source
from pggan.metrics.cache import default_folder
from pggan.metrics.errors import MetricError
from pggan.metrics.features import FeatureStatistics
from pggan.metrics.kid import SUBSET_SIZE
from pggan.metrics.networks import add_network_options
from pggan.metrics.provenance import Provenance
from pggan.metrics.statistics_file import has_statistics, read_statistics, write_statistics
from pggan.metrics.suite import METRICS, DatasetStatistics, Suite

PROGRAM = f"python -m {__spec__ and __spec__.parent}"  # pggan.metrics if installed; in a clone also metrics
EXAMPLES = f"""examples:
  FID of two folders:
    {PROGRAM} photos generated
  several metrics, on 5,000 images of each side:
    {PROGRAM} photos.zip generated.npz --metrics fid,kid,prdc --num-images 5000
  statistics of the real images, computed once:
    {PROGRAM} stats photos --out photos.npz
    {PROGRAM} photos.npz generated
"""
STATS_EXAMPLE = f"example:\n  {PROGRAM} stats photos --out photos.npz\n"


def main() -> None:
    arguments = sys.argv[1:]
    with command(PROGRAM, MetricError, DataError):
        if arguments[:1] == ["stats"]:
            write_stats(build_stats_parser().parse_args(arguments[1:]))
        else:
            compare(build_compare_parser().parse_args(arguments))


def build_compare_parser() -> argparse.ArgumentParser:
    """Return the parser for comparing real and generated images."""
    p = argparse.ArgumentParser(
        prog=PROGRAM,
        description=f"Compare generated images with real ones. `{PROGRAM} stats` stores FID statistics.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("real", metavar="REAL", help=f"real images: {SOURCE_TYPES}; or an .npz of FID statistics")
    p.add_argument("generated", metavar="GENERATED", help="generated images, or statistics, in the same formats")
    p.add_argument(
        "--metrics",
        default="fid",
        metavar="NAMES",
        help=f"comma-separated metrics, of {', '.join(METRICS)} (default: %(default)s)",
    )
    p.add_argument(
        "--kid-subset-size",
        type=number_parser(2),
        default=SUBSET_SIZE,
        metavar="N",
        help="real images, and generated images, per KID subset, at least 2 (default: %(default)s)",
    )
    p.add_argument("--json", action="store_true", help="print the results as one line of JSON")
    keep = p.add_mutually_exclusive_group()
    keep.add_argument("--cache", metavar="DIR", help=f"folder for the features of REAL (default: {default_folder()})")
    keep.add_argument("--no-cache", action="store_true", help="neither load nor store the features of REAL")
    add_common_options(p)
    return p


def build_stats_parser() -> argparse.ArgumentParser:
    """Return the parser for `write_stats`."""
    p = argparse.ArgumentParser(
        prog=f"{PROGRAM} stats",
        description="Store mean and covariance of the images' Inception features, in pytorch-fid's format.",
        epilog=STATS_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("images", metavar="IMAGES", help=f"images: {SOURCE_TYPES}")
    p.add_argument("--out", required=True, metavar="FILE.npz", help="file for mu and sigma; must end in .npz")
    add_common_options(p)
    return p


def add_common_options(p: argparse.ArgumentParser) -> None:
    """Add the options that both commands have."""
    p.add_argument(
        "--num-images",
        type=number_parser(2),
        metavar="N",
        help="number of images to use, at least 2, drawn with a fixed seed (default: all)",
    )
    p.add_argument(
        "--resolution",
        type=int,
        metavar="N",
        help="resize all images to N pixels per side, a power of two from 4 to 1024, as training does (default: use "
        "them as they are; all must have the same size)",
    )
    p.add_argument(
        "--fit",
        choices=FITS,
        default=FITS[0],
        help="method to make images square, with --resolution (default: %(default)s)",
    )
    p.add_argument(
        "--background",
        default="white",
        metavar="COLOR",
        help="color behind transparency and around padded images, a name or #rrggbb (default: %(default)s)",
    )
    add_network_options(p)
    p.add_argument("--device", default="auto", help="device: auto, cpu, cuda or cuda:N (default: %(default)s)")


def number_parser(smallest: int):
    """Return an argparse type for integers of at least `smallest`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value} is too small; use at least {smallest}")
        return value

    parse.__name__ = "integer"  # argparse prints "invalid integer value"
    return parse


def choose_device(text: str) -> torch.device:
    """Return the device for a name; "auto" is a GPU if there is one. Raises MetricError if it cannot be used."""
    try:
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else torch.device(text)
        torch.empty(0, device=chosen)  # fails here, rather than after reading the images
    except (RuntimeError, AssertionError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise MetricError(f"--device: this machine has no device {text!r}; use auto, cpu, cuda or cuda:N")
    return chosen


def make_suite(arguments: argparse.Namespace, names: list[str], cache: Path | None = None) -> Suite:
    """Build the suite for the options. Raises MetricError if one of the metrics cannot be computed."""
    suite = Suite(
        names,
        arguments.inception_weights,
        choose_device(arguments.device),
        features=arguments.features,
        resize=arguments.resize,
        precision=arguments.precision,
        cache=cache,
    )
    if len(suite.metrics) < len(names):
        skipped = [name for name in names if name not in suite.metrics]
        raise MetricError(f"--metrics: cannot compute {' and '.join(skipped)}, for the reason above")
    return suite


def write_stats(arguments: argparse.Namespace) -> None:
    """Write mean and covariance of the images' features to a file."""
    check_output_path(Path(arguments.out))
    images = open_images(arguments.images, arguments)
    suite = make_suite(arguments, ["fid"])
    suite.check(len(images), len(images))
    description = suite.compute_statistics(iterate_with_progress(images))
    write_statistics(arguments.out, description.accumulators[FeatureStatistics], suite.settings(), description.shape)
    print(f"wrote mean and covariance of the features of {len(images)} images to {arguments.out}")


def check_output_path(path: Path) -> None:
    """Raise MetricError, before any work, if statistics cannot or must not be written to a path."""
    if path.suffix != ".npz":
        raise MetricError(f"--out: {path} does not end in .npz; use {path.with_suffix('.npz')}")
    if path.exists() and not has_statistics(path):
        raise MetricError(f"--out: {path} exists and is not a statistics file; choose another name")
    # the nearest folder that exists: the others will be created
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise MetricError(f"--out: {parent} is not a writable folder")


def compare(arguments: argparse.Namespace) -> None:
    """Compare generated with real images and print the results."""
    # in the order of the option, without duplicates
    names = list(dict.fromkeys(name.strip() for name in arguments.metrics.split(",") if name.strip()))
    if not names:
        raise MetricError(f"--metrics: specify one or more of {', '.join(METRICS)}")
    if unknown := [name for name in names if name not in METRICS]:
        raise MetricError(f"--metrics: unknown metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
    real, generated = (open_side(path, arguments) for path in (arguments.real, arguments.generated))
    with_files = [side for side in (real, generated) if not isinstance(side, ImageStream)]
    if with_files and names != ["fid"]:
        raise MetricError("--metrics: a statistics file supports fid only; pass the images for other metrics")
    cache = None if arguments.no_cache else Path(arguments.cache or default_folder())
    suite = make_suite(arguments, names, cache)
    if "kid" in suite.metrics:
        suite.metrics["kid"].subset_size = arguments.kid_subset_size
    for path, side in ((arguments.real, real), (arguments.generated, generated)):
        if not isinstance(side, ImageStream):
            side.check_settings(path, suite.settings(), is_resize_given=arguments.resize is not None)
    # a statistics file that does not record its number of images is assumed to have enough
    suite.check(*(count_images(side) or sys.maxsize for side in (real, generated)))
    descriptions = [
        compute_statistics(suite, arguments.real, real, suite.load_or_compute),
        compute_statistics(suite, arguments.generated, generated, lambda make: suite.compute_statistics(make())),
    ]
    results = suite.compare(*descriptions)
    counts = {"num_real": count_images(real), "num_generated": count_images(generated)}
    kid = suite.metrics.get("kid")
    how = Provenance(
        kid_subset_size=None if kid is None else kid.choose_subset_size(*counts.values()),
        device=suite.device.type,
        tf32=False,
        **suite.settings(),
    )
    print_results(arguments, counts, results, how.to_dict())


def open_side(path: str, arguments: argparse.Namespace):
    """Return the StoredStatistics of a statistics file, or else the ImageStream."""
    return read_statistics(path) if has_statistics(path) else open_images(path, arguments)


def open_images(path: str, arguments: argparse.Namespace) -> ImageStream:
    """Open a dataset, and report the files in it that are skipped."""
    source = open_source(path)
    for note in source.describe_skipped():
        print(f"{path}: {note}", file=sys.stderr)
    keep_size = arguments.resolution is None
    # 4 stands for no resolution: the other options are checked in any case
    prepare = Preparation(4 if keep_size else arguments.resolution, 3, arguments.fit, arguments.background)
    return ImageStream(source, arguments.num_images, None if keep_size else prepare, arguments.background)


def count_images(side) -> int | None:
    """Return a side's number of images; None if a statistics file does not record it."""
    return len(side) if isinstance(side, ImageStream) else side.count


def compute_statistics(suite: Suite, name: str, side, describe) -> DatasetStatistics:
    """Return the accumulators of real or generated images."""
    if isinstance(side, ImageStream):
        return describe(lambda: iterate_with_progress(side))
    return side.describe()


def iterate_with_progress(images: ImageStream) -> Iterator[Tensor]:
    """Yield the images' batches, with a progress bar."""
    with tqdm(total=len(images), desc=images.source.name, unit="image", disable=None, leave=False) as bar:
        for batch in images.batches():
            yield torch.from_numpy(batch)
            bar.update(len(batch))


def print_results(arguments: argparse.Namespace, counts: dict, results: dict[str, float], settings: dict) -> None:
    """Print the results, as text or as JSON."""
    if arguments.json:
        print(json.dumps({"real": arguments.real, "generated": arguments.generated, **counts, **results, **settings}))
        return
    print(f"real       {arguments.real}: {counts['num_real'] or 'an unknown number of'} images")
    print(f"generated  {arguments.generated}: {counts['num_generated'] or 'an unknown number of'} images")
    print("           " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()))
    print()
    for name, value in results.items():
        if not name.endswith(("_std", "_error")):  # printed beside their metric
            spread = next((results[name + s] for s in ("_std", "_error") if name + s in results), None)
            print(f"{name:<14}{value:.6g}" + ("" if spread is None else f" ± {spread:.3g}"))


if __name__ == "__main__":
    main()
