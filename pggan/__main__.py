"""Command line: `python -m pggan COMMAND` uses trained generators and profiles training."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from checkpoints import CheckpointError
from datasets import DataError
from metrics import MetricError

from .config import ConfigError
from .interop import WeightsError
from .training import profile
from .use import (
    compare,
    evaluate,
    explore,
    export,
    fade,
    grow,
    import_weights,
    info,
    interpolate,
    nearest,
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
    compare,
    nearest,
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


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        prog="python -m pggan",
        description="Use trained generators. COMMAND --help prints a command's options and examples.",
        formatter_class=Columns,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (ConfigError, DataError, CheckpointError, MetricError, WeightsError) as error:
        print(f"python -m pggan: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"python -m pggan: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
