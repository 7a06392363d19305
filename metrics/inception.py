"""The TensorFlow Inception-v3 of 2015 on which FID and IS are defined (Szegedy et al. 2016, arXiv 1512.00567).

It maps uint8 images to pool3 features and logits. The layer names are those of torchvision's Inception-v3, but the
network is another one: it has other weights, its average pooling does not count padding, and its last block has a max
pooling. Batch norm is folded into the convolutions when the weights are loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_trial import run_apart
from .errors import MetricError
from .features import DIMENSIONS
from .preprocess import INPUT_SIZE, inception_input

BATCH_NORM_EPSILON = 0.001  # of the 2015 graph
CLASSES = 1008  # outputs of the 2015 graph's classifier; ImageNet itself has 1000 classes
# Layers that stay in float32 with --precision bf16. They are 4% of the work, but rounding the pixels there would be
# most of the whole network's error.
FLOAT32_LAYERS = ("Conv2d_1a", "Conv2d_2a", "Conv2d_3b")


class Inception:
    """Inception-v3 as a function from images to features and, if the weights include the classifier, logits.

    Args:
        weights: state dict with NAME.conv.weight and NAME.bn.{weight,bias,running_mean,running_var} of 94 layers and,
            optionally, fc.weight [1008, 2048].
        device: where to run it.
        resize: "tf1", "pytorch-fid" or "clean"; see `metrics.preprocess.inception_input`.
        precision: "fp32", or "bf16" for all convolutions but FLOAT32_LAYERS.

    Attributes:
        checksum: hash of the folded convolutions, which does not depend on the file format.
        classifier: [1008, 2048], or None.

    Raises:
        MetricError: the weights are incomplete or another network's, or the processor cannot compute in bf16.
    """

    kind = name = "inception"
    dimensions = DIMENSIONS

    def __init__(
        self,
        weights: dict[str, Tensor],
        device: torch.device | str = "cpu",
        resize: str = "tf1",
        precision: str = "fp32",
    ):
        self.device, self.resize, self.precision = torch.device(device), resize, precision
        names = sorted(name.removesuffix(".conv.weight") for name in weights if name.endswith(".conv.weight"))
        try:
            layers = {name: fold_batch_norm(weights, name) for name in names}
        except KeyError as error:
            raise MetricError(f"the Inception weights are incomplete: {error} is missing") from None
        except RuntimeError:
            raise MetricError("the Inception weights are not the 2015 network's: a layer has another shape") from None
        self.checksum = compute_checksum(layers)
        if precision == "bf16":
            check_bf16(self.device)
        classifier = weights.get("fc.weight")
        self.check_shapes(layers, classifier)
        self.layers = {
            name: tuple(t.to(self.device, self.dtype(name)) for t in layer) for name, layer in layers.items()
        }
        self.classifier = None if classifier is None else classifier.to(self.device)

    def check_shapes(self, layers: dict[str, tuple[Tensor, Tensor]], classifier: Tensor | None) -> None:
        """Run the network on shapes alone (device meta). Raises MetricError for missing or misshapen layers."""
        self.layers = {name: tuple(t.to("meta") for t in layer) for name, layer in layers.items()}
        try:
            features = self.pool3(torch.empty(1, 3, INPUT_SIZE, INPUT_SIZE, device="meta"))
            fits = features.shape == (1, DIMENSIONS)
        except (KeyError, RuntimeError):
            fits = False
        if not fits or (classifier is not None and classifier.shape != (CLASSES, DIMENSIONS)):
            raise MetricError("the Inception weights are not the 2015 network's: layers have other names or shapes")

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which a layer computes."""
        in_bf16 = self.precision == "bf16" and not name.startswith(FLOAT32_LAYERS)
        return torch.bfloat16 if in_bf16 else torch.float32

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features [N, 2048] and logits [N, 1008], both float32, of uint8 images [N, C, H, W].

        The images may have 1 to 4 channels. The logits have no bias, as in the reference implementation of IS; they
        are None without a classifier.
        """
        with without_tf32():
            x = inception_input(images.to(self.device), self.resize)
            features = self.pool3(x.contiguous(memory_format=torch.channels_last))
            return features, None if self.classifier is None else features @ self.classifier.T

    def conv(self, x: Tensor, name: str, stride: int = 1, same: bool = True) -> Tensor:
        """Apply a convolution, batch norm (folded) and ReLU; `same` pads so that stride 1 keeps the size."""
        weight, bias = self.layers[name]
        padding = [k // 2 for k in weight.shape[2:]] if same else 0
        return F.relu_(F.conv2d(x.to(weight.dtype), weight, bias, stride, padding))

    def chain(self, x: Tensor, name: str, count: int) -> Tensor:
        """Apply the layers NAME_1 to NAME_count."""
        for i in range(1, count + 1):
            x = self.conv(x, f"{name}_{i}")
        return x

    def pool3(self, x: Tensor) -> Tensor:
        """Return float32 features [N, 2048] of preprocessed images [N, 3, 299, 299]."""
        x = self.conv(x, "Conv2d_1a_3x3", stride=2, same=False)  # [N, 32, 149, 149]
        x = self.conv(x, "Conv2d_2a_3x3", same=False)  # [N, 32, 147, 147]
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3"), 3, 2)  # [N, 64, 73, 73]
        x = self.conv(x, "Conv2d_3b_1x1")  # [N, 80, 73, 73]
        x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3", same=False), 3, 2)  # [N, 192, 35, 35]
        # [N, 256, 35, 35], then 288 channels
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.mixed5(x, name)
        x = self.mixed6a(x, "Mixed_6a")  # [N, 768, 17, 17], also after the next four
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.mixed6(x, name)
        x = self.mixed7a(x, "Mixed_7a")  # [N, 1280, 8, 8]
        x = self.mixed7(x, "Mixed_7b", average_pool)  # [N, 2048, 8, 8]
        # the 2015 graph pools by maximum here, where the paper's network (and torchvision's) averages
        x = self.mixed7(x, "Mixed_7c", lambda y: F.max_pool2d(y, 3, 1, 1))
        return x.float().mean(dim=(2, 3))

    # The blocks' branches are concatenated in this order because the next layers' weights expect it.

    def mixed5(self, x: Tensor, name: str) -> Tensor:
        return torch.cat(
            [
                self.conv(x, f"{name}.branch1x1"),
                self.chain(x, f"{name}.branch5x5", 2),
                self.chain(x, f"{name}.branch3x3dbl", 3),
                self.conv(average_pool(x), f"{name}.branch_pool"),
            ],
            dim=1,
        )

    def mixed6a(self, x: Tensor, name: str) -> Tensor:
        double = self.chain(x, f"{name}.branch3x3dbl", 2)
        return torch.cat(
            [
                self.conv(x, f"{name}.branch3x3", stride=2, same=False),
                self.conv(double, f"{name}.branch3x3dbl_3", stride=2, same=False),
                F.max_pool2d(x, 3, 2),
            ],
            dim=1,
        )

    def mixed6(self, x: Tensor, name: str) -> Tensor:
        return torch.cat(
            [
                self.conv(x, f"{name}.branch1x1"),
                self.chain(x, f"{name}.branch7x7", 3),
                self.chain(x, f"{name}.branch7x7dbl", 5),
                self.conv(average_pool(x), f"{name}.branch_pool"),
            ],
            dim=1,
        )

    def mixed7a(self, x: Tensor, name: str) -> Tensor:
        single = self.conv(x, f"{name}.branch3x3_1")
        triple = self.chain(x, f"{name}.branch7x7x3", 3)
        return torch.cat(
            [
                self.conv(single, f"{name}.branch3x3_2", stride=2, same=False),
                self.conv(triple, f"{name}.branch7x7x3_4", stride=2, same=False),
                F.max_pool2d(x, 3, 2),
            ],
            dim=1,
        )

    def mixed7(self, x: Tensor, name: str, pool) -> Tensor:
        single, double = self.conv(x, f"{name}.branch3x3_1"), self.chain(x, f"{name}.branch3x3dbl", 2)
        return torch.cat(
            [
                self.conv(x, f"{name}.branch1x1"),
                self.conv(single, f"{name}.branch3x3_2a"),
                self.conv(single, f"{name}.branch3x3_2b"),
                self.conv(double, f"{name}.branch3x3dbl_3a"),
                self.conv(double, f"{name}.branch3x3dbl_3b"),
                self.conv(pool(x), f"{name}.branch_pool"),
            ],
            dim=1,
        )


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 as float32 on a GPU, where PyTorch's convolutions round to TF32's 10 bits unless told not to."""
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in settings]
    try:
        for each in settings:
            each.fp32_precision = "ieee"
        yield
    finally:
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


