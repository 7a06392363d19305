"""Read checkpoints of pro_gan_pytorch 3.4 and pytorch_GAN_zoo.

Their networks differ slightly from the paper's; the functions below say how. Both are torch files, read by
`untrusted.torch_files`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..networks import Discriminator, Generator
from ..untrusted.pickles import Record
from ..untrusted.torch_files import read_torch_file
from .errors import WeightsError
from .weights import Kernels, Weights, build_on_meta, feature_map_options, to_equalized

ZOO_OPTIONS = "models.utils.config.BaseConfig"  # the one class in pytorch_GAN_zoo's checkpoints
# pytorch_GAN_zoo's minibatch stddev is unbiased, this project's biased: over groups of 4 the ratio is sqrt(4 / 3).
UNBIASED = math.sqrt(4 / 3)


def read_torch(path: Path) -> Weights:
    """Read the networks in a checkpoint of either codebase.

    Raises:
        WeightsError: the file comes from neither, or has unsupported networks.
        UntrustedFileError: it is damaged, or holds anything but tensors and plain data.
    """
    content = read_torch_file(path, (ZOO_OPTIONS,))
    try:
        if isinstance(content, dict) and isinstance(content.get("netG"), dict):
            return from_gan_zoo(content)
        if isinstance(content, dict) and isinstance(content.get("generator"), dict):
            return from_pro_gan_pytorch(content, path.name)
    except (LookupError, TypeError, AttributeError, RuntimeError, ZeroDivisionError):
        raise WeightsError("damaged: its networks are incomplete") from None
    if isinstance(content, dict) and {"networks", "state"} <= content.keys():
        raise WeightsError("already a checkpoint of this code; use it as it is, for example with --resume")
    raise WeightsError("a torch file, but with neither pro_gan_pytorch's nor pytorch_GAN_zoo's networks")


def from_pro_gan_pytorch(content: Mapping[str, Any], file_name: str) -> Weights:
    """Convert a pro_gan_pytorch checkpoint.

    Its networks differ from the paper's in three ways: twice the feature maps from 64x64 on, no pixel norm after the
    first layer, and a gain of sqrt(2) in the RGB layers.
    """
    saved = content.get("shadow_generator", content["generator"])
    conf, depth = read_options(saved, "depth", "num_channels", "latent_size", "use_eql")
    shared = {
        "resolution": 1 << depth,
        "channels": conf["num_channels"],
        "label_size": 0,
        **feature_map_options(
            [min(2 ** (14 - stage), 512) for stage in range(1, depth)]
        ),  # the paper has 2 ** (13 - stage)
        "fused_scale": False,
    }
    networks = {"generator": {**shared, "latent_size": conf["latent_size"], "first_layer": "no-norm"}}
    generator = build_on_meta(Generator, networks["generator"])
    state = {
        name: to_equalized(generator, convert_pro_gan_generator(content[key]["state_dict"], conf["use_eql"]))
        for name, key in (("G_ema", "shadow_generator"), ("G", "generator"))
        if key in content
    }
    state.setdefault("G_ema", state["G"])  # saved without an average
    notes = []
    if "discriminator" in content:
        other, _ = read_options(content["discriminator"], "depth", "latent_size")
        maps0 = min(shared["fmap_base"], shared["fmap_max"])
        if other.get("num_classes") is not None:
            notes.append("skipped its discriminator: it is conditional by projection, which is not supported")
        elif other["latent_size"] != maps0:
            notes.append(
                f"skipped its discriminator: its last layer has {other['latent_size']} inputs instead of {maps0}"
            )
        else:
            networks["discriminator"] = {**shared, "mbstd_group": 4}
            kernels = convert_pro_gan_discriminator(content["discriminator"]["state_dict"], conf["use_eql"])
            state["D"] = to_equalized(build_on_meta(Discriminator, networks["discriminator"]), kernels)
    stage = re.search(r"depth_(\d+)", file_name)  # only the file's name records the stage
    trained = min(int(stage[1]), depth) if stage else depth
    return Weights("pro_gan_pytorch", networks, state, 1 << max(trained, 2), notes=notes)


def read_options(saved: Any, *names: str) -> tuple[dict[str, Any], int]:
    """Return a saved network's options and its depth (log2 of the resolution).

    Raises:
        WeightsError: an option in `names` is missing, or the depth is out of range.
    """
    conf = saved.get("conf") if isinstance(saved, dict) else None
    if not isinstance(conf, dict) or any(type(conf.get(name)) not in (int, bool) for name in names):
        raise WeightsError("damaged: the options that pro_gan_pytorch saves with its networks are missing")
    if not 3 <= conf["depth"] <= 10:
        raise WeightsError(f"its depth is {conf['depth']}; supported are 3 to 10")
    return conf, conf["depth"]


def strip_prefix(state: Any) -> dict[str, Tensor]:
    """Return a state dict's tensors, without the prefix that DataParallel adds to their names.

    Raises:
        WeightsError: the state dict holds anything but tensors of floats.
    """
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError("damaged: a state dict holds something other than tensors")
    if not all(tensor.is_floating_point() for tensor in state.values()):
        raise WeightsError("damaged: a weight is not a floating-point tensor")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def pop_layer(
    state: dict[str, Tensor], name: str, equal: bool = True, fan_in: int | None = None, scaled_bias: bool = False
) -> tuple[Tensor, Tensor]:
    """Remove a layer from a state dict and return its kernel, multiplied by its run-time scale, and its bias.

    Args:
        state: tensors by name; modified.
        name: the layer's name.
        equal: whether the layer scales its weight at run time, by sqrt(2 / fan_in).
        fan_in: inputs per output (default: the size of weight[0]).
        scaled_bias: whether the layer scales its bias too.

    Raises:
        WeightsError: there is no such layer.
    """
    try:
        weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
    except KeyError:
        raise WeightsError(f"missing layer {name}") from None
    scale = math.sqrt(2 / (fan_in or weight[0].numel())) if equal else 1.0
    return weight * scale, bias * scale if scaled_bias else bias


def convert_pro_gan_generator(state: Any, equal: bool) -> Kernels:
    """Return pro_gan_pytorch's generator by this project's layer names.

    Args:
        equal: whether its layers scale their weights at run time.
    """
    state = strip_prefix(state)
    kernels = {
        "dense": pop_layer(state, "layers.0.conv_1", equal, fan_in=len(state.get("layers.0.conv_1.weight", ()))),
        "conv": pop_layer(state, "layers.0.conv_2", equal),
    }
    for block in range(count_layers(state, "layers.")):
        kernels[f"blocks.{block}.up"] = pop_layer(state, f"layers.{block + 1}.conv_1", equal)
        kernels[f"blocks.{block}.conv"] = pop_layer(state, f"layers.{block + 1}.conv_2", equal)
    for head in range(count_layers(state, "rgb_converters.")):
        kernels[f"to_rgb.{head}"] = pop_layer(state, f"rgb_converters.{head}", equal)
    return kernels | mark_leftover(state)


def convert_pro_gan_discriminator(state: Any, equal: bool) -> Kernels:
    """Return pro_gan_pytorch's discriminator by this project's layer names; see `convert_pro_gan_generator`."""
    # Its layers are numbered from the full resolution down, this project's from 4x4 up.
    state = strip_prefix(state)
    heads, blocks = count_layers(state, "from_rgb."), count_layers(state, "layers.") - 1
    kernels = {f"from_rgb.{heads - 1 - i}": pop_layer(state, f"from_rgb.{i}.0", equal) for i in range(heads)}
    for i in range(blocks):
        kernels[f"blocks.{blocks - 1 - i}.conv"] = pop_layer(state, f"layers.{i}.conv_1", equal)
        kernels[f"blocks.{blocks - 1 - i}.down"] = pop_layer(state, f"layers.{i}.conv_2", equal)
    kernels["conv"] = pop_layer(state, f"layers.{blocks}.conv_1", equal)
    for ours, theirs in (("dense", "conv_2"), ("output", "conv_3")):
        kernel, bias = pop_layer(state, f"layers.{blocks}.{theirs}", equal)
        kernels[ours] = kernel.flatten(1), bias  # convolutions over 4x4 and 1x1 pixels there, dense layers here
    return kernels | mark_leftover(state)


def count_layers(state: dict[str, Tensor], prefix: str) -> int:
    """Return how many numbered layers with this prefix a state dict still holds."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def mark_leftover(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the tensors that remain, under their own names, so that `to_equalized` reports them as unknown layers."""
    return {name: (tensor, tensor) for name, tensor in state.items()}


