"""python -m pggan explore: a local page that draws a trained generator's images as its sliders are moved."""

from __future__ import annotations

import argparse
import io
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from checkpoints import newest

from ..config import ConfigError
from ..networks import folded
from ..training.device import choose_device
from .interpolate import slerp
from .options import MAX_SEED, Commands, add_checkpoint, add_command, add_device, whole_number
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


@dataclass
class View:
    """What is being looked at. Whatever a page sends may stand here; `checked` makes it drawable.

    Attributes:
        seed, towards: of the two latents. walk: from seed (0) to towards (1).
        truncation, alpha: 0 to 1. level: stage, from 0 for 4x4. label: class index.
    """

    seed: float | None = 0
    towards: float | None = 1
    walk: float = 0.0
    truncation: float = 1.0
    level: float = 0
    alpha: float = 1.0
    label: int = 0

    def checked(self, trained: Trained) -> View:
        """Every number within its range, the stage one that can be drawn; an empty field is 0."""
        wanted = 4 << int(within(self.level, top_level(trained)))
        resolution = next(r for r in trained.resolutions if r >= wanted)
        return View(
            int(within(self.seed, MAX_SEED)),
            int(within(self.towards, MAX_SEED)),
            within(self.walk, 1),
            within(self.truncation, 1),
            resolution.bit_length() - 3,
            within(self.alpha, 1) if trained.grew and resolution // 2 in trained.resolutions else 1.0,
            int(within(self.label, max(len(trained.classes) - 1, 0))),
        )

    @property
    def resolution(self) -> int:
        return 4 << int(self.level)

    def file_name(self, trained: Trained) -> str:
        """As in seed-3-to-8-at-0.25-psi-0.7-32x32.png."""
        parts = [f"seed-{self.seed}"]
        parts += [f"to-{self.towards}-at-{self.walk:g}"] if self.walk else []
        parts += [f"label-{self.label}"] if trained.classes else []
        parts += [f"psi-{self.truncation:g}"] if self.truncation != 1 else []
        parts += [f"{self.resolution}x{self.resolution}"]
        parts += [f"alpha-{self.alpha:g}"] if self.alpha != 1 else []
        return "-".join(parts) + ".png"


def within(value: float | None, largest: float) -> float:
    """The number, moved into 0..largest; what is none is 0."""
    return min(max(value, 0), largest) if isinstance(value, (int, float)) and value == value else 0


def top_level(trained: Trained) -> int:
    """The index of the stage's resolution, 0 for 4x4."""
    return trained.resolution.bit_length() - 3


def picture(trained: Trained, view: View) -> bytes:
    """The view as a PNG file of the stage's own size."""
    a, b = trained.latents([view.seed, view.towards])  # type: ignore[list-item]
    labels = torch.tensor([view.label]) if trained.classes else None
    stage = trained.at(view.resolution, view.alpha)
    latents = slerp(a, b, torch.tensor([view.walk])).to(next(trained.generator.parameters()).device)
    (image,) = stage.draw_batch(latents, labels, view.truncation).numpy()  # `draw` keeps to one thread
    pixels = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def prepared(trained: Trained) -> Trained:
    """The same generator, quick at single images and warm, for the calling thread.

    Narrow networks and busy machines are quicker with one of torch's threads, wide networks with all: what is quicker
    at the start stays.
    """
    trained = replace(trained, generator=folded(trained.generator))
    view = View(level=top_level(trained), alpha=0.5, truncation=0.5).checked(trained)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        picture(trained, view)
        start = time.perf_counter()
        for _ in range(3):
            picture(trained, view)
        return time.perf_counter() - start

    torch.set_num_threads(min({1, torch.get_num_threads()}, key=seconds))
    return trained


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
    """As in "faces-128, 1200 kimg"."""
    folder = path.resolve().parent
    name = folder.parent.name if folder.name == "checkpoints" else path.name
    return f"{name}, {trained.images / 1000:g} kimg"


def free_port(port: int | None) -> int:
    """The port, if nobody has it; any free one for None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise ConfigError(f"--port: {port} cannot be used: {error.strerror}; leave it out for a free one") from None
        return probe.getsockname()[1]
