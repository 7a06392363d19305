"""The 2015 TensorFlow Inception-v3 that FID and IS are defined on: uint8 images -> pool3 features and logits.

Layer names are torchvision's. Batch norm is folded into the convolutions when the weights are loaded.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError
from .features import DIMENSIONS
from .preprocess import INPUT_SIZE, inception_input
from .processor import run_apart

BATCH_NORM_EPSILON = 0.001
CLASSES = 1008
# Rounding the pixels to bf16 in the first layers is most of the error of the whole network, for 4% of its work.
FLOAT32_LAYERS = ("Conv2d_1a", "Conv2d_2a", "Conv2d_3b")


class Inception:
    """Features and, where the weights hold the classifier, logits.

    Args:
        weights: state dict with NAME.conv.weight and NAME.bn.{weight,bias,running_mean,running_var} of 94 layers, and
            fc.weight [1008, 2048] where there is a classifier.
        resize: see `metrics.preprocess.inception_input`.
        precision: "fp32", or "bf16" for the convolutions but those of FLOAT32_LAYERS.

    Attributes:
        checksum: of the folded convolutions' numbers, whatever file they came from.

    Raises:
        MetricError: weights missing, or a processor that cannot compute in bf16.
    """

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
            layers = {name: folded(weights, name) for name in names}
        except KeyError as error:
            raise MetricError(f"the Inception weights are incomplete: they have no {error}") from None
        except RuntimeError:
            raise MetricError("the Inception weights have layers of other shapes than the 2015 network's") from None
        self.checksum = checksum(layers)
        if precision == "bf16":
            check_bf16(self.device)
        classifier = weights.get("fc.weight")
        self.check_shapes(layers, classifier)
        self.layers = {
            name: tuple(t.to(self.device, self.dtype(name)) for t in layer) for name, layer in layers.items()
        }
        self.classifier = None if classifier is None else classifier.to(self.device)

    def check_shapes(self, layers: dict[str, tuple[Tensor, Tensor]], classifier: Tensor | None) -> None:
        """Run without numbers. Raises MetricError for layers that are missing or of other shapes."""
        self.layers = {name: tuple(t.to("meta") for t in layer) for name, layer in layers.items()}
        try:
            features = self.pool3(torch.empty(1, 3, INPUT_SIZE, INPUT_SIZE, device="meta"))
            fits = features.shape == (1, DIMENSIONS)
        except (KeyError, RuntimeError):
            fits = False
        if not fits or (classifier is not None and classifier.shape != (CLASSES, DIMENSIONS)):
            raise MetricError("the Inception weights have layers of other shapes or names than the 2015 network's")

    def dtype(self, name: str) -> torch.dtype:
        in_bf16 = self.precision == "bf16" and not name.startswith(FLOAT32_LAYERS)
        return torch.bfloat16 if in_bf16 else torch.float32

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 [N, C, H, W], 1 to 4 channels -> features [N, 2048], logits [N, 1008] without bias, or None."""
        x = inception_input(images.to(self.device), self.resize)
        features = self.pool3(x.contiguous(memory_format=torch.channels_last))
        return features, None if self.classifier is None else features @ self.classifier.T

    def conv(self, x: Tensor, name: str, stride: int = 1, same: bool = True) -> Tensor:
        weight, bias = self.layers[name]
        padding = [k // 2 for k in weight.shape[2:]] if same else 0
        return F.relu_(F.conv2d(x.to(weight.dtype), weight, bias, stride, padding))

    def chain(self, x: Tensor, name: str, count: int) -> Tensor:
        for i in range(1, count + 1):
            x = self.conv(x, f"{name}_{i}")
        return x

    def pool3(self, x: Tensor) -> Tensor:
        x = self.conv(x, "Conv2d_1a_3x3", stride=2, same=False)
        x = self.conv(x, "Conv2d_2a_3x3", same=False)
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3"), 3, 2)
        x = self.conv(x, "Conv2d_3b_1x1")
        x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3", same=False), 3, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.mixed5(x, name)
        x = self.mixed6a(x, "Mixed_6a")
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.mixed6(x, name)
        x = self.mixed7a(x, "Mixed_7a")
        x = self.mixed7(x, "Mixed_7b", average_pool)
        x = self.mixed7(x, "Mixed_7c", lambda y: F.max_pool2d(y, 3, 1, 1))
        return x.float().mean(dim=(2, 3))

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


def average_pool(x: Tensor) -> Tensor:
    """3x3 means over the pixels that exist: TensorFlow leaves the padding out of the count."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def folded(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A convolution and its batch norm as one convolution's kernel and bias."""
    part = {key: weights[f"{name}.bn.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")}
    scale = part["weight"] / torch.sqrt(part["running_var"] + BATCH_NORM_EPSILON)
    kernel = weights[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1)
    bias = part["bias"] - part["running_mean"] * scale
    return kernel.float().contiguous(memory_format=torch.channels_last), bias.float()


def checksum(layers: dict[str, tuple[Tensor, Tensor]]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all layers, with their names."""
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
    """Raises MetricError where bf16 convolutions cannot run."""
    on_gpu = device.type == "cuda"
    if not (torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else run_apart(convolve_in_bf16)):
        raise MetricError(f"this machine's {device.type} cannot compute in bf16: use --precision fp32")
