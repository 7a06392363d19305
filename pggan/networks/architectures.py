"""Every architecture by its name."""

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

AnyGenerator = Generator | OneStageGenerator

ARCHITECTURES: dict[str, dict[str, type[nn.Module]]] = {
    "pggan": {"generator": Generator, "discriminator": Discriminator},
    "mlp": {"generator": DenseGenerator, "discriminator": DenseDiscriminator},
    "dcgan": {"generator": DCGANGenerator, "discriminator": DCGANDiscriminator},
    "hybrid": {"generator": DenseGenerator, "discriminator": StridedDiscriminator},
    "msg": {"generator": MultiScaleGenerator, "discriminator": MultiScaleDiscriminator},
}


def build(kind: str, arguments: Mapping[str, Any]) -> Any:
    """A network out of plain data, as checkpoints hold it.

    Args:
        kind: "generator" or "discriminator". arguments: "arch" (pggan where it is missing) and its keyword arguments.

    Raises:
        ValueError, TypeError: an unknown architecture, or arguments that it does not take.
    """
    rest = dict(arguments)
    arch = rest.pop("arch", "pggan")
    if arch not in tuple(ARCHITECTURES):
        raise ValueError(f"architecture {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch][kind](**rest)
