"""Compute several metrics in one pass over the images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cache import Cache, digest_images
from .cmmd import CMMD
from .cpu_trial import has_bf16_units
from .errors import MetricError, is_out_of_memory
from .fid import FID
from .fid_infinity import FIDInfinity
from .inception_score import IS
from .kid import KID
from .mind import MIND
from .msssim import MSSSIM
from .networks import Network, load_network
from .prdc import PRDC
from .swd import SWD, find_temporary_folder
from .weights import make_download_command

# The metrics by name. Each class has:
# - accumulator_type: class of its accumulator, or a partial of it. Metrics with the same one share an accumulator. Its
#   `update` receives `input_name` batch by batch: "features", "logits" or "images";
# - uses_reals: whether it needs the real images;
# - check(real, fake): returns a warning or None for these numbers of images, or raises MetricError;
# - compare(real, fake): the results by name from two accumulators; `real` may be None if uses_reals is False.
METRICS: dict[str, Any] = {
    "fid": FID,
    "fid_inf": FIDInfinity,
    "is": IS,
    "kid": KID,
    "mind": MIND,
    "cmmd": CMMD,
    "prdc": PRDC,
    "swd": SWD,
    "msssim": MSSSIM,
}
VERSION = 1  # increased whenever a change of the code changes a metric's value
INCEPTION_BATCH = {"cpu": 32, "cuda": 256}  # images per forward pass, by type of device


@dataclass
class DatasetStatistics:
    """The accumulators of a dataset.

    Attributes:
        count: number of images.
        shape: of one image, [C, H, W].
        accumulators: accumulators, by their class (`accumulator_type`).
    """

    count: int = 0
    shape: tuple[int, ...] = ()
    accumulators: dict[Any, Any] = field(default_factory=dict)

    @property
    def input_names(self) -> set[str]:
        """The inputs that the accumulators need: "features", "logits" or "images"."""
        return {accumulator.input_name for accumulator in self.accumulators.values()}


@dataclass
class FeatureBatch:
    """A batch of images as the accumulators take it.

    Attributes:
        count: number of images.
        shape: of one image, [C, H, W].
        features: any of "images", "features" and "logits", each [count, ...], in main memory.
    """

    count: int
    shape: tuple[int, ...]
    features: dict[str, Tensor]

    def select(self, chosen: Tensor) -> FeatureBatch:
        """Return the images where `chosen`, bool [count], is true."""
        return FeatureBatch(int(chosen.sum()), self.shape, {name: x[chosen] for name, x in self.features.items()})


# Called with the names that the accumulators take; returns the result of `Suite.extract` for each batch of images.
FeatureSource = Callable[[set[str]], Iterable[list[FeatureBatch]]]
Identity = tuple[str, int, tuple[int, ...]]  # digest, number and shape [C, H, W] of images, as by `digest_images`


class Suite:
    """A selection of metrics that share the passes through Inception.

    Metrics for which the weights are missing are skipped, with a warning each.

    Args:
        names: keys of METRICS.
        weights: see `metrics.weights.load_weights`.
        device: where the network runs.
        features: the network whose features are compared; see `metrics.networks.load_network`. The names of results
            of all networks but Inception begin with the network's, as in "dinov2_fid".
        resize: "tf1", "pytorch-fid" or "clean"; see `metrics.preprocess`. None for the network's usual one.
        precision: "fp32" or "bf16"; see `metrics.inception.Inception`.
        more: further metrics by name, with the same methods as those in METRICS.
        cache: folder in which `load_or_compute` stores features; None to store nothing.
        log: called with each warning.

    Attributes:
        metrics: the metrics that can be computed, by name.
        device: where the network runs.
        inception: the network, Inception or another, or None if no metric needs it or its weights are missing.

    Raises:
        MetricError: a metric is unknown, or the specified weights file cannot be used.
    """

    def __init__(
        self,
        names: Iterable[str],
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        *,
        features: str = "inception",
        resize: str | None = None,
        precision: str = "fp32",
        more: dict[str, Any] | None = None,
        cache: Path | None = None,
        log: Callable[[str], Any] = lambda line: print(line, file=sys.stderr),
    ):
        names = list(names)
        for name in names:
            if name not in METRICS:
                raise MetricError(f"unknown metric {name!r}; choose from {', '.join(METRICS)}")
        self.metrics = {name: METRICS[name]() for name in names} | (more or {})
        # Inception's weights are only looked up if a metric needs them: they may have to be downloaded.
        self.cache, self.log = Cache(cache) if cache else None, log
        self.inception: Network | None = None
        self.device = torch.device(device)
        input_names = {name: metric.accumulator_type().input_name for name, metric in self.metrics.items()}
        wants = [name for name in self.metrics if input_names[name] != "images"]
        if not wants:
            return
        if precision == "bf16" and torch.device(device).type == "cpu" and not has_bf16_units():
            log("warning: this CPU has no bf16 instructions; --precision bf16 is many times slower than fp32 here")
        try:
            self.inception = load_network(features, weights, device, resize=resize, precision=precision, log=log)
        except MetricError as error:
            # the user asked for this; do not skip it silently
            if weights is not None or precision != "fp32" or features != "inception":
                raise
            log(f"warning: skipping {' and '.join(name.upper() for name in wants)}: {error}")
        for name in wants:
            if self.inception is None:
                del self.metrics[name]
            elif reason := self.find_obstacle(name, input_names[name], weights is not None):
                log(f"warning: skipping {name.upper()}: {reason}")
                del self.metrics[name]
        if "fid" in self.metrics and self.inception:
            self.metrics["fid"].dimensions = self.inception.dimensions

    def find_obstacle(self, name: str, input_name: str, specified: bool) -> str | None:
        """Return why the network lacks a metric's input, and the remedy; None if it does not.

        Args:
            name: key of METRICS.
            input_name: "features" or "logits".
            specified: whether the user specified a file of Inception's weights.
        """
        assert self.inception is not None, "without a network, all of its metrics are skipped"
        if name == "cmmd" and self.inception.kind != "clip":
            return f"it needs CLIP's features, not {self.inception.name}'s; use --features clip-l"
        if input_name != "logits" or self.inception.classifier is not None:
            return None
        if self.inception.kind != "inception":
            return "it needs Inception's classifier; use --features inception"
        return (
            f"these Inception weights lack the classifier; download the canonical file: {make_download_command()}"
            + (" and omit --inception-weights" if specified else "")
        )

    def check(self, real: int, fake: int) -> None:
        """Check the numbers of images: raise MetricError if a metric cannot work with them, or print its warning."""
        for metric in self.metrics.values():
            if warning := metric.check(real, fake):
                self.log(warning)

    def settings(self) -> dict[str, Any]:
        """Return the settings in which two results must agree to be comparable, besides the numbers of images."""
        network = self.inception and {
            "features": self.inception.name,
            "resize": self.inception.resize,
            "inception_precision": self.inception.precision,
            "weights": self.inception.checksum,
        }
        return {"metrics_version": VERSION} | (network or {})

    def compute_statistics(self, batches: Iterable[Tensor]) -> DatasetStatistics:
        """Feed uint8 batches [N, C, H, W] to every metric's accumulator; C, H and W must not vary.

        Raises:
            MetricError: the images have different shapes, or a shape that a metric does not accept.
        """
        return self.accumulate(lambda input_names: (self.extract(batch, input_names) for batch in batches))

    def extract(self, batch: Tensor, input_names: Iterable[str]) -> list[FeatureBatch]:
        """Process a batch into what accumulators take, in parts of Inception's batch size.

        Args:
            batch: uint8 [N, C, H, W].
            input_names: any of "images", "features" and "logits".
        """
        inception = self.inception if any(what != "images" for what in input_names) else None
        parts = batch.split(INCEPTION_BATCH[inception.device.type]) if inception else [batch]
        return [self._extract(images, input_names, inception) for images in parts]

    def _extract(self, images: Tensor, input_names: Iterable[str], inception: Network | None) -> FeatureBatch:
        features = {"images": images}
        if inception:
            features["features"], logits = inception(images)
            features |= {} if logits is None else {"logits": logits}
        # in main memory, because they may go to another process, which cannot reach this one's GPU
        return FeatureBatch(len(images), tuple(images.shape[1:]), {what: features[what].cpu() for what in input_names})

    def accumulate(self, extract: FeatureSource, result: DatasetStatistics | None = None) -> DatasetStatistics:
        """Feed accumulators with batches that were processed elsewhere, such as on other ranks.

        Args:
            extract: called with the names that the accumulators take; yields `Suite.extract`'s result for each batch.
            result: accumulators to feed (default: new ones for every metric).

        Raises:
            MetricError: see `compute_statistics`.
        """
        result = result or self.make_statistics()
        for part in chain.from_iterable(extract(result.input_names)):
            self.add(result, part)
        return result

    def make_statistics(self, of_reals: bool = False, without: Iterable[Any] = ()) -> DatasetStatistics:
        """Return empty accumulators for every metric.

        Args:
            of_reals: only those that real images need. without: types that are not needed.
        """
        types = self.accumulator_types(of_reals) - set(without)
        return DatasetStatistics(accumulators={kind: kind() for kind in types})

    def add(self, statistics: DatasetStatistics, part: FeatureBatch) -> None:
        """Add a batch to a dataset's statistics; out of memory, drop the accumulator with a warning.

        Raises:
            MetricError: see `compute_statistics`.
        """
        if statistics.count and part.shape != statistics.shape:
            shapes = f"{format_shape(statistics.shape)} and {format_shape(part.shape)}"
            raise MetricError(f"the images have different shapes, {shapes}; resize them to one size first")
        statistics.count, statistics.shape = statistics.count + part.count, part.shape
        for accumulator_type, accumulator in list(statistics.accumulators.items()):
            names = [name for name, metric in self.metrics.items() if metric.accumulator_type is accumulator_type]
            with self.skip_if_out_of_memory(names) as skipped:
                accumulator.update(part.features[accumulator.input_name])
            if skipped:
                del statistics.accumulators[accumulator_type]

    @contextmanager
    def skip_if_out_of_memory(self, names: list[str]) -> Iterator[list[str]]:
        """Turn running out of memory or disk space in the block, which computes these metrics, into a warning.

        Yields:
            A list with the metrics skipped, to be read after the block.
        """
        skipped: list[str] = []
        try:
            yield skipped
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            skipped += names
            what = f"disk space in {find_temporary_folder()}" if isinstance(error, OSError) else "memory"
            self.log(
                f"warning: skipping {' and '.join(name.upper() for name in names)}: out of {what}; use fewer images, "
                f"or omit {','.join(names)} from --metrics"
            )

    def load_or_compute(
        self,
        make_batches: Callable[[], Iterable[Tensor]],
        extract: FeatureSource | None = None,
        identity: Identity | None = None,
    ) -> DatasetStatistics:
        """Do the same as `compute_statistics`, but load Inception's features from the cache, or store them there.

        Args:
            make_batches: returns the batches, the same ones each time; called once or twice.
            extract: see `accumulate`, for the same batches; called at most once (default: process them here).
            identity: identifies the images (default: computed from all pixels).
        """
        extract = extract or (lambda input_names: (self.extract(batch, input_names) for batch in make_batches()))
        if self.cache is None or self.inception is None or not any(map(is_storable, self.accumulator_types())):
            return self.accumulate(extract)
        identity = identity or digest_images(make_batches())
        found = self.find_stored(identity)
        missing = self.make_statistics(of_reals=True, without=found)
        if not missing.accumulators:  # no pass through Inception at all
            return DatasetStatistics(identity[1], identity[2], found)
        result = self.accumulate(extract, missing)
        self.store(result, identity)
        result.accumulators |= found
        return result

    def find_stored(self, identity: Identity) -> dict[Any, Any]:
        """Return the accumulators that the cache has for these images, by type; {} without a cache."""
        if self.cache is None or self.inception is None:
            return {}
        keys, count = self.cache_keys(identity), identity[1]
        stored = {kind: kind.from_arrays(self.cache.load(key), count) for kind, key in keys.items()}
        return {kind: accumulator for kind, accumulator in stored.items() if accumulator is not None}

    def accumulator_types(self, of_reals: bool = False) -> set[Any]:
        """Return the accumulators' types, or only those that real images need; several metrics may share one."""
        return {metric.accumulator_type for metric in self.metrics.values() if metric.uses_reals or not of_reals}

    def cache_keys(self, identity: Identity) -> dict[Any, dict[str, Any]]:
        """Return the cache's key for each type of accumulator that it can store.

        Statistics and features are stored separately, so that a metric added later finds what is there.
        """
        assert self.inception is not None, "features come from Inception"
        # all that the features depend on; the device, too, because its rounding differs
        key = {"images": identity[0], "device": self.inception.device.type, **self.settings()}
        return {kind: {"what": kind.name, **key} for kind in self.accumulator_types() if is_storable(kind)}

    def store(self, statistics: DatasetStatistics, identity: Identity) -> None:
        """Store in the cache what `load_or_compute` can load, if there is a cache."""
        if self.cache is None or self.inception is None:
            return
        for kind, key in self.cache_keys(identity).items():
            if kind in statistics.accumulators:
                try:
                    self.cache.save(key, statistics.accumulators[kind].arrays())
                except OSError as error:  # the features are computed, so do not fail
                    self.log(
                        f"warning: cannot cache the real images' features in {self.cache.folder}: {error.strerror}"
                    )

    def compare(self, real: DatasetStatistics, fake: DatasetStatistics) -> dict[str, float]:
        """Return the results by name: "fid", "is", "is_std", "swd", "swd_32", ...

        Raises:
            MetricError: the two sides' images have different shapes, or are too few.
        """
        if real.shape and fake.shape and real.shape != fake.shape:  # a statistics file may not record it
            shapes = f"{format_shape(real.shape)} and {format_shape(fake.shape)}"
            raise MetricError(f"the two sides' images have different shapes, {shapes}; resize them to one size first")
        results: dict[str, float] = {}
        for name, metric in self.metrics.items():
            mine, theirs = (side.accumulators.get(metric.accumulator_type) for side in (real, fake))
            if theirs is None or (mine is None and metric.uses_reals):
                continue  # skipped for lack of memory, with a warning
            with self.skip_if_out_of_memory([name]):
                scores = metric.compare(mine, theirs)
                results |= {self.result_name(metric, key): value for key, value in scores.items()}
        return results

    def result_name(self, metric: Any, name: str) -> str:
        """Return a result's name, which begins with the network's unless that is Inception."""
        kind = self.inception.kind if self.inception else "inception"
        return name if kind == "inception" or metric.accumulator_type().input_name == "images" else f"{kind}_{name}"


def is_storable(accumulator_type: Any) -> bool:
    """Return whether the cache can keep accumulators of this type."""
    return hasattr(accumulator_type, "from_arrays")


def format_shape(shape: tuple[int, ...]) -> str:
    """Return a shape [C, H, W] for messages: (3, 48, 32) is "32x48 RGB"."""
    channels, height, width = shape
    kinds = {1: "grayscale", 3: "RGB", 4: "RGBA"}
    return f"{width}x{height} {kinds.get(channels, f'of {channels} channels')}"
