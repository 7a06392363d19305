"""Evaluate a generator at one stage against real images of that stage's resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import MIN_CLASSIFIED_SIDE, MODES, Pyramid, classify
from pggan.metrics import ModeCoverage, Suite
from pggan.metrics.suite import DatasetStatistics, FeatureBatch, FeatureSource

from ..networks import AnyGenerator, generate
from .ranks import SINGLE_PROCESS, Ranks
from .state import draw_latents, random_generator

BATCH = 64  # images per forward pass: 50 MB of float32 images at 256x256


def synthetic_mode_metric(data: str, channels: int) -> dict[str, ModeCoverage]:
    """Return `Suite`'s extra metric for the embedded dataset in RGB, whose modes are known; {} for other data."""
    known = data == "synthetic" and channels == 3
    return {"modes": ModeCoverage(classify, len(MODES), MIN_CLASSIFIED_SIDE)} if known else {}


class Evaluator:
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
        ranks: Ranks = SINGLE_PROCESS,
    ):
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.ranks = ranks
        self.real_statistics: dict[int, DatasetStatistics] = {}
        if suite.metrics:
            suite.check(len(self.real_indices()), count)

    def __call__(self, generator: AnyGenerator, resolution: int, alpha: float) -> dict[str, float]:
        """Return results by name, as `metrics.Suite.compare` does; {} if no metric is requested or available.

        Every rank generates and processes a part of the images; rank 0 gets the results, the others {}.
        """
        if not self.suite.metrics:
            return {}
        if resolution not in self.real_statistics:
            indices = self.real_indices()
            images, total = partial(self.real_images, resolution, indices), len(indices)
            load_or_compute = partial(self.suite.load_or_compute, partial(map, images, range(0, total, BATCH)))
            # one stage at a time: statistics can be large
            self.real_statistics = {
                resolution: self.collect_on_all_ranks(load_or_compute, images, total, f"real {resolution}x{resolution}")
            }
        images = partial(self.fake_images, generator, resolution, alpha)
        fake = self.collect_on_all_ranks(self.suite.accumulate, images, self.count, f"fake {resolution}x{resolution}")
        return self.suite.compare(self.real_statistics[resolution], fake) if self.ranks.is_first else {}

    def collect_on_all_ranks(
        self,
        collect: Callable[[FeatureSource], DatasetStatistics],
        images: Callable[[int], Tensor],
        total: int,
        what: str,
    ) -> DatasetStatistics:
        """Run `describe` on rank 0, with the features of all images computed by all ranks.

        Rank 0 may find the statistics in a cache and ask for no features at all, or ask several times. So it
        broadcasts each request, the names of the features it takes, and None when it is done; the others serve.

        Args:
            images: from the number of a batch's first image to the batch. what: label of the progress bar.
        """
        if not self.ranks.is_first:
            while takes := self.ranks.broadcast(None):
                for _ in self.extract_features(images, total, takes, what):
                    pass
            return DatasetStatistics()

        def request(takes: set[str]) -> Iterator[list[FeatureBatch]]:
            return self.extract_features(images, total, self.ranks.broadcast(takes), what)

        description = collect(request)
        self.ranks.broadcast(None)
        return description

    def extract_features(
        self, images: Callable[[int], Tensor], total: int, takes: set[str], what: str
    ) -> Iterator[list[FeatureBatch]]:
        """Yield the features of all images in order, on rank 0; every rank computes one batch per turn."""
        with tqdm(total=total, desc=f"evaluating {what}", unit="image", disable=None, leave=False) as bar:
            for turn in range(0, total, BATCH * self.ranks.world_size):
                self.check()
                start = turn + BATCH * self.ranks.rank
                mine = self.suite.extract(images(start), takes) if start < total else []
                for parts in self.ranks.gather(mine):
                    yield parts
                    bar.update(sum(part.count for part in parts))

    def real_indices(self) -> np.ndarray:
        """Return the indices of the real images, drawn without replacement; the same at every stage."""
        return random_generator(self.seed, 0, "judged reals").permutation(len(self.pyramid))[: self.count]

    def real_images(self, resolution: int, indices: np.ndarray, start: int) -> Tensor:
        return torch.from_numpy(self.pyramid.read_images(resolution, indices[start : start + BATCH]))

    def fake_images(self, generator: AnyGenerator, resolution: int, alpha: float, start: int) -> Tensor:
        labels = draw_evaluation_labels(self.pyramid, self.count, self.seed)
        z = draw_latents(self.seed, start, "evaluation", min(BATCH, self.count - start), generator.latent_size)
        labels = None if labels is None else labels[start : start + BATCH]
        return generate(generator, z, labels, resolution, alpha)


def draw_evaluation_labels(pyramid: Pyramid, count: int, seed: int) -> Tensor | None:
    """Return class indices [count] drawn from the dataset's labels, or None without classes."""
    if pyramid.labels is None:
        return None
    chosen = random_generator(seed, 0, "judged labels").integers(len(pyramid), size=count)
    return torch.from_numpy(pyramid.labels[chosen])
