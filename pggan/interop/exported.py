"""Export a generator at one stage for other runtimes: to ONNX, or to torch.export's .pt2."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import AnyGenerator, fold_weight_scales, to_one_hot
from .errors import WeightsError

# Versions of ONNX's operators and of its file format, fixed so that newer versions of torch do not raise the minimum in
# docs/weights.md: onnxruntime 1.18, of May 2024.
OPSET, IR_VERSION = 20, 10


class ExportModule(nn.Module):
    """The module that is exported: one stage of a generator, in float32, with class indices instead of one-hot labels.

    Args:
        generator: the trained generator; it is copied.
        resolution: stage, in pixels.
        alpha: weight of the stage's newest block, in [0, 1].
    """

    def __init__(self, generator: AnyGenerator, resolution: int, alpha: float):
        super().__init__()
        self.generator, self.resolution, self.alpha = fold_weight_scales(generator).float(), resolution, alpha

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images [N, C, r, r], about [-1, 1], from latents [N, L] and class indices int64 [N]."""
        onehot = to_one_hot(labels, self.generator.label_size)
        return self.generator(latents, onehot, resolution=self.resolution, alpha=self.alpha).contiguous()

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Return arguments of `forward` to trace it with."""
        # two samples: torch.export would take a size of 1 for a constant
        latents = torch.zeros(2, self.generator.latent_size)
        return (latents, torch.zeros(2, dtype=torch.long)) if self.generator.label_size else (latents,)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the dynamic sizes of each argument: the batch, which is the first dimension."""
        batch = torch.export.Dim("batch", min=1)
        return tuple({0: batch} for _ in self.example_inputs())


def trace_program(drawing: ExportModule) -> torch.export.ExportedProgram:
    """Return the exported program, for any batch size."""
    with torch.no_grad():
        return torch.export.export(drawing, drawing.example_inputs(), dynamic_shapes=drawing.dynamic_shapes())


def export_torch(drawing: ExportModule, path: Path) -> None:
    """Write a .pt2 file for any batch size; `torch.export.load(path).module()` reads it."""
    torch.export.save(trace_program(drawing), path)


def export_onnx(drawing: ExportModule, path: Path, metadata: dict[str, Any]) -> None:
    """Write an ONNX model with the weights inside, for any batch size.

    Its inputs are "latents" and, for conditional generators, "labels"; its output is "images".

    Args:
        metadata: plain data, stored as JSON in the model's metadata_props under "pggan".

    Raises:
        WeightsError: the packages onnx and onnxscript are not installed.
    """
    for package in ("onnx", "onnxscript"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise WeightsError("--format onnx needs two more packages: pip install onnx onnxscript") from None
    names = ["latents", "labels"][: len(drawing.example_inputs())]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # they concern the exporter's own code
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            drawing,
            drawing.example_inputs(),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=drawing.dynamic_shapes(),
            verbose=False,
            input_names=names,
            output_names=["images"],
        )
    assert program is not None, "torch.onnx.export returns a program with dynamo=True"
    program.model.ir_version = IR_VERSION
    program.model.metadata_props["pggan"] = json.dumps(metadata)
    program.save(path)
