"""Networks from the paper authors' variable names and layouts (TensorFlow: kernels [height, width, in, out])."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks import Discriminator, Generator

ARGUMENTS = {  # the official name -> ours
    "resolution": "resolution",
    "num_channels": "channels",
    "label_size": "label_size",
    "latent_size": "latent_size",
    "fmap_base": "fmap_base",
    "fmap_decay": "fmap_decay",
    "fmap_max": "fmap_max",
    "fused_scale": "fused_scale",
    "mbstd_group_size": "mbstd_group",
}
DEFAULTS: dict[str, Any] = {"num_channels": 1, "resolution": 32}  # where the official code's are not ours
GENERATOR_ONLY, DISCRIMINATOR_ONLY = {"latent_size"}, {"mbstd_group"}
TRAINING_ONLY = {"wgan_lambda", "wgan_epsilon", "wgan_target", "cond_weight"}
PAPER_VALUES: dict[str, Any] = {  # official switches that these networks have in the paper's position only
    "dtype": "float32",
    "normalize_latents": True,
    "use_wscale": True,
    "use_pixelnorm": True,
    "pixelnorm_epsilon": 1e-8,
    "use_leakyrelu": True,
    "tanh_at_end": False,
    "is_template_graph": False,
    "structure": None,
    "mbstd_num_features": 1,
}


def from_official(variables: Mapping[str, np.ndarray], network: str, **static_kwargs: Any) -> Generator | Discriminator:
    """Build a generator or discriminator holding the official weights.

    Args:
        variables: official variable name ("8x8/Conv0_up/weight") -> array, as in a snapshot; a leading "G/", "D/" or
            "Gs/" and the bookkeeping variable "lod" are ignored.
        network: "G" (or "Gs") or "D".
        static_kwargs: the official network's own keyword arguments (num_channels, resolution, label_size, ...).

    Raises:
        ValueError: an argument these networks cannot follow, a variable missing, left over or of another shape.
    """
    kind = {"G": Generator, "Gs": Generator, "D": Discriminator}.get(network)
    if kind is None:
        raise ValueError(f"network must be 'G', 'Gs' or 'D', not {network!r}")
    other = DISCRIMINATOR_ONLY if kind is Generator else GENERATOR_ONLY
    for name, value in static_kwargs.items():
        if name in PAPER_VALUES and value not in (PAPER_VALUES[name], "linear" if name == "structure" else None):
            raise ValueError(f"official network with {name}={value!r}: only {PAPER_VALUES[name]!r} is supported")
        if name not in {*ARGUMENTS, *PAPER_VALUES, *TRAINING_ONLY}:
            raise ValueError(f"unknown argument of an official network: {name}={value!r}")
    arguments = {ARGUMENTS[k]: v for k, v in (DEFAULTS | static_kwargs).items() if k in ARGUMENTS}
    with torch.device("meta"):  # shapes only: a file's arguments may ask for more memory than there is
        built = kind(**{k: v for k, v in arguments.items() if k not in other})
    arrays = {name.removeprefix(f"{network}/"): np.asarray(array) for name, array in variables.items()}
    arrays.pop("lod", None)
    fill(built, arrays)
    return built


def layers(network: Any) -> dict[str, nn.Module]:
    """Official layer name -> our layer, for every layer of a network."""
    top = len(network.blocks)
    names = {"4x4/Conv": network.conv}
    fused = top and network.blocks[0].fused_scale
    if isinstance(network, Generator):
        names["4x4/Dense"] = network.dense
        for i, block in enumerate(network.blocks):
            size = 8 << i
            names[f"{size}x{size}/Conv0" + ("_up" if fused else "")] = block.up
            names[f"{size}x{size}/Conv1"] = block.conv
        names |= {f"ToRGB_lod{top - i}": layer for i, layer in enumerate(network.to_rgb)}
    else:
        names["4x4/Dense0"], names["4x4/Dense1"] = network.dense, network.output
        for i, block in enumerate(network.blocks):
            size = 8 << i
            names[f"{size}x{size}/Conv0"] = block.conv
            names[f"{size}x{size}/Conv1" + ("_down" if fused else "")] = block.down
        names |= {f"FromRGB_lod{top - i}": layer for i, layer in enumerate(network.from_rgb)}
    return names


def from_official_layout(name: str, array: Tensor, shape: torch.Size) -> Tensor:
    """An official weight (or its gradient) in our layout.

    The official fused upscaling applies its kernel [height, width, out, in] rotated by 180 degrees against
    upscaling followed by a convolution, which is the orientation kept here.
    """
    if name.endswith("bias"):
        return array
    if name.endswith("Conv0_up/weight"):
        return array.flip(0, 1).permute(2, 3, 0, 1)
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1)
    if name == "4x4/Dense/weight" and array.shape[0] * array.shape[1] == shape.numel():
        return array.reshape(shape)
    return array.T


def fill(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a network that has shapes but no storage yet (device meta) the official arrays."""
    expected = {
        f"{layer}/{part}": (module, part, parameter)
        for layer, module in layers(network).items()
        for part, parameter in module.named_parameters()
    }
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ValueError(f"official variable {missing[0]} is missing ({len(missing)} in all)")
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise ValueError(f"official variable {unknown[0]} has no place in this network ({len(unknown)} in all)")
    for name, (module, part, parameter) in expected.items():
        array = from_official_layout(name, torch.tensor(arrays[name], dtype=torch.float32), parameter.shape)
        if array.shape != parameter.shape:
            raise ValueError(f"official variable {name} has shape {arrays[name].shape}, which does not fit here")
        setattr(module, part, nn.Parameter(array.contiguous()))
