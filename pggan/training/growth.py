"""The growth controller: from the number of images seen to resolution, alpha, batch size and learning rate.

Karras et al. 2018, section 2 and figure 2; stage lengths as in their released code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..config import ConfigError, Number, PerStage, TrainConfig, option_name
from ..networks.progressive import check_resolution


@dataclass(frozen=True)
class Phase:
    """The state of the schedule at one moment of the run.

    Attributes:
        resolution: side of the training images in pixels.
        alpha: weight of the newest block, in [0, 1]; 1 while the stage stabilizes.
        batch_size: images per step, over all ranks.
        lr: learning rate of the generator, and of the discriminator unless d_lr is set.
        tick_images: images between two log lines. d_lr: the discriminator's learning rate.
        micro_batch: images per forward/backward pass on each rank; None: its whole share of the batch.
        burn_in: weight of the values that --burn-in-kimg begins with: 1 at the start, 0 at its end; lr and d_lr have it
            already, and --decay-kimg too.
    """

    resolution: int
    alpha: float
    batch_size: int
    lr: float
    tick_images: int
    d_lr: float | None = None
    micro_batch: int | None = None
    burn_in: float = 0.0

    @property
    def is_fading(self) -> bool:
        return self.alpha < 1

    @property
    def d_and_g_lr(self) -> tuple[float, float]:
        """Learning rates of (discriminator, generator)."""
        return self.lr if self.d_lr is None else self.d_lr, self.lr

    def scale_lr(self, factor: float) -> Phase:
        """Return the phase with all learning rates multiplied by a factor."""
        return replace(self, lr=self.lr * factor, d_lr=None if self.d_lr is None else self.d_lr * factor)


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan: a stage fading in or stabilizing, from `start` to `end` images seen."""

    resolution: int
    is_fading: bool
    start: int
    end: int
    batch_size: int
    lr: float


