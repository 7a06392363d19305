"""python -m pggan report: a run directory as one self-contained HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...config import ConfigError
from .page import write_report

__all__ = ["add_parser", "report", "write_report"]

EXAMPLES = """examples:
  python -m pggan report runs/faces-128                    writes runs/faces-128/report.html
  python -m pggan report runs/faces-128 --out faces.html
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser(
        "report",
        help="write a run's report page",
        description="Write a run directory, also one that is still training, as one self-contained HTML page: plan, "
        "curves, metrics, sample grids, config. It needs no network to open.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", metavar="RUN", help="a run directory")
    p.add_argument("--out", metavar="FILE", help="the page (default: RUN/report.html, written anew each time)")
    p.add_argument("--force", action="store_true", help="overwrite the FILE of --out")
    p.set_defaults(run=report)


def report(arguments: argparse.Namespace) -> None:
    if arguments.out and Path(arguments.out).exists() and not arguments.force:
        raise ConfigError(f"--out: {arguments.out} exists; give another name, or --force to overwrite it")
    path = write_report(arguments.folder, arguments.out)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
