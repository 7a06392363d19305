"""Estimate the time left in a run from its plan, the trial before training and the ticks so far."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .growth import GrowthController

RECENT = 5  # ticks; their median ignores one or two that were slowed by other work on the machine


def estimate_stage_times(trial: Mapping[int, float], log: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return seconds per image by resolution: the times of the trial, corrected by the latest ticks.

    The correction is the median, over the RECENT last ticks, of a tick's time divided by its stage's trial time. After
    three ticks of a stage it is that stage's own speed. Until then it comes from earlier stages, since other work on
    the machine, slow reading of images and several processes slow all stages down alike.

    Args:
        trial: seconds per image by resolution; once there are ticks, numbers proportional to them suffice.
        log: lines of log.jsonl.
    """
    ticks = [line for line in log if line["images_per_second"] and line["resolution"] in trial]
    ratios = [1 / (line["images_per_second"] * trial[line["resolution"]]) for line in ticks[-RECENT:]]
    correction = statistics.median(ratios) if ratios else 1.0
    return {resolution: seconds * correction for resolution, seconds in trial.items()}


def estimate_seconds_left(
    plan: GrowthController, times: Mapping[int, float], images: int, resolution: int
) -> tuple[float, float]:
    """Return the seconds of training left in the stage of this resolution and in the whole run after `images` images.

    times: seconds per image by resolution.
    """
    stage = whole = 0.0
    for row in plan.rows():
        seconds = times[row.resolution] * max(row.end - max(row.start, images), 0)
        whole += seconds
        stage += seconds if row.resolution == resolution else 0.0
    return stage, whole


def count_evaluations_left(plan: GrowthController, images: int, is_due: bool) -> int:
    """Return the number of evaluations left after `images` images; `is_due` adds the one due at this moment."""
    every = plan.config.metric_every_kimg
    moments = set(plan.stage_ends)
    if every:
        moments |= {round(every * 1000 * i) for i in range(1, int(plan.total_images / (every * 1000)) + 1)}
    return is_due + sum(moment > images for moment in moments)
