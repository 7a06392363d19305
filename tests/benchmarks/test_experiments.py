"""The scripts of long experiments, at toy sizes: they train, score, resume, and refuse a folder of other runs."""

import json
import sys
from argparse import Namespace

import numpy as np
import pytest

from benchmarks import compare_architectures, small_sets


def run(monkeypatch, script, command):
    monkeypatch.setattr(sys, "argv", ["script", *command.split()])
    script.main()


def test_systems_train_for_the_same_time_once(monkeypatch, tmp_path, capsys):
    command = (
        f"synthetic --out {tmp_path} --kimg 0.4 --seeds 0 --metrics swd --metric-images 64 --systems growing DCGAN"
    )
    run(monkeypatch, compare_architectures, command)
    printed = capsys.readouterr()
    growing, dcgan = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("growing-0", "dcgan-0"))
    assert growing["images"] >= 400 and dcgan["seconds"] >= 0.99 * growing["seconds"] > 0
    assert growing["swd"] > 0 and growing["metric_images"] == 64
    assert [line.split(" | ")[0] for line in printed.out.splitlines()[2:]] == ["| growing", "| DCGAN"]
    run(monkeypatch, compare_architectures, command)
    again = capsys.readouterr()
    assert again.out == printed.out and "kimg" in printed.err and "kimg" not in again.err
    with pytest.raises(SystemExit, match="specify another --out"):
        run(monkeypatch, compare_architectures, command.replace("--kimg 0.4", "--kimg 0.5"))


def test_a_system_needs_the_run_that_sets_its_time(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="trains as long as 'growing', which has not run with seed 0"):
        run(monkeypatch, compare_architectures, f"synthetic --out {tmp_path} --metrics swd --seeds 0 --systems DCGAN")


@pytest.fixture
def scores(monkeypatch):
    """Replace KID, which needs Inception's weights, by the number of scores so far; return them."""
    found = []

    class CountingEvaluator:
        def __init__(self, pyramid, suite, count, seed, num_reals):
            assert len(pyramid) == num_reals == 40 and count == 10

        def __call__(self, generator, resolution, alpha):
            found.append(len(found))
            return {"kid": found[-1] / 1000}

    monkeypatch.setattr(small_sets, "Evaluator", CountingEvaluator)
    monkeypatch.setattr(small_sets, "Suite", lambda *_, **__: None)
    narrow = f"{small_sets.RELATIVISTIC} --fmap-base 32 --fmap-max 4 --latent-size 4"
    monkeypatch.setattr(small_sets, "RELATIVISTIC", narrow)
    return found


def test_an_augmentation_is_scored_at_each_point_once(monkeypatch, tmp_path, scores, capsys):
    command = (
        f"synthetic --out {tmp_path} --images 200 --unseen 40 --scored 10 --kimg 1.6 --every 0.8 --seeds 3 --modes ada"
    )
    run(monkeypatch, small_sets, command)
    table = ["| augment | seed | 0.8 | 1.6 |", "|---|---|---|---|", "| ada | 3 | 0.0 | 1.0 |"]
    assert capsys.readouterr().out.splitlines() == table
    first, last = small_sets.read_scores(tmp_path)
    assert (first["images"], last["images"]) == (800, 1600)
    assert first["overfitting"] is not None and first["augment_p"] == 0
    (tmp_path / "scores.jsonl").write_text(json.dumps(first) + "\n")  # interrupted
    run(monkeypatch, small_sets, command)
    assert len(scores) == 3 and capsys.readouterr().out.splitlines()[-1] == "| ada | 3 | 0.0 | 2.0 |"
    run(monkeypatch, small_sets, f"--out {tmp_path} --write")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("curves.png", "samples.png"))


def test_training_and_unseen_images_are_different_ones(monkeypatch, tmp_path):
    np.savez(tmp_path / "all.npz", images=np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8))
    small_sets.split_images(Namespace(data=str(tmp_path / "all.npz"), out=tmp_path, images=20, unseen=30))
    few, unseen = ({x.tobytes() for x in np.load(tmp_path / f"{n}.npz")["images"]} for n in ("few", "unseen"))
    assert (len(few), len(unseen), len(few & unseen)) == (20, 30, 0)
    with pytest.raises(SystemExit, match="fewer than --images"):
        run(monkeypatch, small_sets, f"synthetic --out {tmp_path} --images 99999999")
