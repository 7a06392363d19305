"""Checkpoints of pro_gan_pytorch 3.4 and of pytorch_GAN_zoo, whose networks are not quite the paper's.

Both are pickles in torch's container. They are read by torch's own restricted unpickler, which builds tensors and
plain data; the class of pytorch_GAN_zoo's options is read as a bare namespace.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks import Discriminator, Generator
from .errors import WeightsError
from .weights import Kernels, Weights, equalized, on_meta, widths

ZOO_OPTIONS = "models.utils.config.BaseConfig"
UNBIASED = math.sqrt(4 / 3)  # of the deviation of four samples, against the biased one here


class Options:
    """What a pickled BaseConfig becomes: attributes, nothing else."""


def read_torch(path: Path) -> Weights:
    """The networks of a checkpoint of either codebase.

    Raises:
        WeightsError: neither, damaged, or networks that cannot be followed here.
    """
    content = load(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("netG"), dict):
            return from_gan_zoo(content)
        if isinstance(content, dict) and isinstance(content.get("generator"), dict):
            return from_pro_gan_pytorch(content, path.name)
    except (LookupError, TypeError, AttributeError, RuntimeError, ZeroDivisionError):
        raise WeightsError("it is damaged: its networks are not whole") from None
    raise WeightsError("it is a torch file, but holds neither pro_gan_pytorch's nor pytorch_GAN_zoo's networks")


def load(path: Path) -> Any:
    """What a torch file holds, by torch's restricted unpickler. Raises WeightsError, OSError."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                    raise WeightsError("it is compressed, which torch's files are not")
        with torch.serialization.safe_globals([(Options, ZOO_OPTIONS)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (WeightsError, OSError):
        raise
    except Exception as error:  # torch raises many kinds, with pages of text
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise WeightsError(
                f"it names {named[1]}, which tensors and plain data do not need; nothing was run"
            ) from None
        raise WeightsError("it is damaged, or of no kind that is known here") from None


def from_pro_gan_pytorch(content: Mapping[str, Any], file_name: str) -> Weights:
    """Twice the paper's feature maps from 64x64 on, no pixel norm after the first layer, gain sqrt(2) in RGB layers."""
    saved = content.get("shadow_generator", content["generator"])
    conf, depth = options_of(saved, "depth", "num_channels", "latent_size", "use_eql")
    shared = {
        "resolution": 1 << depth,
        "channels": conf["num_channels"],
        "label_size": 0,
        **widths([min(2 ** (14 - stage), 512) for stage in range(1, depth)]),
        "fused_scale": False,
    }
    networks = {"generator": {**shared, "latent_size": conf["latent_size"], "first_layer": "no-norm"}}
    generator = on_meta(Generator, networks["generator"])
    state = {
        name: equalized(generator, pro_gan_generator(content[key]["state_dict"], conf["use_eql"]))
        for name, key in (("G_ema", "shadow_generator"), ("G", "generator"))
        if key in content
    }
    state.setdefault("G_ema", state["G"])
    notes = []
    if "discriminator" in content:
        other, _ = options_of(content["discriminator"], "depth", "latent_size")
        maps0 = min(shared["fmap_base"], shared["fmap_max"])
        if other.get("num_classes") is not None:
            notes.append("its discriminator is left out: it is conditional by projection, which is another network")
        elif other["latent_size"] != maps0:
            notes.append(
                f"its discriminator is left out: its last layer has {other['latent_size']} inputs, not {maps0}"
            )
        else:
            networks["discriminator"] = {**shared, "mbstd_group": 4}
            kernels = pro_gan_discriminator(content["discriminator"]["state_dict"], conf["use_eql"])
            state["D"] = equalized(on_meta(Discriminator, networks["discriminator"]), kernels)
    stage = re.search(r"depth_(\d+)", file_name)  # which their file names say and their files do not
    trained = min(int(stage[1]), depth) if stage else depth
    return Weights("pro_gan_pytorch", networks, state, 1 << max(trained, 2), notes=notes)


def options_of(saved: Any, *names: str) -> tuple[dict[str, Any], int]:
    """A saved network's options, and its depth (log2 of the resolution)."""
    conf = saved.get("conf") if isinstance(saved, dict) else None
    if not isinstance(conf, dict) or any(type(conf.get(name)) not in (int, bool) for name in names):
        raise WeightsError("its networks lack the options that pro_gan_pytorch saves with them")
    if not 3 <= conf["depth"] <= 10:
        raise WeightsError(f"its depth is {conf['depth']}, not one from 3 to 10")
    return conf, conf["depth"]


def tensors(state: Any) -> dict[str, Tensor]:
    """A state dict's tensors, without the prefix that DataParallel gives their names."""
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError("its state dict holds other things than tensors")
    if not all(is_whole(tensor) and tensor.is_floating_point() for tensor in state.values()):
        raise WeightsError("its tensors are of more numbers than the file holds, or of another kind than float")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def is_whole(tensor: Tensor) -> bool:
    """Whether the file holds every number: strides of 0 can make terabytes of one."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def taken(
    state: dict[str, Tensor], name: str, equal: bool = True, fan_in: int | None = None, scaled_bias: bool = False
) -> tuple[Tensor, Tensor]:
    """A layer's kernel with its sqrt(2 / fan in), and its bias, taken out of the state dict.

    Args:
        equal: whether the layer scales its weight at run time at all.
    """
    try:
        weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
    except KeyError:
        raise WeightsError(f"it has no layer {name}") from None
    scale = math.sqrt(2 / (fan_in or weight[0].numel())) if equal else 1.0
    return weight * scale, bias * scale if scaled_bias else bias


def pro_gan_generator(state: Any, equal: bool) -> Kernels:
    """pro_gan_pytorch's generator, by our layers' names; `equal` is whether it scales weights at run time."""
    state = tensors(state)
    kernels = {
        "dense": taken(state, "layers.0.conv_1", equal, fan_in=len(state.get("layers.0.conv_1.weight", ()))),
        "conv": taken(state, "layers.0.conv_2", equal),
    }
    for block in range(count(state, "layers.")):
        kernels[f"blocks.{block}.up"] = taken(state, f"layers.{block + 1}.conv_1", equal)
        kernels[f"blocks.{block}.conv"] = taken(state, f"layers.{block + 1}.conv_2", equal)
    for head in range(count(state, "rgb_converters.")):
        kernels[f"to_rgb.{head}"] = taken(state, f"rgb_converters.{head}", equal)
    return kernels | leftover(state)


def pro_gan_discriminator(state: Any, equal: bool) -> Kernels:
    """As `pro_gan_generator`, the discriminator."""
    state = tensors(state)
    heads, blocks = count(state, "from_rgb."), count(state, "layers.") - 1
    kernels = {f"from_rgb.{heads - 1 - i}": taken(state, f"from_rgb.{i}.0", equal) for i in range(heads)}
    for i in range(blocks):
        kernels[f"blocks.{blocks - 1 - i}.conv"] = taken(state, f"layers.{i}.conv_1", equal)
        kernels[f"blocks.{blocks - 1 - i}.down"] = taken(state, f"layers.{i}.conv_2", equal)
    kernels["conv"] = taken(state, f"layers.{blocks}.conv_1", equal)
    for ours, theirs in (("dense", "conv_2"), ("output", "conv_3")):
        kernel, bias = taken(state, f"layers.{blocks}.{theirs}", equal)
        kernels[ours] = kernel.flatten(1), bias
    return kernels | leftover(state)


def count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered layers of this prefix are left in a state dict."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def leftover(state: dict[str, Tensor]) -> dict[str, Any]:
    """What has not been taken, under names that will be refused."""
    return {name: (tensor, tensor) for name, tensor in state.items()}


def from_gan_zoo(content: Mapping[str, Any]) -> Weights:
    """One bias for each pixel in the first layer, biases scaled like weights, gain sqrt(2) in every layer."""
    config = vars(content["config"]) if isinstance(content.get("config"), Options) else {}
    for name, paper in (("perChannelNormalization", True), ("equalizedlR", True), ("leakyReluLeak", 0.2)):
        if config.get(name, paper) != paper:
            raise WeightsError(f"its {name} is {config[name]}; only {paper} is followed here")
    if config.get("categoryVectorDim", 0):
        raise WeightsError(
            "it is conditional on attributes, which is another way than classes; that is not followed here"
        )
    maps, generator_state = zoo_maps(tensors(content["netG"]), "scaleLayers"), tensors(content["netG"])
    shared = {
        "resolution": 2 << len(maps),
        "channels": int(generator_state["toRGBLayers.0.weight"].shape[0]),
        "label_size": 0,
        **widths(maps),
        "fused_scale": False,
    }
    latent_size = int(generator_state["formatLayer.weight"].shape[1])
    networks = {"generator": {**shared, "latent_size": latent_size, "first_layer": "pixel-bias"}}
    generator = on_meta(Generator, networks["generator"])
    state = {
        name: equalized(generator, zoo_generator(content[key], maps[0]))
        for name, key in (("G_ema", "avgG"), ("G", "netG"))
        if key in content
    }
    state.setdefault("G_ema", state["G"])
    notes = []
    if "netD" in content:
        networks["discriminator"] = {**shared, "mbstd_group": 4}
        state["D"] = equalized(on_meta(Discriminator, networks["discriminator"]), zoo_discriminator(content["netD"]))
        notes.append("in batches of more than 4 its discriminator took other samples' deviations than the paper's does")
    alpha = 1 - float(config.get("alpha", 0.0))  # theirs is the weight of the lower stage
    return Weights("pytorch_GAN_zoo", networks, state, shared["resolution"], alpha, notes)


def zoo_maps(state: dict[str, Tensor], prefix: str) -> list[int]:
    """Feature maps from 4x4 on."""
    try:
        first = [len(state["groupScale0.0.weight"])]
        return first + [len(state[f"{prefix}.{i}.1.weight"]) for i in range(count(state, f"{prefix}."))]
    except (KeyError, TypeError):
        raise WeightsError("its generator is not that of a progressive GAN") from None


def zoo_generator(state: Any, maps: int) -> Kernels:
    """pytorch_GAN_zoo's generator, by our layers' names; `maps` are the feature maps at 4x4."""
    state = tensors(state)
    kernel, bias = taken(state, "formatLayer", scaled_bias=True)
    if kernel.ndim != 2 or len(kernel) != 16 * maps or bias.numel() != 16 * maps:
        raise WeightsError("its first layer is of another shape")
    kernels = {
        "dense": (kernel.T.reshape(-1, maps, 4, 4), bias.reshape(maps, 4, 4)),
        "conv": taken(state, "groupScale0.0", scaled_bias=True),
    }
    for block in range(count(state, "scaleLayers.")):
        kernels[f"blocks.{block}.up"] = taken(state, f"scaleLayers.{block}.0", scaled_bias=True)
        kernels[f"blocks.{block}.conv"] = taken(state, f"scaleLayers.{block}.1", scaled_bias=True)
    for head in range(count(state, "toRGBLayers.")):
        kernels[f"to_rgb.{head}"] = taken(state, f"toRGBLayers.{head}", scaled_bias=True)
    return kernels | leftover(state)


def zoo_discriminator(state: Any) -> Kernels:
    """As `zoo_generator`, the discriminator."""
    state = tensors(state)
    kernels = {
        "conv": taken(state, "groupScaleZero.0", scaled_bias=True),
        "dense": taken(state, "groupScaleZero.1", scaled_bias=True),
        "output": taken(state, "decisionLayer", scaled_bias=True),
    }
    kernels["conv"][0][:, -1] *= UNBIASED
    for block in range(count(state, "scaleLayers.")):
        kernels[f"blocks.{block}.conv"] = taken(state, f"scaleLayers.{block}.0", scaled_bias=True)
        kernels[f"blocks.{block}.down"] = taken(state, f"scaleLayers.{block}.1", scaled_bias=True)
    for head in range(count(state, "fromRGBLayers.")):
        kernels[f"from_rgb.{head}"] = taken(state, f"fromRGBLayers.{head}", scaled_bias=True)
    return kernels | leftover(state)
