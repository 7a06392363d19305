"""TensorFlow Hub's progan-128 (google/progan-128/1), as converted for TensorFlow.js: model.json and its shards.

Its kernels have the equalized learning rate in them already; its images are in [0, 1]; of the RGB layers it has the
last only. The graph is not run: its convolutions are found in it, and their kernels are taken.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks import Generator
from .errors import WeightsError
from .weights import Weights, equalized, on_meta, widths

LARGEST_JSON = 64 << 20
LARGEST_WEIGHTS = 2 << 30
OPERATIONS = {  # of the published graph, and of no other model known
    "Add", "BatchToSpaceND", "Const", "Conv2D", "Maximum", "Mean", "Minimum", "Mul", "Pad", "Placeholder", "Reshape",
    "Rsqrt", "Square", "Tile",
}  # fmt: skip


def read_tfjs(path: Path) -> Weights:
    """The generator of a converted progan-128.

    Args:
        path: its model.json, with the shards beside it.

    Raises:
        WeightsError: another model, or a damaged one. OSError: a shard is missing.
    """
    if path.stat().st_size > LARGEST_JSON:
        raise WeightsError(f"its model.json is larger than {LARGEST_JSON >> 20} MiB")
    try:
        model = json.loads(path.read_bytes())
        nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        arrays = read_arrays(path.parent, model["weightsManifest"])
        convolutions = [with_bias(node, nodes, arrays) for node in nodes.values() if node["op"] == "Conv2D"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise WeightsError("its model.json is damaged, or no TensorFlow.js graph") from None
    if {node["op"] for node in nodes.values()} != OPERATIONS or len(convolutions) % 2 == 0 or len(convolutions) < 3:
        raise WeightsError("its graph is not that of progan-128")
    return assemble(convolutions)


def read_arrays(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Name -> array, for every weight of a manifest; views of what the shards hold."""
    arrays = {}
    for group in manifest:
        shards = [folder / name for name in group["paths"]]
        if any(shard.parent != folder for shard in shards):
            raise WeightsError("its manifest names shards outside its folder")
        if sum(shard.stat().st_size for shard in shards) > LARGEST_WEIGHTS:
            raise WeightsError(f"its shards are larger than {LARGEST_WEIGHTS >> 30} GiB")
        content, start = b"".join(shard.read_bytes() for shard in shards), 0
        for weight in group["weights"]:
            if weight["dtype"] not in ("float32", "int32") or "quantization" in weight:
                raise WeightsError(f"its weights are {weight['dtype']} or quantized; only plain float32 is read")
            count = math.prod(weight["shape"])
            arrays[weight["name"]] = np.frombuffer(content, weight["dtype"], count, start).reshape(weight["shape"])
            start += 4 * count
    return arrays


def with_bias(node: dict[str, Any], nodes: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """A convolution's kernel [out, in, height, width], and what is added to its result."""
    kernel = torch.tensor(arrays[node["input"][1]]).permute(3, 2, 0, 1)
    (addition,) = (n for n in nodes.values() if n["op"] == "Add" and node["name"] in n["input"])
    (bias,) = (name for name in addition["input"] if name != node["name"])
    return kernel, torch.tensor(arrays[bias])


def assemble(convolutions: list[tuple[Tensor, Tensor]]) -> Weights:
    """The convolutions in the order in which they run -> our generator."""
    (first, first_bias), *rest, (to_rgb, to_rgb_bias) = convolutions
    levels = len(rest) // 2 + 1
    maps = [kernel.shape[0] for kernel, _ in [(first, first_bias), *rest][::2]]
    arguments = {
        "resolution": 2 << levels,
        "channels": to_rgb.shape[0],
        "label_size": 0,
        "latent_size": first.shape[1],
        **widths(maps),
        "fused_scale": True,
    }
    kernels = {
        "dense": (first.flip(2, 3).permute(1, 0, 2, 3), first_bias),  # a convolution of the latent, padded by 3
        "conv": rest[0],
        f"to_rgb.{levels - 1}": (2 * to_rgb, 2 * to_rgb_bias - 1),  # from [0, 1] to [-1, 1]
    }
    for block in range(levels - 1):
        kernels[f"blocks.{block}.up"], kernels[f"blocks.{block}.conv"] = rest[2 * block + 1 : 2 * block + 3]
    state = equalized(on_meta(Generator, arguments), kernels)
    return Weights("progan-128 of TensorFlow Hub", {"generator": arguments}, {"G_ema": state}, arguments["resolution"])
