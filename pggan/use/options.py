"""Helpers shared by the `python -m pggan` commands: declaring a command, and the options several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import ConfigError
from ..training.device import choose_device
from .trained import Trained, load

Commands = Any  # add_subparsers() returns argparse._SubParsersAction, which is private and so not named here
MAX_SEED = 2**32 - 1  # the largest that numpy.random.RandomState, and so the seeds of StyleGAN's scripts, can have
MAX_SEEDS = 1_000_000  # more is a typing error rather than a wish; FID needs 50,000


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, text: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command and return its parser, for the caller to add options to.

    Args:
        run: called with the parsed options.
        summary: one line in the list of commands.
        text: shown by the command's --help above its options, line breaks kept.
        examples: shown below its options; each line must be a command that can be pasted into a shell.
    """
    p = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keep the line breaks of lists and examples
    )
    p.set_defaults(run=run)  # __main__ calls arguments.run(arguments)
    return p


def add_checkpoint(p: argparse.ArgumentParser) -> None:
    """Add the positional argument for the checkpoint to use."""
    p.add_argument(
        "checkpoint",
        metavar="RUN_OR_CHECKPOINT",
        help="checkpoint (.pt or .safetensors), run directory (its latest checkpoint is used), or exported hub folder",
    )


def add_device(p: argparse.ArgumentParser) -> None:
    """Add --device."""
    p.add_argument(
        "--device", default="auto", help="device to compute on: auto, cpu, cuda or cuda:N (default: %(default)s)"
    )


def add_seeds(p: argparse._ActionsContainer, default: str) -> None:
    """Add --seeds, a list of latents to generate images from."""
    p.add_argument(
        "--seeds",
        type=parse_seeds,
        default=default,
        metavar="LIST",
        help="seeds of the latents, for example 0-63 or 3,8,20-29; a seed always gives the same image "
        "(default: %(default)s)",
    )


def add_stage(p: argparse.ArgumentParser, alpha: bool = True) -> None:
    """Add --resolution and, unless `alpha` is False, --alpha: the stage at which to run the generator."""
    p.add_argument(
        "--resolution",
        type=int_parser(4, 1024),
        metavar="N",
        help="resolution of the stage to run, a power of two from 4 to the checkpoint's (default: the checkpoint's)",
    )
    if alpha:
        p.add_argument(
            "--alpha",
            type=parse_fraction,
            metavar="A",
            help="fade-in weight of the stage's newest block, 0 to 1 (default: the checkpoint's; 1 at a lower "
            "--resolution)",
        )


def add_truncation(p: argparse.ArgumentParser) -> None:
    """Add --truncation, which trades variety for typical images."""
    p.add_argument(
        "--truncation",
        type=parse_fraction,
        default=1.0,
        metavar="PSI",
        help="truncation psi, 0 to 1: below 1 images are more typical and less varied, because the first layer's "
        "feature maps are interpolated toward their mean (default: 1)",
    )


def add_out(p: argparse.ArgumentParser, text: str) -> None:
    """Add --out, described by `text`, and --force."""
    p.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help=f"output: {text} (default: a name made of the options, in RUN/outputs/)",
    )
    add_force(p)


def add_force(p: argparse.ArgumentParser) -> None:
    """Add --force."""
    p.add_argument("--force", action="store_true", help="overwrite existing output")


def open_trained(arguments: argparse.Namespace) -> Trained:
    """Load the generator that the options select, on the device and at the stage they select.

    Raises:
        ConfigError: --device, --resolution or --alpha cannot be used.
        pggan.checkpoints.CheckpointError: the checkpoint is missing or damaged.
    """
    trained = load(arguments.checkpoint, choose_device(arguments.device))
    try:
        # commands without --alpha, such as fade, set alpha themselves
        return trained.at(arguments.resolution, getattr(arguments, "alpha", None))
    except ValueError as error:
        raise ConfigError(f"--resolution: {error}") from None


def find_class(trained: Trained, text: str, option: str = "--label") -> int:
    """Return the index of a class specified by its name or by its index from 0.

    A name wins over an index: the classes of digits are usually named "0" to "9". If all names are numbers, a number
    is never an index: of the classes 01, 02 and 10, "1" is 01.

    Raises:
        ConfigError: there is no such class, it had no training images, or the generator is unconditional.
    """
    if not trained.classes:
        raise ConfigError(f"{option}: {text!r} was specified, but this generator was trained without labels")
    numbers = [int(name) for name in trained.classes if name.isdecimal()]
    names_are_numbers = len(numbers) == len(trained.classes)
    if text in trained.classes:
        index = trained.classes.index(text)
    elif not text.isdecimal():
        index = -1
    elif names_are_numbers:
        index = numbers.index(int(text)) if numbers.count(int(text)) == 1 else -1
    else:
        index = int(text)
    if index in trained.drawable:
        return index
    drawable = [trained.classes[i] for i in trained.drawable]
    # ten names: enough for MNIST or CIFAR-10 in full, and ImageNet's thousand would bury the message
    known = ", ".join(drawable[:10]) + (", ..." if len(drawable) > 10 else "")
    if 0 <= index < len(trained.classes):
        raise ConfigError(f"{option}: class {trained.classes[index]!r} had no training images; use one of {known}")
    indices = "" if names_are_numbers else f", or an index from 0 to {len(trained.classes) - 1}"
    raise ConfigError(f"{option}: there is no class {text!r}; use one of {known}{indices}")


def int_parser(minimum: int, maximum: int = MAX_SEED) -> Callable[[str], int]:
    """Return a function that parses an integer from `minimum` to `maximum`, for argparse's `type`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is outside the range from {minimum} to {maximum}")
        return value

    return parse


def parse_fraction(text: str) -> float:
    """Parse a number from 0 to 1 (NaN is refused), for argparse's `type`."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:  # false for NaN as well
        raise argparse.ArgumentTypeError(f"{text} is outside the range from 0 to 1")
    return value


def parse_seeds(text: str) -> list[int]:
    """Parse a list of seeds such as "0-63" or "3,8,20-29", keeping its order, for argparse's `type`.

    Raises:
        argparse.ArgumentTypeError: not such a list, more than MAX_SEEDS seeds, or a seed that occurs twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        # isdecimal() rather than int(): "-3" is not a seed here, and " 3" or "1_000" are typing errors
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"{part!r} is neither a seed nor a range of seeds; write for example 0-63 or 3,8,20-29"
            )
        low, high = int(first), int(last or first)
        if high < low:
            raise argparse.ArgumentTypeError(f"the range {part} is descending; write {high}-{low}")
        if high > MAX_SEED:
            raise argparse.ArgumentTypeError(f"seed {high} is too large; the largest is {MAX_SEED}")
        # checked before range() is turned into a list: 0-4000000000 would need more than 32 GB
        if high - low >= MAX_SEEDS or len(seeds) + high - low >= MAX_SEEDS:
            raise argparse.ArgumentTypeError(f"more than {MAX_SEEDS} seeds; split them over several commands")
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        # Duplicates are refused, since two files of the same seed would overwrite each other.
        twice = next(seed for i, seed in enumerate(seeds) if seed in seeds[:i])
        raise argparse.ArgumentTypeError(f"seed {twice} occurs twice; list each seed once")
    return seeds


def format_seeds(seeds: list[int]) -> str:
    """Return a short text for a list of seeds, for use in file names.

    At most 40 characters, so that the whole name stays well below the 255 bytes that file systems allow.
    """
    if seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
    text = ",".join(map(str, seeds))
    return text if len(text) <= 40 else f"{len(seeds)}-from-{seeds[0]}"
