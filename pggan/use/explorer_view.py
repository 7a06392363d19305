"""What the explorer shows: a place among a generator's images, and its picture."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace

import torch
from PIL import Image

from ..networks import folded
from .interpolate import slerp
from .options import MAX_SEED
from .trained import Trained


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
        label = int(within(self.label, max(len(trained.classes) - 1, 0)))
        return View(
            int(within(self.seed, MAX_SEED)),
            int(within(self.towards, MAX_SEED)),
            within(self.walk, 1),
            within(self.truncation, 1),
            resolution.bit_length() - 3,
            within(self.alpha, 1) if trained.grew and resolution // 2 in trained.resolutions else 1.0,
            label if label in trained.drawable else next(iter(trained.drawable), 0),
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