def average_pool(x: Tensor) -> Tensor:
    """Average 3x3 windows over the pixels inside the image only, as TensorFlow does; padding is not counted."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def fold_batch_norm(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of one convolution that equals a layer's convolution and batch norm."""
    # in float64, so that folding adds no rounding of its own to the float32 result
    part = {key: weights[f"{name}.bn.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")}
    scale = part["weight"] / torch.sqrt(part["running_var"] + BATCH_NORM_EPSILON)
    kernel = weights[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1)
    bias = part["bias"] - part["running_mean"] * scale
    return kernel.float().contiguous(memory_format=torch.channels_last), bias.float()


def compute_checksum(layers: Mapping[str, tuple[Tensor, ...]]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 over all layers' names and numbers."""
    digest = hashlib.sha256()
    for name, layer in layers.items():
        digest.update(name.encode())
        for tensor in layer:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def convolve_in_bf16() -> bool:
    """Return True once convolutions of both sizes that Inception has most of have run in bf16."""
    x = torch.ones(2, 32, 35, 35, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    for size in (1, 3):
        torch.nn.functional.conv2d(x, torch.ones(48, 32, size, size, dtype=torch.bfloat16))
    return True


def check_bf16(device: torch.device) -> None:
    """Raise MetricError if the device cannot run bf16 convolutions."""
    on_gpu = device.type == "cuda"
    if not (torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else run_apart(convolve_in_bf16)):
        raise MetricError(f"--precision: this machine's {device.type} cannot compute in bf16; use --precision fp32")
