"""Where a run starts: from nothing, from its own latest checkpoint, or from somebody else's."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch

from checkpoints import CheckpointError, RunDirectory, load

from ..config import ConfigError, TrainConfig, checked, format_value, option_name
from ..networks import ARCHITECTURES
from .growth import GrowthController
from .signals import TrainingStopped
from .state import TrainState
from .tracking import say


def differences(old: dict[str, Any], new: TrainConfig, identity_only: bool = False) -> list[str]:
    """Lines "--option: old here, new there" for every option that differs."""
    lines = []
    for f in fields(TrainConfig):
        if (identity_only and not f.metadata.get("identity", True)) or f.name not in old:
            continue
        before, now = checked(f, old[f.name]), getattr(new, f.name)
        if before != now:
            lines.append(f"  {option_name(f)}: {format_value(before)} -> {format_value(now)}")
    return lines


def same_run(run: RunDirectory, config: TrainConfig) -> TrainConfig:
    """The options to go on with a run: those given, and where it started from.

    Raises:
        ConfigError: options that would make it another run, with what differs.
    """
    old = run.read_config()
    if config.resume not in (None, old.get("resume")):
        raise ConfigError(f"--resume: {run.folder} has begun already, from {old.get('resume')}; give another --out")
    if config.precision == "auto" and old.get("precision") in ("fp32", "bf16"):
        config = replace(config, precision=old["precision"])  # what auto came to at the start
    if lines := differences(old, config, identity_only=True):
        raise ConfigError(
            f"{run.folder} is a run with other options:\n" + "\n".join(lines) + "\n"
            f"give the same ones to go on with it, or --out ANOTHER --resume {run.latest} to start a new run from it"
        )
    return replace(config, resume=old.get("resume"))


def check_end(saved: dict[str, Any], config: TrainConfig, plan: GrowthController) -> None:
    """Raises ConfigError for a run that is already past the plan's end."""
    if plan.total_images <= saved["state"]["previous"]:
        raise ConfigError(f"--total-kimg: {config.out} has already seen {saved['images'] / 1000:g} thousand images")


def check_fits(saved: dict[str, Any], content: str, config: TrainConfig, plan: GrowthController) -> None:
    """Refuse to go on with other images, or to an end that is past.

    Raises:
        ConfigError.
    """
    check_end(saved, config, plan)
    if saved["data"] != content:
        raise ConfigError(
            f"the images in {config.data} have changed since this run began; bring back the old ones, or start a new "
            f"run from its checkpoint with --out ANOTHER --resume {config.out}/checkpoints/latest.pt"
        )


def check_networks(path: str, saved: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    """Refuse networks that another checkpoint's weights do not fit.

    Raises:
        CheckpointError: they differ in more than a higher resolution or the size of the stddev groups.
    """
    for network, arguments in wanted.items():
        if network not in saved:
            continue  # imported weights: it begins anew
        kind = ARCHITECTURES[arguments["arch"]][network]
        defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()} | {"arch": "pggan"}
        for name, value in arguments.items():
            before = saved[network].get(name, defaults.get(name))
            if before != value and not (name == "resolution" and before < value) and name != "mbstd_group":
                option = "--" + name.replace("_", "-")
                raise CheckpointError(f"{path} has {name} {before}, not {value}: {option} must agree with it")


def new_layers(name: str, saved: dict[str, Any], resolution: int) -> list[str]:
    """A line saying what of a network of `resolution` or more is not in the checkpoint, and so begins anew."""
    if not saved:
        return [f"  {name}: not in the checkpoint, freshly initialised"]
    levels = resolution.bit_length() - 2
    heads = [4 << i for i in range(levels) if not any(f"{kind}.{i}.weight" in saved for kind in ("to_rgb", "from_rgb"))]
    sizes = ", ".join(f"{size}x{size}" for size in heads)
    return [f"  {name}: RGB layers of {sizes} are not in the checkpoint, freshly initialised"] if heads else []


