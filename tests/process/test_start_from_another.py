"""Runs started with --resume, also on other images: each trains, or its error explains why not."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_stop_and_resume import assert_equal_bits, read_lines_without_times

from pggan.training.steps import Stepper

SMALL = """
    --resolution 8 --fmap-base 64 --fmap-max 8 --batch-size 8 --fade-kimg 0.04 --stabilize-kimg 0.04 --tick-kimg 0.02
    --metrics none --track none --device cpu --precision fp32
""".split()


def write_images(folder, classes=("",), seed=0, count=8):
    rng = np.random.default_rng(seed)
    for name, i in itertools.product(classes, range(count)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def train_again(train, tmp_path):
    """Return the train command, in a folder with images in cats/train and dogs/train and a finished run on cats."""
    write_images(tmp_path / "cats" / "train")
    write_images(tmp_path / "dogs" / "train", seed=1)
    assert train("cats/train", *SMALL).code == 0
    return train


def count_images(run):
    return torch.load(f"{run}/checkpoints/latest.pt", weights_only=True)["images"]


@pytest.mark.parametrize("start", ["", "/", "/checkpoints/latest.pt", "/checkpoints/stage-0008.pt"])
def test_finished_run_continues_on_other_images(train_again, start):
    command = ["dogs/train", *SMALL, "--resume", f"runs/train-8{start}"]
    before = count_images("runs/train-8")
    result = train_again(*command)
    assert result.code == 0, result.err
    assert "this run is in runs/dogs-train-8" in result.err
    assert (
        f"at {before / 1000:g} kimg; training 0.04 kimg more, until {before / 1000 + 0.04:g} kimg at 8x8" in result.err
    )
    after = count_images("runs/dogs-train-8")
    assert 40 <= after - before < 40 + 32
    row = next(line for line in result.out.splitlines() if line.split()[0] == "8x8")
    assert row.split()[1] == str(after - before)  # images of this run only
    result = train_again(*command)
    assert (
        result.code == 0
        and "runs/dogs-train-8 has finished" in result.err
        and count_images("runs/dogs-train-8") == after
    )
    assert train_again(*command, "--total-kimg", "0.3").code == 0 and count_images("runs/dogs-train-8") >= 300
    assert count_images("runs/train-8") == before


def test_run_started_with_resume_ends_bit_identical_after_interruptions(train_again, monkeypatch):
    command = ["dogs/train", *SMALL, "--resume", "runs/train-8", "--out"]
    assert train_again(*command, "whole").code == 0
    step, calls = Stepper.step, itertools.count(1)

    def interrupted_step(*args):
        if next(calls) in (2, 8):  # before the first checkpoint, and after it
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(Stepper, "step", interrupted_step)
    assert [train_again(*command, "run").code for _ in range(3)] == [130, 130, 0]
    ours, theirs = (torch.load(f"{run}/checkpoints/latest.pt", weights_only=True)["state"] for run in ("run", "whole"))
    assert_equal_bits(ours | {"seconds": 0, "elapsed": 0}, theirs | {"seconds": 0, "elapsed": 0})
    for name in ("log.jsonl", "metrics.jsonl"):
        ours, theirs = (read_lines_without_times(Path(run) / name) for run in ("run", "whole"))
        assert ours == theirs


@pytest.mark.parametrize(
    "options, message",
    [
        (["--total-kimg", "0.1"], "--total-kimg: 0.1 leaves nothing to train"),
        (["--resolution", "4"], "use --resolution 8"),
        (["--fmap-max", "4", "--latent-size", "3"], "use --fmap-max 8 --latent-size 8"),
    ],
)
def test_unusable_resume_options_are_rejected_with_a_remedy(train_again, options, message):
    result = train_again("dogs/train", *SMALL, "--resume", "runs/train-8", "--out", "new", *options)
    assert result.code == 2 and message in result.err and "\n" not in result.err.strip() and not os.path.exists("new")


def test_networks_of_the_checkpoint_are_the_default(train_again):
    """As in the README: no option but --resume and a length, also with a preset that has other networks."""
    options = "--batch-size 8 --metrics none --track none --device cpu --precision fp32 --stabilize-kimg 0.04".split()
    for more in (["--out", "a"], ["--out", "b", "--preset", "cifar10-cpu"]):
        result = train_again("dogs/train", "--resume", "runs/train-8", *options, "--tick-kimg", "0.02", *more)
        assert result.code == 0 and "training 0.04 kimg more" in result.err, result.err
        config = json.loads(Path(more[1], "config.json").read_text())
        assert (config["resolution"], config["fmap_base"], config["fmap_max"]) == (8, 64, 8)
    assert "using the checkpoint's --fmap-base 64 --fmap-max 8 --resolution 8, not --preset cifar10-cpu's" in result.err


def test_checkpoint_resolution_is_the_default(train_again, tmp_path):
    assert SMALL[:2] == ["--resolution", "8"]
    Image.new("RGB", (64, 64)).save(tmp_path / "dogs" / "train" / "0.png")
    assert train_again("dogs/train", *SMALL[2:], "--resume", "runs/train-8", "--out", "new").code == 0
    assert json.loads((tmp_path / "new" / "config.json").read_text())["resolution"] == 8


def test_run_resumes_without_the_checkpoint_it_started_from(train_again):
    os.rename("runs/train-8/checkpoints/stage-0004.pt", "start.pt")
    command = ["dogs/train", *SMALL[2:], "--resume", "start.pt", "--total-kimg"]
    assert train_again(*command, "0.15").code == 0
    os.remove("start.pt")
    result = train_again(*command, "0.3")
    assert result.code == 0 and "resuming runs/dogs-train-8 at" in result.err
    result = train_again("cats/train", *SMALL[2:], "--resume", "start.pt")
    assert result.code == 2 and "start.pt does not exist" in result.err


def test_same_run_resumes_without_the_resume_option(train_again):
    for spelling in ("runs/train-8", os.path.abspath("runs/train-8/checkpoints/stage-0004.pt")):
        result = train_again("cats/train", *SMALL, "--resume", spelling)
        assert result.code == 2 and "without --resume" in result.err and "None" not in result.err
    result = train_again("./cats/train/", *SMALL)
    assert result.code == 0 and "runs/train-8 has finished" in result.err and "--total-kimg 0." in result.err


def test_image_folders_with_the_same_name_get_separate_runs(train_again):
    for _ in range(2):
        result = train_again("dogs/train", *SMALL)
        assert result.code == 0 and "runs/train-8 has a run on" in result.err
    assert count_images("runs/dogs-train-8") == count_images("runs/train-8")
    result = train_again("dogs/train", "--config", "runs/train-8/config.json")
    assert result.code == 0 and "runs/dogs-train-8 has finished" in result.err
    result = train_again("dogs/train", *SMALL, "--out", "runs/train-8")
    assert result.code == 2 and "was trained on" in result.err and "cats/train" in result.err
    assert result.err.index("--out ANOTHER") < result.err.index("--resume")


def test_run_resumes_from_another_working_directory(train_again, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    result = train_again("--config", "../runs/train-8/config.json")
    assert result.code == 0 and "../runs/train-8 has finished" in result.err and not os.path.exists("runs")


@pytest.mark.parametrize("before, after, kept", [("", "ab", ""), ("ab", "", ""), ("ab", "abc", "kept for a, b, ")])
def test_resume_works_with_other_classes(train, tmp_path, before, after, kept):
    for name, classes in (("one", before), ("two", after)):
        write_images(tmp_path / name, classes or ("",))
    for name, classes in (("one", before), ("two", after)):
        labels, start = ["--labels"] if classes else [], ["--resume", "runs/one-8"] if name == "two" else []
        result = train(name, *SMALL, *labels, *start)
        assert result.code == 0, result.err
    assert f"classes: {', '.join(before) or 'none'} -> {', '.join(after) or 'none'}" in result.err
    if added := [name for name in after if name not in before]:
        assert f"label weights: {kept}freshly initialized for {', '.join(added)}" in result.err


def test_evaluate_reports_which_images_it_used(train_again, pggan, tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    write_images(tmp_path / "b" / "cats" / "train", seed=2)
    command = ["evaluate", "../runs/train-8", "--metrics", "swd", "--num-images", "8", "--json"]
    report = json.loads(pggan(*command).out)
    assert report["data"] == str(tmp_path / "cats" / "train") and report["data_images"] == 8
    assert report["training_images"] is True
    result = pggan(*command, "--data", "cats/train")
    assert json.loads(result.out)["training_images"] is False
    assert "warning: cats/train does not contain the images" in result.err
    assert "training images: no" in pggan(*command[:-1], "--data", "cats/train").out
    (tmp_path / "cats" / "train" / "0.png").unlink()
    result = pggan(*command)
    assert result.code == 2 and "are not those that the checkpoint was trained on" in result.err
    os.rename(tmp_path / "cats", tmp_path / "gone")
    result = pggan(*command)
    assert (
        result.code == 2
        and "does not exist here; use --data IMAGES" in result.err
        and str(tmp_path / "cats") in result.err
    )
