"""A generator at one stage as a file for other runtimes: ONNX, and torch.export's own format."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import AnyGenerator, folded, one_hot
from .errors import WeightsError


class Drawing(nn.Module):
    """What is exported: latents [N, L] (and class indices, int64 [N]) -> images [N, C, r, r] around [-1, 1]."""

    def __init__(self, generator: AnyGenerator, resolution: int, alpha: float):
        super().__init__()
        self.generator, self.resolution, self.alpha = folded(generator).float(), resolution, alpha

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        onehot = one_hot(labels, self.generator.label_size)
        return self.generator(latents, onehot, resolution=self.resolution, alpha=self.alpha).contiguous()

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of `forward`, by which it is traced."""
        latents = torch.zeros(2, self.generator.latent_size)
        return (latents, torch.zeros(2, dtype=torch.long)) if self.generator.label_size else (latents,)

    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """The sizes that vary: the first of every argument."""
        batch = torch.export.Dim("batch", min=1)
        return tuple({0: batch} for _ in self.example())


def traced(drawing: Drawing) -> torch.export.ExportedProgram:
    """The program that torch.export makes of a drawing, for any batch size."""
    with torch.no_grad():
        return torch.export.export(drawing, drawing.example(), dynamic_shapes=drawing.dynamic())


def export_torch(drawing: Drawing, path: Path) -> None:
    """Write a .pt2 for `torch.export.load(path).module()`, with any batch size."""
    torch.export.save(traced(drawing), path)


def export_onnx(drawing: Drawing, path: Path, metadata: dict[str, Any]) -> None:
    """Write an ONNX model: inputs "latents" (and "labels"), output "images", any batch size, weights inside.

    Args:
        metadata: plain data, kept as JSON in the model's metadata_props under "pggan".

    Raises:
        WeightsError: the packages onnx and onnxscript are missing.
    """
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise WeightsError("--format onnx needs two packages more: pip install onnx onnxscript") from None
    names = ["latents", "labels"][: len(drawing.example())]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            drawing, drawing.example(), dynamo=True, dynamic_shapes=drawing.dynamic(), verbose=False,
            input_names=names, output_names=["images"],
        )  # fmt: skip
    assert program is not None, "what torch.onnx.export gives with dynamo=True"
    program.model.metadata_props["pggan"] = json.dumps(metadata)
    program.save(path)
