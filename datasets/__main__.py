"""python -m datasets: inspect datasets, and build, verify or remove their image caches."""

from __future__ import annotations

import argparse
import sys

from pggan.console import command
from pggan.datasets.base import DataError, parse_fraction
from pggan.datasets.commands import build_pyramid, clean, export, inspect, print_plan, verify, write_grid
from pggan.datasets.images import FITS
from pggan.datasets.sources import SOURCE_TYPES

PROGRAM = f"python -m {__spec__ and __spec__.parent}"  # pggan.datasets if installed; in a clone also datasets
EXAMPLES = f"""examples:
  sizes, color modes, classes, duplicates, unreadable files:
    {PROGRAM} inspect photos
  disk space and time that a cache needs, before building it:
    {PROGRAM} plan photos --resolution 256
  build the cache, as training would do first:
    {PROGRAM} build photos --resolution 256
  a grid of images, prepared as for training:
    {PROGRAM} grid photos --resolution 256 --out grid.png
  the images as training and metrics use them, for other tools:
    {PROGRAM} export photos --resolution 256 --out reals.zip
  check that the cache is intact and matches the images:
    {PROGRAM} verify photos --resolution 256
  list all caches, then remove the unfinished ones:
    {PROGRAM} clean
    {PROGRAM} clean --unfinished
"""


MAX_DECODED = 1 << 40  # more than any dataset has: `verify --decode` takes any number


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Inspect datasets, and build, verify or remove their image caches.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (run, text) in COMMANDS.items():
        p = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        p.set_defaults(run=run)
        if name == "clean":
            p.add_argument("keys", nargs="*", metavar="KEY", help="names of caches to remove (default: none)")
            p.add_argument("--unfinished", action="store_true", help="remove the caches of interrupted builds")
            p.add_argument("--all", action="store_true", help="remove all caches with their reports")
            continue
        add_data_options(p, prepared=name != "inspect")
        if name in ("plan", "build", "export"):
            add_limit_options(p)
        if name in ("plan", "build", "export", "inspect"):
            p.add_argument(
                "--workers",
                type=int_parser(1, 1024),
                metavar="N",
                help="number of processes that decode, 1 to 1024 (default: one per core)",
            )
        if name == "grid":
            p.add_argument(
                "--out", default="grid.png", metavar="FILE", help="image file to write (default: %(default)s)"
            )
            p.add_argument(
                "--count", type=int, default=64, metavar="N", help="number of images, 1 to 1024 (default: %(default)s)"
            )
        if name == "export":
            p.add_argument(
                "--out", required=True, metavar="PATH", help="new folder of .png files, or .zip of them, to write"
            )
        if name == "verify":
            p.add_argument(
                "--decode",
                type=int_parser(0, MAX_DECODED),
                default=100,
                metavar="N",
                help="number of random images to decode again and compare with the cache (default: %(default)s)",
            )
    with command(parser.prog, DataError):
        arguments = parser.parse_args()
        sys.exit(arguments.run(arguments))


COMMANDS = {
    "plan": (print_plan, "print the content, disk space and build time of a cache"),
    "build": (build_pyramid, "build a cache, or resume an interrupted build"),
    "inspect": (inspect, "decode all images and print sizes, color modes, duplicates and unreadable files"),
    "grid": (write_grid, "write a grid of images, prepared as for training"),
    "export": (export, "write the images, prepared as for training, as .png files for other tools"),
    "verify": (verify, "compare a cache with its checksums and its images"),
    "clean": (clean, "list all caches, or remove some"),
}


def add_data_options(p: argparse.ArgumentParser, prepared: bool) -> None:
    """Add the options for the dataset and, with `prepared`, for the preparation of its images."""
    p.add_argument("data", metavar="DATA", help=SOURCE_TYPES)
    if prepared:
        p.add_argument(
            "--resolution",
            type=int,
            metavar="N",
            help="pixels per side, a power of two from 4 to 1024 (default: the largest without enlarging)",
        )
        p.add_argument(
            "--channels",
            type=int,
            choices=(1, 2, 3, 4),
            help="number of channels (default: 1 if all images are gray, else 3)",
        )
    p.add_argument(
        "--labels", action="store_true", help="read classes, from class folders, a dataset.json or the dataset's labels"
    )
    p.add_argument("--fit", choices=FITS, default=FITS[0], help="method to make images square (default: %(default)s)")
    if prepared:
        p.add_argument(
            "--background",
            default="white",
            metavar="COLOR",
            help="color behind transparency and around padded images, a name or #rrggbb (default: %(default)s)",
        )


def add_limit_options(p: argparse.ArgumentParser) -> None:
    """Add the options that decide which datasets are refused."""
    p.add_argument(
        "--allow-upscale",
        action="store_true",
        help="enlarge images that are smaller than the resolution, instead of refusing them",
    )
    p.add_argument(
        "--max-bad",
        type=parse_max_bad,
        default=0.01,
        metavar="N%",
        help="largest fraction of images that may be unreadable, and are then skipped: 1%% or 0.01 (default: 1%%)",
    )


def parse_max_bad(text: str) -> float:
    """Return a fraction from "1%" or "0.01"; for argparse, which reports the reason of this type of error only."""
    try:
        return parse_fraction(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def int_parser(smallest: int, largest: int):
    """Return an argparse type for integers from `smallest` to `largest`."""

    def parse(text: str) -> int:
        value = int(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value} is not between {smallest} and {largest}")
        return value

    parse.__name__ = "integer"  # argparse prints "invalid integer value"
    return parse


if __name__ == "__main__":
    main()
