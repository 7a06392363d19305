"""CUDA graphs of training updates: a step's hundreds of kernels, launched at once.

At low resolutions and with narrow networks, launching the kernels of a step one by one takes longer than they run. A
graph records them once and replays them in one launch. It reads and writes fixed memory: inputs are copied into the
tensors it was captured with, and weights, moments and the moving average are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import ConfigError, TrainConfig
from .batch import Inputs
from .ranks import SINGLE_PROCESS, Ranks
from .state import TrainState

Update = Callable[[TrainState, Inputs], dict[str, Tensor]]

# Before a capture: the first updates create the optimizers' moments, and let cuDNN choose its kernels
EAGER_UPDATES = 3


class UpdateGraphs:
    """Runs updates, each kind of update from its own graph once it has run eagerly `EAGER_UPDATES` times.

    Updates are of one kind if they launch the same kernels: the same stage, fading or not, batch size, held-out images
    or not, with G or not, and with penalties or not. A state that has replaced its tensors (see `TrainState.version`)
    invalidates all graphs. The first updates of a kind are ordinary training steps, as is the replay: the weights do
    not depend on the number of eager ones.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Inputs, dict[str, Tensor]]] = {}
        self.eager_updates: dict[tuple, int] = {}
        self.version: object = None

    def run(self, update: Update, state: TrainState, inputs: Inputs) -> dict[str, Tensor]:
        """Return what `update(state, inputs)` would; the tensors are overwritten by the next call."""
        if self.version is not state.version:
            self.graphs.clear()
            self.eager_updates.clear()
            self.version = state.version
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        key = find_kind(inputs)
        if key not in self.graphs:
            count = self.eager_updates[key] = self.eager_updates.get(key, 0) + 1
            if count <= EAGER_UPDATES:
                return self.run_eagerly(update, state, inputs)
            self.graphs[key] = self.capture(update, state, inputs)
        graph, fixed_inputs, terms = self.graphs[key]
        copy_inputs(inputs, fixed_inputs)
        graph.replay()
        return terms

    def run_eagerly(self, update: Update, state: TrainState, inputs: Inputs) -> dict[str, Tensor]:
        """Run an update on the stream of captures, so that a capture finds nothing that belongs to another stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            terms = update(state, inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return terms

    def capture(
        self, update: Update, state: TrainState, inputs: Inputs
    ) -> tuple[torch.cuda.CUDAGraph, Inputs, dict[str, Tensor]]:
        """Record an update without running it.

        All graphs share one memory pool: they never run at the same time. Errors are confined to this thread, since
        others load images meanwhile.
        """
        fixed_inputs, graph = inputs.map_tensors(torch.clone), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            terms = update(state, fixed_inputs)
        return graph, fixed_inputs, terms


def uses_graphs(config: TrainConfig, device: torch.device, ranks: Ranks = SINGLE_PROCESS) -> bool:
    """Return whether updates run as graphs: by default for the progressive networks, for which this was tested.

    Raises:
        ConfigError: --cuda-graphs asks for what cannot be captured.
    """
    possible = device.type == "cuda" and ranks.world_size == 1 and config.optimizer == "adam"
    possible = possible and not config.burn_in_kimg  # its gamma and beta2 are numbers, which a graph would keep
    if config.cuda_graphs and not possible:
        raise ConfigError("--cuda-graphs needs one GPU, --optimizer adam and no --burn-in-kimg; omit it")
    return possible and (config.arch == "pggan" if config.cuda_graphs is None else config.cuda_graphs)


def find_kind(inputs: Inputs) -> tuple:
    """Return a key that is equal for updates that launch the same kernels."""
    shapes = [tensor.shape for tensor in inputs.tensors()]
    parts = inputs.trains_generator, inputs.has_penalty, inputs.held_out is None
    return inputs.resolution, inputs.micro_batch, *parts, *shapes


def copy_inputs(source: Inputs, target: Inputs) -> None:
    """Copy each tensor of `source` into the tensor of `target` at its place, one launch per dtype."""
    pairs = list(zip(source.tensors(), target.tensors(), strict=True))
    for dtype in {tensor.dtype for tensor, _ in pairs}:
        sources, targets = zip(*((s, t) for s, t in pairs if s.dtype == dtype), strict=True)
        torch._foreach_copy_(targets, sources)
