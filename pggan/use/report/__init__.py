"""python -m pggan report: a run directory as one self-contained HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...config import ConfigError
from ..options import Commands, add_command
from .page import write_report

__all__ = ["EXAMPLES", "add_parser", "run", "write_final_report", "write_report"]

TEXT = """\
Write a run directory, also one that is still training, as one self-contained HTML page: plan, curves, metrics, sample
grids, options. It needs no network to open.
"""
EXAMPLES = """\
  python -m pggan report runs/faces-128                    writes runs/faces-128/report.html
  python -m pggan report runs/faces-128 --out faces.html
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "report", run, "write a run's report page", TEXT, EXAMPLES)
    p.add_argument("folder", metavar="RUN", help="a run directory")
    p.add_argument("--out", metavar="FILE", help="the page (default: RUN/report.html, written anew each time)")
    p.add_argument("--force", action="store_true", help="overwrite the FILE of --out")


def run(arguments: argparse.Namespace) -> None:
    if arguments.out and Path(arguments.out).exists() and not arguments.force:
        raise ConfigError(f"--out: {arguments.out} exists; give another name, or --force to overwrite it")
    path = write_report(arguments.folder, arguments.out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def write_final_report(folder: str | Path) -> None:
    """The page of a run that has come to its end, which is never spoilt by what goes wrong here."""
    try:
        print(f"report: {write_report(folder)}")
    except Exception as error:
        print(f"no report.html: {type(error).__name__}: {error}", file=sys.stderr)
