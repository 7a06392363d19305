"""VGG-16 (Simonyan & Zisserman 2015, arXiv 1409.1556): the features of published precision and recall, and of LPIPS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError
from .inception import without_tf32
from .preprocess import IMAGENET, resize_images, standardize

INPUT_SIZE = 224  # pixels a side, of the classifier
# convolutions by index in torchvision's `features`, in the five blocks between poolings
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


class VGG16:
    """VGG-16 as a function from images to the activations of its second fully connected layer, as in torch-fidelity.

    Args:
        weights: torchvision's state dict.
        device: where to run it.
        resize: "tf1", "pytorch-fid" or "clean"; see `metrics.preprocess.resize_images`.

    Raises:
        MetricError: the weights are incomplete or another network's.
    """

    kind = name = "vgg16"
    dimensions = 4096
    precision, classifier = "fp32", None
    checksum: str

    def __init__(self, weights: dict[str, Tensor], device: torch.device | str = "cpu", resize: str = "tf1"):
        self.device, self.resize = torch.device(device), resize
        try:
            names = [f"features.{i}" for block in BLOCKS for i in block] + ["classifier.0", "classifier.3"]
            self.tensors = {
                f"{name}.{part}": weights[f"{name}.{part}"].to(self.device)
                for name in names
                for part in ("weight", "bias")
            }
            # shapes alone, without computing
            blank = torch.empty(1, 3, INPUT_SIZE, INPUT_SIZE, device="meta")
            fits = encode({n: t.to("meta") for n, t in self.tensors.items()}, blank).shape == (1, self.dimensions)
        except (KeyError, RuntimeError):
            fits = False
        if not fits:
            raise MetricError("the weights are not torchvision's VGG-16")

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """Return features [N, 4096], float32, of uint8 images [N, C, H, W], and None in place of logits."""
        with without_tf32():
            x = resize_images(images.to(self.device), self.resize, INPUT_SIZE)
            return encode(self.tensors, standardize(x, IMAGENET)), None


def encode(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the second fully connected layer's activations [N, 4096] of preprocessed images [N, 3, 224, 224]."""
    for block in BLOCKS:
        for i in block:
            x = F.relu(F.conv2d(x, tensors[f"features.{i}.weight"], tensors[f"features.{i}.bias"], padding=1))
        x = F.max_pool2d(x, 2)
    x = x.flatten(1)
    for i in (0, 3):
        x = F.relu(F.linear(x, tensors[f"classifier.{i}.weight"], tensors[f"classifier.{i}.bias"]))
    return x
