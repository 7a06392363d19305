"""Validate a checkpoint's content: only tensors and plain data, no larger than the file can hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

SCALAR_TYPES = (str, int, float, bool, type(None))
MAX_PARTS, MAX_DEPTH = 200_000, 32  # objects in total, and nested; a run at 1024x1024 has 3,000 objects, nested 6 deep


def check_plain(content: Any, size: int) -> None:
    """Refuse content that torch's safe loader accepts but no run writes.

    A small file can still exhaust the memory: tensors with strides of zero claim any shape, and nested lists that each
    contain the next one ten times multiply.

    Args:
        content: the loaded file.
        size: of the file, in bytes.

    Raises:
        ValueError: an object has another type, tensors are larger than the file, or there are too many or too deeply
            nested objects.
    """
    left, parts, tensors = [(content, 0)], 0, 0  # a stack instead of recursion, which deep nesting would overflow
    while left:
        part, depth = left.pop()
        parts += 1
        if parts > MAX_PARTS or depth > MAX_DEPTH:
            raise ValueError("it contains too many objects, or too deeply nested ones")
        if type(part) in (dict, OrderedDict):  # exact types: no run writes subclasses
            left += [(x, depth + 1) for pair in part.items() for x in pair]  # keys, too, can be tuples
        elif type(part) in (list, tuple):
            left += [(x, depth + 1) for x in part]
        elif type(part) is torch.Tensor:
            tensors += count_tensor_bytes(part)
            if tensors > 2 * size:  # twice: two names may refer to the same tensor
                raise ValueError("its tensors are larger than the file")
        elif type(part) not in SCALAR_TYPES:
            raise ValueError(f"it contains a {type(part).__name__}")


def count_tensor_bytes(tensor: torch.Tensor) -> int:
    """Return a tensor's size in bytes according to its shape. Raises ValueError unless it is dense and on the CPU."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError("it contains a sparse, quantized or meta tensor")
    return tensor.numel() * tensor.element_size()


def iterate_tensors(part: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested dicts, lists and tuples."""
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for value in part.values() if isinstance(part, dict) else part:
            yield from iterate_tensors(value)
