"""python -m checkpoints FILE: say what a checkpoint or a run directory's latest one holds."""

from __future__ import annotations

import argparse

from console import command

from .describe import describe
from .file import CheckpointError, resolve_checkpoint
from .formats import load


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m checkpoints", description="Say what a checkpoint holds. Nothing in the file is run."
    )
    parser.add_argument("path", metavar="FILE", help="a checkpoint, or a run directory for its latest")
    with command(parser.prog, CheckpointError):
        path = resolve_checkpoint(parser.parse_args().path)
        print("\n".join(describe(path, load(path))))


if __name__ == "__main__":
    main()
