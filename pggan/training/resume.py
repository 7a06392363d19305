"""Where a run starts: from scratch, from its own latest checkpoint, or from another run's."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from checkpoints import CheckpointError, RunDirectory, load, resolve_checkpoint

from ..config import ConfigError, TrainConfig, format_value, option_name, spell_option, validate_field
from ..networks import ARCHITECTURES
from ..paths import find_recorded, is_same_checkpoint, is_same_path, with_found_paths
from .growth import GrowthController
from .signals import TrainingStopped
from .state import TrainState
from .tracking import log
from .transfer import kept_classes, move_classes


def diff_options(old: dict[str, Any], new: TrainConfig, identity_only: bool = False) -> list[str]:
    """Lines "--option: old here, new there" for every option that differs."""
    lines = []
    for f in fields(TrainConfig):
        if (identity_only and not f.metadata.get("identity", True)) or f.name not in old:
            continue
        before, now = validate_field(f, old[f.name]), getattr(new, f.name)
        if before != now:
            lines.append(f"  {option_name(f)}: {format_value(before)} -> {format_value(now)}")
    return lines


def resolve_resumed_config(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """Return the options to resume a run with: those specified, its start, and the end that its start decided.

    Raises:
        ConfigError: options that would make it another run, with what differs.
    """
    old = run.read_config()
    recorded = with_found_paths(old, run.folder).get("resume")
    if config.resume is not None and not (isinstance(recorded, str) and is_same_checkpoint(config.resume, recorded)):
        raise ConfigError(other_start(run, config.resume, recorded))
    if config.precision == "auto" and old.get("precision") in ("fp32", "bf16"):
        config = replace(config, precision=old["precision"])  # what auto came to at the start
    if lines := diff_options(old, config, identity_only=True):
        raise ConfigError(
            f"{run.folder} is a run with other options:\n" + "\n".join(lines) + "\n"
            f"use the same options to resume it, or --out ANOTHER --resume {quote(str(run.latest))} to start a new run "
            "from it"
        )
    if recorded is None:
        return replace(config, resume=None)
    end = old.get("total_kimg") if config.has_default_end else None
    return replace(config, resume=recorded, total_kimg=config.total_kimg if end is None else end)


def other_start(run: RunDirectory, wanted: str, recorded: str | None) -> str:
    """Return why --resume cannot be followed in a run directory that has a run."""
    real = Path(os.path.realpath(wanted))
    if Path(os.path.realpath(run.folder)) in (real, *real.parents):
        return (
            f"--resume: {wanted} is of the run in {run.folder} itself; leave out --resume to continue that run from "
            f"its latest checkpoint (the rest of the command as it is), or add --out ANOTHER to start a new run from it"
        )
    began = "from scratch" if recorded is None else f"from {recorded}"
    has_saved = any(run.checkpoints.glob("*.pt"))  # else it cannot resume if its start has been moved
    return (
        f"--resume: the run in {run.folder} began {began}, not from {wanted}; "
        f"{'leave out --resume to continue that run, or ' if has_saved else ''}add --out ANOTHER to start a new one"
    )


def check_not_past_end(saved: dict[str, Any], config: TrainConfig, plan: GrowthController) -> None:
    """Raises ConfigError for a run that is already past the plan's end."""
    if plan.total_images <= saved["state"]["previous"]:
        raise ConfigError(
            f"--total-kimg: {config.out} has already seen {saved['images'] / 1000:g} kimg, more than the "
            f"{plan.total_images / 1000:g} at which this command ends; use --total-kimg "
            f"{longer(saved['images'], config):.10g} to train longer"
        )


def longer(images: int, config: TrainConfig) -> float:
    """Return a --total-kimg that adds --stabilize-kimg to so many images."""
    return round(images / 1000 + config.stabilize_kimg, 3)


def finished(config: TrainConfig, plan: GrowthController, images: int) -> str:
    """Return a sentence for a run that is at its end."""
    return (
        f"{config.out} has finished: it has seen {images / 1000:g} kimg and ends at {plan.total_images / 1000:g}; "
        f"--total-kimg {longer(images, config):.10g} trains longer"
    )


def check_resumable(saved: dict[str, Any], content: str, config: TrainConfig, plan: GrowthController) -> None:
    """Refuse to resume with other images, or to an end that is past.

    Raises:
        ConfigError.
    """
    check_not_past_end(saved, config, plan)
    if saved["data"] == content:
        return
    recorded, latest = saved["config"].get("data"), quote(f"{config.out}/checkpoints/latest.pt")
    if isinstance(recorded, str):
        recorded = find_recorded(recorded, saved["config"].get("out"), RunDirectory(config.out).folder)
    if isinstance(recorded, str) and not is_same_path(recorded, config.data):
        raise ConfigError(
            f"{config.out} is a run on {recorded}, and {config.data} holds other images; use --out ANOTHER to train on "
            f"them (with --resume {latest} as well to start from that run's weights)"
        )
    raise ConfigError(
        f"the images in {config.data} have changed since this run began; use --out ANOTHER to train on them from "
        f"scratch, --out ANOTHER --resume {latest} to start from this run's weights, or bring back the old images to "
        f"continue it"
    )


