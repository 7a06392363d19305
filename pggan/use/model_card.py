"""Model card (README.md) of an exported generator for the Hugging Face Hub, filled in from its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pggan.checkpoints import CheckpointError, RunDirectory
from pggan.checkpoints.run_directory import read_lines
from pggan.datasets import make_grid
from pggan.metrics import PROVENANCE_LABELS

from .output import find_run_folder
from .trained import Trained, read_plan

SAMPLES = 36  # a 6x6 grid: cells stay large enough to see in the width of the Hub's page
NOT_METRICS = {"images", "resolution", "alpha", "stage_end", "stage_seconds", "evaluation_seconds", *PROVENANCE_LABELS}
# Metadata that the Hub reads. It has no task for class-conditional generators, so they share this pipeline_tag.
HEADER = """\
---
license: {license_name}
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
    """Write samples.png, the images of seeds 0 to SAMPLES - 1, uncurated."""
    make_grid(trained.sample(SAMPLES).numpy()).save(folder / "samples.png")


def format_card(checkpoint: Path, trained: Trained, content: dict[str, Any], license_name: str, name: str) -> str:
    """Return the model card: Markdown below the YAML header that the Hub reads.

    Args:
        name: the folder's name, used as the title and in the code example.
    """
    size = f"{trained.resolution}x{trained.resolution}"
    conditional = "class-conditional" if trained.classes else "unconditional"
    parts = [
        HEADER.format(license_name=license_name),
        f"# {escape_markup(name)}",
        f"A progressive GAN ([Karras et al. 2018](https://arxiv.org/abs/1710.10196)) that generates {conditional} "
        f"images of {size} pixels. The weights are the exponential moving average (EMA) of the generator's.",
        f"![samples of seeds 0 to {SAMPLES - 1}, uncurated](samples.png)",
        "## Use",
        USE.format(folder=name, channels=trained.generator.channels, resolution=trained.resolution).strip(),
        "## Training",
        *describe_training(trained, content),
        "## Metrics",
        *describe_metrics(checkpoint, trained),
        "## License",
        f"License of the weights: {license_name}. The training images have a license of their own.",
    ]
    return "\n\n".join(parts) + "\n"


def describe_training(trained: Trained, content: dict[str, Any]) -> list[str]:
    """Return paragraphs on the dataset, the number of images seen and the training schedule."""
    config, lines = trained.config, []
    if content.get("origin"):
        lines.append(f"Imported from {escape_markup(content['origin'])}.")
    if isinstance(config.get("data"), str):
        name = escape_markup(Path(config["data"]).name)
        lines.append(f"Dataset: {name}. Real images seen in training: {trained.images / 1000:g} thousand.")
    if trained.classes:
        lines.append(f"Classes: {escape_markup(', '.join(trained.classes))}.")
    if (plan := read_plan(config, content)) is None:
        return [*lines, "The training schedule is unknown."]
    rows = [
        f"| {row.resolution}x{row.resolution} | {'fade in' if row.is_fading else 'stabilize'} "
        f"| {row.start / 1000:g} | {row.end / 1000:g} | {row.batch_size:g} | {row.lr:g} |"
        for row in plan.rows()
    ]
    header = "| stage | phase | from kimg | to kimg | batch size | learning rate |"
    lines.append("\n".join([header, "|---|---|---|---|---|---|", *rows]))
    return lines


def describe_metrics(checkpoint: Path, trained: Trained) -> list[str]:
    """Return paragraphs with this checkpoint's metrics, by `evaluate` or by training, and how they were computed."""
    folder = find_run_folder(checkpoint)
    directory = RunDirectory("" if folder is None else folder)
    try:
        lines = [] if folder is None else [*read_lines(directory.metrics), *read_lines(directory.evaluations)]
    except CheckpointError:  # a damaged file is no reason to refuse the export
        lines = []
    # Lines are matched by images seen: a checkpoint between two evaluations has no metrics of its own.
    evaluations = [line for line in lines if line.get("images") == trained.images]
    if not evaluations:
        return ["No metrics were computed for this checkpoint."]
    line = evaluations[-1]  # the last: by `evaluate`, or by a resumed run
    values = {key: value for key, value in line.items() if key not in NOT_METRICS and isinstance(value, float)}
    # without the images' path, which is private
    labels = {key: text for key, text in PROVENANCE_LABELS.items() if key != "data" and key in line}
    how = [f"{text}: {escape_markup(str(line[key]))}" for key, text in labels.items()]
    table = [
        "| metric | value |",
        "|---|---|",
        *(f"| {escape_markup(key)} | {value:.4g} |" for key, value in values.items()),
    ]
    return ["\n".join(table), f"Computed with {'; '.join(how)}. Compare only with numbers computed the same way."]


def escape_markup(text: str) -> str:
    """Escape text from a file so that it shows as text, not as Markdown or HTML; cut to 500 characters."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else " " if c in "\r\n" else c for c in text[:500])
