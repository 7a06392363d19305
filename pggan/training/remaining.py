"""How long the rest of a run takes: pure functions of its plan and of what has been measured so far."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .growth import GrowthController

RECENT = 5  # ticks whose median counts: one or two that other work on the machine held up do not matter


def stage_times(trial: Mapping[int, float], log: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return seconds per image by resolution: as timed before training, corrected by the last ticks.

    The correction is the median of what the RECENT last ticks took, each compared with its stage's trial. After three
    ticks of a stage it is that stage's own speed. Until then, other stages tell how much slower training is than the
    trial: other work on the machine, slow images and several processes make all stages slower.

    Args:
        trial: seconds per image of every resolution, or anything proportional to them once there are ticks.
        log: lines of log.jsonl.
    """
    ticks = [line for line in log if line["images_per_second"] and line["resolution"] in trial]
    ratios = [1 / (line["images_per_second"] * trial[line["resolution"]]) for line in ticks[-RECENT:]]
    correction = statistics.median(ratios) if ratios else 1.0
    return {resolution: seconds * correction for resolution, seconds in trial.items()}


def seconds_left(plan: GrowthController, times: Mapping[int, float], images: int) -> tuple[float, float]:
    """Return the seconds of training left in this stage and in the whole run after so many images.

    times: seconds per image by resolution.
    """
    resolution = plan.phase(images).resolution
    stage = whole = 0.0
    for row in plan.rows():
        seconds = times[row.resolution] * max(row.end - max(row.start, images), 0)
        whole += seconds
        stage += seconds if row.resolution == resolution else 0.0
    return stage, whole


def evaluations_left(plan: GrowthController, images: int, is_due: bool) -> int:
    """Return how many evaluations are left after so many images; is_due: one at this moment, too."""
    every = plan.config.metric_every_kimg
    moments = set(plan.stage_ends)
    if every:
        moments |= {round(every * 1000 * i) for i in range(1, int(plan.total_images / (every * 1000)) + 1)}
    return is_due + sum(moment > images for moment in moments)
