"""Build networks from the paper authors' variables (TensorFlow names and layouts: kernels [height, width, in, out])."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..networks import Discriminator, Generator

ARGUMENTS = {  # official keyword argument -> this project's
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
DEFAULTS: dict[str, Any] = {"num_channels": 1, "resolution": 32}  # official defaults that differ from this project's
GENERATOR_ONLY, DISCRIMINATOR_ONLY = {"latent_size"}, {"mbstd_group"}
TRAINING_ONLY = {"wgan_lambda", "wgan_epsilon", "wgan_target", "cond_weight"}  # of the loss; ignored
PAPER_VALUES: dict[str, Any] = {  # official switches that are supported with the paper's value only
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
    """Build a generator or discriminator with official weights.

    Args:
        variables: arrays by official variable name ("8x8/Conv0_up/weight"), as in a snapshot. A leading "G/", "D/" or
            "Gs/" and the bookkeeping variable "lod" are ignored.
        network: "G", "Gs" or "D".
        static_kwargs: keyword arguments of the official network (num_channels, resolution, label_size, ...).

    Raises:
        ValueError: an argument is not supported, or a variable is missing, unexpected or of the wrong shape.
    """
    kind = {"G": Generator, "Gs": Generator, "D": Discriminator}.get(network)
    if kind is None:
        raise ValueError(f"network must be 'G', 'Gs' or 'D', not {network!r}")
    other = DISCRIMINATOR_ONLY if kind is Generator else GENERATOR_ONLY
    for name, value in static_kwargs.items():
        if name in PAPER_VALUES and value not in (PAPER_VALUES[name], "linear" if name == "structure" else None):
            raise ValueError(f"official network with {name}={value!r}; only {PAPER_VALUES[name]!r} is supported")
        if name not in {*ARGUMENTS, *PAPER_VALUES, *TRAINING_ONLY}:
            raise ValueError(f"unknown argument of the official network: {name}={value!r}")
    arguments = {ARGUMENTS[k]: v for k, v in (DEFAULTS | static_kwargs).items() if k in ARGUMENTS}
    with torch.device("meta"):  # shapes only, because a malicious file's arguments could ask for any amount of memory
        built = kind(**{k: v for k, v in arguments.items() if k not in other})
    arrays = {name.removeprefix(f"{network}/"): np.asarray(array) for name, array in variables.items()}
    arrays.pop("lod", None)
    fill_weights(built, arrays)
    return built


def map_layers(network: Any) -> dict[str, nn.Module]:
    """Return every layer of a network by its official name."""
    # Official RGB layers count from the full resolution down: lod 0 is the largest.
    top = len(network.blocks)
    names = {"4x4/Conv": network.conv}
    fused = top and network.blocks[0].fused_scale
    if isinstance(network, Generator):
        names["4x4/Dense"] = network.dense
        for i, block in enumerate(network.blocks):
            size = 8 << i
            # with fused scaling, the official code marks the layer that changes the size
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
    """Return an official weight, or its gradient, in this project's layout.

    The kernel of official fused upscaling, [height, width, out, in], is rotated by 180 degrees relative to upscaling
    followed by a convolution. This project stores the orientation of the latter.

    Args:
        name: official variable name.
        array: the official array.
        shape: of this project's parameter.
    """
    if name.endswith("bias"):
        return array
    if name.endswith("Conv0_up/weight"):
        return array.flip(0, 1).permute(2, 3, 0, 1)
    if array.ndim == 4:  # [height, width, in, out] -> [out, in, height, width]
        return array.permute(3, 2, 0, 1)
    # G's first layer: [latent, maps * 16] -> [latent, maps, 4, 4]
    if name == "4x4/Dense/weight" and array.shape[0] * array.shape[1] == shape.numel():
        return array.reshape(shape)
    return array.T  # dense: [in, out] -> [out, in]


def fill_weights(network: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Set the parameters of a network without storage (device meta) to the official arrays.

    Raises:
        ValueError: a variable is missing, unexpected or of the wrong shape.
    """
    expected = {
        f"{layer}/{part}": (module, part, parameter)
        for layer, module in map_layers(network).items()
        for part, parameter in module.named_parameters()
    }
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ValueError(f"missing official variable {missing[0]} ({len(missing)} in total)")
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise ValueError(f"unexpected official variable {unknown[0]} ({len(unknown)} in total)")
    for name, (module, part, parameter) in expected.items():
        array = from_official_layout(name, torch.tensor(arrays[name], dtype=torch.float32), parameter.shape)
        if array.shape != parameter.shape:
            raise ValueError(f"official variable {name} has the wrong shape, {arrays[name].shape}")
        setattr(module, part, nn.Parameter(array.contiguous()))
