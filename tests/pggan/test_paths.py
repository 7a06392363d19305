import json
import os

import pytest

from pggan.paths import choose_out, is_missing, is_same_checkpoint, make_absolute, relocate_path


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin_run(out, data):
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps({"data": str(data), "out": str(out)}))


def test_paths_become_absolute_and_dataset_names_stay(cwd):
    (cwd / "photos").mkdir()
    (cwd / "synthetic").mkdir()
    assert make_absolute("./photos/") == str(cwd / "photos")
    assert [make_absolute(name) for name in ("cifar10", "synthetic", "nowhere")] == ["cifar10", "synthetic", "nowhere"]


def test_a_recorded_path_is_found_from_another_folder(cwd):
    (cwd / "a" / "photos").mkdir(parents=True)
    run = cwd / "a" / "runs" / "x"
    assert relocate_path("photos", "runs/x", run) == str(cwd / "a" / "photos")
    assert relocate_path("photos", "./runs/y/../x", run) == str(cwd / "a" / "photos")
    assert relocate_path("/elsewhere/project/photos", "runs/x", run) == str(cwd / "a" / "photos")  # moved with its run
    for out in (str(run), "other/x", "../a/runs/x", None):
        assert relocate_path("photos", out, run) == "photos"
    assert relocate_path("photos", "runs/x", None) == "photos"
    assert relocate_path("cifar10", "runs/x", run) == "cifar10"
    assert relocate_path("/gone/images", "runs/x", run) == "/gone/images"


def test_an_existing_recorded_path_takes_precedence(cwd):
    for folder in ("a/photos", "b/photos"):
        (cwd / folder).mkdir(parents=True)
    assert relocate_path(str(cwd / "b" / "photos"), "runs/x", cwd / "a" / "runs" / "x") == str(cwd / "b" / "photos")


def test_folders_with_the_same_name_get_separate_runs(cwd):
    for folder in ("cats/train", "dogs/train", "more/dogs/train"):
        (cwd / folder).mkdir(parents=True)
    assert choose_out("cats/train", 16) == ("runs/train-16", "")
    begin_run(cwd / "runs" / "train-16", cwd / "cats" / "train")
    for spelling in ("cats/train", "./cats/train/", str(cwd / "cats" / "train"), "dogs/../cats/train"):
        assert choose_out(spelling, 16) == ("runs/train-16", "")
    out, note = choose_out("dogs/train", 16)
    assert out == "runs/dogs-train-16" and "runs/train-16 has a run on" in note and "cats/train" in note
    begin_run(cwd / out, cwd / "dogs" / "train")
    third, _ = choose_out("more/dogs/train", 16)
    assert third not in ("runs/train-16", out) and third.startswith("runs/train-")
    begin_run(cwd / third, cwd / "more" / "dogs" / "train")
    assert [choose_out(data, 16)[0] for data in ("cats/train", "dogs/train", "more/dogs/train")] == [
        "runs/train-16",
        out,
        third,
    ]
    assert choose_out("dogs/train", 32) == ("runs/train-32", "")


def test_moved_images_keep_their_run_directory(cwd):
    (cwd / "new" / "train").mkdir(parents=True)
    begin_run(cwd / "runs" / "train-16", cwd / "old" / "train")
    assert choose_out("new/train", 16) == ("runs/train-16", "")  # the digest decides later
    assert is_missing(str(cwd / "old" / "train")) and not is_missing("cifar10") and not is_missing("synthetic")


def test_spellings_of_a_checkpoint_path_are_equivalent(cwd):
    (cwd / "runs" / "x" / "checkpoints").mkdir(parents=True)
    (cwd / "link").symlink_to("runs")
    latest = cwd / "runs" / "x" / "checkpoints" / "latest.pt"
    for spelling in ("runs/x", "runs/x/", "./runs/../runs/x", "link/x/checkpoints/latest.pt", os.path.relpath(latest)):
        assert is_same_checkpoint(spelling, str(latest))
    assert not is_same_checkpoint("runs/x/checkpoints/stage-0008.pt", str(latest))
