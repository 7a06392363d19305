"""Plan a run for --budget: networks, batches, learning rates and stage lengths, from the images and this machine.

The plan is made of ordinary options, which config.json records; a resumed run reads them there. Each rule names the
experiment behind it in docs/lab-notes.md. During the run only one thing still depends on time: where the last stage
ends (`find_end`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pggan.datasets import Source, open_source

from ..config import (
    ConfigError,
    TrainConfig,
    option_name,
    parse_duration,
    read_config_file,
    resolve_config,
    spell_option,
    truncate_table,
)
from ..paths import read_options
from .device import choose_device, choose_kernels, choose_precision, keep_freed_memory, measure_matrix_rate
from .growth import GrowthController, value_at
from .memory import explain_out_of_memory
from .plan import compute_costs_per_image, exceeds_memory, time_stages
from .state import TrainState
from .tracking import log

Times = Mapping[int, float]  # seconds per image by resolution

# Loss and optimizer: "Which recipe gives the best images per minute?" (2026-11-26)
RECIPE: dict[str, Any] = {
    "loss": "relativistic",
    "penalty": "r1+r2",
    "r_weight": 0.1,
    "penalty_every": 8,
    "lr": 0.003,
}
# Widths: "How wide, and at which rate, in short runs?" (2026-11-26)
# (feature maps of the last stage, --fmap-max), narrow to wide: the widest whose last stage sees WIDTH_IMAGES is used
WIDTHS = ((16, 64), (32, 64), (64, 128), (128, 256), (256, 512), (512, 512))
PAPER_BASE = 8192  # the largest --fmap-base
WIDTH_IMAGES = 500_000
REACH_IMAGES = 20_000  # a resolution is out of reach if the narrowest networks see fewer images there
BATCH = {"cpu": 8, "cuda": 64}  # a GPU takes as long for a step with fewer
LAST_SHARE = 0.76  # the last stage's fraction of the training time
SHARE_RATIO = 2.7  # time of each lower stage divided by that of the stage before it
FADE_SHARE = 0.5  # fraction of a stage that fades in, but at most as long as the stage before
DECAY_SHARE = 0.5  # fraction of the last stage in which the learning rate decays to 0
EMA_SHARE = 0.03  # half-life of the moving average, as a fraction of the last stage's images

EVALUATION_SHARE = 0.1  # of the budget
RESERVE = 0.04  # of the budget, for checkpoints, sample grids and the report
METRIC_IMAGES = (100, 10_000)  # fewest and most generated images per evaluation
FID_IMAGES = 5_000  # with fewer, FID is mostly bias (docs/metrics.md)
TICKS, MIN_TICK_SECONDS = 40, 15.0  # log lines and checkpoints in a run, but not more often than this
TRIAL_SECONDS = 15.0  # limit on timing the stages of one width; a tighter one times smaller batches, which are slower
INCEPTION_OPERATIONS = 11.4e9  # per image, up to the features, as counted by PyTorch
INCEPTION_EFFICIENCY = 0.8  # of the rate of matrix products, measured on one core; during a run its own time counts

# the options that a plan sets, unless the user has
CHOSEN = (
    *("resolution", "fmap_base", "fmap_max", "latent_size", "fade_kimg", "stabilize_kimg", "total_kimg", "decay_kimg"),
    *("batch_size", "ema_decay", "metrics", "metric_images", "tick_kimg", *RECIPE),
)


def resolve_budget(
    options: Mapping[str, Any],
    config_file: str | None = None,
    open_images: Callable[[str, bool], Source] = open_source,
    processes: int = 1,
) -> TrainConfig:
    """Return a run's options as `resolve_config` does, with those that --budget chooses.

    A run that exists keeps the options that were chosen for it, and so does a new run from its config.json.

    Args:
        processes: number of processes that share each batch. For the others and for errors see `resolve_config`.

    Raises:
        ConfigError: also for --budget beside --preset, --resume or --total-kimg, for networks that do not grow, and for
            adaptive growth.
    """
    config = resolve_config(options, config_file, open_images)
    if config.budget is None:
        return config
    specified = {name: value for name, value in options.items() if value is not None}
    if config_file is not None:
        in_file = read_config_file(config_file, specified)
        if in_file.get("budget") == config.budget and "total_kimg" in in_file and "total_kimg" not in specified:
            # the config.json of a run: the plan stands, but a run that starts from its checkpoint ends later
            return config if config.resume is None else replace(config, total_kimg=None)
        specified = {name: value for name, value in in_file.items() if value is not None} | specified
    for name in ("preset", "resume", "total_kimg"):
        if getattr(config, name) is not None:
            where = "" if options.get(name) is not None else f" in {config_file}"
            raise ConfigError(
                f"--budget plans a whole run from scratch, without {option_name(name)}: omit "
                f"{option_name(name)}{where}, or omit --budget"
            )
    if not config.is_growing:
        raise ConfigError("--budget plans for networks that grow: omit --arch and --no-growing, or omit --budget")
    if config.growth == "adaptive":
        raise ConfigError("--budget plans the length of each stage: omit --growth adaptive, or omit --budget")
    specified |= {"out": config.out, "channels": config.channels}
    if recorded := read_options(Path(config.out)):
        chosen = {name: recorded[name] for name in CHOSEN if name in recorded}
        return resolve_config({**chosen, **specified}, None, open_images)
    GrowthController(config)  # refuses impossible resolutions and batch sizes before any step is timed
    chosen = choose_options(config, specified, open_images, processes)
    config = resolve_config({**chosen, **specified}, None, open_images)
    options_set = [spell_option(name, getattr(config, name)) for name in CHOSEN if name not in specified]
    log(f"--budget {config.budget} sets {' '.join(options_set)}")
    return config


def choose_options(
    config: TrainConfig, specified: Mapping[str, Any], open_images: Callable[[str, bool], Source], processes: int
) -> dict[str, Any]:
    """Return the options that --budget chooses, by name.

    Args:
        specified: the user's options; they are in `config`, and the plan fits the others to them.
    """
    start, classes = time.perf_counter(), len(open_images(config.data, config.labels).classes)
    keep_freed_memory()
    choose_kernels(config.deterministic)
    device, budget = choose_device(config.device), parse_duration(config.budget or "")
    training = budget * (1 - EVALUATION_SHARE - RESERVE)
    measure = partial(measure_speed, classes=classes, device=device, processes=processes)
    log(f"planning for {config.budget}: timing training steps")
    while True:
        config, times = choose_width(config, specified, training, measure)
        images = training * LAST_SHARE / times[config.resolution]
        if images >= REACH_IMAGES or "resolution" in specified or config.resolution <= 8:
            break
        half = config.resolution // 2
        log(
            f"{config.resolution}x{config.resolution} is out of reach in {config.budget} on this machine: it would "
            f"train on only {images:,.0f} images at that size; planning for {half}x{half} (change this with "
            f"--resolution {config.resolution}, or a longer --budget)"
        )
        config = resolve_config({**specified, "resolution": half}, None, open_images)
    chosen = plan_stages(config, specified, times, training - (time.perf_counter() - start))
    chosen |= plan_evaluations(budget, len(times), device)
    chosen["tick_kimg"] = {r: to_kimg(max(budget / TICKS, MIN_TICK_SECONDS) / times[r]) for r in times}
    return {name: chosen.get(name, getattr(config, name)) for name in CHOSEN}


def choose_width(
    config: TrainConfig,
    specified: Mapping[str, Any],
    training: float,
    measure: Callable[[TrainConfig], tuple[Times, bool]],
) -> tuple[TrainConfig, Times]:
    """Return options with the recipe and the widest networks that see WIDTH_IMAGES in the last stage, and their speed.

    If none do, the narrowest; the user's own, if specified.
    """
    best: tuple[TrainConfig, Times] | None = None
    paper, batch = truncate_table(TrainConfig().batch_size, config.resolution), BATCH[choose_device(config.device).type]
    for base, largest in list_widths(config.resolution):
        chosen = {
            **choose_recipe(config, specified),
            "fmap_base": base,
            "fmap_max": largest,
            "latent_size": min(largest, 128),
            "batch_size": {r: min(n, batch) for r, n in paper.items()},
        }
        candidate = replace(config, **{name: value for name, value in chosen.items() if name not in specified})
        times, fits = measure(candidate)
        if best and not fits:
            widths = f"--fmap-base {candidate.fmap_base} --fmap-max {candidate.fmap_max}"
            log(f"networks of {widths} need more memory than this machine has; planning for narrower ones")
            return best
        if best and training * LAST_SHARE / times[config.resolution] < WIDTH_IMAGES:
            return best
        best = candidate, times
        if "fmap_base" in specified and "fmap_max" in specified:
            break
    assert best
    return best


def list_widths(resolution: int) -> list[tuple[int, int]]:
    """Return pairs of --fmap-base and --fmap-max, narrow to wide, up to the paper's."""
    pairs = ((min(maps * resolution // 2, PAPER_BASE), largest) for maps, largest in WIDTHS)
    return list(dict.fromkeys(pairs))


def choose_recipe(config: TrainConfig, specified: Mapping[str, Any]) -> dict[str, Any]:
    """Return RECIPE, without what contradicts the user's --loss and --penalty.

    A loss with a penalty of its own keeps it, and --penalty-every needs a gradient penalty.
    """
    recipe = dict(RECIPE)
    if "penalty" in specified or ("loss" in specified and config.penalty != "none"):
        recipe["penalty"] = config.penalty
    if recipe["penalty"] in ("clip", "none"):
        del recipe["penalty_every"]
    return recipe


def measure_speed(config: TrainConfig, classes: int, device: torch.device, processes: int) -> tuple[Times, bool]:
    """Time each stage's training steps, for at most TRIAL_SECONDS.

    Returns:
        Seconds per image by resolution, and whether the last stage fits in memory.
    """
    config = replace(config, precision=choose_precision(config, device), total_kimg=None)
    with explain_out_of_memory():
        state = TrainState(config, classes, device)
    costs = compute_costs_per_image(state.arguments)
    timed = time_stages(config, GrowthController(config), state, costs, TRIAL_SECONDS, processes)
    times = {resolution: seconds for resolution, seconds, _ in timed}
    return times, not exceeds_memory(config, state)


def share_time(stages: int) -> list[float]:
    """Return each stage's fraction of the training time, the lowest stage's first."""
    lower = [SHARE_RATIO**i for i in range(stages - 1)]
    return [*((1 - LAST_SHARE) * share / sum(lower) for share in lower), LAST_SHARE] if lower else [1.0]


def plan_stages(config: TrainConfig, specified: Mapping[str, Any], times: Times, training: float) -> dict[str, Any]:
    """Return the stages' lengths, and what depends on them.

    Args:
        specified: if it has --fade-kimg or --stabilize-kimg, these lengths are the config's.
        times: seconds per image by resolution. training: seconds.
    """
    fade, stabilize, before = {}, {}, 0.0
    shortest = 2 * config.repeats * max(config.batch_size.values())  # two schedule updates; one may skip a stage
    for resolution, share in zip(times, share_time(len(times)), strict=True):
        images, fading = training * share / times[resolution], training * min(FADE_SHARE * share, before)
        fade[resolution] = to_kimg(max(fading / times[resolution], shortest)) if before else 0.0
        if "fade_kimg" in specified and before:
            fade[resolution] = value_at(config.fade_kimg, resolution)
        stabilize[resolution] = to_kimg(max(images - 1000 * fade[resolution], shortest))
        if "stabilize_kimg" in specified:
            stabilize[resolution] = value_at(config.stabilize_kimg, resolution)
        before = share
    last = max(times)
    in_last_stage = 1000 * (fade[last] + stabilize[last])
    return {
        "fade_kimg": fade,
        "stabilize_kimg": stabilize,
        "total_kimg": round(sum(fade.values()) + sum(stabilize.values()), 3),
        "decay_kimg": to_kimg(DECAY_SHARE * in_last_stage),
        # 7 digits: rounded to 1, the average would never move
        "ema_decay": round(0.5 ** (value_at(config.batch_size, last) / (EMA_SHARE * in_last_stage)), 7),
    }


def plan_evaluations(budget: float, stages: int, device: torch.device) -> dict[str, Any]:
    """Return the metrics and the number of images with which all evaluations take EVALUATION_SHARE of the budget."""
    rate = INCEPTION_EFFICIENCY * measure_matrix_rate(device, torch.float32, 1.0) / INCEPTION_OPERATIONS
    count = EVALUATION_SHARE * budget * rate / (2 * stages)  # real and generated images, at the end of each stage
    count = min(max(int(count) // 50 * 50, METRIC_IMAGES[0]), METRIC_IMAGES[1])
    return {"metric_images": count, "metrics": (*(("fid",) if count >= FID_IMAGES else ()), "kid", "mind")}


def to_kimg(images: float) -> float:
    """Return thousands of images, to three significant digits."""
    return float(f"{images / 1000:.3g}")


def find_end(budget: float, elapsed: float, evaluation: float, seconds_per_image: float, images: int) -> int:
    """Return the images seen at which the run has to end to finish, with its last evaluation, within the budget.

    Args:
        budget, elapsed: seconds of the whole run, and so far. evaluation: seconds of the last evaluation.
        seconds_per_image: in the last stage. images: seen so far.
    """
    left = budget * (1 - RESERVE / 2) - elapsed - evaluation
    return images + math.floor(max(left, 0.0) / seconds_per_image)
