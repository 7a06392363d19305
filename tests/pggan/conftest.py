import pytest
import torch

from pggan import Generator
from pggan.use import Trained


def make_trained(classes=(), channels=3, resolution=16, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = Generator(resolution, channels, len(classes), fmap_base=64, fmap_max=16)
        for name, parameter in generator.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return Trained(generator.eval().requires_grad_(False), resolution, 1.0, 1000, list(classes), {})


@pytest.fixture
def trained():
    return make_trained()


@pytest.fixture
def labeled():
    return make_trained(classes=("cat", "dog", "owl"), channels=1)
