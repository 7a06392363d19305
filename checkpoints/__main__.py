"""python -m checkpoints FILE: say what a checkpoint or a run directory's latest one holds."""

from __future__ import annotations

import argparse
import signal
import sys

from .describe import describe
from .file import CheckpointError, newest
from .formats import load


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        prog="python -m checkpoints", description="Say what a checkpoint holds. Nothing in the file is run."
    )
    parser.add_argument("path", metavar="FILE", help="a checkpoint, or a run directory for its latest")
    try:
        path = newest(parser.parse_args().path)
        print("\n".join(describe(path, load(path))))
    except CheckpointError as error:
        print(f"python -m checkpoints: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
