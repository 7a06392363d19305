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
from .augment import HOLDOUT_SIZES, split_holdout
from .device import choose_device, choose_kernels, choose_precision, keep_freed_memory, measure_matrix_rate
from .feeding import open_training_images
from .growth import GrowthController, value_at
from .memory import explain_out_of_memory
from .plan import compute_costs_per_image, exceeds_memory, time_stages
from .state import TrainState
from .tracking import format_duration, log

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
SHARE_RATIO = 2.7  # time of each lower stage divided by the time of the stage before it
FADE_SHARE = 0.5  # fraction of a stage that fades in, but at most as long as the stage before
DECAY_SHARE = 0.5  # fraction of the last stage in which the learning rate decays to 0
EMA_SHARE = 0.03  # half-life of the moving average, as a fraction of the last stage's images

EVALUATION_SHARE = 0.1  # of the budget
RESERVE = 0.04  # of the budget, for checkpoints, sample grids and the report
METRIC_IMAGES = (100, 10_000)  # fewest and most generated images per evaluation
FID_IMAGES = 5_000  # with fewer, FID is mostly bias (docs/metrics.md)
# log lines and checkpoints in a run, but not more often than every 15 seconds or less often than every 10 minutes: a
# power failure loses the time since the last one
TICKS, MIN_TICK_SECONDS, MAX_TICK_SECONDS = 40, 15.0, 600.0
# ADA pays from so many views of each image on: "Does ADA pay on 300 and 1,000 images?" (2026-11-27)
ADA_VIEWS = 250
ADA_SHARE = 0.4  # of the run, in which ADA's p can rise from 0 to 1, as in that experiment
MAX_HALF_LIFE = 1_000_000  # images; twice R3GAN's. Longer ones lose precision in --ema-decay's 7 digits
TRIAL_SECONDS = 15.0  # limit on timing the stages of one width; a tighter one times smaller batches, which are slower
INCEPTION_OPERATIONS = 11.4e9  # per image, up to the features, as counted by PyTorch
INCEPTION_EFFICIENCY = 0.8  # of the rate of matrix products, measured on one core; during a run its own time counts
WITHOUT_NETWORK = {"swd", "msssim"}  # metrics that need no features; they take seconds
NARROWER = 4.0  # networks of half the width are at most this many times as fast

# the options that a plan sets, unless the user has
CHOSEN = (
    *("resolution", "fmap_base", "fmap_max", "latent_size", "fade_kimg", "stabilize_kimg", "total_kimg", "decay_kimg"),
    *("batch_size", "ema_decay", "metrics", "metric_images", "tick_kimg", "augment", "ada_kimg", *RECIPE),
)


def resolve_budget(
    options: Mapping[str, Any],
    config_file: str | None = None,
    open_images: Callable[[str, bool], Source] = open_source,
    processes: int = 1,
    builds_cache: bool = False,
) -> TrainConfig:
    """Return a run's options as `resolve_config` does, with those that --budget chooses.

    A run that exists keeps the options that were chosen for it, and so does a new run from its config.json.

    Args:
        processes: number of processes that share each batch. builds_cache: whether to build the images' cache, so that
            the plan is for the time after that. For the others and for errors see `resolve_config`.

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
        if "resolution" not in specified and isinstance(chosen.get("resolution"), int):
            specified = truncate_tables(specified, config, chosen["resolution"])
        return resolve_config({**chosen, **specified}, None, open_images)
    batches = config.batch_size if "batch_size" in specified else choose_batch_size(config, processes)
    GrowthController(replace(config, batch_size=batches))  # refuses impossible plans before any step is timed
    chosen = choose_options(config, specified, open_images, processes, builds_cache)
    specified = truncate_tables(specified, config, chosen["resolution"])
    config, defaults = resolve_config({**chosen, **specified}, None, open_images), TrainConfig()
    set_by_budget = [n for n in CHOSEN if n not in specified and getattr(config, n) != getattr(defaults, n)]
    log(f"--budget {config.budget} sets {' '.join(spell_option(n, getattr(config, n)) for n in set_by_budget)}")
    return config


def truncate_tables(specified: Mapping[str, Any], config: TrainConfig, resolution: int) -> dict[str, Any]:
    """Return the user's options for a lower resolution: their tables without the stages above it."""
    if resolution == config.resolution:
        return dict(specified)
    tables = {name: getattr(config, name) for name in specified if isinstance(getattr(config, name), dict)}
    return {**specified, **{name: truncate_table(table, resolution) for name, table in tables.items()}}


