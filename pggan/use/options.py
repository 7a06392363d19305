"""What the commands of `python -m pggan` share: how they are declared, and the options that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Commands = Any  # argparse's own type of what add_subparsers returns is private
MAX_SEED = 2**32 - 1


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, text: str, examples: str
) -> argparse.ArgumentParser:
    """A command whose --help shows `text` above its options and `examples` below; `run` takes the parsed options."""
    p = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(run=run)
    return p


def add_checkpoint(p: argparse.ArgumentParser) -> None:
    p.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT", help="a checkpoint, or a run directory for its latest")


def add_device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def whole_number(minimum: int, maximum: int = MAX_SEED) -> Callable[[str], int]:
    """A parser of whole numbers within a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is outside the range from {minimum} to {maximum}")
        return value

    return parse
