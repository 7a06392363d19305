"""Several metrics from one pass over the images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cache import Cache, content
from .errors import MetricError
from .fid import FID
from .fid_infinity import FIDInfinity
from .inception import Inception
from .inception_score import IS
from .kid import KID
from .msssim import MSSSIM
from .prdc import PRDC
from .processor import has_bf16_units
from .swd import SWD
from .weights import how_to_get_classifier, load_weights

# A metric keeps an accumulator, which takes "features", "logits" or "images" batch by batch, and compares two of them,
# the first of which is None where it does not use the real images.
METRICS: dict[str, Any] = {
    "fid": FID,
    "fid_inf": FIDInfinity,
    "is": IS,
    "kid": KID,
    "prdc": PRDC,
    "swd": SWD,
    "msssim": MSSSIM,
}
VERSION = 1  # of the numbers: raised whenever one of them changes
INCEPTION_BATCH = {"cpu": 32, "cuda": 256}


@dataclass
class Description:
    """What the metrics keep of a set of images.

    Attributes:
        count: of images. shape: theirs, [C, H, W]. kept: accumulators by the constructor that made them.
    """

    count: int = 0
    shape: tuple[int, ...] = ()
    kept: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """What was taken of some images.

    Attributes:
        count: of images. shape: theirs, [C, H, W]. given: any of "images", "features" and "logits", [count, ...].
    """

    count: int
    shape: tuple[int, ...]
    given: dict[str, Tensor]


SeenBatches = Callable[[set[str]], Iterable[list[Seen]]]


class Suite:
    """The metrics asked for, as far as the weights at hand allow; what is not available is said in one line each.

    Args:
        names: keys of METRICS. weights: see `metrics.weights.load_weights`. device: where Inception runs.
        resize: "tf1", "pytorch-fid" or "clean", see `metrics.preprocess`. precision: "fp32" or "bf16".
        more: other metrics by name. cache: folder of `remembered`. say: told what is not available.

    Raises:
        MetricError: an unknown metric, or a weights file that was named but cannot be used.
    """

    def __init__(
        self,
        names: Iterable[str],
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        *,
        resize: str = "tf1",
        precision: str = "fp32",
        more: dict[str, Any] | None = None,
        cache: Path | None = None,
        say: Callable[[str], Any] = lambda line: print(line, file=sys.stderr),
    ):
        names = list(names)
        for name in names:
            if name not in METRICS:
                raise MetricError(f"{name!r} is not a metric; choose from {', '.join(METRICS)}")
        self.metrics = {name: METRICS[name]() for name in names} | (more or {})
        self.cache, self.say, self.inception = Cache(cache) if cache else None, say, None
        takes = {name: metric.keeps().takes for name, metric in self.metrics.items()}
        wants = [name for name in self.metrics if takes[name] != "images"]
        if not wants:
            return
        if precision == "bf16" and torch.device(device).type == "cpu" and not has_bf16_units():
            say("this CPU has no bf16 instructions: --precision bf16 is emulated, many times slower than fp32")
        try:
            self.inception = Inception(load_weights(weights, say), device, resize, precision)
        except MetricError as error:
            if weights is not None or precision != "fp32":
                raise
            say(f"{' and '.join(wants).upper()} not available: {error}")
        for name in wants:
            if self.inception is None:
                del self.metrics[name]
            elif takes[name] == "logits" and self.inception.classifier is None:
                say(
                    f"{name.upper()} not available: these Inception weights hold features only, without the "
                    f"classifier; for {name.upper()}, fetch the canonical file: {how_to_get_classifier()}"
                    + (" and omit --inception-weights" if weights is not None else "")
                )
                del self.metrics[name]

    def check(self, real: int, fake: int) -> None:
        """Refuse, with MetricError, numbers of images that a metric cannot work with; say where they are too few."""
        for metric in self.metrics.values():
            if warning := metric.check(real, fake):
                self.say(warning)

    def how(self) -> dict[str, Any]:
        """What two numbers must have in common to be comparable, beside the numbers of images."""
        network = self.inception and {
            "resize": self.inception.resize,
            "inception_precision": self.inception.precision,
            "weights": self.inception.checksum,
        }
        return {"metrics_version": VERSION} | (network or {})

    def describe(self, batches: Iterable[Tensor]) -> Description:
        """What each metric keeps of a set of images, from uint8 batches [N, C, H, W], all of one C, H, W.

        Raises:
            MetricError: images of different shapes, or of one that a metric cannot work with.
        """
        return self.collect(lambda takes: (self.see(batch, takes) for batch in batches))

    def see(self, batch: Tensor, takes: Iterable[str]) -> list[Seen]:
        """What accumulators take ("images", "features", "logits") of a batch, in parts that fit through Inception."""
        inception = self.inception if any(what != "images" for what in takes) else None
        parts = batch.split(INCEPTION_BATCH[inception.device.type]) if inception else [batch]
        return [self._see(images, takes, inception) for images in parts]

    def _see(self, images: Tensor, takes: Iterable[str], inception: Inception | None) -> Seen:
        given = {"images": images}
        if inception:
            given["features"], logits = inception(images)
            given |= {} if logits is None else {"logits": logits}
        return Seen(len(images), tuple(images.shape[1:]), {what: given[what] for what in takes})

    def collect(self, seen: SeenBatches, kept: dict[Any, Any] | None = None) -> Description:
        """`describe`, with the work on the batches done elsewhere.

        Args:
            seen: called with what the accumulators take; gives what `see` gives of each batch, in their order.
            kept: the accumulators to fill (default: every metric's).
        """
        kept = {metric.keeps: metric.keeps() for metric in self.metrics.values()} if kept is None else kept
        result = Description(kept=kept)
        for part in chain.from_iterable(seen({accumulator.takes for accumulator in kept.values()})):
            if result.count and part.shape != result.shape:
                raise MetricError(f"images of one set have different shapes: {result.shape} and {part.shape}")
            result.count, result.shape = result.count + part.count, part.shape
            for accumulator in kept.values():
                accumulator.update(part.given[accumulator.takes])
        return result

    def remembered(self, make_batches: Callable[[], Iterable[Tensor]], seen: SeenBatches | None = None) -> Description:
        """`describe`, with what comes from Inception's features looked up in the cache, or put there.

        Args:
            make_batches: called once or twice; gives the same batches each time.
            seen: as for `collect` of the same batches, called at most once (default: they are seen here).
        """
        seen = seen or (lambda takes: (self.see(batch, takes) for batch in make_batches()))
        storable = {m.keeps for m in self.metrics.values() if hasattr(m.keeps, "from_arrays")}
        if self.cache is None or self.inception is None or not storable:
            return self.collect(seen)
        digest, count, shape = content(make_batches())
        key = {"images": digest, "device": self.inception.device.type, **self.how()}
        keys = {keeps: {"what": keeps.name, **key} for keeps in storable}
        stored = {keeps: keeps.from_arrays(self.cache.load(keys[keeps]), count) for keeps in storable}
        found = {keeps: accumulator for keeps, accumulator in stored.items() if accumulator is not None}
        missing = {m.keeps: m.keeps() for m in self.metrics.values() if m.keeps not in found and m.uses_reals}
        if not missing:
            return Description(count, shape, found)
        result = self.collect(seen, missing)
        for keeps in storable - found.keys():
            try:
                self.cache.save(keys[keeps], result.kept[keeps].arrays())
            except OSError as error:
                self.say(f"cannot keep the features of the real images in {self.cache.folder}: {error.strerror}")
        result.kept |= found
        return result

    def compare(self, real: Description, fake: Description) -> dict[str, float]:
        """Results by name, "fid", "is", "is_std", "swd", "swd_32", ..., of two descriptions.

        Raises:
            MetricError: images of different shapes, or too few.
        """
        if real.shape != fake.shape:
            raise MetricError(
                f"the images have different shapes, {shape_name(real.shape)} and {shape_name(fake.shape)}: "
                "resize one set to the size of the other first"
            )
        results: dict[str, float] = {}
        for metric in self.metrics.values():
            results |= metric.compare(real.kept.get(metric.keeps), fake.kept[metric.keeps])
        return results


def shape_name(shape: tuple[int, ...]) -> str:
    """ "32x48 RGB" of (3, 48, 32)."""
    channels, height, width = shape
    kinds = {1: "grayscale", 3: "RGB", 4: "RGBA"}
    return f"{width}x{height} {kinds.get(channels, f'of {channels} channels')}"
