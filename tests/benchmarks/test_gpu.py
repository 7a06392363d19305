"""The pieces of `python -m benchmarks.gpu`: results on disk, targets, and files in parts."""

import json
import time

import pytest

from benchmarks.gpu.archive import join, pack_run, split, unpack_run
from benchmarks.gpu.results import Clock, Item, Measurement, NotAvailable, Results, run_items


@pytest.mark.parametrize(
    "value, low, high, met",
    [(4.0, 4.0, None, True), (3.9, 4.0, None, False), (0.0, None, 0, True), (float("nan"), None, 1.0, False)],
)
def test_a_measurement_knows_whether_it_meets_its_target(value, low, high, met):
    assert Measurement("x", value, at_least=low, at_most=high).is_met() is met


def test_an_item_that_fails_is_recorded_and_the_next_ones_run(tmp_path):
    def fail(clock):
        raise ValueError("wrong\nsecond line")

    def refuse(clock):
        raise NotAvailable("needs a GPU")

    def succeed(clock):
        return [Measurement("speed", 5.0, "images/s", at_least=6.0)], {"turns": [5.0]}

    items = [Item("a", fail), Item("b", refuse), Item("c", succeed, seconds=30), Item("d", succeed)]
    run_items("speed", items, Results(tmp_path), Clock(time.monotonic() + 20))
    found = json.loads((tmp_path / "results.json").read_text())["parts"]["speed"]
    assert found["a"]["error"] == "ValueError: wrong" and "fail" in found["a"]["traceback"]
    assert found["b"]["error"] == "not available: needs a GPU"
    assert found["c"]["error"].startswith("skipped: ")
    assert found["d"]["rows"][0]["value"] == 5.0 and found["d"]["data"] == {"turns": [5.0]}
    assert "| speed | d | speed | 5 images/s | >= 6 | NO |" in (tmp_path / "results.md").read_text()


def test_a_second_start_runs_only_what_is_not_done(tmp_path):
    runs = []

    def make(name, **options):
        return Item(name, lambda clock: (runs.append(name), ([], {}))[1], **options)

    for _ in range(2):
        items = [make("once"), make("always", is_repeated=True)]
        run_items("train", items, Results(tmp_path), Clock(time.monotonic() + 9))
    assert runs == ["once", "always", "always"]


@pytest.mark.parametrize(
    "rows, hardware, is_measured_again",
    [
        ([Measurement("speed", 5.0)], "a", False),
        ([Measurement("speed", 5.0)], "b", True),
        ([Measurement("speed", 5.0), Measurement("pytorch-fid", "peer missing")], "a", True),
        ([Measurement("seconds, extrapolated from 2,048 images", 5.0)], "a", True),
    ],
)
def test_partial_results_and_those_of_another_gpu_are_measured_again(tmp_path, rows, hardware, is_measured_again):
    runs = []
    item = Item("x", lambda clock: (runs.append(1), (rows, {}))[1])
    for name in ("a", hardware):
        results = Results(tmp_path)
        results.content["setup"]["hardware"] = name
        run_items("speed", [item], results, Clock(time.monotonic() + 9))
    assert len(runs) == 1 + is_measured_again
    if hardware == "b":
        results.content["setup"]["hardware"] = "c"
        assert "| x (b) |" in results.format_table()


def test_results_of_an_earlier_version_are_of_the_recorded_hardware(tmp_path):
    content = {"setup": {"hardware": "a"}, "parts": {"speed": {"x": {"rows": [], "data": {}}}}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert Results(tmp_path).is_done("speed", "x")


def test_a_file_survives_splitting_and_joining(tmp_path):
    content = bytes(range(256)) * 10
    assert [path.stat().st_size for path in split("data.npz", content, tmp_path, 1000)] == [1000, 1000, 560]
    assert join(tmp_path) == ("data.npz", content)


def test_newer_parts_of_a_run_replace_older_ones(tmp_path):
    split("run-1.tar", b"old" * 100, tmp_path, 100)
    split("weights.pt", b"other", tmp_path)
    split("run-2.tar", b"new", tmp_path, 100)
    assert sorted(path.name.split(".")[0] for path in tmp_path.iterdir()) == ["run-2", "weights"]


def test_incomplete_or_damaged_parts_are_refused(tmp_path):
    first, second = split("data.npz", b"x" * 150, tmp_path, 100)
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(ValueError, match="no complete set of parts"):
        join(tmp_path)
    second.write_bytes(content)
    first.write_bytes(b"y" * 100)
    with pytest.raises(ValueError, match="damaged"):
        join(tmp_path)


def test_a_packed_run_has_what_it_needs_to_resume(tmp_path):
    run = tmp_path / "run"
    for name in ("config.json", "log.jsonl", "checkpoints/latest.pt", "checkpoints/best.pt", "samples/fakes-0008.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    pack_run(run, tmp_path / "parts")
    unpack_run(tmp_path / "parts", tmp_path / "copy")
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")}
    assert copied == {"config.json", "log.jsonl", "checkpoints/latest.pt", "samples/fakes-0008.png"}
