"""Runs begun by --resume, on other images too: each trains, or explains why not."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_stop_and_resume import assert_equal_bits, without_times

from pggan.training.steps import Stepper

SMALL = """
    --resolution 8 --fmap-base 64 --fmap-max 8 --batch-size 8 --fade-kimg 0.04 --stabilize-kimg 0.04 --tick-kimg 0.02
    --metrics none --track none --device cpu --precision fp32
""".split()


def draw(folder, classes=("",), seed=0, count=8):
    rng = np.random.default_rng(seed)
    for name, i in itertools.product(classes, range(count)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def cats(train, tmp_path):
    """The train command, in a folder with images in cats/train and dogs/train, and a finished run on the former."""
    draw(tmp_path / "cats" / "train")
    draw(tmp_path / "dogs" / "train", seed=1)
    assert train("cats/train", *SMALL).code == 0
    return train


def images(run):
    return torch.load(f"{run}/checkpoints/latest.pt", weights_only=True)["images"]


@pytest.mark.parametrize("start", ["", "/", "/checkpoints/latest.pt", "/checkpoints/stage-0008.pt"])
def test_a_finished_run_goes_on_with_other_images(cats, start):
    command = ["dogs/train", *SMALL, "--resume", f"runs/train-8{start}"]
    before = images("runs/train-8")
    said = cats(*command)
    assert said.code == 0, said.err
    assert "this run is in runs/dogs-train-8" in said.err
    assert f"at {before / 1000:g} kimg; training 0.04 kimg more, until {before / 1000 + 0.04:g} kimg at 8x8" in said.err
    after = images("runs/dogs-train-8")
    assert 40 <= after - before < 40 + 32
    row = next(line for line in said.out.splitlines() if line.split()[0] == "8x8")
    assert row.split()[1] == str(after - before)  # of this run alone
    said = cats(*command)
    assert said.code == 0 and "runs/dogs-train-8 has finished" in said.err and images("runs/dogs-train-8") == after
    assert cats(*command, "--total-kimg", "0.3").code == 0 and images("runs/dogs-train-8") >= 300
    assert images("runs/train-8") == before


def test_a_run_begun_by_resume_ends_bit_identical_wherever_it_was_broken_off(cats, monkeypatch):
    command = ["dogs/train", *SMALL, "--resume", "runs/train-8", "--out"]
    assert cats(*command, "whole").code == 0
    step, calls = Stepper.step, itertools.count(1)

    def broken(*args):
        if next(calls) in (2, 8):  # before the first checkpoint, and after it
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(Stepper, "step", broken)
    assert [cats(*command, "run").code for _ in range(3)] == [130, 130, 0]
    ours, theirs = (torch.load(f"{run}/checkpoints/latest.pt", weights_only=True)["state"] for run in ("run", "whole"))
    assert_equal_bits(ours | {"seconds": 0}, theirs | {"seconds": 0})
    for name in ("log.jsonl", "metrics.jsonl"):
        ours, theirs = (without_times(Path(run) / name) for run in ("run", "whole"))
        assert ours == theirs


@pytest.mark.parametrize(
    "options, says",
    [
        (["--total-kimg", "0.1"], "--total-kimg: 0.1 leaves nothing to train"),
        (["--resolution", "4"], "use --resolution 8"),
        (["--fmap-max", "4", "--latent-size", "3"], "use --fmap-max 8 --latent-size 8"),
    ],
)
def test_what_would_train_nothing_is_refused_with_what_to_do(cats, options, says):
    said = cats("dogs/train", *SMALL, "--resume", "runs/train-8", "--out", "new", *options)
    assert said.code == 2 and says in said.err and "\n" not in said.err.strip() and not os.path.exists("new")


def test_the_checkpoints_resolution_is_the_default(cats, tmp_path):
    assert SMALL[:2] == ["--resolution", "8"]
    Image.new("RGB", (64, 64)).save(tmp_path / "dogs" / "train" / "0.png")
    assert cats("dogs/train", *SMALL[2:], "--resume", "runs/train-8", "--out", "new").code == 0
    assert json.loads((tmp_path / "new" / "config.json").read_text())["resolution"] == 8


def test_a_run_resumes_without_the_checkpoint_that_it_began_from(cats):
    os.rename("runs/train-8/checkpoints/stage-0004.pt", "start.pt")
    command = ["dogs/train", *SMALL[2:], "--resume", "start.pt", "--total-kimg"]
    assert cats(*command, "0.15").code == 0
    os.remove("start.pt")
    said = cats(*command, "0.3")
    assert said.code == 0 and "resuming runs/dogs-train-8 at" in said.err
    said = cats("cats/train", *SMALL[2:], "--resume", "start.pt")
    assert said.code == 2 and "start.pt does not exist" in said.err


def test_a_run_goes_on_without_resume(cats):
    for spelling in ("runs/train-8", os.path.abspath("runs/train-8/checkpoints/stage-0004.pt")):
        said = cats("cats/train", *SMALL, "--resume", spelling)
        assert said.code == 2 and "without --resume" in said.err and "None" not in said.err
    said = cats("./cats/train/", *SMALL)
    assert said.code == 0 and "runs/train-8 has finished" in said.err and "--total-kimg 0." in said.err


def test_folders_of_one_name_do_not_meet(cats):
    for _ in range(2):
        said = cats("dogs/train", *SMALL)
        assert said.code == 0 and "runs/train-8 has a run on" in said.err
    assert images("runs/dogs-train-8") == images("runs/train-8")
    said = cats("dogs/train", "--config", "runs/train-8/config.json")
    assert said.code == 0 and "runs/dogs-train-8 has finished" in said.err
    said = cats("dogs/train", *SMALL, "--out", "runs/train-8")
    assert said.code == 2 and "was trained on" in said.err and "cats/train" in said.err
    assert said.err.index("--out ANOTHER") < said.err.index("--resume")


def test_a_run_goes_on_from_another_folder(cats, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    said = cats("--config", "../runs/train-8/config.json")
    assert said.code == 0 and "../runs/train-8 has finished" in said.err and not os.path.exists("runs")


@pytest.mark.parametrize("before, after, kept", [("", "ab", ""), ("ab", "", ""), ("ab", "abc", "kept for a, b, ")])
def test_other_classes_are_no_obstacle(train, tmp_path, before, after, kept):
    for name, classes in (("one", before), ("two", after)):
        draw(tmp_path / name, classes or ("",))
    for name, classes in (("one", before), ("two", after)):
        labels, start = ["--labels"] if classes else [], ["--resume", "runs/one-8"] if name == "two" else []
        said = train(name, *SMALL, *labels, *start)
        assert said.code == 0, said.err
    assert f"classes: {', '.join(before) or 'none'} -> {', '.join(after) or 'none'}" in said.err
    if added := [name for name in after if name not in before]:
        assert f"label weights: {kept}freshly initialized for {', '.join(added)}" in said.err


def test_evaluate_says_which_images_it_used(cats, pggan, tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    draw(tmp_path / "b" / "cats" / "train", seed=2)
    command = ["evaluate", "../runs/train-8", "--metrics", "swd", "--num-images", "8", "--json"]
    report = json.loads(pggan(*command).out)
    assert report["data"] == str(tmp_path / "cats" / "train") and report["data_images"] == 8
    assert report["training_images"] is True
    said = pggan(*command, "--data", "cats/train")
    assert json.loads(said.out)["training_images"] is False and "warning: cats/train has other images" in said.err
    assert "training_images     no" in pggan(*command[:-1], "--data", "cats/train").out
    (tmp_path / "cats" / "train" / "0.png").unlink()
    said = pggan(*command)
    assert said.code == 2 and "are not those that the checkpoint was trained on" in said.err
    os.rename(tmp_path / "cats", tmp_path / "gone")
    said = pggan(*command)
    assert (
        said.code == 2 and "does not exist here; use --data IMAGES" in said.err and str(tmp_path / "cats") in said.err
    )
