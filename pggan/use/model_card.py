"""The README.md of a folder for the Hugging Face Hub, filled in from the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints import CheckpointError, RunDirectory
from checkpoints.run_directory import read_lines
from datasets import contact_sheet

from ..config import ConfigError, TrainConfig
from ..training.growth import GrowthController
from .output import run_folder
from .trained import Trained

SAMPLES = 36
HOW = {  # beside a metric's value, what makes it comparable
    "metric_images": "generated images",
    "metric_reals": "real images",
    "resize": "resized as in",
    "inception_precision": "Inception in",
    "weights": "Inception's weights",
    "metrics_version": "version of the metrics",
}
NOT_METRICS = {"images", "resolution", "alpha", "stage_end", "stage_seconds", "evaluation_seconds", *HOW}
HEADER = """\
---
license: {licence}
tags: [progressive-gan, gan, pytorch]
pipeline_tag: unconditional-image-generation
---"""
USE = """\
```python
import pggan

G = pggan.load("{folder}/model.safetensors")
images = G.sample(16, seed=0)  # uint8 [16, {channels}, {resolution}, {resolution}]
```
"""


def write_pictures(folder: Path, trained: Trained) -> None:
    """samples.png: the images of the first seeds, not chosen."""
    contact_sheet(trained.sample(SAMPLES).numpy()).save(folder / "samples.png")


def card(checkpoint: Path, trained: Trained, content: dict[str, Any], licence: str, name: str) -> str:
    """The model card, in Markdown under the Hub's own header."""
    size = f"{trained.resolution}x{trained.resolution}"
    conditional = "class-conditional" if trained.classes else "unconditional"
    parts = [
        HEADER.format(licence=licence),
        f"# {escaped(name)}",
        f"A progressive GAN ([Karras et al. 2018](https://arxiv.org/abs/1710.10196)): {conditional} images of {size}, "
        f"drawn by an exponential moving average of the generator.",
        f"![the first {SAMPLES} seeds, not chosen](samples.png)",
        "## Use",
        USE.format(folder=name, channels=trained.generator.channels, resolution=trained.resolution).strip(),
        "## Training",
        *training(trained, content),
        "## Metrics",
        *metrics(checkpoint, trained),
        "## Licence",
        f"Of these weights: {licence}. The images they were trained on have a licence of their own.",
    ]
    return "\n\n".join(parts) + "\n"


def training(trained: Trained, content: dict[str, Any]) -> list[str]:
    """Data, images seen, and the plan as a table."""
    config, lines = trained.config, []
    if content.get("origin"):
        lines.append(f"Imported from {escaped(content['origin'])}.")
    if isinstance(config.get("data"), str):
        lines.append(
            f"Trained on: {escaped(Path(config['data']).name)}, {trained.images / 1000:g} thousand images seen."
        )
    if trained.classes:
        lines.append(f"Classes: {escaped(', '.join(trained.classes))}.")
    try:
        plan = GrowthController(TrainConfig(**config))
        rows = [
            f"| {row.resolution}x{row.resolution} | {'fade in' if row.fading else 'stabilise'} "
            f"| {row.start / 1000:g} | {row.end / 1000:g} | {row.batch_size:g} | {row.lr:g} |"
            for row in plan.rows()
        ]
        lines.append("\n".join(["| stage | | from kimg | to kimg | batch | lr |", "|---|---|---|---|---|---|", *rows]))
    except (TypeError, ConfigError):
        lines.append("The plan of its training is not known.")
    return lines


def metrics(checkpoint: Path, trained: Trained) -> list[str]:
    """The values that the run logged for this checkpoint, with what makes them comparable."""
    folder = run_folder(checkpoint)
    try:
        lines = [] if folder is None else read_lines(RunDirectory(folder).metrics)
    except CheckpointError:
        lines = []
    judged = [line for line in lines if line.get("images") == trained.images]
    if not judged:
        return ["None were computed for this checkpoint."]
    line = judged[-1]
    values = {key: value for key, value in line.items() if key not in NOT_METRICS and isinstance(value, float)}
    how = [f"{text} {escaped(str(line[key]))}" for key, text in HOW.items() if key in line]
    table = ["| metric | value |", "|---|---|", *(f"| {escaped(key)} | {value:.4g} |" for key, value in values.items())]
    return ["\n".join(table), f"With {', '.join(how)}. Compare only with numbers made the same way."]


def escaped(text: str) -> str:
    """Text of a file as text, not as Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else " " if c in "\r\n" else c for c in text[:500])
