"""Evaluate a generator at one stage against real images of that stage's resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import MODES, SMALLEST_CLASSIFIED, Pyramid, classify
from metrics import ModeCoverage, Suite
from metrics.suite import Description, Seen, SeenBatches

from ..networks import AnyGenerator, generate
from .ranks import ALONE, Ranks
from .state import draws, latents

BATCH = 64  # images per forward pass: 50 MB of float32 images at 256x256


def modes_of_embedded_set(data: str, channels: int) -> dict[str, ModeCoverage]:
    """Return `Suite`'s extra metric for the embedded dataset in RGB, whose modes are known; {} for other data."""
    known = data == "synthetic" and channels == 3
    return {"modes": ModeCoverage(classify, len(MODES), SMALLEST_CLASSIFIED)} if known else {}


class Judge:
    """Computes the metrics of a generator; keeps the statistics of the real images of one stage.

    Args:
        pyramid: the real images. count: number of generated images, and of real ones if there are as many.
        seed: of the latents, which are the same at every stage.
        check: called before every batch on every rank; may raise to interrupt the evaluation.

    Raises:
        MetricError: too few images for one of the metrics.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        suite: Suite,
        count: int,
        seed: int,
        check: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ):
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.ranks = ranks
        self.real: dict[int, Description] = {}
        if suite.metrics:
            suite.check(len(self.real_indices()), count)

    def __call__(self, generator: AnyGenerator, resolution: int, alpha: float) -> dict[str, float]:
        """Return results by name, as `metrics.Suite.compare` does; {} if no metric is requested or available.

        Every rank generates and processes a part of the images; rank 0 gets the results, the others {}.
        """
        if not self.suite.metrics:
            return {}
        if resolution not in self.real:
            indices = self.real_indices()
            images, total = partial(self.real_images, resolution, indices), len(indices)
            remembered = partial(self.suite.remembered, partial(map, images, range(0, total, BATCH)))
            # one stage at a time: statistics can be large
            self.real = {resolution: self.shared(remembered, images, total, f"real {resolution}x{resolution}")}
        images = partial(self.fake_images, generator, resolution, alpha)
        fake = self.shared(self.suite.collect, images, self.count, f"fake {resolution}x{resolution}")
        return self.suite.compare(self.real[resolution], fake) if self.ranks.first else {}

    def shared(
        self, describe: Callable[[SeenBatches], Description], images: Callable[[int], Tensor], total: int, what: str
    ) -> Description:
        """Run `describe` on rank 0, with the features of all images computed by all ranks.

        Rank 0 may find the statistics in a cache and ask for no features at all, or ask several times. So it
        broadcasts each request, the names of the features it takes, and None when it is done; the others serve.

        Args:
            images: from the number of a batch's first image to the batch. what: label of the progress bar.
        """
        if not self.ranks.first:
            while takes := self.ranks.from_first(None):
                for _ in self.seen(images, total, takes, what):
                    pass
            return Description()

        def request(takes: set[str]) -> Iterator[list[Seen]]:
            return self.seen(images, total, self.ranks.from_first(takes), what)

        description = describe(request)
        self.ranks.from_first(None)
        return description

    def seen(self, images: Callable[[int], Tensor], total: int, takes: set[str], what: str) -> Iterator[list[Seen]]:
        """Yield the features of all images in order, on rank 0; every rank computes one batch per turn."""
        with tqdm(total=total, desc=f"evaluating {what}", unit="image", disable=None, leave=False) as bar:
            for turn in range(0, total, BATCH * self.ranks.count):
                self.check()
                start = turn + BATCH * self.ranks.rank
                mine = self.suite.see(images(start), takes) if start < total else []
                for parts in self.ranks.to_first(mine):
                    yield parts
                    bar.update(sum(part.count for part in parts))

    def real_indices(self) -> np.ndarray:
        """Return the indices of the real images, drawn without replacement; the same at every stage."""
        return draws(self.seed, 0, "judged reals").permutation(len(self.pyramid))[: self.count]

    def real_images(self, resolution: int, indices: np.ndarray, start: int) -> Tensor:
        return torch.from_numpy(self.pyramid.images(resolution, indices[start : start + BATCH]))

    def fake_images(self, generator: AnyGenerator, resolution: int, alpha: float, start: int) -> Tensor:
        labels = evaluation_labels(self.pyramid, self.count, self.seed)
        z = latents(self.seed, start, "evaluation", min(BATCH, self.count - start), generator.latent_size)
        labels = None if labels is None else labels[start : start + BATCH]
        return generate(generator, z, labels, resolution, alpha)


def evaluation_labels(pyramid: Pyramid, count: int, seed: int) -> Tensor | None:
    """Return class indices [count] drawn from the dataset's labels, or None without classes."""
    if pyramid.labels is None:
        return None
    chosen = draws(seed, 0, "judged labels").integers(len(pyramid), size=count)
    return torch.from_numpy(pyramid.labels[chosen])