def choose_options(
    config: TrainConfig,
    specified: Mapping[str, Any],
    open_images: Callable[[str, bool], Source],
    processes: int,
    builds_cache: bool,
) -> dict[str, Any]:
    """Return the options that --budget chooses, by name.

    Args:
        specified: the user's options; they are in `config`, and the plan fits the others to them.
    """
    start, source = time.perf_counter(), open_images(config.data, config.labels)
    split_holdout(config, len(source))  # raises ConfigError before any step is timed
    keep_freed_memory()
    choose_kernels(config.deterministic)
    device, budget = choose_device(config.device), parse_duration(config.budget or "")
    measure = partial(measure_speed, classes=len(source.classes), device=device, processes=processes)
    rate = INCEPTION_EFFICIENCY * measure_matrix_rate(device, torch.float32, 1.0) / INCEPTION_OPERATIONS
    rate *= processes if device.type == "cuda" else 1  # on a CPU they share its cores
    log(f"planning for {config.budget}: timing training steps")
    config, times, training = choose_resolution(config, specified, open_images, measure, rate, processes)
    stages = zip(times, share_time(len(times)), strict=True)
    views = sum(training * share / times[resolution] for resolution, share in stages) / len(source)
    if views > ADA_VIEWS and "augment" not in specified and can_adapt(config, len(source)):
        log(f"each of the {len(source):,} images would be seen {views:,.0f} times: using --augment ada")
        specified = {**specified, "augment": "ada"}
        config = replace(config, augment="ada")
        config, times, training = choose_resolution(config, specified, open_images, measure, rate, processes)
    if builds_cache:
        open_training_images(config, source)
    chosen = plan_stages(config, specified, times, training - (time.perf_counter() - start))
    if config.augment == "ada":
        chosen["ada_kimg"] = min(to_kimg(1000 * ADA_SHARE * chosen["total_kimg"]), TrainConfig().ada_kimg)
    seconds = min(max(budget / TICKS, MIN_TICK_SECONDS), MAX_TICK_SECONDS)
    chosen["tick_kimg"] = {r: to_kimg(seconds / times[r]) for r in times}
    warn_if_too_long(replace(config, **chosen), specified, times, rate)
    return {name: chosen.get(name, getattr(config, name)) for name in CHOSEN}


def can_adapt(config: TrainConfig, images: int) -> bool:
    """Return whether ADA can run: it needs gray or RGB images, some of them held out by default."""
    return images in HOLDOUT_SIZES and config.holdout is None and config.channels in (1, 3)


