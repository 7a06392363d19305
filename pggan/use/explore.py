"""python -m pggan explore: interactive page for a trained generator, served on this machine."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from pggan.checkpoints import resolve_checkpoint

from ..config import ConfigError
from ..training.device import choose_device
from .options import Commands, add_checkpoint, add_command, add_device, int_parser
from .trained import Trained, load

TEXT = """\
Serve an interactive page for a trained generator on this machine (127.0.0.1 only).

Its controls are seed, class, truncation, stage, alpha, and interpolation toward another seed. Needs NiceGUI:
pip install nicegui
"""
EXAMPLES = """\
  python -m pggan explore runs/faces-128                               # opens the page; stop with Ctrl-C
  python -m pggan explore runs/faces-128/checkpoints/stage-0064.pt
  python -m pggan explore latest.pt --port 8080 --no-open              # for a browser on another machine, over ssh -L
"""


def add_parser(commands: Commands) -> None:
    p = add_command(commands, "explore", run, "interactive page in the browser", TEXT, EXAMPLES)
    add_checkpoint(p)
    p.add_argument(
        "--port", type=int_parser(1, 65535), metavar="N", help="TCP port, 1 to 65535 (default: any free port)"
    )
    p.add_argument("--no-open", action="store_true", help="print the address without opening a browser")
    add_device(p)


def run(arguments: argparse.Namespace) -> None:
    try:
        from .explorer_page import serve  # here, since it imports NiceGUI
    except ImportError as error:
        raise ConfigError(f"explore needs NiceGUI ({error}): pip install nicegui") from None
    path = resolve_checkpoint(arguments.checkpoint)  # resolved here as well, since the title needs it
    trained = load(path, choose_device(arguments.device))
    serve(trained, format_title(path, trained), find_free_port(arguments.port), not arguments.no_open)


def format_title(path: Path, trained: Trained) -> str:
    """Return the page's title, such as "faces-128, 1200 kimg".

    The name is the run directory's, or the file's outside one; imported weights have no number of images.
    """
    folder = path.resolve().parent
    name = folder.parent.name if folder.name == "checkpoints" else path.name
    return f"{name}, {trained.images / 1000:g} kimg" if trained.images else name


def find_free_port(port: int | None) -> int:
    """Return `port` if it can be bound on 127.0.0.1, or any free port for None.

    Raises:
        ConfigError: the port is in use, or reserved for other users.
    """
    with socket.socket() as probe:
        # As the server will do: a port whose last connection closed a minute ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise ConfigError(
                f"--port: cannot use port {port}: {error.strerror}; omit --port to use any free port"
            ) from None
        return probe.getsockname()[1]
