"""Load a trained generator from a checkpoint and generate images with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pggan import checkpoints

from ..config import TrainConfig
from ..networks import AnyGenerator, Generator, build, to_one_hot
from ..networks.progressive import check_resolution
from ..networks.sampling import MAX_PIXELS, to_uint8
from ..paths import find_run_folder, relocate_paths
from ..training.growth import GrowthController
from ..training.state import check_type

LATENTS_FOR_MEAN = 2000  # their mean features are off by 2% (1/sqrt(2000)) of one standard deviation


@dataclass(frozen=True)
class Trained:
    """The EMA generator of a checkpoint, at a stage; `load` returns it at the stage it was saved at.

    Attributes:
        resolution: the stage's resolution.
        alpha: fade-in weight of the stage's newest block, 0 to 1; 1 outside a fade-in.
        images: number of real images seen in training.
        classes: class names, [] for an unconditional generator.
        config: the run's options; paths are their present locations (`paths.relocate_paths`).
        untrained: resolutions whose RGB layer is missing from imported weights.
        class_counts: training images per class, () if the checkpoint does not record them.
        digest: identifies the training images, see `datasets.Pyramid.compute_digest`; "" if not recorded.
        mean_cache: cache of `compute_mean_features`, by label; shared by all stages of a generator.
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
    mean_cache: dict[int | None, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def at(self, resolution: int | None = None, alpha: float | None = None) -> Trained:
        """Return the same generator at another stage.

        A lower stage's RGB layer has not been trained since that stage faded out, while the layers below it have been.
        For the images a stage produced at its end, load checkpoints/stage-RESOLUTION.pt instead.

        Args:
            resolution: a power of two up to this stage's resolution, which is the default.
            alpha: 0 to 1; by default this stage's, or 1 at a lower resolution.

        Raises:
            ValueError: the stage was not trained, or alpha is outside [0, 1].
        """
        resolution = resolution or self.resolution
        if resolution > self.resolution:
            raise ValueError(
                f"{resolution}x{resolution} was not trained: this checkpoint is at {self.resolution}x{self.resolution}"
            )
        check_resolution(resolution, self.generator.resolution)
        if alpha is None:
            alpha = self.alpha if resolution == self.resolution else 1.0
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha {alpha:g} is outside the range from 0 to 1")
        # a fade-in also needs the RGB layer of the stage below
        if lacking := self.untrained & {resolution, *([resolution // 2] if alpha != 1 else [])}:
            raise ValueError(f"{min(lacking)}x{min(lacking)} has no RGB layer: it was not in the imported weights")
        if resolution not in self.resolutions:
            raise ValueError(
                f"{resolution}x{resolution} was not trained: this network has one stage, {self.resolution}"
            )
        if alpha != 1 and not self.is_grown:
            raise ValueError(f"alpha {alpha:g}: this network was not grown progressively, so only alpha 1 exists")
        return replace(self, resolution=resolution, alpha=float(alpha))

    @property
    def is_grown(self) -> bool:
        """Whether the network was grown progressively, stage by stage."""
        return self.config.get("arch", "pggan") == "pggan" and bool(self.config.get("growing", True))

    @property
    def resolutions(self) -> list[int]:
        """Resolutions it can generate, in ascending order; only one if the network has a single output."""
        if not self.is_grown and not self.generator.multiscale:
            return [self.resolution]
        return [r for r in self.generator.resolutions if r <= self.resolution and r not in self.untrained]

    def sample(self, count: int, seed: int = 0, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Generate images of the seeds from `seed` to `seed + count - 1`.

        Args:
            labels: class indices [count] for a conditional generator; None derives each from its seed, see `labels`.
            truncation: psi, 0 to 1, see `draw`.

        Returns:
            uint8 [count, C, resolution, resolution] on the CPU.
        """
        seeds = range(seed, seed + count)
        return self.draw(self.latents(seeds), self.labels(seeds) if labels is None else labels, truncation)

    @property
    def drawable(self) -> list[int]:
        """Indices of the classes that had training images; of all classes if the checkpoint does not record it."""
        return [i for i in range(len(self.classes)) if not self.class_counts or self.class_counts[i]]

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """Return standard normal latents [len(seeds), L]; each depends on its seed only, not on the others."""
        size = self.generator.latent_size
        drawn = [np.random.default_rng(seed).standard_normal(size, dtype=np.float32) for seed in seeds]
        return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, size)

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """Return class indices [len(seeds)], uniform over classes with training images, each from its seed only.

        None for an unconditional generator.
        """
        classes = self.drawable
        if not classes:
            return None
        # (seed, 1): a stream apart from the one the seed's latent is drawn from
        return torch.tensor([classes[np.random.default_rng((seed, 1)).integers(len(classes))] for seed in seeds])

    def draw(self, latents: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Generate images from latents.

        On a CPU an image is bit-identical whichever others are generated with it. On a GPU the batch size may change a
        few pixels by one gray level.

        Args:
            latents: [N, L].
            labels: class indices [N]; required for a conditional generator.
            truncation: psi, 0 to 1; below 1 images are more typical and less varied, at 0 they are all the same.
                Truncating the latent itself has no effect, since pixel norm undoes any scaling, and there is no mapping
                network. Instead the first layer's feature maps are interpolated toward their mean (for a conditional
                generator, the label's mean), as StyleGAN does with W (Karras et al. 2019, appendix B).

        Returns:
            uint8 [N, C, resolution, resolution] on the CPU.
        """
        device = next(self.generator.parameters()).device
        on_cpu = device.type == "cpu"
        # One image at a time on a CPU: convolutions round differently for different batch sizes.
        at_once = 1 if on_cpu else max(MAX_PIXELS // self.resolution**2, 1)

        def draw_part(start: int) -> Tensor:
            chosen = slice(start, start + at_once)
            classes = None if labels is None else labels[chosen].to(device)
            with torch.no_grad():  # each thread has its own setting
                return self.draw_batch(latents[chosen].to(device), classes, truncation)

        # On a CPU, one thread per image, several images at a time: the threads within an operation change its rounding.
        cores = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                if on_cpu:
                    torch.set_num_threads(1)
                parts = list((pool.map if on_cpu else map)(draw_part, range(0, len(latents), at_once)))
        finally:
            torch.set_num_threads(cores)
        empty = torch.zeros(0, self.generator.channels, self.resolution, self.resolution, dtype=torch.uint8)
        return torch.cat(parts) if parts else empty

    def draw_batch(self, latents: Tensor, labels: Tensor | None, truncation: float) -> Tensor:
        """Generate images of latents [N, L] in one batch; see `draw`, which bounds the memory this needs.

        Latents and labels must be on the generator's device; the result is on the CPU.
        """
        features = self.generator.features(latents, to_one_hot(labels, self.generator.label_size))
        if truncation != 1:
            means = [self.compute_mean_features(label) for label in ([None] if labels is None else labels.tolist())]
            features = torch.lerp(torch.cat(means).expand_as(features), features, truncation)
        return to_uint8(self.generator.images(features, self.resolution, self.alpha)).cpu()

    def compute_mean_features(self, label: int | None) -> Tensor:
        """Return the first layer's feature maps for a label, averaged over latents: [1, nf(1), 4, 4]."""
        if label not in self.mean_cache:  # computed once per class, when truncation is first used
            z = self.latents(range(LATENTS_FOR_MEAN)).to(next(self.generator.parameters()).device)
            y = None if label is None else torch.full((len(z),), label, device=z.device)
            features = self.generator.features(z, to_one_hot(y, self.generator.label_size))
            self.mean_cache[label] = features.mean(dim=0, keepdim=True)
        return self.mean_cache[label]


def load(path: str | os.PathLike, device: torch.device | str = "cpu") -> Trained:
    """Load the trained EMA generator of a checkpoint. No code in the file is executed.

    Args:
        path: a checkpoint (.pt or .safetensors), or a run directory, whose latest checkpoint is loaded.
        device: where to put the generator.

    Raises:
        pggan.checkpoints.CheckpointError: there is no checkpoint, or it is damaged.
    """
    path = checkpoints.resolve_checkpoint(path)
    content = checkpoints.load(path)
    try:
        # Without storage: sizes from a damaged or malicious file would otherwise be allocated before they are checked.
        with torch.device("meta"):
            generator = build("generator", content["networks"]["generator"])
        untrained = load_available_weights(generator, content["state"]["G_ema"])
        stage = content["stage"]
        trained = Trained(
            # channels_last: the layout in which this project's convolutions are fastest
            generator.to(device, memory_format=torch.channels_last).eval().requires_grad_(False),
            int(stage["resolution"]),
            float(stage["alpha"]),
            int(content["images"]),
            [str(name) for name in content.get("classes", [])],
            relocate_paths(content["config"], find_run_folder(path)),
            untrained,
            tuple(int(count) for count in content.get("class_counts", [])),
            str(content.get("data", "")),
        ).at()  # checks the stage
        if len(trained.classes) != generator.label_size:
            raise ValueError(
                f"it has {len(trained.classes)} class names, but its generator has {generator.label_size} classes"
            )
        if len(trained.class_counts) not in (0, len(trained.classes)):
            raise ValueError(f"it has {len(trained.class_counts)} class counts for {len(trained.classes)} classes")
    # whatever a file with wrong types, missing keys or weights of other shapes leads to
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        reason = (str(error) or "it is damaged").splitlines()[0]
        raise checkpoints.CheckpointError(f"{path} is damaged, or was written by another version: {reason}") from None
    return trained


def read_plan(config: dict[str, Any], content: dict[str, Any]) -> GrowthController | None:
    """Return the schedule of a checkpoint's run, with the ends that adaptive growth or --budget decided on.

    None if this version cannot read the run's options, or if imported weights have none.
    """
    try:
        ends = content["state"].get("stage_ends", {})
        check_type("stage_ends", ends, {})
        return GrowthController(TrainConfig(**config), ends)
    except (TypeError, ValueError):  # an unknown or invalid option
        return None


def load_available_weights(generator: AnyGenerator, state: dict[str, Tensor]) -> frozenset[int]:
    """Load weights into a generator on the meta device, allowing for missing RGB layers of lower stages.

    Returns:
        Resolutions whose RGB layer is missing, as in some imported weights; the layer is filled with zeros.

    Raises:
        RuntimeError: any other weight is missing, unexpected, or has another shape.
    """
    state = dict(state)
    untrained = set()
    # The last RGB layer must be there; the other architectures have one output only.
    heads = generator.to_rgb[:-1] if isinstance(generator, Generator) else ()
    for level, head in enumerate(heads):
        names = {f"to_rgb.{level}.{name}": parameter for name, parameter in head.named_parameters()}
        if not names.keys() & state.keys():
            state |= {name: torch.zeros(parameter.shape) for name, parameter in names.items()}
            untrained.add(4 << level)
    generator.load_state_dict(state, assign=True)  # assign: parameters on the meta device cannot be copied to
    return frozenset(untrained)
