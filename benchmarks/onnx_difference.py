"""Measure the maximum difference between the images of exported ONNX models in onnxruntime and of torch.

    python benchmarks/onnx_difference.py celeba.pt

Compares a freshly initialized 128x128 generator with 10 classes and the paper's feature maps, then every checkpoint
specified on the command line.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import pggan
from pggan.interop.exported import ExportModule, export_onnx
from pggan.networks import to_one_hot

BATCHES = (1, 3, 8)  # the batch size is dynamic in the exported model: more than one must work


@torch.no_grad()
def differences(name: str, generator: pggan.Generator, resolution: int, alpha: float, folder: Path) -> None:
    """Print the maximum difference for each batch size; images are around [-1, 1]."""
    path = folder / "model.onnx"
    export_onnx(ExportModule(generator, resolution, alpha), path, {})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in BATCHES:
        latents = torch.randn(count, generator.latent_size, generator=torch.Generator().manual_seed(count))
        labels = torch.arange(count) % generator.label_size if generator.label_size else None
        images = generator(latents, to_one_hot(labels, generator.label_size), resolution, alpha)
        inputs = {"latents": latents.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
        (drawn,) = session.run(None, inputs)
        print(
            f"{name}, {list(drawn.shape)}: {np.abs(drawn - images.numpy()).max():.1e} "
            f"of images in [{images.min():.2f}, {images.max():.2f}]"
        )


def main() -> None:
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        differences("fresh, 10 classes", pggan.Generator(128, label_size=10), 128, 1.0, Path(folder))
        for name in sys.argv[1:]:
            trained = pggan.load(name)
            differences(Path(name).name, trained.generator, trained.resolution, trained.alpha, Path(folder))


if __name__ == "__main__":
    main()
