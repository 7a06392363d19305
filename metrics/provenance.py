"""The record of how a result was computed: the one place that knows what makes two results comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


def setting(label: str = "", affects: bool = True) -> Any:
    """Declare a field of `Provenance`.

    Args:
        label: its name in tables; "" if tables show it elsewhere.
        affects: whether results with different values are not comparable.
    """
    return field(default=None, metadata={"label": label, "affects": affects})


@dataclass(frozen=True)
class Provenance:
    """How a result was computed; None where it is not recorded, as in files of earlier versions.

    Attributes:
        metric_images, metric_reals: numbers of generated and of real images.
        resolution: pixels per side.
        data: path or name of the real images. data_digest: identifies their pixels and labels, or None.
        fit: how they were made square. mirror_reals: whether a random half of them was mirrored.
        features: the network whose features were compared; see `metrics.networks`.
        resize: scaling to its input; see `metrics.preprocess`.
        weights: checksum of its weights. inception_precision: "fp32" or "bf16".
        kid_subset_size: images per subset of KID, if it was computed with fewer than its default.
        metrics_version: increased whenever a change of the code changes a result.
        device: type of device, "cpu" or "cuda". tf32: whether the device could round fp32 products to TF32.
        seed: of the latents. seeds: number of seeds, `seed` and those after it, that were averaged.
    """

    metric_images: int | None = setting("generated images")
    metric_reals: int | None = setting("real images")
    resolution: int | None = setting()
    data: str | None = setting("dataset", affects=False)
    data_digest: str | None = setting("dataset digest")
    fit: str | None = setting("fit")
    mirror_reals: bool | None = setting("real images mirrored")
    features: str | None = setting("features")
    resize: str | None = setting("resize")
    weights: str | None = setting("weights")
    inception_precision: str | None = setting("Inception precision")
    kid_subset_size: int | None = setting("KID subset size")
    metrics_version: int | None = setting("metrics version")
    device: str | None = setting("device", affects=False)
    tf32: bool | None = setting("TF32", affects=False)
    seed: int | None = setting("seed", affects=False)
    seeds: int | None = setting("seeds", affects=False)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Provenance:
        """Return the record in a line of metrics.jsonl or evaluations.jsonl; other keys are ignored."""
        return cls(**{f.name: line[f.name] for f in fields(cls) if f.name in line})

    def to_dict(self) -> dict[str, Any]:
        """Return what is recorded, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def is_comparable(self, other: Provenance) -> bool:
        """Return whether no setting that affects results differs, as far as both record it."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.metadata["affects"]]
        return all(mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None)


PROVENANCE_LABELS = {f.name: f.metadata["label"] for f in fields(Provenance) if f.metadata["label"]}  # for tables
