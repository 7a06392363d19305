"""Command line: `python -m pggan COMMAND` uses trained generators and profiles training."""

from __future__ import annotations

import argparse
from typing import Any

from pggan.checkpoints import CheckpointError
from pggan.console import command
from pggan.datasets import DataError
from pggan.metrics import MetricError

from .config import ConfigError
from .interop import WeightsError
from .training import profile
from .training.ranks import exit_without_teardown
from .use import (
    compare,
    ema,
    evaluate,
    explore,
    export,
    fade,
    grow,
    import_weights,
    info,
    interpolate,
    nearest,
    perceptual,
    project,
    report,
    sample,
    upscale,
)

# Modules in the order of --help. Each has add_parser(commands), which adds its options and sets `run`.
COMMANDS = (
    sample,
    interpolate,
    grow,
    fade,
    evaluate,
    ema,
    compare,
    nearest,
    perceptual,
    project,
    upscale,
    info,
    report,
    explore,
    import_weights,
    export,
    profile,
)


class Columns(argparse.HelpFormatter):
    """Help formatter that keeps every command's description on the line of its name."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        # len("interpolate") and an indent of 4; argparse's own measure leaves out the indent
        self._action_max_length = 15


def main(program: str = "python -m pggan") -> None:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Use trained generators. COMMAND --help prints a command's options and examples.",
        formatter_class=Columns,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for part in COMMANDS:
        part.add_parser(commands)
    for subparser in commands.choices.values():
        subparser.epilog = (subparser.epilog or "").replace("python -m pggan", program)
    with command(parser.prog, ConfigError, DataError, CheckpointError, MetricError, WeightsError):
        arguments = parser.parse_args()
        arguments.run(arguments)


def run_script() -> None:
    """Run the command `pggan`, which pip installs."""
    main("pggan")


if __name__ == "__main__":
    with exit_without_teardown():
        main()
