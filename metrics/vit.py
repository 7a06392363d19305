"""The image encoders of DINOv2 (Oquab et al. 2023, arXiv 2304.07193) and CLIP (Radford et al. 2021, arXiv 2103.00020).

The sizes are those of the weights, so that one class runs every DINOv2 of size S, B and L and every CLIP ViT.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError
from .inception import without_tf32
from .preprocess import CLIP, IMAGENET, resize_images, standardize

HEAD_WIDTH = 64  # of every model of both families
DINOV2_INPUT = 224  # pixels, as in Stein et al. 2023 (arXiv 2306.04675) and EDM2; the weights are for 518
DINOV2_OFFSET = 0.1  # added to the grid's size when positions are interpolated, as in DINOv2's own code
QUICK_GELU = 1.702  # CLIP's GELU is x sigmoid(1.702 x)
# CLIP's parameter names and DINOv2's, which are used here
CLIP_NAMES = {
    "conv1": "patch_embed.proj",
    "transformer.resblocks": "blocks",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
}


class VisionTransformer:
    """A DINOv2 or CLIP image encoder as a function from images to the class token's features.

    Args:
        weights: state dict of DINOv2's own checkpoint, or of OpenAI's CLIP.
        device: where to run it.
        resize: "tf1", "pytorch-fid" or "clean"; see `metrics.preprocess.resize_images`.

    Attributes:
        kind: "dinov2" or "clip".
        name: kind, size and patch, such as "dinov2-vit-l-14".
        tensors: the parameters by DINOv2's names.
        dimensions: number of features.
        input_size: pixels a side.

    Raises:
        MetricError: the weights are incomplete or another network's.
    """

    precision, classifier = "fp32", None
    checksum: str

    def __init__(self, weights: dict[str, Tensor], device: torch.device | str = "cpu", resize: str = "clean"):
        self.device, self.resize = torch.device(device), resize
        self.kind = "clip" if "visual.proj" in weights else "dinov2"
        tensors = rename_clip(weights) if self.kind == "clip" else dict(weights)
        tensors.pop("mask_token", None)  # DINOv2's, for training only
        self.tensors = {name: tensor.float() for name, tensor in tensors.items()}
        try:
            if "register_tokens" in tensors:  # they would only be ignored
                raise KeyError
            width, _, _, self.patch = self.tensors["patch_embed.proj.weight"].shape
            grid = round((self.tensors["pos_embed"].shape[-2] - 1) ** 0.5)
            self.input_size = DINOV2_INPUT if self.kind == "dinov2" else grid * self.patch
            self.epsilon = 1e-6 if self.kind == "dinov2" else 1e-5  # of the layer norms, from the models' own code
            self.depth = 1 + max(int(name.split(".")[1]) for name in self.tensors if name.startswith("blocks."))
            self.heads = width // HEAD_WIDTH
            self.tensors["pos_embed"] = self.interpolate_positions(self.tensors["pos_embed"].view(1, -1, width), grid)
            size = {384: "s", 768: "b", 1024: "l"}.get(width, str(width))
            self.name = f"{self.kind}-vit-{size}-{self.patch}" + ("-336px" if self.input_size == 336 else "")
            self.tensors = {name: tensor.to(self.device) for name, tensor in self.tensors.items()}
            blank = torch.zeros(1, 3, self.input_size, self.input_size, device=self.device)
            self.dimensions = self.encode(blank).shape[1]
        except (KeyError, ValueError, RuntimeError):
            raise MetricError(
                "the weights are not those of a DINOv2 (ViT-S, -B or -L, without registers) or CLIP (ViT) image encoder"
            ) from None

    def interpolate_positions(self, positions: Tensor, grid: int) -> Tensor:
        """Return position embeddings [1, 1 + grid^2, D] bicubically resized to the input's grid, as DINOv2 does."""
        target = self.input_size // self.patch
        if target == grid:
            return positions
        maps = positions[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        # the factor rather than the size, because it sets where the samples lie
        maps = F.interpolate(maps, scale_factor=(target + DINOV2_OFFSET) / grid, mode="bicubic")
        return torch.cat([positions[:, :1], maps.flatten(2).mT], dim=1)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """Return features [N, dimensions], float32, of uint8 images [N, C, H, W], and None in place of logits."""
        with without_tf32():
            x = resize_images(images.to(self.device), self.resize, self.input_size)
            return self.encode(standardize(x, CLIP if self.kind == "clip" else IMAGENET)), None

    def encode(self, x: Tensor) -> Tensor:
        """Return features [N, dimensions] of preprocessed images [N, 3, input_size, input_size]."""
        get = self.tensors.get
        x = F.conv2d(x, self.tensors["patch_embed.proj.weight"], get("patch_embed.proj.bias"), stride=self.patch)
        tokens = self.tensors["cls_token"].view(1, 1, -1).expand(len(x), -1, -1)
        x = torch.cat([tokens, x.flatten(2).mT], dim=1) + self.tensors["pos_embed"]  # [N, 1 + patches, D]
        if self.kind == "clip":
            x = self.norm(x, "norm_pre")
        for i in range(self.depth):
            name = f"blocks.{i}"
            x = x + self.attention(self.norm(x, f"{name}.norm1"), f"{name}.attn") * get(f"{name}.ls1.gamma", 1)
            x = x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp") * get(f"{name}.ls2.gamma", 1)
        x = self.norm(x[:, 0], "norm")
        return x @ self.tensors["proj"] if self.kind == "clip" else x

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], self.epsilon)

    def attention(self, x: Tensor, name: str) -> Tensor:
        """Apply multi-head self-attention to tokens [N, T, D]."""
        q, k, v = self.linear(x, f"{name}.qkv").unflatten(2, (3, self.heads, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return self.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), f"{name}.proj")

    def mlp(self, x: Tensor, name: str) -> Tensor:
        """Apply the two layers and the GELU, which CLIP approximates."""
        x = self.linear(x, f"{name}.fc1")
        return self.linear(x * torch.sigmoid(QUICK_GELU * x) if self.kind == "clip" else F.gelu(x), f"{name}.fc2")


def rename_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the image encoder's parameters under DINOv2's names."""
    tensors = {}
    for name, tensor in weights.items():
        if name.startswith("visual."):
            name = name.removeprefix("visual.")
            for theirs, ours in CLIP_NAMES.items():
                name = name.replace(theirs, ours)
            tensors[name] = tensor
    return tensors
