"""What may be in a checkpoint: tensors and plain data, of a size that their file accounts for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

SCALAR_TYPES = (str, int, float, bool, type(None))
MAX_PARTS, MAX_DEPTH = 200_000, 32  # a run at 1024x1024 has 3,000 parts, 6 deep


def check_plain(content: Any, size: int) -> None:
    """Refuse what the reader of tensors lets through and no run writes.

    size: bytes of the file. Tensors can claim any shape with strides of zero, and lists that hold one another ten times
    over become too long to walk through: both are small on the disk.

    Raises:
        ValueError: another kind of object; tensors larger than the file; too many parts, or too deep.
    """
    left, parts, tensors = [(content, 0)], 0, 0
    while left:
        part, depth = left.pop()
        parts += 1
        if parts > MAX_PARTS or depth > MAX_DEPTH:
            raise ValueError("its parts are too many, or too deep in one another")
        if type(part) in (dict, OrderedDict):
            left += [(x, depth + 1) for pair in part.items() for x in pair]
        elif type(part) in (list, tuple):
            left += [(x, depth + 1) for x in part]
        elif type(part) is torch.Tensor:
            tensors += count_tensor_bytes(part)
            if tensors > 2 * size:  # twice: a tensor may be there under two names
                raise ValueError("its tensors are larger than the file")
        elif type(part) not in SCALAR_TYPES:
            raise ValueError(f"it holds a {type(part).__name__}")


def count_tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes that a tensor's shape stands for. Raises ValueError for sparse ones and the like."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError("it holds a tensor of another kind")
    return tensor.numel() * tensor.element_size()


def iterate_tensors(part: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dicts, lists and tuples."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from iterate_tensors(value)