def from_gan_zoo(content: Mapping[str, Any]) -> Weights:
    """Convert a pytorch_GAN_zoo checkpoint.

    Its networks differ from the paper's in three ways: one bias per pixel in the first layer, biases that are scaled
    like weights, and a gain of sqrt(2) in every layer.
    """
    options = content.get("config")
    config = options.state if isinstance(options, Record) and isinstance(options.state, dict) else {}
    for name, paper in (("perChannelNormalization", True), ("equalizedlR", True), ("leakyReluLeak", 0.2)):
        if config.get(name, paper) != paper:
            raise WeightsError(f"its {name} is {config[name]}; only {paper} is supported")
    if config.get("categoryVectorDim", 0):
        raise WeightsError("conditional on attributes, which is not supported")
    maps, generator_state = read_zoo_maps(strip_prefix(content["netG"]), "scaleLayers"), strip_prefix(content["netG"])
    shared = {
        "resolution": 2 << len(maps),  # one entry is 4x4
        "channels": int(generator_state["toRGBLayers.0.weight"].shape[0]),
        "label_size": 0,
        **feature_map_options(maps),
        "fused_scale": False,
    }
    latent_size = int(generator_state["formatLayer.weight"].shape[1])
    networks = {"generator": {**shared, "latent_size": latent_size, "first_layer": "pixel-bias"}}
    generator = build_on_meta(Generator, networks["generator"])
    state = {
        name: to_equalized(generator, convert_zoo_generator(content[key], maps[0]))
        for name, key in (("G_ema", "avgG"), ("G", "netG"))
        if key in content
    }
    state.setdefault("G_ema", state["G"])
    notes = []
    if "netD" in content:
        networks["discriminator"] = {**shared, "mbstd_group": 4}
        state["D"] = to_equalized(
            build_on_meta(Discriminator, networks["discriminator"]), convert_zoo_discriminator(content["netD"])
        )
        notes.append("in batches of more than 4 images, its discriminator formed other minibatch-stddev groups")
    alpha = 1 - float(config.get("alpha", 0.0))  # there, alpha is the weight of the lower stage
    return Weights("pytorch_GAN_zoo", networks, state, shared["resolution"], alpha, notes)


