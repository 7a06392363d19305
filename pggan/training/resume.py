"""Start or resume a run: from its own latest checkpoint, or a new run from another run's checkpoint (--resume)."""

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

from pggan.checkpoints import CheckpointError, RunDirectory, load, resolve_checkpoint

from ..config import ConfigError, TrainConfig, format_value, option_name, spell_option, validate_field
from ..networks import ARCHITECTURES
from ..paths import is_same_checkpoint, is_same_path, relocate_path, relocate_paths
from .growth import GrowthController, value_at
from .signals import TrainingStopped
from .state import TrainState
from .tracking import log
from .transfer import find_kept_classes, move_classes


def diff_options(old: dict[str, Any], new: TrainConfig, identity_only: bool = False) -> list[str]:
    """Return a line "  --option: old -> new" for each option that differs.

    Args:
        old: a recorded config; options that it lacks are skipped.
        identity_only: skip options that may change when a run is resumed.
    """
    lines = []
    for f in fields(TrainConfig):
        if (identity_only and not f.metadata.get("identity", True)) or f.name not in old:
            continue
        before, now = validate_field(f, old[f.name]), getattr(new, f.name)
        if before != now:
            lines.append(f"  {option_name(f)}: {format_value(before)} -> {format_value(now)}")
    return lines


