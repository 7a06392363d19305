"""python -m checkpoints FILE: print the contents of a checkpoint, or of a run directory's latest one."""

from __future__ import annotations

import argparse

from pggan.checkpoints.describe import describe
from pggan.checkpoints.file import CheckpointError, resolve_checkpoint
from pggan.checkpoints.formats import load
from pggan.console import command

PROGRAM = f"python -m {__spec__ and __spec__.parent}"  # pggan.checkpoints if installed; in a clone also checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Print a checkpoint's stage, options, networks and tensors. No code in the file is executed.",
        epilog=f"example:\n  {PROGRAM} runs/photos\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="FILE", help="checkpoint, or run directory, for its latest checkpoint")
    with command(parser.prog, CheckpointError):
        path = resolve_checkpoint(parser.parse_args().path)
        print("\n".join(describe(path, load(path))))


if __name__ == "__main__":
    main()
