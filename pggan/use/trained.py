"""A trained generator out of a checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import checkpoints

from ..networks import Generator, generate


@dataclass(frozen=True)
class Trained:
    """The EMA generator of a checkpoint, at the stage it was saved in.

    Attributes:
        resolution, alpha: that stage. images: real images seen. classes: their names, [] where there are none.
        config: the run's options.
    """

    generator: Generator
    resolution: int
    alpha: float
    images: int
    classes: list[str]
    config: dict[str, Any]

    def sample(self, count: int, seed: int = 0, labels: Tensor | None = None) -> Tensor:
        """uint8 images [count, C, resolution, resolution].

        Args:
            labels: class indices [count] of a conditional generator; None draws them evenly at random.
        """
        random = torch.Generator().manual_seed(seed)
        latents = torch.randn(count, self.generator.latent_size, generator=random)
        if self.classes and labels is None:
            labels = torch.randint(len(self.classes), (count,), generator=random)
        return generate(self.generator, latents, labels, self.resolution, self.alpha)


def load(path: str | os.PathLike, device: torch.device | str = "cpu") -> Trained:
    """The trained generator of a checkpoint, or of a run directory's latest one. Runs nothing that is in the file.

    Raises:
        checkpoints.CheckpointError: no checkpoint, or a damaged one.
    """
    path = checkpoints.newest(path)
    content = checkpoints.load(path)
    try:
        generator = Generator(**content["networks"]["generator"])
        generator.load_state_dict(content["state"]["G_ema"])
        stage = content["stage"]
        trained = Trained(
            generator.to(device, memory_format=torch.channels_last).eval().requires_grad_(False),
            stage["resolution"],
            stage["alpha"],
            content["images"],
            content.get("classes", []),
            content["config"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoints.CheckpointError(f"{path} does not fit its networks: {str(error).splitlines()[0]}") from None
    return trained
