"""Networks of another codebase, in this one's layout: what every reader here returns, and how it gets there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import Discriminator, Generator
from ..networks.progressive import feature_maps
from .errors import WeightsError

Kernels = Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class Weights:
    """Networks read from elsewhere.

    Attributes:
        origin: what they were read from, in words.
        networks: keyword arguments of "generator", and of "discriminator" where there is one.
        state: state dicts "G_ema", and "G" and "D" where there are such. RGB layers of lower stages may be missing.
        resolution, alpha: the stage that they were trained to.
        notes: what of the original is not carried, a line each.
    """

    origin: str
    networks: dict[str, dict[str, Any]]
    state: dict[str, dict[str, Tensor]]
    resolution: int
    alpha: float = 1.0
    notes: list[str] = field(default_factory=list)


def equalized(network: nn.Module, kernels: Kernels) -> dict[str, Tensor]:
    """The state dict of a network whose layers multiply by the given kernels.

    Args:
        network: on device meta.
        kernels: name of a layer -> (the kernel as the product sees it, with every factor in it, and the bias).

    Raises:
        WeightsError: a layer is missing, left over or of another shape; RGB layers of lower stages may be missing.
    """
    state = {}
    layers = {name: module for name, module in network.named_modules() if hasattr(module, "scale")}
    lower = {name for name in layers if name.startswith(("to_rgb.", "from_rgb."))} - {last_head(layers)}
    if missing := sorted(layers.keys() - kernels.keys() - lower):
        raise WeightsError(f"it has no layer {missing[0]} ({len(missing)} missing in all)")
    if unknown := sorted(kernels.keys() - layers.keys()):
        raise WeightsError(f"its layer {unknown[0]} has no place in these networks ({len(unknown)} in all)")
    for name, (kernel, bias) in kernels.items():
        layer = layers[name]
        if kernel.shape != layer.weight.shape or bias.shape != layer.bias.shape:
            shapes = f"{list(kernel.shape)} and {list(bias.shape)}"
            wanted = f"{list(layer.weight.shape)} and {list(layer.bias.shape)}"
            raise WeightsError(f"its layer {name} is of shape {shapes}, not {wanted}")
        state[f"{name}.weight"] = (kernel.float() / layer.scale).contiguous()
        state[f"{name}.bias"] = bias.float().clone()
    return state


def last_head(layers: Mapping[str, nn.Module]) -> str:
    """The RGB layer of the full resolution."""
    heads = [name for name in layers if name.startswith(("to_rgb.", "from_rgb."))]
    return max(heads, key=lambda name: int(name.split(".")[1]))


def widths(maps: list[int]) -> dict[str, Any]:
    """fmap_base, fmap_decay and fmap_max of networks with these feature maps from 4x4 on.

    Raises:
        WeightsError: no such numbers give these maps.
    """
    base = maps[-1] << len(maps)
    for fmap_base in (base, *(m << stage for stage, m in enumerate(maps, 1))):
        if [feature_maps(stage, fmap_base, 1.0, maps[0]) for stage in range(1, len(maps) + 1)] == maps:
            return {"fmap_base": fmap_base, "fmap_decay": 1.0, "fmap_max": maps[0]}
    raise WeightsError(f"its feature maps {maps} do not halve from stage to stage as these networks' do")


def on_meta(kind: type[Generator] | type[Discriminator], arguments: dict[str, Any]) -> Any:
    """A network without storage, to know shapes by.

    Raises:
        WeightsError: arguments that no network has.
    """
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise WeightsError(f"no network has its arguments: {str(error).splitlines()[0]}") from None
