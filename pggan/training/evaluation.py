"""Evaluate a generator at one stage against real images of that stage's resolution."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pggan.datasets import MIN_CLASSIFIED_SIDE, MODES, Pyramid, classify
from pggan.metrics import ModeCoverage, Provenance, Suite, is_out_of_memory, without_tf32
from pggan.metrics.statistics_file import StoredStatistics
from pggan.metrics.suite import DatasetStatistics, FeatureBatch, FeatureSource, Identity

from ..networks import AnyGenerator, generate
from .ranks import SINGLE_PROCESS, Ranks
from .state import draw_latents, random_generator

MIN_HELD_OUT = 2048  # dimensions of Inception's features: with fewer images, FID's covariances are singular
BATCH = 64  # images per forward pass: 50 MB of float32 images at 256x256


def synthetic_mode_metric(data: str, channels: int) -> dict[str, ModeCoverage]:
    """Return `Suite`'s extra metric for the embedded dataset in RGB, whose modes are known; {} for other data."""
    known = data == "synthetic" and channels == 3
    return {"modes": ModeCoverage(classify, len(MODES), MIN_CLASSIFIED_SIDE)} if known else {}


class Evaluator:
    """Computes the metrics of a generator; keeps the statistics of the real images of one stage.

    Args:
        pyramid: the real images.
        count: number of generated images.
        seed: of the latents, which are the same at every stage.
        check: called before every batch on every rank; may raise to interrupt the evaluation.
        data: path or name of the real images, for the record.
        num_reals: number of real images at most (default: `count`).
        mirror: mirror each real image with probability 1/2, as the official code does if training mirrors.

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
        *,
        data: str | None = None,
        num_reals: int | None = None,
        mirror: bool = False,
    ):
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.ranks, self.data, self.mirror = ranks, data, mirror
        # The first `num_reals` of this order are in use, the same ones at every stage.
        self.order = random_generator(seed, 0, "evaluated reals").permutation(len(pyramid))
        self.num_reals = min(count if num_reals is None else num_reals, len(pyramid))
        self.is_mirrored = random_generator(seed, 0, "mirrored reals").random(len(pyramid)) < (0.5 if mirror else 0)
        self.real_statistics: dict[int, DatasetStatistics] = {}
        if suite.metrics:
            suite.check(self.num_reals, count)

    def describe(self, resolution: int, num_images: int | None = None, num_reals: int | None = None) -> Provenance:
        """Return the record of how `__call__` computes its results, or `compare_reals` with these numbers of images."""
        num_images, num_reals = num_images or self.count, num_reals or self.num_reals
        kid = self.suite.metrics.get("kid")
        return Provenance(
            metric_images=num_images,
            metric_reals=num_reals,
            resolution=resolution,
            data=self.data,
            data_digest=self.pyramid.compute_digest(),
            fit=self.pyramid.meta.get("fit"),
            mirror_reals=self.mirror,
            kid_subset_size=None if kid is None else kid.choose_subset_size(num_reals, num_images),
            seed=self.seed,
            device=self.suite.device.type,
            tf32=False,
            **self.suite.settings(),
        )

    @without_tf32()
    def __call__(
        self, generator: AnyGenerator, resolution: int, alpha: float, seed: int | None = None
    ) -> dict[str, float]:
        """Return results by name, as `metrics.Suite.compare` does; {} if no metric is requested or available.

        Every rank generates and processes a part of the images; rank 0 gets the results, the others {}.

        Args:
            seed: of the latents and labels (default: the evaluator's).
        """
        if not self.suite.metrics:
            return {}
        seed = self.seed if seed is None else seed
        reals = self.compute_reals(resolution)
        images = partial(self.fake_images, generator, resolution, alpha, seed, self.draw_labels(seed))
        fake = self.collect_on_all_ranks(self.suite.accumulate, images, self.count, f"fake {resolution}x{resolution}")
        return self.suite.compare(reals, fake) if self.ranks.is_first else {}

    def compute_reals(self, resolution: int) -> DatasetStatistics:
        """Return the statistics of the real images, on rank 0."""
        if resolution not in self.real_statistics:
            total = self.num_reals
            images = partial(self.real_images, resolution, total)
            load_or_compute = partial(
                self.suite.load_or_compute,
                partial(map, images, range(0, total, BATCH)),
                identity=self.identify_reals(resolution),
            )
            # one stage at a time: statistics can be large
            self.real_statistics = {
                resolution: self.collect_on_all_ranks(load_or_compute, images, total, f"real {resolution}x{resolution}")
            }
        return self.real_statistics[resolution]

    @without_tf32()
    def compare_reals(self, resolution: int, others: np.ndarray) -> dict[str, float]:
        """Return the results of real images against other real images, which a perfect generator would reach.

        Also computes, in the same pass, the statistics of the real images that `__call__` needs.

        Args:
            others: numbers of the images that take the place of generated ones, see `choose_others`.

        Raises:
            MetricError: too few images for one of the metrics.
        """
        total = max(self.num_reals, *(others + 1)) if len(others) else self.num_reals
        is_real, is_other = torch.arange(total) < self.num_reals, torch.zeros(total, dtype=torch.bool)
        is_other[others] = True
        masks = [is_real & ~is_other, is_other, is_real]  # the two sides of the row, and what `__call__` needs
        if not (is_real & is_other).any():  # the first and the last are the same
            del masks[2]
        parts: list[DatasetStatistics] = []

        def collect(extract: FeatureSource) -> DatasetStatistics:
            parts.extend(self.load_or_compute_parts(resolution, masks, extract))
            return parts[-1] if len(parts) == 3 else parts[0]

        images, what = partial(self.real_images, resolution, total), f"real {resolution}x{resolution}"
        self.real_statistics = {resolution: self.collect_on_all_ranks(collect, images, total, what)}
        return self.suite.compare(*parts[:2]) if self.ranks.is_first else {}

    def load_or_compute_parts(
        self, resolution: int, masks: Sequence[Tensor], extract: FeatureSource
    ) -> list[DatasetStatistics]:
        """Return the statistics of several sets of real images, from the cache or from one pass over all of them.

        Args:
            masks: for each set, which of the first real images in `order` belong to it, bool; the second set takes the
                place of generated images.
        """
        identities = [self.identify_reals(resolution, np.flatnonzero(mask)) for mask in masks]
        stored = [self.suite.find_stored(identity) for identity in identities]
        parts = [self.suite.make_statistics(of_reals=i != 1, without=found) for i, found in enumerate(stored)]
        start, input_names = 0, set().union(*(part.input_names for part in parts))
        for batch in chain.from_iterable(extract(input_names) if input_names else ()):
            for part, mask in zip(parts, masks, strict=True):
                if (here := mask[start : start + batch.count]).any():
                    self.suite.add(part, batch.select(here))
            start += batch.count
        for part, found, identity in zip(parts, stored, identities, strict=True):
            if part.count:
                self.suite.store(part, identity)
            part.count, part.shape = identity[1:]
            part.accumulators |= found
        return parts

    def choose_others(self, held_out: np.ndarray) -> np.ndarray:
        """Return the numbers, in `order`, of real images to take the place of generated ones in `compare_reals`.

        They are the held-out images if there are enough; or else as many as generated images of those that are not in
        use; or else half of those in use.

        Args:
            held_out: indices of images that training never saw.
        """
        found = np.flatnonzero(np.isin(self.order[: self.num_reals], held_out))
        if len(found) >= MIN_HELD_OUT:
            return found
        if len(self.order) - self.num_reals >= self.count:
            return np.arange(self.num_reals, self.num_reals + self.count)
        return np.arange(self.num_reals // 2)

    def identify_reals(self, resolution: int, numbers: np.ndarray | None = None) -> Identity:
        """Return the cache's key for real images, from the dataset's digest, so that they need not be read.

        Args:
            numbers: their positions in `order` (default: all that are in use).
        """
        numbers = np.arange(self.num_reals) if numbers is None else numbers
        digest = hashlib.blake2b(f"{self.pyramid.key} {resolution}".encode(), digest_size=16)
        digest.update(self.order[numbers].tobytes() + self.is_mirrored[numbers].tobytes())
        return digest.hexdigest(), len(numbers), (self.pyramid.channels, resolution, resolution)

    def collect_on_all_ranks(
        self,
        collect: Callable[[FeatureSource], DatasetStatistics],
        images: Callable[[int], Tensor],
        total: int,
        what: str,
    ) -> DatasetStatistics:
        """Run `collect` on rank 0, with the features of all images computed by all ranks.

        Rank 0 may find the statistics in a cache and ask for no features at all, or ask several times. So it
        broadcasts each request, the names of the inputs it needs, and None when it is done; the others serve.

        Args:
            images: from the number of a batch's first image to the batch. what: label of the progress bar.

        Raises:
            MemoryError: on every rank, if one of them runs out of memory.
        """
        if not self.ranks.is_first:
            while input_names := self.ranks.broadcast(None):
                for _ in self.extract_features(images, total, input_names, what):
                    pass
            return DatasetStatistics()

        def request(input_names: set[str]) -> Iterator[list[FeatureBatch]]:
            return self.extract_features(images, total, self.ranks.broadcast(input_names), what)

        description = collect(request)
        self.ranks.broadcast(None)
        return description

    def extract_features(
        self, images: Callable[[int], Tensor], total: int, input_names: set[str], what: str
    ) -> Iterator[list[FeatureBatch]]:
        """Yield the features of all images in order, on rank 0; every rank computes one batch per turn."""
        with tqdm(total=total, desc=f"evaluating {what}", unit="image", disable=None, leave=False) as bar:
            for turn in range(0, total, BATCH * self.ranks.world_size):
                self.check()
                start = turn + BATCH * self.ranks.rank
                mine = self.try_to_extract(partial(images, start), input_names) if start < total else []
                if self.ranks.all_reduce_max(int(mine is None)):
                    raise MemoryError
                for parts in self.ranks.gather(mine):
                    yield parts
                    bar.update(sum(part.count for part in parts))

    def try_to_extract(self, images: Callable[[], Tensor], input_names: set[str]) -> list[FeatureBatch] | None:
        """Return the features of one batch, or None if there is not enough memory."""
        try:
            return self.suite.extract(images(), input_names)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def real_images(self, resolution: int, total: int, start: int) -> Tensor:
        """Return the batch from number `start` on of the first `total` real images."""
        part = slice(start, min(start + BATCH, total))
        images, flips = self.pyramid.read_images(resolution, self.order[part]), self.is_mirrored[part]
        images[flips] = images[flips, :, :, ::-1]
        return torch.from_numpy(images)

    def fake_images(
        self, generator: AnyGenerator, resolution: int, alpha: float, seed: int, labels: Tensor | None, start: int
    ) -> Tensor:
        z = draw_latents(seed, start, "evaluation", min(BATCH, self.count - start), generator.latent_size)
        return generate(generator, z, None if labels is None else labels[start : start + BATCH], resolution, alpha)

    def draw_labels(self, seed: int) -> Tensor | None:
        """Return class indices [count] drawn from the dataset's labels, or None without classes."""
        if self.pyramid.labels is None:
            return None
        chosen = random_generator(seed, 0, "evaluated labels").integers(len(self.pyramid), size=self.count)
        return torch.from_numpy(self.pyramid.labels[chosen])


class StatisticsEvaluator(Evaluator):
    """Computes the FID of a generator against statistics from a file.

    Args:
        statistics: mean and covariance of the real images' features. data: the file's path, for the record.
        class_counts: number of training images of each class, by which labels are drawn; () without classes.

    Raises:
        MetricError: too few images.
    """

    def __init__(
        self,
        statistics: StoredStatistics,
        suite: Suite,
        count: int,
        seed: int,
        ranks: Ranks,
        data: str,
        class_counts: Sequence[int],
    ):
        self.statistics, self.suite, self.count, self.seed, self.ranks = statistics, suite, count, seed, ranks
        self.data, self.class_counts, self.check = data, class_counts, lambda: None
        suite.check(statistics.count or sys.maxsize, count)

    def describe(self, resolution: int, num_images: int | None = None, num_reals: int | None = None) -> Provenance:
        """Return the record of how `__call__` computes its results."""
        return Provenance(
            metric_images=self.count,
            metric_reals=self.statistics.count,
            resolution=resolution,
            data=self.data,
            seed=self.seed,
            device=self.suite.device.type,
            tf32=False,
            **self.suite.settings(),
        )

    def compute_reals(self, resolution: int) -> DatasetStatistics:
        """Return the file's statistics."""
        return self.statistics.describe()

    def draw_labels(self, seed: int) -> Tensor | None:
        """Return class indices [count], drawn by the classes' frequencies, or None without classes."""
        if not self.class_counts:
            return None
        shares = np.array(self.class_counts) / sum(self.class_counts)
        return torch.from_numpy(random_generator(seed, 0, "evaluated labels").choice(len(shares), self.count, p=shares))
