"""Where a run starts: from nothing, from its own latest checkpoint, or from somebody else's."""

from __future__ import annotations

from dataclasses import fields
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


def check_same_run(run: RunDirectory, config: TrainConfig) -> None:
    """Refuse to go on with a run under options that would make it another one.

    Raises:
        ConfigError: with the options that differ.
    """
    if lines := differences(run.read_config(), config, identity_only=True):
        raise ConfigError(
            f"{run.folder} is a run with other options:\n" + "\n".join(lines) + "\n"
            f"give the same ones to go on with it, or --out ANOTHER --resume {run.latest} to start a new run from it"
        )


def check_same_images(saved: dict[str, Any], fingerprint: str, config: TrainConfig) -> None:
    if saved["data"] != fingerprint:
        raise ConfigError(
            f"the images in {config.data} have changed since this run began; bring back the old ones, or start a new "
            f"run from its checkpoint with --out ANOTHER --resume {config.out}/checkpoints/latest.pt"
        )


def adopt(state: TrainState, path: str, config: TrainConfig, plan: GrowthController) -> list[str]:
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
    if grown:
        for name in ("g_optimizer", "d_optimizer"):
            content[name] = getattr(state, name).state_dict()
    state.load_state_dict(content)
    lines = differences(saved["config"], config)
    stage = saved["stage"]
    now = plan.phase(state.previous)
    if (now.resolution, now.alpha) != (stage["resolution"], stage["alpha"]):
        state.images = plan.position(stage["resolution"], stage["alpha"])
        lines.append(f"  counting on from {state.images / 1000:g} kimg, where this plan is at that stage")
    if grown or plan.resets_optimizers(state.previous, state.images):
        state.reset_optimizers()
    state.previous = state.images
    state.seconds = {}
    state.clear_sums()
    return lines
