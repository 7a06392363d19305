"""What the commands of `python -m pggan` share: how they are declared, and the options that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..training.device import choose_device
from .trained import Trained, load

Commands = Any  # argparse's own type of what add_subparsers returns is private
MAX_SEED, MAX_SEEDS = 2**32 - 1, 1_000_000


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
    """The checkpoint or run that a command is about."""
    p.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT", help="a checkpoint, or a run directory for its latest")


def add_device(p: argparse.ArgumentParser) -> None:
    """Where to compute."""
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def add_seeds(p: argparse._ActionsContainer, default: str) -> None:
    """Which latents to draw."""
    p.add_argument(
        "--seeds", type=seed_list, default=default, metavar="LIST",
        help="of the latents, as in 0-63 or 3,8,20-29; a seed is the same image in any list (default: %(default)s)",
    )  # fmt: skip


def add_stage(p: argparse.ArgumentParser, alpha: bool = True) -> None:
    """Which stage of the network to run."""
    p.add_argument(
        "--resolution", type=whole_number(4, 1024), metavar="N",
        help="stage to run, a power of two from 4 up to the checkpoint's (default: the checkpoint's)",
    )  # fmt: skip
    if alpha:
        p.add_argument(
            "--alpha", type=fraction, metavar="A",
            help="weight of the stage's newest block, 0 to 1 (default: the checkpoint's; 1 at a lower --resolution)",
        )  # fmt: skip


def add_truncation(p: argparse.ArgumentParser) -> None:
    """How typical the images are to be."""
    p.add_argument(
        "--truncation", type=fraction, default=1.0, metavar="PSI",
        help="0 to 1; below 1 images are more typical and less varied: the first layer's feature maps are moved "
        "towards their mean (default: 1)",
    )  # fmt: skip


def add_out(p: argparse.ArgumentParser, text: str) -> None:
    """Where to write, and whether over what is there."""
    p.add_argument("--out", type=Path, metavar="PATH", help=f"{text} (default: under RUN/outputs/)")
    p.add_argument("--force", action="store_true", help="overwrite what is there")


def open_trained(arguments: argparse.Namespace) -> Trained:
    """The generator on the device, at the stage that the options name.

    Raises:
        ConfigError, checkpoints.CheckpointError: an unusable device, stage or checkpoint.
    """
    trained = load(arguments.checkpoint, choose_device(arguments.device))
    try:
        return trained.at(arguments.resolution, getattr(arguments, "alpha", None))
    except ValueError as error:
        raise ConfigError(f"--resolution: {error}") from None


def class_index(trained: Trained, text: str) -> int:
    """The class that a name or an index stands for.

    Raises:
        ConfigError: no such class, one without training images, or a generator without classes.
    """
    if not trained.classes:
        raise ConfigError(f"labels: {text!r} is given, but this generator was trained without labels")
    index = trained.classes.index(text) if text in trained.classes else int(text) if text.isdecimal() else -1
    if index in trained.drawable:
        return index
    drawable = [trained.classes[i] for i in trained.drawable]
    names = ", ".join(drawable[:10]) + (", ..." if len(drawable) > 10 else "")
    if 0 <= index < len(trained.classes):
        raise ConfigError(f"labels: class {trained.classes[index]!r} had no training images; name one of {names}")
    raise ConfigError(f"labels: there is no class {text!r}; name one of {names}, or its index from 0")


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


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside the range from 0 to 1")
    return value


def seed_list(text: str) -> list[int]:
    """As in "0-63" or "3,8,20-29", in the order given."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is neither a seed nor a range; write as in 0-63 or 3,8,20-29")
        low, high = int(first), int(last or first)
        if high < low:
            raise argparse.ArgumentTypeError(f"{part} runs backwards; write {high}-{low}")
        if high > MAX_SEED:
            raise argparse.ArgumentTypeError(f"{high} is too large; seeds end at {MAX_SEED}")
        if high - low >= MAX_SEEDS or len(seeds) + high - low >= MAX_SEEDS:
            raise argparse.ArgumentTypeError(f"more than {MAX_SEEDS} seeds; take fewer, or several runs")
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        twice = next(seed for i, seed in enumerate(seeds) if seed in seeds[:i])
        raise argparse.ArgumentTypeError(f"seed {twice} is there twice")
    return seeds


def seed_text(seeds: list[int]) -> str:
    """A list of seeds in few letters, for file names."""
    if seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    text = ",".join(map(str, seeds))
    return text if len(text) <= 40 else f"{len(seeds)}-from-{seeds[0]}"
