"""Datasets of torchvision, with small files in its formats written here; nothing is downloaded."""

import builtins
import socket
import struct
import time
import urllib.request

import numpy as np
import pytest
from helpers import read_pixels

from pggan.datasets import DataError, open_pyramid, open_source, read_native_format, torchvision_sets

torchvision = pytest.importorskip("torchvision")
OPEN = urllib.request.urlopen
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 28, 28), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.uint8) % 10


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def fail(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", fail)


def write_idx(folder, prefix, images, labels):
    """Write images and labels in MNIST's file format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *images.shape) + images.tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_a_dataset_is_read_from_torchvisions_files(cache, name, class_name):
    for prefix in ("train", "t10k"):
        write_idx(cache.parent / "torchvision" / class_name / "raw", prefix, IMAGES, LABELS)
    source = open_source(name, labels=True)
    assert len(source) == 50 and len(source.classes) == 10 and source.labels.tolist() == LABELS.tolist()
    assert read_native_format(source).channels == 1 and read_native_format(source).resolution == 16
    opened = open_pyramid(open_source(name), 32, 1, allow_upscale=True, workers=2)
    assert len(opened) == 50 and opened.labels is None
    assert (read_pixels(source, 3, 32, 1) == opened.read_images(32, [3])[0]).all()
    before = source.content_digest()
    write_idx(cache.parent / "torchvision" / class_name / "raw", "train", 255 - IMAGES, LABELS)
    assert open_source(name).content_digest() != before


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "mnist", "celeba", "lsun-bedroom"])
def test_datasets_that_cannot_be_downloaded_are_rejected_with_one_sentence(name):
    with pytest.raises(
        DataError,
        match=rf"{name} (is not in .*(no network|gdown|download the category)|needs .*pip install)",
    ):
        open_source(name)


def test_a_host_that_never_responds_times_out(cache, monkeypatch):
    """Simulate a firewall that drops packets: the connection opens, but no data arrives."""
    monkeypatch.setattr(urllib.request, "urlopen", OPEN)
    monkeypatch.setattr(torchvision_sets, "TIMEOUT", 0.2)
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [mirror])
        with pytest.raises(DataError, match=r"mnist is not in .* could not be downloaded \(.*timed out"):
            open_source("mnist")
    assert time.monotonic() - start < 5 and socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", ["celeba", "lsun-bedroom"])
def test_labels_of_datasets_without_classes_are_rejected(name):
    with pytest.raises(DataError, match="has no classes; omit --labels"):
        open_source(name, labels=True)


def test_a_missing_torchvision_is_reported(monkeypatch):
    real = builtins.__import__

    def import_without(name, *rest):
        if name == "torchvision":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(DataError, match="reading cifar10 needs torchvision: pip install torchvision"):
        open_source("cifar10")
