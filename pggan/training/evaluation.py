"""A generator at one stage, judged against the real images at that stage's resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import MODES, SMALLEST_CLASSIFIED, Pyramid, classify
from metrics import ModeCoverage, Suite
from metrics.suite import Description

from ..networks import Generator, generate
from .state import draws, latents

BATCH = 64


def modes_of_embedded_set(data: str, channels: int) -> dict[str, ModeCoverage]:
    """For `Suite`'s `more`: the modes of "synthetic" in RGB can be told, those of other data cannot."""
    known = data == "synthetic" and channels == 3
    return {"modes": ModeCoverage(classify, len(MODES), SMALLEST_CLASSIFIED)} if known else {}


class Judge:
    """Computes the metrics of a generator, keeping what it learnt of the real images.

    Args:
        pyramid: the real images. count: images of each kind; at most as many reals as there are.
        seed: of the latents, which are the same at every stage.
        check: called before every batch; may raise to break off.

    Raises:
        MetricError: too few images for one of the metrics.
    """

    def __init__(
        self, pyramid: Pyramid, suite: Suite, count: int, seed: int, check: Callable[[], None] = lambda: None
    ):  # fmt: skip
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.real: dict[int, Description] = {}
        if suite.metrics:
            suite.check(len(self.real_indices()), count)

    def __call__(self, generator: Generator, resolution: int, alpha: float) -> dict[str, float]:
        """Results by name, as in `metrics.Suite.compare`; {} where no metric is wanted or available."""
        if not self.suite.metrics:
            return {}
        if resolution not in self.real:
            total = len(self.real_indices())

            def reals() -> Iterator[Tensor]:
                return self.progress(self.real_batches(resolution), total, f"real {resolution}x{resolution}")

            self.real = {resolution: self.suite.remembered(reals)}  # one stage at a time: descriptions can be large
        fakes = self.fake_batches(generator, resolution, alpha)
        fake = self.suite.describe(self.progress(fakes, self.count, f"fake {resolution}x{resolution}"))
        return self.suite.compare(self.real[resolution], fake)

    def real_indices(self) -> np.ndarray:
        """The same images at every stage, drawn without repetition, in an order of no meaning."""
        return draws(self.seed, 0, "judged reals").permutation(len(self.pyramid))[: self.count]

    def real_batches(self, resolution: int) -> Iterator[Tensor]:
        indices = self.real_indices()
        for start in range(0, len(indices), BATCH):
            yield torch.from_numpy(self.pyramid.images(resolution, indices[start : start + BATCH]))

    def fake_batches(self, generator: Generator, resolution: int, alpha: float) -> Iterator[Tensor]:
        labels = evaluation_labels(self.pyramid, self.count, self.seed)
        for start in range(0, self.count, BATCH):
            count = min(BATCH, self.count - start)
            z = latents(self.seed, start, "evaluation", count, generator.latent_size)
            batch_labels = None if labels is None else labels[start : start + count]
            yield generate(generator, z, batch_labels, resolution, alpha)

    def progress(self, batches: Iterator[Tensor], total: int, what: str) -> Iterator[Tensor]:
        with tqdm(total=total, desc=f"judging {what}", unit="image", disable=None, leave=False) as bar:
            for batch in batches:
                self.check()
                yield batch
                bar.update(len(batch))


def evaluation_labels(pyramid: Pyramid, count: int, seed: int) -> Tensor | None:
    """Class indices [count] drawn from the data's own, or None."""
    if pyramid.labels is None:
        return None
    chosen = draws(seed, 0, "judged labels").integers(len(pyramid), size=count)
    return torch.from_numpy(pyramid.labels[chosen])
