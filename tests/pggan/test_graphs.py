import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_steps import FADING, copy_weights, make_batch, make_state, make_stepper

from pggan.config import ConfigError, resolve_config
from pggan.training.graphs import EAGER_UPDATES, UpdateGraphs, uses_graphs
from pggan.training.ranks import Ranks

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class FakeGraph:
    """Stands in for a CUDA graph on a CPU: replays by calling the captured update again on the same inputs."""

    captured = 0

    def replay(self):
        for target, source in zip(self.terms.values(), self.run().values(), strict=True):
            target.copy_(source)


class FakeGraphs(UpdateGraphs):
    def capture(self, update, state, inputs):
        FakeGraph.captured += 1
        graph, fixed = FakeGraph(), inputs.map_tensors(torch.clone)
        graph.run = lambda: update(state, fixed)
        graph.terms = {name: torch.zeros(()) for name in NAMES}
        return graph, fixed, graph.terms


NAMES = "d_loss real_score fake_score grad_norm g_loss d_gradient skipped g_gradient".split()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    FakeGraph.captured = 0
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


def test_replayed_updates_train_like_eager_ones():
    eager, replayed = make_state(), make_state()
    steppers = make_stepper(mirror=True), make_stepper(mirror=True, graphs=FakeGraphs())
    for alpha in [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]:
        phase = replace(FADING, alpha=alpha, lr=alpha / 1000)
        for stepper, state in zip(steppers, (eager, replayed), strict=True):
            stepper.step(state, make_batch(), phase)
    assert FakeGraph.captured == 1  # alpha and learning rates are data, not structure
    for name in ("G", "D", "G_ema"):
        pairs = zip(copy_weights(getattr(eager, name)), copy_weights(getattr(replayed, name)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert eager.sums == replayed.sums and eager.images == replayed.images


def test_another_kind_of_update_or_a_replaced_state_gets_its_own_graph():
    state, stepper = make_state(), make_stepper(graphs=FakeGraphs())

    def train(count, batch, phase=FADING):
        for _ in range(count):
            stepper.step(state, batch, phase)

    train(EAGER_UPDATES, make_batch())
    assert FakeGraph.captured == 0
    train(2, make_batch())
    assert FakeGraph.captured == 1
    train(EAGER_UPDATES + 1, make_batch(), replace(FADING, alpha=1.0))
    assert FakeGraph.captured == 2
    state.reset_optimizers()  # replaces Adam's moments, which the graphs write to
    train(EAGER_UPDATES, make_batch())
    assert FakeGraph.captured == 2
    state.load_state_dict(state.state_dict())
    train(EAGER_UPDATES + 1, make_batch())
    assert FakeGraph.captured == 3


def test_updates_with_and_without_the_penalty_have_graphs_of_their_own():
    state, graphs = make_state(), FakeGraphs()
    stepper = make_stepper(graphs=graphs, penalty_every=2)
    for _ in range(4):
        stepper.step(state, make_batch(), FADING)
    assert list(graphs.eager_updates.values()) == [2, 2]


@pytest.mark.parametrize(
    "options, device, ranks, expected",
    [
        ({}, GPU, Ranks(), True),
        ({}, CPU, Ranks(), False),
        ({}, GPU, Ranks(0, 2), False),
        ({"arch": "dcgan"}, GPU, Ranks(), False),
        ({"arch": "dcgan", "cuda_graphs": True}, GPU, Ranks(), True),
        ({"cuda_graphs": False}, GPU, Ranks(), False),
        ({"optimizer": "sgd"}, GPU, Ranks(), False),
    ],
)
def test_graphs_are_the_default_where_they_were_tested(options, device, ranks, expected):
    assert uses_graphs(make_config(options), device, ranks) == expected


def test_graphs_that_cannot_be_captured_are_refused():
    for options, device, ranks in [({}, CPU, Ranks()), ({}, GPU, Ranks(0, 2)), ({"optimizer": "sgd"}, GPU, Ranks())]:
        with pytest.raises(ConfigError, match="omit it"):
            uses_graphs(make_config(options | {"cuda_graphs": True}), device, ranks)


def make_config(options):
    return resolve_config({"data": "synthetic", "channels": 3, "resolution": 8} | options)
