"""The growth controller: from the number of images seen to what is trained, and how (paper, section 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..config import ConfigError, PerStage, TrainConfig
from ..networks.progressive import check_resolution


@dataclass(frozen=True)
class Phase:
    """What holds at one moment of the run.

    Attributes:
        resolution: side of the images trained on, in pixels.
        alpha: weight of the newest block, in [0, 1]; 1 when the stage is stabilising.
        batch_size: images per step. lr: learning rate of the generator, and of the discriminator without d_lr.
        tick: images between two log lines. d_lr: the discriminator's own learning rate.
        micro_batch: images that a process computes at once; None means all of its own.
    """

    resolution: int
    alpha: float
    batch_size: int
    lr: float
    tick: int
    d_lr: float | None = None
    micro_batch: int | None = None

    @property
    def fading(self) -> bool:
        return self.alpha < 1

    @property
    def lrs(self) -> tuple[float, float]:
        """Of the discriminator and the generator."""
        return self.lr if self.d_lr is None else self.d_lr, self.lr

    def slowed(self, factor: float) -> Phase:
        """With all learning rates times a factor."""
        return replace(self, lr=self.lr * factor, d_lr=None if self.d_lr is None else self.d_lr * factor)


@dataclass(frozen=True)
class Row:
    """One line of the plan: a stage fading in or stabilising, in images seen."""

    resolution: int
    fading: bool
    start: int
    end: int
    batch_size: int
    lr: float


class GrowthController:
    """The official schedule: 4x4 stabilises, then each stage fades in and stabilises, the last one to the end.

    A pure function of the number of images seen, looked at once every `repeats` steps.

    Raises:
        ConfigError: a plan that cannot be carried out.
    """

    def __init__(self, config: TrainConfig):
        try:
            self.top = check_resolution(config.resolution) - 2
        except ValueError as error:
            raise ConfigError(f"--resolution: {error}") from None
        self.config = config
        self.fade, self.stabilize = round(config.fade_kimg * 1000), round(config.stabilize_kimg * 1000)
        self.stage_length = self.fade + self.stabilize
        reached = self.top * self.stage_length
        total = reached + self.stabilize if config.total_kimg is None else round(config.total_kimg * 1000)
        if total <= reached:
            raise ConfigError(
                f"--total-kimg: {total / 1000:g} is too short to reach {config.resolution}x{config.resolution}, which "
                f"has faded in after {reached / 1000:g}; raise it, or lower --fade-kimg and --stabilize-kimg"
            )
        self.total_images = total
        group = config.repeats * max(config.batch_size.values())
        if self.top and self.stage_length < group:
            raise ConfigError(
                f"--fade-kimg, --stabilize-kimg: a stage of {self.stage_length} images would be skipped by steps of "
                f"{group} (batch size times --repeats); make stages longer"
            )
        for option in ("batch_size", "micro_batch", "lr", "d_lr", "tick_kimg"):
            for resolution in getattr(config, option) or ():
                if resolution not in self.resolutions:
                    raise ConfigError(
                        f"--{option.replace('_', '-')}: there is no stage {resolution}; the stages are "
                        f"{', '.join(map(str, self.resolutions))}"
                    )
        for batch in config.batch_size.values():
            group = min(batch, config.mbstd_group)
            if batch % group:
                raise ConfigError(f"--batch-size: {batch} is not a multiple of --mbstd-group {group}")
        for phase in map(self.phase, map(self.stage_end, self.resolutions)):
            at_once, group = phase.micro_batch or phase.batch_size, min(phase.batch_size, config.mbstd_group)
            if at_once < phase.batch_size and at_once % group:
                raise ConfigError(f"--micro-batch: {at_once} is not a multiple of --mbstd-group {group}")

    @property
    def resolutions(self) -> list[int]:
        return [4 << level for level in range(self.top + 1)]

    def phase(self, images: int) -> Phase:
        """What is trained after so many images. A fade's first moment still belongs to the stage before it."""
        level = min(images // self.stage_length, self.top)
        into = images - level * self.stage_length
        alpha = 1.0
        if level < self.top and into > self.stabilize:
            level += 1
            alpha = (into - self.stabilize) / self.fade
        resolution = 4 << level
        return Phase(
            resolution=resolution,
            alpha=alpha,
            batch_size=at(self.config.batch_size, resolution),
            lr=at(self.config.lr, resolution),
            tick=max(round(at(self.config.tick_kimg, resolution) * 1000), 1),
            d_lr=None if self.config.d_lr is None else at(self.config.d_lr, resolution),
            micro_batch=None if self.config.micro_batch is None else at(self.config.micro_batch, resolution),
        )

    def images_after(self, images: int) -> int:
        """Images seen at the next look at the schedule."""
        return images + self.config.repeats * self.phase(images).batch_size

    def resets_optimizers(self, before: int, after: int) -> bool:
        """Adam starts anew at the start and at the end of every fade (official code)."""
        a, b = self.phase(before), self.phase(after)
        return (a.resolution, a.fading) != (b.resolution, b.fading)

    def stage_end(self, resolution: int) -> int:
        """Images seen when a stage has stabilised."""
        level = self.resolutions.index(resolution)
        return self.total_images if level == self.top else level * self.stage_length + self.stabilize

    def ends_stage(self, before: int, after: int) -> bool:
        return before < self.stage_end(self.phase(before).resolution) <= after

    def position(self, resolution: int, alpha: float) -> int:
        """Images seen where a plan like this one first trains at (resolution, alpha), or has stabilised it (alpha 1).

        At the last resolution, where it begins to stabilise.
        """
        level = self.resolutions.index(resolution)
        start = level * self.stage_length
        if alpha < 1:
            return start - self.fade + round(alpha * self.fade)
        return start if level == self.top else start + self.stabilize

    def rows(self) -> Iterator[Row]:
        """The plan, in order."""
        start = 0
        for resolution in self.resolutions:
            for fading in (True, False):
                length = self.fade if fading else self.stabilize
                end = start + length if fading else self.stage_end(resolution)
                if (resolution > 4 or not fading) and end > start:
                    yield Row(
                        resolution, fading, start, end,
                        at(self.config.batch_size, resolution), at(self.config.lr, resolution),
                    )  # fmt: skip
                    start = end


def at(table: PerStage, resolution: int) -> float:
    """A table's number for a resolution: the entry nearest below."""
    return table[max(r for r in table if r <= resolution)]


def crosses(before: int, after: int, every: float) -> bool:
    """Whether a multiple of `every` images lies in (before, after]."""
    return int(after // every) > int(before // every)
