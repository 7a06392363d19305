"""Fold the equalized learning rate into the kernels, for fast inference on single images."""

import copy

import torch
from torch import nn

from .architectures import AnyGenerator
from .layers import EqualizedConv2d, EqualizedLatent, FusedUpConv2d


def fold_weight_scales(generator: AnyGenerator) -> AnyGenerator:
    """Return a copy with plain convolutions, which store the kernels that equalized ones compute in every call.

    The copy computes the same function, but is for inference only: it cannot be trained, saved or loaded. With the
    paper's layer widths, computing the kernels takes more than half the time of a single image on a CPU.
    """
    generator = copy.deepcopy(generator).requires_grad_(False).to(memory_format=torch.contiguous_format)
    for module in list(generator.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, EqualizedConv2d):
                setattr(module, name, to_plain_layer(layer))
            elif isinstance(layer, EqualizedLatent):
                # Its forward multiplies by the weight in [inputs, H, W, outputs] order; channels_last makes that a
                # view instead of a copy per call.
                layer.to(memory_format=torch.channels_last)
    return generator


@torch.no_grad()
def to_plain_layer(layer: EqualizedConv2d) -> nn.Module:
    """Return the torch.nn layer that computes the same function as an equalized one."""
    if isinstance(layer, FusedUpConv2d):
        kernel = layer.kernel().contiguous()
        # skip_init: the weights are overwritten below
        same = nn.utils.skip_init(nn.ConvTranspose2d, *kernel.shape[:2], 4, stride=2, padding=1)
    else:
        kernel = layer.scaled_weight().contiguous()
        outputs, inputs, size, _ = kernel.shape
        same = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=layer.padding)
    same.weight, same.bias = nn.Parameter(kernel, False), nn.Parameter(layer.bias, False)
    return same
