"""A CUDA device without a GPU: torch's fake tensors, which have a shape, dtype, strides and device but no data.

torch's FakeTensorMode runs operations on such tensors and refuses operands on different devices. This module adds
backward passes, which torch cannot run without a CUDA driver, and a record of what a real GPU would wait for.
"""

import linecache
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pggan.networks import build

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
PRODUCTS = {aten.convolution, aten.convolution_backward, aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
COPIES = {aten._to_copy, aten.copy_, aten._foreach_copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_}  # wait for the number of pixels in a mask, not for indices
# Operations that copy a scalar on the CPU to the device; the others pass it to their kernel.
COPY_SCALARS = {aten.where, aten.index_put, aten.index_put_}
NEEDS_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # such as item() and nonzero()


@contextmanager
def fake_cuda() -> Iterator["Recorder"]:
    """Run this block's operations on fake tensors and let it use device "cuda"; yield the record of what they do.

    Real tensors become fake ones when they are used. Networks are built with real weights, since Module.to cannot move
    fake ones.
    """
    available = patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        is_bf16_supported=lambda *_, **__: True,
        is_current_stream_capturing=lambda: False,
    )
    engine = patch("torch.autograd._engine_run_backward", run_backward)
    networks = patch("pggan.training.state.build", unset_fake_temporarily()(build))
    with available, engine, networks, DriverlessMode(allow_non_fake_inputs=True), Recorder() as recorder:
        yield recorder


class DriverlessMode(FakeTensorMode):
    """FakeTensorMode that never calls the CUDA driver, whatever `torch.cuda.is_available` returns."""

    avoid_device_init = True


class Recorder(TorchDispatchMode):
    """Records what operations on CUDA tensors do, and refuses what a CUDA kernel refuses.

    Attributes:
        waits: lines of the product at which the host waits for the device.
        unpinned_copies: lines that copy to the device from memory that is not pinned, without waiting: the driver
            copies such memory twice, and a CUDA graph cannot.
        product_dtypes: dtypes of the operands of convolutions and matrix products.
        fused_updates: number of updates by fused optimizers, whose tensors were checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.unpinned_copies: list[str] = []
        self.product_dtypes: set[torch.dtype] = set()
        self.fused_updates = 0
        self.pinned: dict[int, Any] = {}  # storages by address; kept, so that no other storage gets their address

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords, operation = keywords or {}, function.overloadpacket
        tensors = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, Tensor)]
        on_cuda = any(t.device.type == "cuda" for t in tensors)
        if operation in COPIES:
            self.record_copy(operation, arguments, keywords)
        elif on_cuda and (copies_operand(operation, tensors) or reads_data(function, tensors)):
            self.waits.append(find_line())
        if on_cuda and operation in PRODUCTS:
            self.product_dtypes |= {t.dtype for t in tensors}
        if on_cuda and operation in (aten._fused_adam_, aten._fused_sgd_):
            check_update(arguments, keywords)
            self.fused_updates += 1
            return None  # some fake tensors have no kernel for these; they work in place
        if operation is aten._local_scalar_dense:  # there is no value, so continue with zero
            return {torch.bool: False, torch.int64: 0}.get(tensors[0].dtype, 0.0)
        if operation is aten._pin_memory:  # fake tensors have no kernel for it
            return self.mark_pinned(arguments[0].clone())
        result = function(*arguments, **keywords)
        return self.mark_pinned(result) if keywords.get("pin_memory") else result

    def mark_pinned(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.pinned[storage._cdata] = storage
        return tensor

    def record_copy(self, operation, arguments, keywords) -> None:
        """Record a copy between host and device; it blocks the host unless `non_blocking` is set."""
        sources = arguments[0] if operation is aten._to_copy else arguments[1]
        source = sources[0] if isinstance(sources, (list, tuple)) else sources
        target = tree_leaves(arguments[0])[0].device if operation is not aten._to_copy else keywords.get("device")
        if target is None or target.type == source.device.type:
            return
        if not (keywords.get("non_blocking") or True in arguments[2:]):
            self.waits.append(find_line())
        elif target.type == "cuda" and source.untyped_storage()._cdata not in self.pinned:
            self.unpinned_copies.append(find_line())


def copies_operand(operation, tensors) -> bool:
    """Return whether an operation on CUDA tensors first copies an operand from the CPU, such as indices."""
    return any(t.device.type == "cpu" and (t.ndim or operation in COPY_SCALARS) for t in tensors)


def reads_data(function, tensors) -> bool:
    """Return whether the host needs a result's value, or its size, which depends on values."""
    if function.overloadpacket in INDEXING:
        return any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
    return bool(NEEDS_DATA & set(function.tags))


