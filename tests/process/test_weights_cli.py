"""python -m pggan import and export as a user meets them, and training on from what was imported."""

import importlib
import json
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
from pggan import load

SNAPSHOT = Path(__file__).parents[1] / "golden" / "official_gray16_labels.pkl"
Said = namedtuple("Said", "code out err")


@pytest.fixture
def pggan(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("pggan.__main__").main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pggan", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def digits(tmp_path):
    """Images and labels in the shape of the golden snapshot: gray, 16x16, ten classes."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "digits.npz", x=rng.integers(0, 256, (80, 16, 16), np.uint8), y=np.arange(80) % 10)
    return tmp_path / "digits.npz"


def test_an_imported_snapshot_is_a_checkpoint_like_any_other(pggan, digits):
    said = pggan("import", SNAPSHOT, "--out", "official.pt", "--resolution", "16")
    assert said.code == 0, said.err
    assert "networks: G_ema, G, D" in said.out and "--labels" in said.out
    assert "origin  the paper authors' snapshot" in pggan("info", "official.pt").out
    assert pggan("sample", "official.pt", "--labels", "all", "--seeds", "0-3", "--out", "a.png").code == 0
    assert pggan("interpolate", "official.pt", "--seeds", "0-1", "--frames", "2", "--out", "a.webp").code == 0
    options = ["--metrics", "swd", "--num-images", "32", "--json"]
    judged = pggan("evaluate", "official.pt", "--data", digits, *options)
    assert judged.code == 0 and json.loads(judged.out)["swd"] > 0, judged.err
    again = pggan("import", SNAPSHOT, "--out", "official.pt")
    assert again.code == 2 and "--force" in again.err


def test_weights_that_cannot_be_read_leave_nothing(pggan, tmp_path):
    Path("cut.pkl").write_bytes(SNAPSHOT.read_bytes()[:50_000])
    for arguments in (["cut.pkl"], ["missing.pkl"], [SNAPSHOT, "--resolution", "32"], [SNAPSHOT, "--resolution", "12"]):
        said = pggan("import", *arguments, "--out", "a.pt")
        assert said.code == 2 and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pkl"]


TRAINED = """
    --labels --channels 1 --fmap-base 64 --fmap-max 16 --batch-size 8 --fade-kimg 0.1 --stabilize-kimg 0.1
    --tick-kimg 0.1 --metrics none --track none --device cpu --mbstd-group 4
""".split()


def test_training_goes_on_from_imported_weights(pggan, commands, digits):
    assert pggan("import", SNAPSHOT, "--out", "whole.pt", "--resolution", "16").code == 0
    content = checkpoints.load("whole.pt")
    content["state"] = {"G_ema": {k: v for k, v in content["state"]["G_ema"].items() if "to_rgb.1" not in k}}
    del content["networks"]["discriminator"]
    checkpoints.save(Path("generator.pt"), content)
    said = pggan("sample", "generator.pt", "--resolution", "8")
    assert said.code == 2 and "8x8 has no RGB layer" in said.err

    for name, new in (
        ("whole.pt", []),
        ("generator.pt", ["D: not in", "G: RGB layers of 8x8", "G_ema: RGB layers of"]),
    ):
        process = commands.train(digits, "--resume", name, "--out", name[:3], "--resolution", "16", *TRAINED)
        assert process.returncode == 0, process.err
        assert process.err.count("freshly initialised") == len(new) and all(text in process.err for text in new)
    before, after = load("whole.pt"), load("who")
    images = [t.generator(t.latents([1]), torch.eye(10)[:1]) for t in (before, after)]
    assert 0 < (images[0] - images[1]).abs().mean() < 1  # it went on; it did not begin anew

    process = commands.train(
        digits, "--resume", "whole.pt", "--out", "other", "--resolution", "16", *TRAINED, "--fmap-max", "8"
    )
    assert process.returncode == 2 and "--fmap-max must agree with it" in process.err