def choose_resolution(
    config: TrainConfig,
    specified: Mapping[str, Any],
    open_images: Callable[[str, bool], Source],
    measure: Callable[[TrainConfig], tuple[Times, bool]],
    rate: float,
    processes: int,
) -> tuple[TrainConfig, Times, float]:
    """Choose the highest resolution within reach, with its networks and evaluations; the user's own, if specified.

    Args:
        measure: times the stages of these options. rate: images per second through Inception.

    Returns:
        The options, seconds per image by resolution, and seconds of training.
    """
    own, seen, budget = config, None, parse_duration(config.budget or "")
    while True:
        config = plan_evaluations(config, specified, budget, rate, len(open_images(config.data, config.labels)))
        # at least half: the user's own evaluations may exceed the budget, of which `warn_if_too_long` warns
        training = max(budget * (1 - RESERVE) - estimate_evaluations(config, rate), budget / 2)
        config, times, fits = choose_width(config, specified, training, measure, processes)
        images = training * LAST_SHARE / times[config.resolution]
        seen = images if seen is None else seen
        if (fits and images >= REACH_IMAGES) or "resolution" in specified or config.resolution <= 8:
            break
        reachable = (r for r in times if training * LAST_SHARE * NARROWER / times[r] >= REACH_IMAGES)
        lower = max(min(max(reachable, default=8), config.resolution // 2), 8)
        config = resolve_config({**truncate_tables(specified, own, lower), "resolution": lower}, None, open_images)
    native, chosen = (f"{c.resolution}x{c.resolution}" for c in (own, config))
    if chosen != native:
        reason, remedy = "its networks need more memory than there is", "--micro-batch 4"
        if seen < REACH_IMAGES:
            reason, remedy = f"it would train on only {seen:,.0f} images at that size", "a longer --budget"
        log(
            f"{native} is out of reach in {config.budget} on this machine: {reason}; planning for {chosen} (change "
            f"this with --resolution {own.resolution}, or {remedy})"
        )
    if not fits:
        log("warning: these networks need more memory than there is; use --micro-batch, or a lower --resolution")
    return config, times, training


def warn_if_too_long(config: TrainConfig, specified: Mapping[str, Any], times: Times, rate: float) -> None:
    """Warn if evaluations and training up to the end of the last fade-in already exceed the budget.

    Args:
        config: with the plan. times: seconds per image by resolution. rate: images per second through Inception.
    """
    faded_in = GrowthController(config).fade_ends[-1]  # the earliest end
    rows = [row for row in GrowthController(config).rows() if row.end <= faded_in]
    needed = sum((row.end - row.start) * times[row.resolution] for row in rows)
    needed += estimate_evaluations(replace(config, total_kimg=faded_in / 1000), rate)
    if needed > parse_duration(config.budget or ""):
        lengths = ("fade_kimg", "stabilize_kimg", "metrics", "metric_images")
        causes = [option_name(name) for name in lengths if name in specified]
        remedies = [f"omit or lower {', '.join(causes)}"] if causes else []
        remedies += ["omit or raise --metric-every-kimg"] if "metric_every_kimg" in specified else []
        log(
            f"warning: the run takes at least {format_duration(needed)}, longer than --budget {config.budget}, for "
            f"evaluations and the stages up to the last fade-in; {', or '.join(['use a longer --budget', *remedies])}"
        )


def choose_width(
    config: TrainConfig,
    specified: Mapping[str, Any],
    training: float,
    measure: Callable[[TrainConfig], tuple[Times, bool]],
    processes: int,
) -> tuple[TrainConfig, Times, bool]:
    """Return options with the recipe and the widest networks that see WIDTH_IMAGES in the last stage.

    If none do, the narrowest; the user's own, if specified.

    Returns:
        The options, seconds per image by resolution, and whether the networks fit in memory.
    """
    best: tuple[TrainConfig, Times, bool] | None = None
    for base, largest in list_widths(config.resolution):
        chosen = {
            **choose_recipe(config, specified),
            "fmap_base": base,
            "fmap_max": largest,
            "latent_size": min(config.fmap_max if "fmap_max" in specified else largest, 128),
            "batch_size": choose_batch_size(config, processes),
        }
        candidate = replace(config, **{name: value for name, value in chosen.items() if name not in specified})
        if best and candidate == best[0]:  # the user's own width
            continue
        times, fits = measure(candidate)
        if best and not fits:
            widths = f"--fmap-base {candidate.fmap_base} --fmap-max {candidate.fmap_max}"
            log(f"networks of {widths} need more memory than this machine has; planning for narrower ones")
        is_slow = training * LAST_SHARE / times[config.resolution] < WIDTH_IMAGES
        if best and (is_slow or not fits):
            return best
        best = candidate, times, fits
        if is_slow or not fits:  # wider ones even more so
            break
    assert best
    return best


def choose_batch_size(config: TrainConfig, processes: int) -> dict[int, int]:
    """Return the batch size by resolution: BATCH, but not more than the paper's, and a group for each process."""
    paper, batch = truncate_table(TrainConfig().batch_size, config.resolution), BATCH[choose_device(config.device).type]
    least = config.mbstd_group * processes if processes > 1 else 1  # a process without a group would be idle
    return {r: max(min(n, batch), least) for r, n in paper.items()}


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
    return times, not exceeds_memory(config, state, processes)


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
    half_life, updates_per_g = min(EMA_SHARE * in_last_stage, MAX_HALF_LIFE), config.n_critic
    return {
        "fade_kimg": fade,
        "stabilize_kimg": stabilize,
        "total_kimg": round(sum(fade.values()) + sum(stabilize.values()), 3),
        "decay_kimg": to_kimg(DECAY_SHARE * in_last_stage),
        # 7 digits: rounded to 1, the average would never move
        "ema_decay": round(0.5 ** (value_at(config.batch_size, last) * updates_per_g / half_life), 7),
    }


def plan_evaluations(
    config: TrainConfig, specified: Mapping[str, Any], budget: float, rate: float, images: int
) -> TrainConfig:
    """Return options with the metrics and the number of images whose evaluations take EVALUATION_SHARE of the budget.

    Args:
        rate: images per second through Inception. images: the dataset's size; KID needs two.
    """
    count = EVALUATION_SHARE * budget * rate / (2 * count_stages(config))  # real and generated images of each stage
    count = min(max(int(count) // 50 * 50, METRIC_IMAGES[0]), METRIC_IMAGES[1])
    metrics = (*(("fid",) if count >= FID_IMAGES else ()), "kid", "mind") if images > 1 else ()
    chosen: dict[str, Any] = {"metric_images": count, "metrics": metrics}
    return replace(config, **{name: value for name, value in chosen.items() if name not in specified})


def count_stages(config: TrainConfig) -> int:
    """Return the number of stages: 1 for 4x4."""
    return config.resolution.bit_length() - 2


def estimate_evaluations(config: TrainConfig, rate: float) -> float:
    """Return the seconds of all evaluations, at `rate` images per second through Inception."""
    if not set(config.metrics) - WITHOUT_NETWORK:
        return 0.0
    count = 2.0 * count_stages(config)  # real and generated images, at the end of each stage
    if config.metric_every_kimg and config.total_kimg:
        count += config.total_kimg / config.metric_every_kimg
    return count * config.metric_images / rate


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
