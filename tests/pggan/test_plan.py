import pytest
import torch

from pggan.config import resolve
from pggan.training.growth import GrowthController
from pggan.training.plan import LiveBytes, memory
from pggan.training.ranks import ALONE
from pggan.training.state import TrainState
from pggan.training.steps import Batch, Stepper


def peak_of_real_steps(config, phase):
    """Bytes of tensors, of which the two steps are full of content."""
    with LiveBytes() as live:
        state = TrainState(config, 0, torch.device("cpu"))
        size, side = phase.batch_size, phase.resolution
        images = torch.randint(256, (size, 3, side, side), dtype=torch.uint8)
        for _ in range(2):
            Stepper.of(config, False).step(state, Batch(images, None, ALONE.share(size, config.mbstd_group)), phase)
    return live.peak


@pytest.mark.parametrize("options", [{}, {"batch_size": 32}, {"batch_size": 32, "micro_batch": 8}])
def test_memory_is_what_steps_take(options):
    given = {"data": "synthetic", "resolution": 16, "channels": 3, "fmap_max": 32, "batch_size": 8} | options
    config = resolve(given)
    phase = GrowthController(config).phase(GrowthController(config).position(16, 0.5))
    state = TrainState(config, 0, torch.device("cpu"))
    assert memory(config, state, phase, False) == pytest.approx(peak_of_real_steps(config, phase), rel=0.1)
    assert state.images == 0 and all(p.grad is None for p in state.D.parameters())


def test_memory_that_is_freed_no_longer_counts():
    with LiveBytes() as live:
        for _ in range(10):
            x = torch.ones(1000)
        x = x.view(10, 100)
    assert live.peak <= 2 * 4000
