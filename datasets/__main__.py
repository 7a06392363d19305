"""python -m datasets: prepare images, and see what is in them."""

from __future__ import annotations

import argparse
import sys

from console import command

from . import commands
from .base import DataError, parse_fraction
from .images import FITS
from .sources import SOURCE_TYPES

EXAMPLES = """examples:
  python -m datasets inspect photos                    sizes, kinds, classes, files that cannot be read
  python -m datasets plan photos --resolution 256      what a cache will take, before it is built
  python -m datasets build photos --resolution 256     what training would do first
  python -m datasets grid photos --out sheet.png       as the networks will see them
  python -m datasets verify photos --resolution 256    the cache is whole, and still that of the images
  python -m datasets clean                             list all caches; clean --unfinished, --all or KEY removes
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m datasets",
        description="Prepare images, and see what is in them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    room = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (run, text) in COMMANDS.items():
        p = room.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        p.set_defaults(run=run)
        if name == "clean":
            p.add_argument("keys", nargs="*", metavar="KEY", help="remove these caches (default: only list all)")
            p.add_argument("--unfinished", action="store_true", help="remove what interrupted builds left")
            p.add_argument("--all", action="store_true", help="remove every cache and report")
            continue
        add_data_options(p, prepared=name != "inspect")
        if name in ("plan", "build"):
            add_limit_options(p)
        if name in ("plan", "build", "inspect"):
            p.add_argument(
                "--workers",
                type=int_parser(1, 1024),
                metavar="N",
                help="processes that decode (default: one for each core)",
            )
        if name == "grid":
            p.add_argument("--out", default="grid.png", metavar="FILE", help="picture to write (default: %(default)s)")
            p.add_argument(
                "--count", type=int, default=64, metavar="N", help="images in it, 1 to 1024 (default: %(default)s)"
            )
        if name == "verify":
            p.add_argument(
                "--decode",
                type=int_parser(0, 1 << 40),
                default=100,
                metavar="N",
                help="images to decode again (default: %(default)s)",
            )
    with command(parser.prog, DataError):
        arguments = parser.parse_args()
        sys.exit(arguments.run(arguments))


COMMANDS = {
    "plan": (commands.print_plan, "say what a cache will hold, and the disk space and time it takes"),
    "build": (commands.build_pyramid, "build the cache, or go on with it"),
    "inspect": (commands.inspect, "decode every image and say what there is"),
    "grid": (commands.write_grid, "write a contact sheet of prepared images"),
    "verify": (commands.verify, "check a cache against its checksums and its images"),
    "clean": (commands.clean, "list caches, or remove them"),
}


def add_data_options(p: argparse.ArgumentParser, prepared: bool) -> None:
    """Which images, and how they are prepared."""
    p.add_argument("data", metavar="DATA", help=SOURCE_TYPES)
    if prepared:
        p.add_argument(
            "--resolution", type=int, metavar="N", help="a power of two, 4 to 1024 (default: the images' own)"
        )
        p.add_argument("--channels", type=int, choices=(1, 2, 3, 4), help="default: 1 for gray images, else 3")
    p.add_argument("--labels", action="store_true", help="read classes")
    p.add_argument("--fit", choices=FITS, default=FITS[0], help="how images become square (default: %(default)s)")
    if prepared:
        p.add_argument(
            "--background",
            default="white",
            metavar="COLOUR",
            help="under transparency and beside padded images, a name or #rrggbb (default: %(default)s)",
        )


def add_limit_options(p: argparse.ArgumentParser) -> None:
    """What a cache is refused for."""
    p.add_argument("--allow-upscale", action="store_true", help="enlarge images smaller than the resolution")
    p.add_argument(
        "--max-bad",
        type=parse_fraction,
        default=0.01,
        metavar="N%",
        help="largest share of images that may be left out because they cannot be read (default: 1%%)",
    )


def int_parser(smallest: int, largest: int):
    """A parser of whole numbers within a range."""

    def parse(text: str) -> int:
        value = int(text)
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"{value} is outside the range from {smallest} to {largest}")
        return value

    parse.__name__ = "whole number"
    return parse


if __name__ == "__main__":
    main()
