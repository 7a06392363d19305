"""State of the explorer's controls, and the image drawn from it. Independent of the web page."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace

import torch
from PIL import Image

from ..networks import fold_weight_scales
from .interpolate import slerp
from .options import MAX_SEED
from .trained import Trained


@dataclass
class View:
    """Values of the explorer's controls, as the browser sends them; `clamp` returns values that can be drawn.

    Attributes:
        seed: seed of the latent.
        towards: seed of the second latent, to interpolate to.
        walk: position between the two latents, 0 (seed) to 1 (towards).
        truncation: psi, 0 to 1.
        level: index of the stage, 0 for 4x4.
        alpha: fade-in weight of the stage's newest block, 0 to 1.
        label: class index; ignored by unconditional generators.
    """

    seed: float | None = 0
    towards: float | None = 1
    walk: float = 0.0
    truncation: float = 1.0
    level: float = 0
    alpha: float = 1.0
    label: int = 0

    def clamp(self, trained: Trained) -> View:
        """Return a view with every value clamped to its range; empty or invalid fields become 0.

        A stage that imported weights lack is replaced by the next higher one. Alpha is 1 if there is no lower stage to
        fade in from.
        """
        wanted = 4 << int(clamp_number(self.level, last_level(trained)))
        resolution = next(r for r in trained.resolutions if r >= wanted)
        label = int(clamp_number(self.label, max(len(trained.classes) - 1, 0)))
        return View(
            int(clamp_number(self.seed, MAX_SEED)),
            int(clamp_number(self.towards, MAX_SEED)),
            clamp_number(self.walk, 1),
            clamp_number(self.truncation, 1),
            resolution.bit_length() - 3,
            clamp_number(self.alpha, 1) if trained.is_grown and resolution // 2 in trained.resolutions else 1.0,
            label if label in trained.drawable else next(iter(trained.drawable), 0),
        )

    @property
    def resolution(self) -> int:
        """Width and height of the image, in pixels."""
        return 4 << int(self.level)

    def file_name(self, trained: Trained) -> str:
        """Return a file name such as seed-3-to-8-at-0.25-psi-0.7-32x32.png; defaults are omitted."""
        parts = [f"seed-{self.seed}"]
        parts += [f"to-{self.towards}-at-{self.walk:g}"] if self.walk else []
        parts += [f"label-{self.label}"] if trained.classes else []
        parts += [f"psi-{self.truncation:g}"] if self.truncation != 1 else []
        parts += [f"{self.resolution}x{self.resolution}"]
        parts += [f"alpha-{self.alpha:g}"] if self.alpha != 1 else []
        return "-".join(parts) + ".png"


def clamp_number(value: float | None, largest: float) -> float:
    """Clamp a number to 0..largest; return 0 for NaN and for anything that is not a number."""
    return (
        min(max(value, 0), largest) if isinstance(value, (int, float)) and value == value else 0
    )  # NaN is unequal to itself


def last_level(trained: Trained) -> int:
    """Return the index of the checkpoint's stage, 0 for 4x4."""
    return trained.resolution.bit_length() - 3


def render_png(trained: Trained, view: View) -> bytes:
    """Return the view as the bytes of a PNG file, at the stage's resolution."""
    a, b = trained.latents([view.seed, view.towards])  # type: ignore[list-item]
    labels = torch.tensor([view.label]) if trained.classes else None
    stage = trained.at(view.resolution, view.alpha)
    latents = slerp(a, b, torch.tensor([view.walk])).to(next(trained.generator.parameters()).device)
    (image,) = stage.draw_batch(latents, labels, view.truncation).numpy()  # `draw` would use one thread only
    # compress_level 1: the fastest; the file only goes to a browser on this machine
    pixels = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def prepare_for_rendering(trained: Trained) -> Trained:
    """Return the same generator, faster at single images, and set the calling thread's number of torch threads.

    Narrow networks and busy machines are faster with one thread, wide networks with all of them: both are timed, and
    the faster one stays.
    """
    trained = replace(trained, generator=fold_weight_scales(trained.generator))
    # alpha and truncation below 1: the slowest view, with both RGB layers and the mean of the features
    view = View(level=last_level(trained), alpha=0.5, truncation=0.5).clamp(trained)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        render_png(trained, view)  # the first image allocates memory and computes the mean features
        start = time.perf_counter()
        for _ in range(3):  # few, since the page opens only after this
            render_png(trained, view)
        return time.perf_counter() - start

    torch.set_num_threads(min({1, torch.get_num_threads()}, key=seconds))  # one candidate only on a single core
    return trained
