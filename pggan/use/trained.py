"""A trained generator out of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import checkpoints

from ..networks import AnyGenerator, Generator, build, one_hot
from ..networks.progressive import check_resolution
from ..networks.sampling import PIXELS_AT_ONCE, to_uint8
from ..paths import run_folder, with_found_paths

LATENTS_FOR_MEAN = 2000


@dataclass(frozen=True)
class Trained:
    """The EMA generator of a checkpoint, at a stage: by default the one it was saved in.

    Attributes:
        resolution, alpha: that stage. images: real images seen. classes: their names, [] where there are none.
        config: the run's options, paths among them found again from this working directory.
        digest: stands for the images that it was trained on, see `datasets.Pyramid.digest`; "" if not recorded.
        untrained: resolutions whose RGB layer imported weights lack.
        class_counts: training images of each class, [] if the checkpoint does not tell.
    """

    generator: AnyGenerator
    resolution: int
    alpha: float
    images: int
    classes: list[str]
    config: dict[str, Any]
    untrained: frozenset[int] = frozenset()
    class_counts: tuple[int, ...] = ()
    digest: str = ""
    means: dict[int | None, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def at(self, resolution: int | None = None, alpha: float | None = None) -> Trained:
        """The same generator at another stage, stabilised (alpha 1) unless said otherwise.

        The RGB layer of a lower stage is as it was when that stage faded out, the layers below it went on training:
        for a stage as it was in its time, load its own checkpoint.

        Raises:
            ValueError: a stage this checkpoint has not reached, or alpha outside [0, 1].
        """
        resolution = resolution or self.resolution
        if resolution > self.resolution:
            raise ValueError(f"{resolution}x{resolution} is not trained: this checkpoint is at {self.resolution}")
        check_resolution(resolution, self.generator.resolution)
        if alpha is None:
            alpha = self.alpha if resolution == self.resolution else 1.0
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha:g} is outside the range from 0 to 1")
        if lacking := self.untrained & {resolution, *([resolution // 2] if alpha != 1 else [])}:
            raise ValueError(f"{min(lacking)}x{min(lacking)} has no RGB layer: the imported weights lack it")
        if resolution not in self.resolutions:
            raise ValueError(f"{resolution}x{resolution} is not trained: this network has one stage, {self.resolution}")
        if alpha != 1 and not self.grew:
            raise ValueError(f"alpha {alpha:g}: this network did not grow, and nothing in it fades in")
        return replace(self, resolution=resolution, alpha=float(alpha))

    @property
    def grew(self) -> bool:
        """Whether it was trained stage by stage."""
        return self.config.get("arch", "pggan") == "pggan" and bool(self.config.get("growing", True))

    @property
    def resolutions(self) -> list[int]:
        """What it can draw, up to its stage: of a network that never grew, that one alone."""
        if not self.grew and not self.generator.multiscale:
            return [self.resolution]
        return [r for r in self.generator.resolutions if r <= self.resolution and r not in self.untrained]

    def sample(self, count: int, seed: int = 0, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """uint8 images [count, C, resolution, resolution] of the seeds seed, seed + 1, ..., seed + count - 1.

        Args:
            labels: class indices [count] of a conditional generator; None takes each seed's own, see `labels`.
            truncation: see `draw`.
        """
        seeds = range(seed, seed + count)
        return self.draw(self.latents(seeds), self.labels(seeds) if labels is None else labels, truncation)

    @property
    def drawable(self) -> list[int]:
        """Indices of the classes that had training images; of all, if the checkpoint does not tell."""
        return [i for i in range(len(self.classes)) if not self.class_counts or self.class_counts[i]]

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal latents [len(seeds), L], each drawn from its seed alone."""
        size = self.generator.latent_size
        drawn = [np.random.default_rng(seed).standard_normal(size, dtype=np.float32) for seed in seeds]
        return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, size)

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """Class indices [len(seeds)], all drawable classes equally likely, each drawn from its seed alone; or None."""
        classes = self.drawable
        if not classes:
            return None
        return torch.tensor([classes[np.random.default_rng((seed, 1)).integers(len(classes))] for seed in seeds])

    @torch.no_grad()
    def draw(self, latents: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Latents [N, L] (and class indices [N]) -> uint8 images [N, C, resolution, resolution] on the CPU.

        On a CPU an image has the same bits whatever else is drawn with it; on a GPU the batch may move a few pixels
        by one grey level.

        Args:
            truncation: psi in [0, 1]; below 1 images are more typical and less varied. These generators have no
                mapping network, and pixel norm undoes any scaling of the latent, so the first layer's feature maps
                are moved towards their mean (for a conditional generator, their mean for the label): what StyleGAN
                (Karras et al. 2019, section 2) does to W. At 0 all images are the same.
        """
        device = next(self.generator.parameters()).device
        at_once = 1 if device.type == "cpu" else max(PIXELS_AT_ONCE // self.resolution**2, 1)
        parts = []
        threads = torch.get_num_threads()
        if device.type == "cpu":  # the number of threads changes bits, and many wait for one another at single images
            torch.set_num_threads(1)
        try:
            for start in range(0, len(latents), at_once):
                chosen = slice(start, start + at_once)
                classes = None if labels is None else labels[chosen].to(device)
                parts.append(self.draw_batch(latents[chosen].to(device), classes, truncation))
        finally:
            torch.set_num_threads(threads)
        empty = torch.zeros(0, self.generator.channels, self.resolution, self.resolution, dtype=torch.uint8)
        return torch.cat(parts) if parts else empty

    def draw_batch(self, latents: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """As `draw`, all at once, from and with tensors on the generator's device."""
        features = self.generator.features(latents, one_hot(labels, self.generator.label_size))
        if truncation != 1:
            means = [self.mean_features(label) for label in ([None] if labels is None else labels.tolist())]
            features = torch.lerp(torch.cat(means).expand_as(features), features, truncation)
        return to_uint8(self.generator.images(features, self.resolution, self.alpha)).cpu()

    def mean_features(self, label: int | None) -> Tensor:
        """The first layer's feature maps averaged over latents, [1, nf(1), 4, 4]."""
        if label not in self.means:
            z = self.latents(range(LATENTS_FOR_MEAN)).to(next(self.generator.parameters()).device)
            y = None if label is None else torch.full((len(z),), label, device=z.device)
            features = self.generator.features(z, one_hot(y, self.generator.label_size))
            self.means[label] = features.mean(dim=0, keepdim=True)
        return self.means[label]


def load(path: str | os.PathLike, device: torch.device | str = "cpu") -> Trained:
    """The trained generator of a checkpoint, or of a run directory's latest one. Runs nothing that is in the file.

    Raises:
        checkpoints.CheckpointError: no checkpoint, or a damaged one.
    """
    path = checkpoints.newest(path)
    content = checkpoints.load(path)
    try:
        with torch.device("meta"):
            generator = build("generator", content["networks"]["generator"])
        untrained = load_or_leave_out(generator, content["state"]["G_ema"])
        stage = content["stage"]
        trained = Trained(
            generator.to(device, memory_format=torch.channels_last).eval().requires_grad_(False),
            int(stage["resolution"]),
            float(stage["alpha"]),
            int(content["images"]),
            [str(name) for name in content.get("classes", [])],
            with_found_paths(content["config"], run_folder(path)),
            untrained,
            tuple(int(count) for count in content.get("class_counts", [])),
            str(content.get("data", "")),
        ).at()
        if len(trained.classes) != generator.label_size:
            raise ValueError(f"{len(trained.classes)} classes for {generator.label_size} labels")
        if len(trained.class_counts) not in (0, len(trained.classes)):
            raise ValueError(f"{len(trained.class_counts)} class counts for {len(trained.classes)} classes")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        reason = (str(error) or "it is damaged").splitlines()[0]
        raise checkpoints.CheckpointError(f"{path} does not fit its networks: {reason}") from None
    return trained


def load_or_leave_out(generator: AnyGenerator, state: dict[str, Tensor]) -> frozenset[int]:
    """Give a generator without storage (device meta) its weights.

    Returns:
        Resolutions whose RGB layer is not among them, as in imported weights; it gets zeros.

    Raises:
        RuntimeError: something else is missing, too much, or of another shape.
    """
    state = dict(state)
    untrained = set()
    heads = generator.to_rgb[:-1] if isinstance(generator, Generator) else ()
    for level, head in enumerate(heads):
        names = {f"to_rgb.{level}.{name}": parameter for name, parameter in head.named_parameters()}
        if not names.keys() & state.keys():
            state |= {name: torch.zeros(parameter.shape) for name, parameter in names.items()}
            untrained.add(4 << level)
    generator.load_state_dict(state, assign=True)
    return frozenset(untrained)
