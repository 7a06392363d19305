"""A generator at one stage, judged against the real images at that stage's resolution."""

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
        check: called before every batch, in all processes alike; may raise to break off. ranks: the processes.

    Raises:
        MetricError: too few images for one of the metrics.
    """

    def __init__(
        self, pyramid: Pyramid, suite: Suite, count: int, seed: int, check: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ):  # fmt: skip
        self.pyramid, self.suite, self.count, self.seed, self.check = pyramid, suite, count, seed, check
        self.ranks = ranks
        self.real: dict[int, Description] = {}
        if suite.metrics:
            suite.check(len(self.real_indices()), count)

    def __call__(self, generator: AnyGenerator, resolution: int, alpha: float) -> dict[str, float]:
        """Results by name, as in `metrics.Suite.compare`; {} where no metric is wanted or available.

        Of several processes each generates and looks at a part of the images; the first one gets the results.
        """
        if not self.suite.metrics:
            return {}
        if resolution not in self.real:
            indices = self.real_indices()
            images, total = partial(self.real_images, resolution, indices), len(indices)
            remembered = partial(self.suite.remembered, partial(map, images, range(0, total, BATCH)))
            # one stage at a time: descriptions can be large
            self.real = {resolution: self.shared(remembered, images, total, f"real {resolution}x{resolution}")}
        images = partial(self.fake_images, generator, resolution, alpha)
        fake = self.shared(self.suite.collect, images, self.count, f"fake {resolution}x{resolution}")
        return self.suite.compare(self.real[resolution], fake) if self.ranks.first else {}

    def shared(
        self, describe: Callable[[SeenBatches], Description], images: Callable[[int], Tensor], total: int, what: str
    ) -> Description:
        """`describe` on the first process; when it wants to see the images, all processes work.

        images: from the number of the first one to a batch of them.
        """
        if not self.ranks.first:
            while takes := self.ranks.from_first(None):
                for _ in self.seen(images, total, takes, what):
                    pass
            return Description()

        def seen(takes: set[str]) -> Iterator[list[Seen]]:
            return self.seen(images, total, self.ranks.from_first(takes), what)

        description = describe(seen)
        self.ranks.from_first(None)
        return description

    def seen(
        self, images: Callable[[int], Tensor], total: int, takes: set[str], what: str
    ) -> Iterator[list[Seen]]:  # fmt: skip
        """Batches in turns: each process sees one, then the first one gets them all, in order."""
        with tqdm(total=total, desc=f"judging {what}", unit="image", disable=None, leave=False) as bar:
            for turn in range(0, total, BATCH * self.ranks.count):
                self.check()
                start = turn + BATCH * self.ranks.rank
                mine = self.suite.see(images(start), takes) if start < total else []
                for parts in self.ranks.to_first(mine):
                    yield parts
                    bar.update(sum(part.count for part in parts))

    def real_indices(self) -> np.ndarray:
        """The same images at every stage, drawn without repetition, in an order of no meaning."""
        return draws(self.seed, 0, "judged reals").permutation(len(self.pyramid))[: self.count]

    def real_images(self, resolution: int, indices: np.ndarray, start: int) -> Tensor:
        return torch.from_numpy(self.pyramid.images(resolution, indices[start : start + BATCH]))

    def fake_images(self, generator: AnyGenerator, resolution: int, alpha: float, start: int) -> Tensor:
        labels = evaluation_labels(self.pyramid, self.count, self.seed)
        z = latents(self.seed, start, "evaluation", min(BATCH, self.count - start), generator.latent_size)
        labels = None if labels is None else labels[start : start + BATCH]
        return generate(generator, z, labels, resolution, alpha)


def evaluation_labels(pyramid: Pyramid, count: int, seed: int) -> Tensor | None:
    """Class indices [count] drawn from the data's own, or None."""
    if pyramid.labels is None:
        return None
    chosen = draws(seed, 0, "judged labels").integers(len(pyramid), size=count)
    return torch.from_numpy(pyramid.labels[chosen])