class GrowthController:
    """The official schedule: 4x4 stabilizes, then each stage fades in and stabilizes, the last one to the end.

    A pure function of the number of images seen, evaluated once every `repeats` steps. Networks that do not grow have
    a single stage at the final resolution.

    Args:
        ends: resolution -> images seen when adaptive growth ended that stage, or when --budget ends the last one; other
            stages end as planned.

    Attributes:
        decay_images: images over which --decay-kimg lowers the learning rates; with --budget they scale with the length
            of the last stage.

    Raises:
        ConfigError: the plan is impossible.
    """

    def __init__(self, config: TrainConfig, ends: Mapping[int, int] | None = None):
        try:
            levels = check_resolution(config.resolution) - 2
        except ValueError as error:
            raise ConfigError(f"--resolution: {error}") from None
        self.config = config
        self.resolutions = [4 << level for level in range(levels + 1)] if config.is_growing else [config.resolution]
        self.last_stage = len(self.resolutions) - 1
        fades, stables = (
            [round(value_at(table, resolution) * 1000) for resolution in self.resolutions]
            for table in (config.fade_kimg, config.stabilize_kimg)
        )
        self.fades = [0, *fades[1:]]  # images during which each stage fades in; the first one does not
        reached = sum(self.fades) + sum(stables[:-1])
        total = reached + stables[-1] if config.total_kimg is None else round(config.total_kimg * 1000)
        if total <= reached:
            raise ConfigError(
                f"--total-kimg: {total / 1000:g} is too short to reach {config.resolution}x{config.resolution}, whose "
                f"fade-in ends at {reached / 1000:g}; raise it, or lower --fade-kimg and --stabilize-kimg"
            )
        self.check_lengths([*stables[:-1], total - reached])
        # images seen when each stage starts to fade in, when it has faded in, and when it ends
        self.fade_starts, self.fade_ends, self.stage_ends = [0], [0], []
        for resolution, stable, fade in zip(self.resolutions[:-1], stables[:-1], self.fades[1:], strict=True):
            self.stage_ends.append((ends or {}).get(resolution, self.fade_ends[-1] + stable))
            self.fade_starts.append(self.stage_ends[-1])
            self.fade_ends.append(self.stage_ends[-1] + fade)
        self.total_images = (ends or {}).get(self.resolutions[-1], total)
        self.stage_ends.append(self.total_images)
        self.decay_images = config.decay_kimg * 1000
        if config.budget:  # the same fraction of the last stage, wherever it ends
            planned = total - (reached - self.fades[-1])
            self.decay_images *= (self.total_images - self.fade_starts[-1]) / planned
        self.check_config(config)

    def check_lengths(self, stables: Sequence[int]) -> None:
        """Refuse a fade-in, or training at alpha 1, that schedule updates may step over.

        The update that leaves a stage may end that many images into the next one. The first stage is never skipped.

        Args:
            stables: planned images at alpha 1 by stage; adaptive growth ends a stage only at an update within it.
        """
        updates = [self.config.repeats * value_at(self.config.batch_size, r) for r in self.resolutions]
        for level, resolution in list(enumerate(self.resolutions))[1:]:
            side, fade, after_leaving = f"{resolution}x{resolution}", self.fades[level], updates[level - 1] + 1
            is_cut = level == self.last_stage and self.config.total_kimg is not None
            fading = [("--fade-kimg", f"the fade-in to {side}", fade, after_leaving)] if fade else []
            least = updates[level] if fade else after_leaving
            name = "--total-kimg" if is_cut else "--stabilize-kimg"
            for option, part, count, needed in [*fading, (name, f"training {side} at alpha 1", stables[level], least)]:
                if count < needed:
                    or_none = ", or 0" if option == "--fade-kimg" else ""
                    raise ConfigError(
                        f"{option}: {part} takes {count} images, so few that a schedule update (--repeats x "
                        f"--batch-size) may skip it; it needs at least {needed} images{or_none}"
                    )

    def check_config(self, config: TrainConfig) -> None:
        """Refuse tables for stages that do not exist, and batches that do not divide."""
        stages = [4 << level for level in range(check_resolution(config.resolution) - 1)]
        for option in ("fade_kimg", "stabilize_kimg", "batch_size", "micro_batch", "lr", "d_lr", "tick_kimg"):
            for resolution in getattr(config, option) or ():
                if resolution not in stages:
                    raise ConfigError(
                        f"{option_name(option)}: there is no stage {resolution}; the stages are "
                        f"{', '.join(map(str, stages))}"
                    )
        for batch in config.batch_size.values():
            group = min(batch, config.mbstd_group)
            if batch % group:
                raise ConfigError(f"--batch-size: {batch} is not a multiple of --mbstd-group {group}")
        for phase in map(self.phase, map(self.stage_end, self.resolutions)):
            at_once, group = phase.micro_batch or phase.batch_size, min(phase.batch_size, config.mbstd_group)
            if at_once < phase.batch_size and at_once % group:
                raise ConfigError(f"--micro-batch: {at_once} is not a multiple of --mbstd-group {group}")

    def phase(self, images: int) -> Phase:
        """Return the phase after `images` real images. A fade's first moment still belongs to the previous stage."""
        later = range(1, self.last_stage + 1)
        level = sum(images > self.fade_starts[i] or images >= self.fade_ends[i] for i in later)
        alpha = min((images - self.fade_starts[level]) / self.fades[level], 1.0) if self.fades[level] else 1.0
        resolution = self.resolutions[level]
        burn_in = self.burn_in(images)
        phase = Phase(
            resolution=resolution,
            alpha=alpha,
            batch_size=value_at(self.config.batch_size, resolution),
            lr=value_at(self.config.lr, resolution),
            tick_images=max(round(value_at(self.config.tick_kimg, resolution) * 1000), 1),
            d_lr=None if self.config.d_lr is None else value_at(self.config.d_lr, resolution),
            micro_batch=None if self.config.micro_batch is None else value_at(self.config.micro_batch, resolution),
            burn_in=burn_in,
        )
        # the burn-in's rate falls from 4 times the final one: 0.0002 to 0.00005
        return phase.scale_lr((1 + 3 * burn_in) * self.decay(images))

    def burn_in(self, images: int) -> float:
        """Return the weight of the burn-in's initial values after `images`: 1 to 0 on a cosine (R3GAN's code)."""
        end = self.config.burn_in_kimg * 1000
        return (1 + math.cos(math.pi * images / end)) / 2 if images < end else 0.0

    @property
    def decay_start(self) -> int:
        """The number of images seen when --decay-kimg begins to reduce the learning rates: 0 if the run is shorter."""
        return max(self.total_images - round(self.decay_images), 0)

    def decay(self, images: int) -> float:
        """Return the factor of --decay-kimg on the learning rates after `images`: 1, then to 0 at the end on a cosine.

        Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
        """
        if images <= self.decay_start or not self.config.decay_kimg:  # the last update may pass the end
            return 1.0
        done = (images - self.decay_start) / (self.total_images - self.decay_start)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def next_check(self, images: int) -> int:
        """Return the number of images seen at the next schedule update."""
        return images + self.config.repeats * self.phase(images).batch_size

    def should_reset_optimizers(self, before: int, after: int) -> bool:
        """Return whether a fade starts or ends in (before, after]: then the optimizers are reset (official code)."""
        a, b = self.phase(before), self.phase(after)
        return (a.resolution, a.is_fading) != (b.resolution, b.is_fading)

    def stage_end(self, resolution: int) -> int:
        """Return the number of images seen at the end of a stage."""
        return self.stage_ends[self.resolutions.index(resolution)]

    def is_stage_end(self, before: int, after: int) -> bool:
        return before < self.stage_end(self.phase(before).resolution) <= after

    def should_end_stage(self, images: int, scores: Sequence[tuple[int, float]]) -> bool:
        """Return whether adaptive growth ends the current stage, at alpha 1 and not at the last resolution.

        It does if the best score within the last --growth-window improves on the best score before by less than
        --growth-share of it.

        Args:
            scores: (images seen, score) in this stage at alpha 1, in order, up to now; lower is better.
        """
        level = self.resolutions.index(self.phase(images).resolution)
        stable = images - self.fade_ends[level]
        if level == self.last_stage or stable < self.config.min_stabilize_kimg * 1000:
            return False
        border = images - self.config.growth_window * 1000
        before = [score for seen, score in scores if seen <= border]
        return bool(before) and min(score for _, score in scores) > (1 - self.config.growth_share) * min(before)

    def find_position(self, resolution: int, alpha: float) -> int:
        """Return the number of images seen when this plan reaches (resolution, alpha).

        At alpha 1 that is the end of the stage, or, at the last resolution, the start of stabilizing. Networks that do
        not grow start at their only stage.
        """
        if resolution not in self.resolutions and not self.last_stage:
            return 0
        level = self.resolutions.index(resolution)
        if alpha < 1:
            return self.fade_starts[level] + round(alpha * self.fades[level])
        return self.fade_ends[level] if level == self.last_stage else self.stage_ends[level]

    def rows(self) -> Iterator[PlanRow]:
        """Yield the lines of the plan in order."""
        for resolution, start, stable, end in zip(
            self.resolutions, self.fade_starts, self.fade_ends, self.stage_ends, strict=True
        ):
            for fading, first, last in ((True, start, stable), (False, stable, end)):
                if last > first:
                    batch_size, lr = value_at(self.config.batch_size, resolution), value_at(self.config.lr, resolution)
                    yield PlanRow(resolution, fading, first, last, batch_size, lr)


def value_at(table: PerStage[Number], resolution: int) -> Number:
    """Return a per-stage table's value at a resolution: the entry at or below it."""
    return table[max(r for r in table if r <= resolution)]


def is_due(before: int, after: int, every: float) -> bool:
    """Return whether a multiple of `every` images lies in (before, after]."""
    return int(after // every) > int(before // every)
