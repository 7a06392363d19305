"""A generator at one stage, judged against the real images at that stage's resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import SMALLEST_CLASSIFIED, ModeCounts, Pyramid
from metrics import Suite

from ..networks import Generator, generate
from .state import draws, latents

BATCH = 64


class Judge:
    """Computes the metrics of a generator, keeping what it learnt of the real images.

    Args:
        pyramid: the real images. count: images of each kind; at most as many reals as there are.
        seed: of the latents, which are the same at every stage.
        check: called before every batch; may raise to break off.
        count_modes: also say how many of the embedded set's modes the images show.
    """

    def __init__(
        self, pyramid: Pyramid, suite: Suite, count: int, seed: int, check: Callable[[], None] = lambda: None,
        count_modes: bool = False,
    ):  # fmt: skip
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.count_modes = count_modes
        self.real: dict[int, dict] = {}

    def __call__(self, generator: Generator, resolution: int, alpha: float) -> dict[str, float]:
        """Results by name, as in `metrics.Suite.compare`; {} where no metric is wanted or available."""
        if not self.suite.metrics:
            return {}
        if resolution not in self.real:
            reals = self.real_batches(resolution)
            reals = self.progress(reals, len(self.real_indices()), f"real {resolution}x{resolution}")
            self.real = {resolution: self.suite.describe(reals)}  # one stage at a time: descriptions can be large
        modes = ModeCounts()
        fakes = self.fake_batches(generator, resolution, alpha)
        if self.count_modes and resolution >= SMALLEST_CLASSIFIED:
            fakes = modes.counting(fakes)
        fake = self.suite.describe(self.progress(fakes, self.count, f"fake {resolution}x{resolution}"))
        return self.suite.compare(self.real[resolution], fake) | modes.coverage()

    def real_indices(self) -> np.ndarray:
        """The same images at every stage, drawn without repetition."""
        size = len(self.pyramid)
        return np.sort(draws(self.seed, 0, "judged reals").permutation(size)[: self.count])

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