def check_networks(path: str, saved: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    """Refuse networks that another checkpoint's weights do not fit.

    Raises:
        CheckpointError: they differ in more than a higher resolution, the classes or the size of the stddev groups.
    """
    options: dict[str, str] = {}
    for network, arguments in wanted.items():
        if network not in saved:
            continue  # imported weights: it starts from scratch
        kind = ARCHITECTURES[arguments["arch"]][network]
        defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()} | {"arch": "pggan"}
        for name, value in arguments.items():
            before = saved[network].get(name, defaults.get(name))
            grows = name == "resolution" and arguments["arch"] == "pggan" and before < value
            follows_maps = (
                name == "latent_size" and has_default_latents(saved[network]) and has_default_latents(arguments)
            )
            if name == "label_size" or before == value or grows or follows_maps:
                continue
            if name == "mbstd_group":
                if bool(before) == bool(value):
                    continue
                name, before = "minibatch_stddev", bool(before)
            elif name == "hidden" and network == "discriminator":
                name = "d_hidden"
            options.setdefault(name, spell_option(name, tuple(before) if isinstance(before, list) else before))
            if name == "arch":
                break  # the others of another architecture mean nothing here
    if options:
        raise CheckpointError(f"{path} has other networks than these options; use {' '.join(options.values())}")


def has_default_latents(arguments: dict[str, Any]) -> bool:
    """Whether a generator's latents are as long as its first layer has feature maps, as without --latent-size."""
    return arguments.get("latent_size") == min(arguments.get("fmap_base", 0), arguments.get("fmap_max", 0))


def list_new_layers(name: str, saved: dict[str, Any], resolution: int) -> list[str]:
    """A line saying what of a network of `resolution` or more is not in the checkpoint, and so begins anew."""
    if not saved:
        return [f"  {name}: not in the checkpoint, freshly initialised"]
    levels = resolution.bit_length() - 2
    heads = [4 << i for i in range(levels) if not any(f"{kind}.{i}.weight" in saved for kind in ("to_rgb", "from_rgb"))]
    sizes = ", ".join(f"{size}x{size}" for size in heads)
    return [f"  {name}: RGB layers of {sizes} are not in the checkpoint, freshly initialised"] if heads else []


@contextmanager
def explain_mismatch(where: Any) -> Iterator[None]:
    """Says of a checkpoint that no run with such networks wrote that it does not fit."""
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        reason = (str(error) or "it is damaged").splitlines()[-1].strip()
        raise CheckpointError(f"{where} does not fit its networks: {reason}") from None


def begin_from(state: TrainState, config: TrainConfig, classes: list[str]) -> tuple[TrainConfig, list[str]]:
    """Start a new run from the checkpoint of --resume, also on other images, to a higher resolution or by another plan.

    Returns:
        The config with its end settled, and lines on what it starts from, what differs and what is new.

    Raises:
        CheckpointError: no checkpoint, or networks of other shapes. ConfigError: an end that is past already.
    """
    path = str(resolve_checkpoint(config.resume or ""))
    plan = GrowthController(replace(config, total_kimg=None))
    lines = start_from_checkpoint(state, path, config, plan, classes)
    phase = GrowthController(plan.config, state.stage_ends).phase(state.images)
    config = settle_end(config, plan, state.images, phase.resolution == config.resolution and not phase.is_fading)
    start, end = state.images / 1000, GrowthController(config, state.stage_ends).total_images / 1000
    first = (
        f"starting from {path} at {start:g} kimg; training {end - start:g} kimg more, until {end:g} kimg at "
        f"{config.resolution}x{config.resolution} (--total-kimg sets another end)"
    )
    return config, [first, *lines]


def settle_end(config: TrainConfig, plan: GrowthController, images: int, is_last_stage: bool) -> TrainConfig:
    """Return the config with the --total-kimg of a run that begins at so many images.

    Not specified, it is the plan's end; in the last stage, where that may be past or near, at least --stabilize-kimg
    more, since a run that someone begins is meant to train.

    Raises:
        ConfigError: one that leaves nothing to train.
    """
    more = longer(images, config)
    if config.has_default_end:
        end = config.total_kimg or plan.total_images / 1000
        return replace(config, total_kimg=max(end, more) if is_last_stage else end)
    if (config.total_kimg or 0) * 1000 <= images:
        raise ConfigError(
            f"--total-kimg: {config.total_kimg:.10g} leaves nothing to train, since {config.resume} stands at "
            f"{images / 1000:g} kimg of this plan; use --total-kimg {more:.10g} to train "
            f"{config.stabilize_kimg:g} kimg more"
        )
    return config