@contextmanager
def fitting(where: Any) -> Iterator[None]:
    """Says of a checkpoint that no run with such networks wrote that it does not fit."""
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, OverflowError) as error:
        reason = (str(error) or "it is damaged").splitlines()[-1].strip()
        raise CheckpointError(f"{where} does not fit its networks: {reason}") from None


def adopt(state: TrainState, path: str, config: TrainConfig, plan: GrowthController, classes: list[str]) -> list[str]:
    """Start a new run from a checkpoint, also of a lower target resolution or another plan.

    Returns:
        Lines telling what differs and what is new.

    Raises:
        CheckpointError: networks of other shapes.
    """
    saved = load(path)
    with fitting(path):
        return adopted(state, saved, path, config, plan, classes)


def adopted(
    state: TrainState, saved: dict[str, Any], path: str, config: TrainConfig, plan: GrowthController,
    classes: list[str],
) -> list[str]:  # fmt: skip
    """As `adopt`, which tells of what is wrong with a checkpoint in one sentence."""
    check_networks(path, saved["networks"], state.arguments)
    grown = saved["networks"]["generator"]["resolution"] != config.resolution
    content = dict(saved["state"])
    content.setdefault("G", content["G_ema"])
    lines = differences(saved["config"], config)
    for name in ("G", "D", "G_ema"):
        if config.arch == "pggan":
            lines += new_layers(name, content.get(name, {}), saved["networks"]["generator"]["resolution"])
        content[name] = getattr(state, name).state_dict() | content.get(name, {})
    options = ("optimizer", "adam_beta1", "adam_beta2")
    other = any(saved["config"].get(name, getattr(TrainConfig, name)) != getattr(config, name) for name in options)
    for name in ("g_optimizer", "d_optimizer"):
        if grown or other or name not in content:
            content[name] = getattr(state, name).state_dict()
    content = state.state_dict() | content
    state.load_state_dict(content)
    if saved["classes"] != classes:
        lines.append(f"  classes: {', '.join(saved['classes'])} -> {', '.join(classes)}")
    stage = saved["stage"]
    now = GrowthController(config, state.stage_ends).phase(state.previous)
    same_pace = all(saved["config"].get(name) == getattr(config, name) for name in ("fade_kimg", "stabilize_kimg"))
    if not same_pace or (now.resolution, now.alpha) != (stage["resolution"], stage["alpha"]):
        state.stage_ends = {}
        state.images = plan.position(stage["resolution"], stage["alpha"])
        lines.append(f"  counting on from {state.images / 1000:g} kimg, where this plan is at that stage")
    if grown or plan.resets_optimizers(state.previous, state.images):
        state.reset_optimizers()
    state.previous = state.images
    state.seconds, state.lr_factor, state.rollbacks = {}, 1.0, []
    state.clear_sums()
    return lines


MOST_RETURNS = 5  # to one checkpoint


def go_back(state: TrainState, directory: RunDirectory, factor: float, why: str) -> None:
    """To the last good checkpoint, with all learning rates times `factor`.

    Raises:
        TrainingStopped: there is none, or the run has gone back to it too often.
    """
    try:
        saved = directory.load_newest(say, is_finite)
    except CheckpointError as error:
        raise TrainingStopped(f"{why}, and there is no good checkpoint to go back to: {error}") from None
    if saved is None:
        raise TrainingStopped(f"{why}, and nothing was saved yet to go back to; try a lower --lr")
    rollbacks = [*state.rollbacks, [state.images, saved["images"]]]
    if sum(to == saved["images"] for _, to in rollbacks) > MOST_RETURNS:
        at = f"{saved['images'] / 1000:g} kimg"
        raise TrainingStopped(f"{why}, after {MOST_RETURNS} returns to {at}; try a lower --lr")
    lr_factor = state.lr_factor * factor
    with fitting(directory.latest):
        state.load_state_dict(saved["state"])
    state.lr_factor, state.rollbacks = lr_factor, rollbacks
    say(f"{why}: going back to {state.images / 1000:g} kimg, with {lr_factor:g} of the learning rates planned")


def is_finite(content: dict[str, Any]) -> bool:
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
