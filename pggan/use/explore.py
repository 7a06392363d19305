"""python -m pggan explore: a local page that draws a trained generator's images as its sliders are moved."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from checkpoints import newest

from ..config import ConfigError
from ..training.device import choose_device
from .options import Commands, add_checkpoint, add_command, add_device, whole_number
from .trained import Trained, load

TEXT = """\
Open a page on this machine (127.0.0.1) with sliders for seed, truncation, stage, alpha and a walk towards another seed.

Needs NiceGUI: pip install nicegui
"""
EXAMPLES = """\
  python -m pggan explore runs/faces-128                               opens the page; Ctrl-C ends it
  python -m pggan explore runs/faces-128/checkpoints/stage-0064.pt
  python -m pggan explore latest.pt --port 8080 --no-open              for a browser elsewhere, through an ssh tunnel
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "explore", run, "open a local page with sliders", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument("--port", type=whole_number(1, 65535), metavar="N", help="1 to 65535 (default: any free one)")
    p.add_argument("--no-open", action="store_true", help="only print the address, open no browser")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    try:
        from .explorer_page import serve
    except ImportError as error:
        raise ConfigError(f"explore needs NiceGUI ({error}): pip install nicegui") from None
    path = newest(arguments.checkpoint)
    trained = load(path, choose_device(arguments.device))
    serve(trained, title(path, trained), free_port(arguments.port), not arguments.no_open)


def title(path: Path, trained: Trained) -> str:
    """As in "faces-128, 1200 kimg"; of imported weights the name alone."""
    folder = path.resolve().parent
    name = folder.parent.name if folder.name == "checkpoints" else path.name
    return f"{name}, {trained.images / 1000:g} kimg" if trained.images else name


def free_port(port: int | None) -> int:
    """The port, if nobody has it; any free one for None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise ConfigError(f"--port: {port} cannot be used: {error.strerror}; leave it out for a free one") from None
        return probe.getsockname()[1]
