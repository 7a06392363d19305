"""Registry of architectures (`--arch`), and the function that builds a network from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .baselines import (
    DCGANDiscriminator,
    DCGANGenerator,
    DenseDiscriminator,
    DenseGenerator,
    OneStageGenerator,
    StridedDiscriminator,
)
from .multiscale import MultiScaleDiscriminator, MultiScaleGenerator
from .progressive import Discriminator, Generator
from .r3gan import R3GANDiscriminator, R3GANGenerator

AnyGenerator = Generator | OneStageGenerator

ARCHITECTURES: dict[str, dict[str, type[nn.Module]]] = {
    "pggan": {"generator": Generator, "discriminator": Discriminator},
    "mlp": {"generator": DenseGenerator, "discriminator": DenseDiscriminator},
    "dcgan": {"generator": DCGANGenerator, "discriminator": DCGANDiscriminator},
    "hybrid": {"generator": DenseGenerator, "discriminator": StridedDiscriminator},
    "msg": {"generator": MultiScaleGenerator, "discriminator": MultiScaleDiscriminator},
    "r3gan": {"generator": R3GANGenerator, "discriminator": R3GANDiscriminator},
}


def build(kind: str, arguments: Mapping[str, Any]) -> Any:
    """Build a network from plain data, as stored in checkpoints.

    Args:
        kind: "generator" or "discriminator".
        arguments: "arch", a key of ARCHITECTURES, and that network's keyword arguments.

    Raises:
        ValueError: the architecture is unknown, or an argument is out of range.
        TypeError: an argument that the architecture does not accept.
    """
    rest = dict(arguments)
    arch = rest.pop("arch", "pggan")  # checkpoints of imported weights do not name one
    if arch not in tuple(ARCHITECTURES):  # a tuple, because a damaged file may hold an unhashable value here
        raise ValueError(f"unknown architecture {arch!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch][kind](**rest)
