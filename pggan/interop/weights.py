"""The common result of all readers in this package, and helpers to produce it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import Discriminator, Generator
from ..networks.progressive import count_feature_maps
from .errors import WeightsError

Kernels = Mapping[str, tuple[Tensor, Tensor]]  # layer name -> (kernel with every run-time factor applied, bias)


@dataclass
class Weights:
    """Networks read from another codebase's file.

    Attributes:
        origin: the codebase, for people to read.
        networks: keyword arguments of "generator" and, if there is one, "discriminator".
        state: state dicts "G_ema" and, if the file has them, "G" and "D". RGB layers of lower stages may be missing.
        resolution: last stage that was trained, in pixels.
        alpha: how far that stage had faded in, in [0, 1].
        notes: one line for each part of the original that could not be kept.
    """

    origin: str
    networks: dict[str, dict[str, Any]]
    state: dict[str, dict[str, Tensor]]
    resolution: int
    alpha: float = 1.0
    notes: list[str] = field(default_factory=list)


def to_equalized(network: nn.Module, kernels: Kernels) -> dict[str, Tensor]:
    """Return the state dict with which a network's layers multiply by the specified kernels.

    Args:
        network: on device meta.
        kernels: see `Kernels`. RGB layers of lower stages may be missing.

    Raises:
        WeightsError: a layer is missing, unexpected or of the wrong shape.
    """
    state = {}
    layers = {name: module for name, module in network.named_modules() if hasattr(module, "scale")}
    lower = {name for name in layers if name.startswith(("to_rgb.", "from_rgb."))} - {last_rgb_layer(layers)}
    if missing := sorted(layers.keys() - kernels.keys() - lower):
        raise WeightsError(f"missing layer {missing[0]} ({len(missing)} in total)")
    if unknown := sorted(kernels.keys() - layers.keys()):
        raise WeightsError(f"unexpected layer {unknown[0]} ({len(unknown)} in total)")
    for name, (kernel, bias) in kernels.items():
        layer = layers[name]
        if kernel.shape != layer.weight.shape or bias.shape != layer.bias.shape:
            shapes = f"{list(kernel.shape)} and {list(bias.shape)}"
            wanted = f"{list(layer.weight.shape)} and {list(layer.bias.shape)}"
            raise WeightsError(f"layer {name} has the shapes {shapes}, expected {wanted}")
        # equalized layers multiply by their scale at run time, so divide by it once here
        state[f"{name}.weight"] = (kernel.float() / layer.scale).contiguous()
        state[f"{name}.bias"] = bias.float().clone()
    return state


def last_rgb_layer(layers: Mapping[str, nn.Module]) -> str:
    """Return the name of the full resolution's RGB layer."""
    heads = [name for name in layers if name.startswith(("to_rgb.", "from_rgb."))]
    return max(heads, key=lambda name: int(name.split(".")[1]))


def feature_map_options(maps: list[int]) -> dict[str, Any]:
    """Return fmap_base, fmap_decay and fmap_max that give these feature maps per resolution, from 4x4 up.

    Raises:
        WeightsError: `count_feature_maps` cannot give them.
    """
    # fmap_base / 2^stage is the number of maps at any stage that fmap_max does not limit: try each of them
    base = maps[-1] << len(maps)
    for fmap_base in (base, *(m << stage for stage, m in enumerate(maps, 1))):
        if [count_feature_maps(stage, fmap_base, 1.0, maps[0]) for stage in range(1, len(maps) + 1)] == maps:
            return {"fmap_base": fmap_base, "fmap_decay": 1.0, "fmap_max": maps[0]}
    raise WeightsError(f"unsupported feature maps {maps}: they do not halve from one resolution to the next")


def build_on_meta(kind: type[Generator] | type[Discriminator], arguments: dict[str, Any]) -> Any:
    """Build a network without storage (device meta), for its shapes.

    Raises:
        WeightsError: the arguments are not valid.
    """
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"unsupported networks: {str(error).splitlines()[0]}") from None