def resolve_resumed_config(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """Return the options to resume a run with: the command's, with the run's own --resume, precision and default end.

    Raises:
        ConfigError: options that affect training differ; the message lists them.
    """
    old = run.read_config()
    if old.get("augment") != "ada":
        old.pop("ada_target", None)  # unused; it was 0.6 before its default depended on the loss
    recorded = relocate_paths(old, run.folder).get("resume")
    if config.resume is not None and not (isinstance(recorded, str) and is_same_checkpoint(config.resume, recorded)):
        raise ConfigError(explain_other_start(run, config.resume, recorded))
    if config.precision == "auto" and old.get("precision") in ("fp32", "bf16"):
        config = replace(config, precision=old["precision"])  # chosen by auto when the run began
    if lines := diff_options(old, config, identity_only=True):
        start = f"--out ANOTHER to start a new run (from its weights with --resume {quote(str(run.latest))})"
        if old.get("budget"):  # a plan cannot start from weights
            start = f"--out ANOTHER to start from scratch, or {spell_new_run(replace(config, budget=old['budget']))}"
            start += f" to train it for another {old['budget']}"
        raise ConfigError(
            f"the run in {run.folder} was started with other options:\n" + "\n".join(lines) + "\n"
            f"use its options to resume it, or {start}"
        )
    if recorded is None:
        return replace(config, resume=None)
    end = old.get("total_kimg") if config.has_default_end else None
    return replace(config, resume=recorded, total_kimg=config.total_kimg if end is None else end)


def explain_other_start(run: RunDirectory, wanted: str, recorded: str | None) -> str:
    """Return the error message for a --resume that contradicts the run already in the run directory."""
    real = Path(os.path.realpath(wanted))
    if Path(os.path.realpath(run.folder)) in (real, *real.parents):
        return (
            f"--resume: {wanted} belongs to the run in {run.folder} itself; run the same command without --resume to "
            f"resume that run from its latest checkpoint, or add --out ANOTHER to start a new run from it"
        )
    began = "from scratch" if recorded is None else f"from {recorded}"
    has_saved = any(run.checkpoints.glob("*.pt"))  # else it cannot resume if its start has been moved
    return (
        f"--resume: the run in {run.folder} was started {began}, not from {wanted}; "
        f"{'run the same command without --resume to resume that run, or ' if has_saved else ''}"
        "add --out ANOTHER to start a new one"
    )


def check_end(saved: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to resume a run that has passed the plan's end, or that has begun to decay toward another end.

    A run with --budget has decided on its end itself, and --total-kimg no longer matters.

    Raises:
        ConfigError.
    """
    ends = saved["state"].get("stage_ends")
    plan = GrowthController(config, ends)
    before = GrowthController(replace(config, total_kimg=saved["config"].get("total_kimg")), ends)
    if before.total_images != plan.total_images and before.decay(saved["images"]) < 1:
        raise ConfigError(
            f"--total-kimg: the learning rates of the run in {config.out} have been decaying since "
            f"{before.decay_start / 1000:g} kimg, to reach 0 at its end (--decay-kimg); use --total-kimg "
            f"{before.total_images / 1000:.10g}, or start a new run with {spell_new_run(config)}"
        )
    if plan.total_images <= saved["state"]["previous"]:
        raise ConfigError(
            f"--total-kimg: the run in {config.out} has already seen {saved['images'] / 1000:g} kimg, more than the "
            f"{plan.total_images / 1000:g} kimg of this command; use --total-kimg "
            f"{suggest_total_kimg(saved['images'], config):.10g} to train longer"
        )


def suggest_total_kimg(images: int, config: TrainConfig) -> float:
    """Return the --total-kimg that trains --stabilize-kimg more after `images` images."""
    return round(images / 1000 + value_at(config.stabilize_kimg, config.resolution), 3)


def spell_new_run(config: TrainConfig) -> str:
    """Return the options that start a new run from the run in --out; with --budget, by the same recipe."""
    recipe = f"--config {quote(f'{config.out}/config.json')} " if config.budget else ""
    return f"{recipe}--out ANOTHER --resume {quote(str(config.out))}"


def describe_finished_run(config: TrainConfig, plan: GrowthController, images: int) -> str:
    """Return the console line for a run that has nothing left to train."""
    remedy = f"--total-kimg {suggest_total_kimg(images, config):.10g}"
    if config.decay_kimg or config.budget:  # the learning rates would jump up from 0, and the time is used up
        remedy = spell_new_run(config)
    return (
        f"{config.out} has finished: it has seen {images / 1000:g} kimg of {plan.total_images / 1000:g}; "
        f"use {remedy} to train longer"
    )


def check_resumable(saved: dict[str, Any], content: str, config: TrainConfig) -> None:
    """Refuse to resume a run with other images, or past the plan's end.

    Args:
        saved: the run's checkpoint. content: digest of the images to resume with.

    Raises:
        ConfigError.
    """
    check_end(saved, config)
    if saved["data"] == content:
        return
    recorded, latest = saved["config"].get("data"), quote(f"{config.out}/checkpoints/latest.pt")
    if isinstance(recorded, str):
        recorded = relocate_path(recorded, saved["config"].get("out"), RunDirectory(config.out).folder)
    if isinstance(recorded, str) and not is_same_path(recorded, config.data):
        raise ConfigError(
            f"the run in {config.out} was trained on {recorded}, and {config.data} has other images; use --out ANOTHER "
            f"to train on them from scratch, or --out ANOTHER --resume {latest} to start from that run's weights"
        )
    raise ConfigError(
        f"the images in {config.data} have changed since this run began; use --out ANOTHER to train on them from "
        f"scratch, --out ANOTHER --resume {latest} to start from this run's weights, or restore the old images to "
        f"resume it"
    )


def check_networks(path: str, saved: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    """Refuse to load a checkpoint's weights into networks of other shapes.

    Args:
        saved, wanted: arguments of "generator" and "discriminator", in the checkpoint and for this run.

    Raises:
        CheckpointError: the networks differ in more than a higher resolution, the classes or the size of the
            minibatch-stddev groups; the message has the options that fit.
    """
    options: dict[str, str] = {}
    for network, arguments in wanted.items():
        if network not in saved:
            continue  # imported weights have no discriminator: it is trained from scratch
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
            if name == "activation":
                raise CheckpointError(
                    f"{path} is of an earlier version, whose DCGAN had leaky ReLU in the generator instead of the "
                    "paper's ReLU; all commands can use it, but training cannot resume from it; train from scratch "
                    "with --out ANOTHER and without --resume"
                )
            if name == "mbstd_group":
                if bool(before) == bool(value):
                    continue
                name, before = "minibatch_stddev", bool(before)
            elif name == "hidden" and network == "discriminator":
                name = "d_hidden"
            options.setdefault(name, spell_option(name, tuple(before) if isinstance(before, list) else before))
            if name == "arch":
                break  # options of another architecture cannot be compared
    if options:
        raise CheckpointError(f"{path} was trained with other network options; use {' '.join(options.values())}")


def has_default_latents(arguments: dict[str, Any]) -> bool:
    """Return whether a generator has the latent size that it gets without --latent-size: its first layer's maps."""
    return arguments.get("latent_size") == min(arguments.get("fmap_base", 0), arguments.get("fmap_max", 0))


def list_new_layers(name: str, saved: dict[str, Any], resolution: int) -> list[str]:
    """Return a line on the layers of a network that the checkpoint lacks, so that they are freshly initialized.

    Args:
        name: "G", "D" or "G_ema". saved: state dict, {} if the checkpoint lacks the network.
        resolution: the checkpoint's final resolution; layers above it are new anyway and not mentioned.
    """
    if not saved:
        return [f"  {name}: not in the checkpoint, freshly initialized"]
    levels = resolution.bit_length() - 2
    heads = [4 << i for i in range(levels) if not any(f"{kind}.{i}.weight" in saved for kind in ("to_rgb", "from_rgb"))]
    sizes = ", ".join(f"{size}x{size}" for size in heads)
    return [f"  {name}: RGB layers of {sizes} are not in the checkpoint, freshly initialized"] if heads else []


@contextmanager
def explain_mismatch(where: Any) -> Iterator[None]:
    """Turn any error from loading a checkpoint's content into a CheckpointError that names the file, `where`."""
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        reason = (str(error) or "it is damaged").splitlines()[-1].strip()
        raise CheckpointError(f"{where} is damaged, or was written by another version: {reason}") from None


def start_new_run(state: TrainState, config: TrainConfig, classes: list[str]) -> tuple[TrainConfig, list[str]]:
    """Start a new run from the checkpoint of --resume, possibly with other images, resolution or schedule.

    Returns:
        The config with its final --total-kimg, and console lines: the start, changed options, new layers.

    Raises:
        CheckpointError: no checkpoint, or networks of other shapes. ConfigError: --total-kimg leaves nothing to train.
    """
    path = str(resolve_checkpoint(config.resume or ""))
    plan = GrowthController(replace(config, total_kimg=None))
    lines = start_from_checkpoint(state, path, config, plan, classes)
    phase = GrowthController(plan.config, state.stage_ends).phase(state.images)
    config = resolve_total_kimg(
        config, plan, state.images, phase.resolution == config.resolution and not phase.is_fading
    )
    start, end = state.images / 1000, GrowthController(config, state.stage_ends).total_images / 1000
    ending = f"or until --budget {config.budget} is used up" if config.budget else "change this with --total-kimg"
    first = (
        f"starting from {path} at {start:g} kimg; training {end - start:g} kimg more, until {end:g} kimg at "
        f"{config.resolution}x{config.resolution} ({ending})"
    )
    return config, [first, *lines]


def resolve_total_kimg(config: TrainConfig, plan: GrowthController, images: int, is_last_stage: bool) -> TrainConfig:
    """Return the config with the --total-kimg of a run that starts after `images` images.

    The default is the plan's end. In the last stage the checkpoint may be near or past that end, so the default there
    is --stabilize-kimg more.

    Args:
        is_last_stage: whether the checkpoint is in the last stage at alpha 1.

    Raises:
        ConfigError: the specified --total-kimg leaves nothing to train.
    """
    more = suggest_total_kimg(images, config)
    if config.has_default_end:
        end = config.total_kimg or plan.total_images / 1000
        return replace(config, total_kimg=more if is_last_stage else end)
    if (config.total_kimg or 0) * 1000 <= images:
        raise ConfigError(
            f"--total-kimg: {config.total_kimg:.10g} leaves nothing to train, since {config.resume} is at "
            f"{images / 1000:g} kimg of this schedule; use --total-kimg {more:.10g} to train "
            f"{value_at(config.stabilize_kimg, config.resolution):g} kimg more"
        )
    return config


def start_from_checkpoint(
    state: TrainState, path: str, config: TrainConfig, plan: GrowthController, classes: list[str]
) -> list[str]:
    """Load a checkpoint's weights into a new run's state; its optimizers and position too, as far as they fit.

    Args:
        state: changed in place. plan: the new run's. classes: the new run's class names.

    Returns:
        Console lines: changed options, classes and position, new layers.

    Raises:
        CheckpointError: networks of other shapes, or damaged content.
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
    """Do the work of `start_from_checkpoint`, with the checkpoint read; damaged content raises any exception."""
    check_networks(path, saved["networks"], state.arguments)
    is_larger = saved["networks"]["generator"]["resolution"] != config.resolution
    content = dict(saved["state"])
    content.setdefault("G", content["G_ema"])
    content.pop("power_averages", None)  # new averages begin with this run: their first decay is 0
    in_first_line = ("out", "resume", "total_kimg")  # of `start_new_run`
    lines = diff_options({k: v for k, v in saved["config"].items() if k not in in_first_line}, config)
    lines += describe_class_changes(saved["classes"], classes)
    for name, network in (("G", "generator"), ("D", "discriminator"), ("G_ema", "generator")):
        if config.arch == "pggan":
            lines += list_new_layers(name, content.get(name, {}), saved["networks"]["generator"]["resolution"])
        fresh, weights = getattr(state, name).state_dict(), content.get(name, {})
        content[name] = fresh | move_classes(
            weights, fresh, network, state.arguments[network], saved["classes"], classes
        )
    options = ("optimizer", "adam_beta1", "adam_beta2")
    is_other_optimizer = any(
        saved["config"].get(name, getattr(TrainConfig, name)) != getattr(config, name) for name in options
    )
    for name in ("g_optimizer", "d_optimizer"):
        if is_larger or is_other_optimizer or saved["classes"] != classes or name not in content:
            content[name] = getattr(state, name).state_dict()
    content = state.state_dict() | content
    state.load_state_dict(content)
    state.stage_ends.pop(saved["networks"]["generator"]["resolution"], None)  # where --budget ended the other run
    stage = saved["stage"]
    now = GrowthController(replace(config, total_kimg=None), state.stage_ends).phase(state.previous)
    lengths = {name: saved["config"].get(name) for name in ("fade_kimg", "stabilize_kimg")}
    same_lengths = None not in lengths.values() and not diff_options(lengths, config)
    if not same_lengths or (now.resolution, now.alpha) != (stage["resolution"], stage["alpha"]):
        state.stage_ends = {}
        state.images = plan.find_position(stage["resolution"], stage["alpha"])
        lines.append(
            f"  counting images from {state.images / 1000:g} kimg, where this schedule reaches the checkpoint's stage"
        )
    if is_larger or plan.should_reset_optimizers(state.previous, state.images):
        state.reset_optimizers()
    state.previous = state.start = state.averaged = state.images
    state.seconds, state.elapsed, state.lr_factor, state.rollbacks = {}, 0.0, 1.0, []
    state.clear_sums()
    return lines


def describe_class_changes(old: list[str], new: list[str]) -> list[str]:
    """Return console lines on changed classes and the label weights that are kept; [] if nothing changed."""
    if old == new:
        return []
    lines, kept = [f"  classes: {join_names(old)} -> {join_names(new)}"], find_kept_classes(old, new)
    if kept is None:
        lines.append("  label weights: kept, matched by position")
    elif added := [name for name in new if name not in kept]:
        of_others = f"kept for {join_names(kept)}, " if kept else ""
        lines.append(f"  label weights: {of_others}freshly initialized for {join_names(added)}")
    return lines


def join_names(names: list[str], most: int = 10) -> str:
    """Return names separated by commas; of a long list the first `most`, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


ROLLBACK_LR = 0.5  # factor on all learning rates after each rollback: our choice
MAX_ROLLBACKS = 5  # to one checkpoint: the learning rate is then 1/32 of the planned one


def roll_back(state: TrainState, directory: RunDirectory, why: str) -> None:
    """Return to the last good checkpoint, with all learning rates multiplied by `ROLLBACK_LR`.

    why: the reason, for messages.

    Raises:
        TrainingStopped: there is no good checkpoint, or MAX_ROLLBACKS to it did not help.
    """
    try:
        saved = directory.load_newest(log, is_good_checkpoint)
    except CheckpointError as error:
        raise TrainingStopped(
            f"{why}, and there is no good checkpoint to roll back to ({error}); start a new run with a lower --lr"
        ) from None
    if saved is None:
        raise TrainingStopped(
            f"{why}, and no checkpoint to roll back to was saved yet; start a new run with a lower --lr"
        )
    rollbacks = [*state.rollbacks, [state.images, saved["images"]]]
    if sum(to == saved["images"] for _, to in rollbacks) > MAX_ROLLBACKS:
        at = f"{saved['images'] / 1000:g} kimg"
        raise TrainingStopped(f"{why}, after {MAX_ROLLBACKS} rollbacks to {at}; start a new run with a lower --lr")
    lr_factor = state.lr_factor * ROLLBACK_LR
    with explain_mismatch(directory.latest):
        state.load_state_dict(saved["state"])
    state.lr_factor, state.rollbacks = lr_factor, rollbacks
    kimg = state.images / 1000
    log(f"warning: {why}; rolling back to {kimg:g} kimg, with learning rates multiplied by {lr_factor:g}")


def is_good_checkpoint(content: dict[str, Any]) -> bool:
    """Return whether a checkpoint is good: its last step was not skipped, and all its numbers are finite."""
    state = content["state"]
    if torch.as_tensor(state["skipped_in_a_row"]).any():
        return False
    parts = [value for name, value in state.items() if name != "sums"]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, torch.Tensor) and not part.isfinite().all():
            return False
    return True
