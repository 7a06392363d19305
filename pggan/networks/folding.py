"""A generator for drawing one image at a time, quickly."""

import copy

import torch
from torch import nn

from .architectures import AnyGenerator
from .layers import EqualizedConv2d, EqualizedLatent, FusedUpConv2d


def folded(generator: AnyGenerator) -> AnyGenerator:
    """A copy whose convolutions hold the kernels that the equalized ones work out anew in every call.

    The same function, for drawing only: the copy is not trained, saved or loaded. For single images of the paper's
    widths on a CPU the working out takes more than half of the time.
    """
    generator = copy.deepcopy(generator).requires_grad_(False).to(memory_format=torch.contiguous_format)
    for module in list(generator.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, EqualizedConv2d):
                setattr(module, name, plain(layer))
            elif isinstance(layer, EqualizedLatent):
                layer.to(memory_format=torch.channels_last)  # as it is multiplied by
    return generator


@torch.no_grad()
def plain(layer: EqualizedConv2d) -> nn.Module:
    """torch's own layer of the same function."""
    if isinstance(layer, FusedUpConv2d):
        kernel = layer.kernel().contiguous()
        same = nn.utils.skip_init(nn.ConvTranspose2d, *kernel.shape[:2], 4, stride=2, padding=1)
    else:
        kernel = layer.scaled_weight().contiguous()
        outputs, inputs, size, _ = kernel.shape
        same = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=layer.padding)
    same.weight, same.bias = nn.Parameter(kernel, False), nn.Parameter(layer.bias, False)
    return same