def find_line() -> str:
    """Return the innermost line of the product that is being executed, such as "training.steps: x = x.to(device)"."""
    frame = sys._getframe(1)
    while frame and not frame.f_globals.get("__name__", "").startswith("pggan."):
        frame = frame.f_back
    if frame is None:
        return "outside of the product"
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"{frame.f_globals['__name__'].removeprefix('pggan.')}: {line}"


def check_update(arguments, keywords) -> None:
    """Check the tensors of an update by a fused optimizer, whose kernel refuses mixed devices, dtypes and strides."""
    lists = [x for x in arguments if isinstance(x, list) and x]  # parameters, gradients, moments; steps are scalars
    for same in zip(*(x for x in lists if x[0].ndim or x is lists[0]), strict=True):
        assert {(t.device, t.dtype, t.stride()) for t in same} == {(CUDA, torch.float32, same[0].stride())}
    scalars = [x for x in [*tree_leaves(lists), *keywords.values()] if isinstance(x, Tensor) and not x.ndim]
    assert {(t.device, t.dtype) for t in scalars} == {(CUDA, torch.float32)}


def run_backward(
    outputs, gradients, retain_graph, create_graph, inputs, allow_unreachable=False, accumulate_grad=False
) -> tuple[Tensor | None, ...]:
    """Do what `Variable._execution_engine.run_backward` does, node by node in Python, on this thread.

    torch's own engine asks the CUDA driver for streams. Saved tensors are always kept, and hooks are not called.

    Raises:
        AssertionError: a gradient is on another device than the tensor it belongs to.
    """
    roots, wanted = ([get_gradient_edge(x) for x in tensors] for tensors in (outputs, inputs))
    consumers: dict[Any, set[Any]] = {edge.node: set() for edge in roots}  # of each node's gradients
    pending = list(consumers)
    while pending:
        node = pending.pop()
        for source, _ in node.next_functions:
            if source is not None:
                pending += [] if source in consumers else [source]
                consumers.setdefault(source, set()).add(node)
    order = list(TopologicalSorter(consumers).static_order())
    ends = (
        {edge.node for edge in wanted} if inputs else {node for node in order if node.name().endswith("AccumulateGrad")}
    )
    needed = set()  # nodes on a path to an end
    for node in reversed(order):
        if node in ends or any(source in needed for source, _ in node.next_functions):
            needed.add(node)

    buffers: dict[Any, dict[int, Tensor]] = defaultdict(dict)  # gradients by node and by number of its output

    def add(node, number, gradient) -> None:
        expected = node._input_metadata[number]
        assert gradient.device == expected.device, f"{node.name()} gets a gradient on {gradient.device}"
        gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
        buffers[node][number] = buffers[node][number] + gradient if number in buffers[node] else gradient

    with torch.set_grad_enabled(create_graph):
        for edge, gradient in zip(roots, gradients, strict=True):
            add(edge.node, edge.output_nr, gradient)
        for node in order:
            if node in needed and node in buffers and (node not in ends or accumulate_grad):
                for (source, number), gradient in zip(*call_node(node, buffers[node]), strict=True):
                    if source in needed and gradient is not None:
                        add(source, number, gradient)
    return tuple(buffers[edge.node].get(edge.output_nr) for edge in wanted)


def call_node(node, gradients: dict[int, Tensor]) -> tuple[list[Any], list[Tensor | None]]:
    """Return the edges of an autograd node that need gradients, and these gradients."""
    inputs = [gradients.get(number) for number in range(len(node._input_metadata))]
    if not isinstance(node, BackwardCFunction):
        results = node(*inputs)
        return node.next_functions, list(results) if isinstance(results, tuple) else [results][
            : len(node.next_functions)
        ]
    missing = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in node._input_metadata)
    results = node.apply(*(zeros if x is None else x for x, zeros in zip(inputs, missing, strict=True)))
    results = results if isinstance(results, tuple) else (results,)
    # a custom Function returns a gradient for each of its arguments; only tensors have edges
    return (
        [edge for edge in node.next_functions if edge[0] is not None],
        [x for x, is_needed in zip(results, node.needs_input_grad, strict=True) if is_needed],
    )