def read_zoo_maps(state: dict[str, Tensor], prefix: str) -> list[int]:
    """Return the feature maps per resolution, from 4x4 up.

    Args:
        prefix: of the layers above 4x4.

    Raises:
        WeightsError: the layers are missing.
    """
    try:
        first = [len(state["groupScale0.0.weight"])]
        return first + [len(state[f"{prefix}.{i}.1.weight"]) for i in range(count_layers(state, f"{prefix}."))]
    except (KeyError, TypeError):
        raise WeightsError("its generator is not a progressive GAN's") from None


def convert_zoo_generator(state: Any, maps: int) -> Kernels:
    """Return pytorch_GAN_zoo's generator by this project's layer names; `maps` is the number of feature maps at 4x4."""
    state = strip_prefix(state)
    kernel, bias = pop_layer(state, "formatLayer", scaled_bias=True)
    if kernel.ndim != 2 or len(kernel) != 16 * maps or bias.numel() != 16 * maps:
        raise WeightsError("damaged: its first layer has another shape")
    kernels = {
        # [maps * 16, latent] -> [latent, maps, 4, 4]
        "dense": (kernel.T.reshape(-1, maps, 4, 4), bias.reshape(maps, 4, 4)),
        "conv": pop_layer(state, "groupScale0.0", scaled_bias=True),
    }
    for block in range(count_layers(state, "scaleLayers.")):
        kernels[f"blocks.{block}.up"] = pop_layer(state, f"scaleLayers.{block}.0", scaled_bias=True)
        kernels[f"blocks.{block}.conv"] = pop_layer(state, f"scaleLayers.{block}.1", scaled_bias=True)
    for head in range(count_layers(state, "toRGBLayers.")):
        kernels[f"to_rgb.{head}"] = pop_layer(state, f"toRGBLayers.{head}", scaled_bias=True)
    return kernels | mark_leftover(state)


def convert_zoo_discriminator(state: Any) -> Kernels:
    """Return pytorch_GAN_zoo's discriminator by this project's layer names."""
    state = strip_prefix(state)
    kernels = {
        "conv": pop_layer(state, "groupScaleZero.0", scaled_bias=True),
        "dense": pop_layer(state, "groupScaleZero.1", scaled_bias=True),
        "output": pop_layer(state, "decisionLayer", scaled_bias=True),
    }
    kernels["conv"][0][:, -1] *= UNBIASED  # the input channel of minibatch stddev
    for block in range(count_layers(state, "scaleLayers.")):
        kernels[f"blocks.{block}.conv"] = pop_layer(state, f"scaleLayers.{block}.0", scaled_bias=True)
        kernels[f"blocks.{block}.down"] = pop_layer(state, f"scaleLayers.{block}.1", scaled_bias=True)
    for head in range(count_layers(state, "fromRGBLayers.")):
        kernels[f"from_rgb.{head}"] = pop_layer(state, f"fromRGBLayers.{head}", scaled_bias=True)
    return kernels | mark_leftover(state)
