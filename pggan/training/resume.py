"""Where a run starts: from nothing, from its own latest checkpoint, or from somebody else's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from checkpoints import CheckpointError, RunDirectory, load

from ..config import ConfigError, TrainConfig, checked, format_value, option_name
from .growth import GrowthController
from .state import TrainState


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
    if lines := differences(old, config, identity_only=True):
        raise ConfigError(
            f"{run.folder} is a run with other options:\n" + "\n".join(lines) + "\n"
            f"give the same ones to go on with it, or --out ANOTHER --resume {run.latest} to start a new run from it"
        )
    return replace(config, resume=old.get("resume"))


def check_fits(saved: dict[str, Any], content: str, config: TrainConfig, plan: GrowthController) -> None:
    """Refuse to go on with other images, or to an end that is past."""
    if plan.total_images <= saved["state"]["previous"]:
        raise ConfigError(f"--total-kimg: {config.out} has already seen {saved['images'] / 1000:g} thousand images")
    if saved["data"] != content:
        raise ConfigError(
            f"the images in {config.data} have changed since this run began; bring back the old ones, or start a new "
            f"run from its checkpoint with --out ANOTHER --resume {config.out}/checkpoints/latest.pt"
        )


def adopt(state: TrainState, path: str, config: TrainConfig, plan: GrowthController, classes: list[str]) -> list[str]:
    """Start a new run from a checkpoint, also of a lower target resolution or another plan.

    Returns:
        Lines telling what differs and what is new.

    Raises:
        CheckpointError: networks of other shapes.
    """
    saved = load(path)
    old_networks = saved["networks"]
    for network, arguments in state.arguments.items():
        for name, value in arguments.items():
            before = old_networks[network].get(name)
            if before != value and not (name == "resolution" and before < value) and name != "mbstd_group":
                raise CheckpointError(f"{path} has {name} {before}, not {value}; these options must agree")
    grown = old_networks["generator"]["resolution"] != config.resolution
    content = dict(saved["state"])
    for name in ("G", "D", "G_ema"):
        content[name] = getattr(state, name).state_dict() | content[name]
    options = ("optimizer", "adam_beta1", "adam_beta2")
    other = any(saved["config"].get(name, getattr(TrainConfig, name)) != getattr(config, name) for name in options)
    if grown or other:
        for name in ("g_optimizer", "d_optimizer"):
            content[name] = getattr(state, name).state_dict()
    state.load_state_dict(content)
    lines = differences(saved["config"], config)
    if saved["classes"] != classes:
        lines.append(f"  classes: {', '.join(saved['classes'])} -> {', '.join(classes)}")
    stage = saved["stage"]
    now = plan.phase(state.previous)
    same_pace = all(saved["config"][name] == getattr(config, name) for name in ("fade_kimg", "stabilize_kimg"))
    if not same_pace or (now.resolution, now.alpha) != (stage["resolution"], stage["alpha"]):
        state.images = plan.position(stage["resolution"], stage["alpha"])
        lines.append(f"  counting on from {state.images / 1000:g} kimg, where this plan is at that stage")
    if grown or plan.resets_optimizers(state.previous, state.images):
        state.reset_optimizers()
    state.previous = state.images
    state.seconds = {}
    state.clear_sums()
    return lines
