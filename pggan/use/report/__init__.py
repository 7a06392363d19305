"""python -m pggan report: summarize a run as one self-contained HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...config import ConfigError
from ..options import Commands, add_command
from .page import write_report

__all__ = ["EXAMPLES", "add_parser", "run", "write_final_report", "write_report"]

TEXT = """\
Summarize a run, finished or still training, as one self-contained HTML page that opens without a network connection.

The page shows sample grids, the training schedule, curves, metrics, training health and all options.
"""
EXAMPLES = """\
  python -m pggan report runs/faces-128                    # writes runs/faces-128/report.html
  python -m pggan report runs/faces-128 --out faces.html
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "report", run, "summarize a run as an HTML page", TEXT, EXAMPLES)
    p.add_argument("folder", metavar="RUN", help="run directory, finished or still training")
    p.add_argument("--out", metavar="FILE", help="output file (default: RUN/report.html, always overwritten)")
    p.add_argument("--force", action="store_true", help="overwrite the file specified by --out")


def run(arguments: argparse.Namespace) -> None:
    if arguments.out and Path(arguments.out).exists() and not arguments.force:
        raise ConfigError(f"--out: {arguments.out} already exists; choose another name, or add --force to overwrite it")
    path = write_report(arguments.folder, arguments.out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def write_final_report(folder: str | Path) -> None:
    """Write the report of a finished run; if that fails, print the reason, since the run itself has succeeded."""
    try:
        print(f"report: {write_report(folder)}")
    except Exception as error:  # anything: a bug in the page must not make a finished run look failed
        print(f"report.html was not written: {type(error).__name__}: {error}", file=sys.stderr)
