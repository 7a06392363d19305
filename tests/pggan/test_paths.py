import json
import os

import pytest

from pggan.paths import choose_out, find_recorded, is_missing, is_same_checkpoint, make_absolute


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin_run(out, data):
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps({"data": str(data), "out": str(out)}))


def test_paths_become_absolute_and_names_stay(here):
    (here / "photos").mkdir()
    (here / "synthetic").mkdir()
    assert make_absolute("./photos/") == str(here / "photos")
    assert [make_absolute(name) for name in ("cifar10", "synthetic", "nowhere")] == ["cifar10", "synthetic", "nowhere"]


def test_a_recorded_path_is_found_from_another_folder(here):
    (here / "a" / "photos").mkdir(parents=True)
    run = here / "a" / "runs" / "x"
    assert find_recorded("photos", "runs/x", run) == str(here / "a" / "photos")
    assert find_recorded("photos", "./runs/y/../x", run) == str(here / "a" / "photos")
    assert find_recorded("/elsewhere/project/photos", "runs/x", run) == str(here / "a" / "photos")  # moved with its run
    for out in (str(run), "other/x", "../a/runs/x", None):
        assert find_recorded("photos", out, run) == "photos"
    assert find_recorded("photos", "runs/x", None) == "photos"
    assert find_recorded("cifar10", "runs/x", run) == "cifar10"
    assert find_recorded("/gone/images", "runs/x", run) == "/gone/images"


def test_a_path_that_exists_is_the_recorded_one_whatever_lies_beside_the_run(here):
    for folder in ("a/photos", "b/photos"):
        (here / folder).mkdir(parents=True)
    assert find_recorded(str(here / "b" / "photos"), "runs/x", here / "a" / "runs" / "x") == str(here / "b" / "photos")


def test_folders_of_one_name_have_runs_of_their_own(here):
    for folder in ("cats/train", "dogs/train", "more/dogs/train"):
        (here / folder).mkdir(parents=True)
    assert choose_out("cats/train", 16) == ("runs/train-16", "")
    begin_run(here / "runs" / "train-16", here / "cats" / "train")
    for spelling in ("cats/train", "./cats/train/", str(here / "cats" / "train"), "dogs/../cats/train"):
        assert choose_out(spelling, 16) == ("runs/train-16", "")
    out, note = choose_out("dogs/train", 16)
    assert out == "runs/dogs-train-16" and "runs/train-16 has a run on" in note and "cats/train" in note
    begin_run(here / out, here / "dogs" / "train")
    third, _ = choose_out("more/dogs/train", 16)
    assert third not in ("runs/train-16", out) and third.startswith("runs/train-")
    begin_run(here / third, here / "more" / "dogs" / "train")
    assert [choose_out(data, 16)[0] for data in ("cats/train", "dogs/train", "more/dogs/train")] == [
        "runs/train-16",
        out,
        third,
    ]
    assert choose_out("dogs/train", 32) == ("runs/train-32", "")


def test_images_that_were_moved_may_still_be_the_runs_own(here):
    (here / "new" / "train").mkdir(parents=True)
    begin_run(here / "runs" / "train-16", here / "old" / "train")
    assert choose_out("new/train", 16) == ("runs/train-16", "")  # and the digest decides
    assert is_missing(str(here / "old" / "train")) and not is_missing("cifar10") and not is_missing("synthetic")


def test_spellings_of_a_checkpoint(here):
    (here / "runs" / "x" / "checkpoints").mkdir(parents=True)
    (here / "link").symlink_to("runs")
    latest = here / "runs" / "x" / "checkpoints" / "latest.pt"
    for spelling in ("runs/x", "runs/x/", "./runs/../runs/x", "link/x/checkpoints/latest.pt", os.path.relpath(latest)):
        assert is_same_checkpoint(spelling, str(latest))
    assert not is_same_checkpoint("runs/x/checkpoints/stage-0008.pt", str(latest))
