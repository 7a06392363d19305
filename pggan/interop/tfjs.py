"""Read TensorFlow Hub's progan-128 (google/progan-128/1) as converted for TensorFlow.js: model.json and its shards.

Its kernels already include the equalized learning rate, its images are in [0, 1], and it has the last RGB layer only.
The graph is not run; the reader only looks up its convolutions and their kernels.
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
from .weights import Weights, build_on_meta, feature_map_options, to_equalized

MAX_JSON_BYTES, MAX_WEIGHT_BYTES = 64 << 20, 2 << 30  # bytes; both are read into memory. progan-128 is 92 MB in all
MAX_NODES = 1000  # our choice; progan-128 has 213
# The operations of the published graph. No other known model uses exactly these, so they identify it.
OPERATIONS = {
    *("Add", "BatchToSpaceND", "Const", "Conv2D", "Maximum", "Mean", "Minimum", "Mul"),
    *("Pad", "Placeholder", "Reshape", "Rsqrt", "Square", "Tile"),
}


def read_tfjs(path: Path) -> Weights:
    """Read the generator of a converted progan-128.

    Args:
        path: model.json, with the shards in the same folder.

    Raises:
        WeightsError: the model is another one, or damaged, or a shard is missing.
        OSError: model.json cannot be read.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise WeightsError(f"larger than {MAX_JSON_BYTES >> 20} MiB, too large for progan-128")
    try:
        model = json.loads(path.read_bytes())
        nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        if {node["op"] for node in nodes.values()} != OPERATIONS or len(nodes) > MAX_NODES:
            raise WeightsError("a TensorFlow.js graph, but not progan-128")
        arrays = read_arrays(path.parent, model["weightsManifest"])
        convolutions = [read_convolution(node, nodes, arrays) for node in nodes.values() if node["op"] == "Conv2D"]
    except WeightsError:  # a ValueError, too
        raise
    except OSError as error:
        raise WeightsError(f"cannot read a shard, {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RuntimeError):
        raise WeightsError("damaged, or not a TensorFlow.js graph") from None
    # convolutions: the dense layer, one at 4x4, two per block, and RGB, so an odd number of at least 3
    if len(convolutions) % 2 == 0 or len(convolutions) < 3:
        raise WeightsError("a TensorFlow.js graph, but not progan-128")
    return build_generator(convolutions)


def read_arrays(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return every weight of a manifest by its name, as views of the shards' content.

    Raises:
        WeightsError: the manifest names files elsewhere, too much data, or weights in an unsupported form.
    """
    arrays, size = {}, 0
    for group in manifest:
        shards = [folder / name for name in group["paths"]]
        if any(shard.parent != folder or (shard.exists() and not shard.is_file()) for shard in shards):
            raise WeightsError("the manifest names shards outside the model's folder, or that are not files")
        size += sum(shard.stat().st_size for shard in shards)
        if size > MAX_WEIGHT_BYTES:
            raise WeightsError(f"its shards have more than {MAX_WEIGHT_BYTES >> 30} GiB, too much for progan-128")
        content, start = b"".join(shard.read_bytes() for shard in shards), 0
        for weight in group["weights"]:
            if weight["dtype"] not in ("float32", "int32") or "quantization" in weight:
                raise WeightsError(f"weights of dtype {weight['dtype']} or quantized; only plain float32 is supported")
            count = math.prod(weight["shape"])
            arrays[weight["name"]] = np.frombuffer(content, weight["dtype"], count, start).reshape(weight["shape"])
            start += 4 * count  # float32 and int32 both have 4 bytes
    return arrays


def read_convolution(
    node: dict[str, Any], nodes: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[Tensor, Tensor]:
    """Return a convolution's kernel [out, in, height, width] and bias [out].

    The bias is the constant operand of the one addition that uses the convolution's result.
    """
    kernel = torch.tensor(arrays[node["input"][1]]).permute(3, 2, 0, 1)
    (addition,) = (n for n in nodes.values() if n["op"] == "Add" and node["name"] in n["input"])
    (bias,) = (name for name in addition["input"] if name != node["name"])
    return kernel, torch.tensor(arrays[bias])


def build_generator(convolutions: list[tuple[Tensor, Tensor]]) -> Weights:
    """Build the generator from its convolutions' kernels and biases, in the order in which they run."""
    (first, first_bias), *rest, (to_rgb, to_rgb_bias) = convolutions
    levels = len(rest) // 2 + 1
    maps = [kernel.shape[0] for kernel, _ in [(first, first_bias), *rest][::2]]
    arguments = {
        "resolution": 2 << levels,
        "channels": to_rgb.shape[0],
        "label_size": 0,
        "latent_size": first.shape[1],
        **feature_map_options(maps),
        "fused_scale": True,
    }
    kernels = {
        # there a 4x4 convolution of the latent padded by 3, which is a dense layer with the kernel reversed
        "dense": (first.flip(2, 3).permute(1, 0, 2, 3), first_bias),
        "conv": rest[0],
        f"to_rgb.{levels - 1}": (2 * to_rgb, 2 * to_rgb_bias - 1),  # images from [0, 1] to [-1, 1]
    }
    for block in range(levels - 1):
        kernels[f"blocks.{block}.up"], kernels[f"blocks.{block}.conv"] = rest[2 * block + 1 : 2 * block + 3]
    state = to_equalized(build_on_meta(Generator, arguments), kernels)
    return Weights("progan-128 of TensorFlow Hub", {"generator": arguments}, {"G_ema": state}, arguments["resolution"])
