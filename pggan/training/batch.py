"""What a training step reads: real images, labels, and random numbers, which are drawn on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .ranks import Share

ALIGNMENT = 64  # floats; where torch's allocator would start a tensor (256 bytes), which kernels are fastest at


@dataclass(frozen=True)
class Batch:
    """A share of the global batch: real images, uint8 [N, C, r, r], and class indices [N] if there are classes.

    Args:
        share: which samples of the global batch these are. Random numbers are drawn for the global batch, and each
            process selects those of its share, so that any number of processes computes the same step.
        noise: random numbers by purpose, float32 [N, ...].
    """

    images: Tensor
    labels: Tensor | None
    share: Share
    noise: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; copying from pinned memory does not block."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def micro_batches(self, max_samples: int | None) -> Iterator[Batch]:
        """Yield micro-batches of at most `max_samples` images, made of whole minibatch-stddev groups."""
        for share in self.share.micro_batches(max_samples):
            yield replace(self.map_tensors(share.relative_to(self.share).select), share=share)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with a function applied to each of its tensors."""
        labels = None if self.labels is None else function(self.labels)
        noise = {name: function(numbers) for name, numbers in self.noise.items()}
        return Batch(function(self.images), labels, self.share, noise)


@dataclass(frozen=True)
class Inputs:
    """Everything that an update depends on besides the state; tensors are on its device.

    Args:
        batch, held_out: with noise. resolution: of the stage. micro_batch: images per forward and backward pass.
        alpha: a scalar tensor while a block fades in, since its value changes in every step and must cause neither
            recompilation nor another graph; otherwise 1.0.
        trains_generator: whether this update includes G. has_penalty: whether D's loss includes gradient penalties.
        decays: of each power-function average, if there are any.
    """

    batch: Batch
    held_out: Batch | None
    alpha: Tensor | float
    resolution: int
    micro_batch: int | None
    trains_generator: bool
    has_penalty: bool = True
    decays: Tensor | None = None

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the inputs with a function applied to each of their tensors, always in the same order."""
        return replace(
            self,
            batch=self.batch.map_tensors(function),
            held_out=self.held_out and self.held_out.map_tensors(function),
            alpha=function(self.alpha) if isinstance(self.alpha, Tensor) else self.alpha,
            decays=None if self.decays is None else function(self.decays),
        )

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order of `map_tensors`."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map_tensors(note)
        return found


def copy_to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy float32 tensors to a device; to a GPU in one copy from pinned memory, which does not block."""
    if device.type == "cpu":
        return dict(tensors)
    sizes = [-(-tensor.numel() // ALIGNMENT) * ALIGNMENT for tensor in tensors.values()]
    packed = torch.empty(sum(sizes), pin_memory=True)
    for tensor, part in zip(tensors.values(), packed.split(sizes), strict=True):
        part[: tensor.numel()].copy_(tensor.flatten())
    parts = packed.to(device, non_blocking=True).split(sizes)
    return {
        name: part[: tensor.numel()].view(tensor.shape)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }
