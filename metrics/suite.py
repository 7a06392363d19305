"""Several metrics from one pass over the images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import MetricError
from .fid import FID
from .inception import Inception
from .inception_score import IS
from .swd import SWD
from .weights import load_weights

METRICS = {"fid": FID, "is": IS, "swd": SWD}
INCEPTION_BATCH = 32


class Suite:
    """The metrics asked for, as far as the weights at hand allow; what is not available is said in one line each.

    Args:
        names: keys of METRICS. weights: see `metrics.weights.load_weights`. device: where Inception runs.
        say: told what is not available.

    Raises:
        MetricError: an unknown metric, or a weights file that was named but cannot be used.
    """

    def __init__(
        self,
        names: Iterable[str],
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        say: Callable[[str], Any] = lambda line: print(line, file=sys.stderr),
    ):
        self.metrics = {}
        self.inception = None
        for name in names:
            if name not in METRICS:
                raise MetricError(f"{name!r} is not a metric; choose from {', '.join(METRICS)}")
            self.metrics[name] = METRICS[name]()
        wants = {name: m.needs for name, m in self.metrics.items() if m.needs in ("features", "logits")}
        if not wants:
            return
        try:
            self.inception = Inception(load_weights(weights), device)
        except MetricError as error:
            if weights is not None:
                raise
            say(f"{' and '.join(wants).upper()} not available: {error}")
        for name, needs in wants.items():
            if self.inception is None:
                del self.metrics[name]
            elif needs == "logits" and self.inception.classifier is None:
                say(
                    f"{name.upper()} not available: these Inception weights hold features only, without the "
                    f"classifier; give the canonical file with --inception-weights"
                )
                del self.metrics[name]

    def describe(self, batches: Iterable[Tensor]) -> dict[str, Any]:
        """What each metric keeps of a set of images, from uint8 batches [N, C, H, W]."""
        kept = {name: metric.accumulator() for name, metric in self.metrics.items()}
        uses_inception = any(metric.needs != "images" for metric in self.metrics.values())
        for batch in batches:
            for images in batch.split(INCEPTION_BATCH):
                given = {"images": images}
                if uses_inception:
                    given["features"], given["logits"] = self.inception(images)
                for name, metric in self.metrics.items():
                    kept[name].update(given[metric.needs])
        return kept

    def compare(self, real: dict[str, Any], fake: dict[str, Any]) -> dict[str, float]:
        """Results by name, "fid", "is", "is_std", "swd", "swd_32", ..., of two descriptions."""
        results: dict[str, float] = {}
        for name, metric in self.metrics.items():
            results |= metric.compare(real[name], fake[name])
        return results