def start_from_checkpoint(
    state: TrainState, path: str, config: TrainConfig, plan: GrowthController, classes: list[str]
) -> list[str]:
    """Put a checkpoint's weights, and as far as they fit its optimizers and schedule, into a new run's state.

    Returns:
        Lines telling what differs and what is new.

    Raises:
        CheckpointError: networks of other shapes.
    """
    saved = load(path)
    with explain_mismatch(path):
        return load_from_checkpoint(state, saved, path, config, plan, classes)


def load_from_checkpoint(
    state: TrainState,
    saved: dict[str, Any],
    path: str,
    config: TrainConfig,
    plan: GrowthController,
    classes: list[str],
) -> list[str]:
    """As `start_from_checkpoint`, which tells of what is wrong with a checkpoint in one sentence."""
    check_networks(path, saved["networks"], state.arguments)
    grown = saved["networks"]["generator"]["resolution"] != config.resolution
    content = dict(saved["state"])
    content.setdefault("G", content["G_ema"])
    told = ("out", "resume", "total_kimg")  # by the line above these
    lines = diff_options({k: v for k, v in saved["config"].items() if k not in told}, config)
    lines += class_changes(saved["classes"], classes)
    for name, network in (("G", "generator"), ("D", "discriminator"), ("G_ema", "generator")):
        if config.arch == "pggan":
            lines += list_new_layers(name, content.get(name, {}), saved["networks"]["generator"]["resolution"])
        fresh, weights = getattr(state, name).state_dict(), content.get(name, {})
        content[name] = fresh | move_classes(
            weights, fresh, network, state.arguments[network], saved["classes"], classes
        )
    options = ("optimizer", "adam_beta1", "adam_beta2")
    other = any(saved["config"].get(name, getattr(TrainConfig, name)) != getattr(config, name) for name in options)
    for name in ("g_optimizer", "d_optimizer"):
        if grown or other or saved["classes"] != classes or name not in content:
            content[name] = getattr(state, name).state_dict()
    content = state.state_dict() | content
    state.load_state_dict(content)
    stage = saved["stage"]
    now = GrowthController(replace(config, total_kimg=None), state.stage_ends).phase(state.previous)
    same_pace = all(saved["config"].get(name) == getattr(config, name) for name in ("fade_kimg", "stabilize_kimg"))
    if not same_pace or (now.resolution, now.alpha) != (stage["resolution"], stage["alpha"]):
        state.stage_ends = {}
        state.images = plan.find_position(stage["resolution"], stage["alpha"])
        lines.append(f"  counting on from {state.images / 1000:g} kimg, where this plan is at that stage")
    if grown or plan.should_reset_optimizers(state.previous, state.images):
        state.reset_optimizers()
    state.previous = state.start = state.images
    state.seconds, state.lr_factor, state.rollbacks = {}, 1.0, []
    state.clear_sums()
    return lines


def class_changes(old: list[str], new: list[str]) -> list[str]:
    """Return lines on classes that differ from a checkpoint's, and on the label weights that are kept."""
    if old == new:
        return []
    lines, kept = [f"  classes: {listed(old)} -> {listed(new)}"], kept_classes(old, new)
    if kept is None:
        lines.append("  label weights: kept, matched by position")
    elif added := [name for name in new if name not in kept]:
        of_others = f"kept for {listed(kept)}, " if kept else ""
        lines.append(f"  label weights: {of_others}freshly initialised for {listed(added)}")
    return lines


def listed(names: list[str], most: int = 10) -> str:
    """Return names in a row, of a long list the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


MAX_ROLLBACKS = 5  # to one checkpoint


def roll_back(state: TrainState, directory: RunDirectory, factor: float, why: str) -> None:
    """To the last good checkpoint, with all learning rates times `factor`.

    Raises:
        TrainingStopped: there is none, or the run has gone back to it too often.
    """
    try:
        saved = directory.load_newest(log, has_finite_state)
    except CheckpointError as error:
        raise TrainingStopped(f"{why}, and there is no good checkpoint to go back to: {error}") from None
    if saved is None:
        raise TrainingStopped(f"{why}, and nothing was saved yet to go back to; try a lower --lr")
    rollbacks = [*state.rollbacks, [state.images, saved["images"]]]
    if sum(to == saved["images"] for _, to in rollbacks) > MAX_ROLLBACKS:
        at = f"{saved['images'] / 1000:g} kimg"
        raise TrainingStopped(f"{why}, after {MAX_ROLLBACKS} returns to {at}; try a lower --lr")
    lr_factor = state.lr_factor * factor
    with explain_mismatch(directory.latest):
        state.load_state_dict(saved["state"])
    state.lr_factor, state.rollbacks = lr_factor, rollbacks
    log(f"{why}: going back to {state.images / 1000:g} kimg, with {lr_factor:g} of the learning rates planned")


def has_finite_state(content: dict[str, Any]) -> bool:
    """Whether a checkpoint can be gone back to: no step had just been skipped, every number in it is finite."""
    state = content["state"]
    if torch.as_tensor(state["skipped_in_a_row"]).any():
        return False
    left = [value for name, value in state.items() if name != "sums"]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += part.values()
        elif isinstance(part, torch.Tensor) and not part.isfinite().all():
            return False
    return True
