"""TensorBoard and Weights & Biases show what log.jsonl and metrics.jsonl hold, even after a resume."""

import json
import os
import shutil
import struct
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from pggan.checkpoints import RunDirectory
from pggan.config import ConfigError, resolve_config
from pggan.datasets import make_grid
from pggan.training.run_writer import RunWriter
from pggan.training.tracking import Tracker, load_or_create_wandb_id

GRID = np.full((4, 3, 8, 8), 200, np.uint8)


def track(folder, service, image_counts, resumed_at=0):
    """Track a run from its start or from a resume: log lines, grids, and stage ends at 200 and 300 images."""
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "track": service, "lr": 0.25})
    run = RunDirectory(folder / "faces")
    run.create(config.to_dict())
    run.cut_logs(resumed_at)
    writer, tracker = RunWriter(run, keep_last=2), Tracker(run, config, resumed_at)

    def record(path, line):
        writer.write_line(path, line)
        tracker.log_scalars(path.stem, line)

    for images in image_counts:
        record(run.log, {"images": images, "d_loss": images / 8, "g_loss": None})
        tracker.log_grid("fakes", make_grid(GRID), images)
        if images in (200, 300):
            line = {"images": images, "resolution": images // 50, "alpha": 1.0, "stage_end": True, "fid": images / 4}
            record(run.metrics, line)
    tracker.close()
    return run


def test_tensorboard_shows_one_run_against_images_seen(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track(tmp_path, "tensorboard", (100, 200))
    track(tmp_path, "tensorboard", (300, 400), resumed_at=200)  # then killed; the latest checkpoint is still at 200
    run = track(tmp_path, "tensorboard", (300, 400, 500), resumed_at=200)
    events = accumulator.EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("log/d_loss")] == [(i, i / 8) for i in range(100, 501, 100)]
    assert [(e.step, e.value) for e in events.Scalars("metrics/fid")] == [(200, 50.0), (300, 75.0)]
    assert "metrics/stage_end" not in events.Tags()["scalars"] and "log/g_loss" not in events.Tags()["scalars"]
    assert [e.step for e in events.Images("fakes")] == [100, 200, 300, 400, 500]
    config, stages = (events.Tensors(f"{name}/text_summary")[-1] for name in ("config", "stages"))
    assert "| lr | 0.25 |" in config.tensor_proto.string_val[0].decode()
    table = stages.tensor_proto.string_val[0].decode().splitlines()
    assert table == ["| images | resolution | fid |", "| --- | --- | --- |", "| 200 | 4 | 50.0 |", "| 300 | 6 | 75.0 |"]


def wait_for_records(path):
    """Return all messages of a finished run; W&B's own process may still be writing the last ones."""
    for _ in range(100):
        found = list(read_records(path))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    pytest.fail(f"{path} was never completed")


def read_records(path):
    """Yield the protocol messages of an offline W&B run (a LevelDB log: 32 KiB blocks, records in parts)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, message = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        if (left := 32768 - offset % 32768) < 7:
            offset += left
            continue
        _, length, part_type = struct.unpack("<IHB", data[offset : offset + 7])
        message += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if part_type in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


def test_wandb_shows_one_run_against_images_seen(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track(tmp_path, "wandb", (100, 200))
    time.sleep(1)  # W&B names the parts of a run by the second they started in
    run = track(tmp_path, "wandb", (300,), resumed_at=200)
    segments = sorted((run.folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    messages = [wait_for_records(path) for path in segments]
    runs = [message.run for part in messages for message in part if message.HasField("run")]
    assert [(r.run_id, r.display_name) for r in runs] == [((run.folder / "wandb-id").read_text(), "faces")] * 2
    options = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert options["lr"] == {"4": 0.25} and options["data"] == "synthetic"
    metrics = [message.metric for message in messages[0] if message.HasField("metric")]
    assert ("*", "images") in [(m.glob_name, m.step_metric) for m in metrics]
    history = {}
    for message in (m.history for part in messages for m in part if m.HasField("history")):
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in message.item}
        assert message.step.num == items["images"]
        history[items["images"]] = items
    assert {images: items["log/d_loss"] for images, items in history.items()} == {100: 12.5, 200: 25.0, 300: 37.5}
    assert (history[200]["metrics/fid"], history[300]["metrics/fid"]) == (50.0, 75.0)
    assert all(items["fakes/_type"] == "image-file" for items in history.values())
    (table,) = segments[1].parent.glob("files/media/table/*.json")
    content = json.loads(table.read_text())
    assert content == {"columns": ["images", "resolution", "fid"], "data": [[200, 4, 50], [300, 6, 75]]}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"project": "pggan", "name": "faces", "mode": "offline"}),
        (
            {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_DIR": "d", "WANDB_MODE": "online", "WANDB_RUN_ID": "i"},
            {"project": "p", "name": "n", "dir": "d", "mode": "online", "id": "i"},
        ),
    ],
)
def test_wandb_environment_variables_take_precedence(tmp_path, monkeypatch, environment, expected):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    passed = {}
    writer = SimpleNamespace(define_metric=lambda *_, **__: None, finish=lambda: None)
    fake = SimpleNamespace(
        init=lambda **options: passed.update(options) or writer, Settings=dict, errors=SimpleNamespace(Error=OSError)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    track(tmp_path, "wandb", ())
    assert passed.items() >= expected.items() and not {"entity", "group"} & passed.keys()  # wandb reads these itself


def test_a_copied_run_directory_gets_a_new_id_and_a_moved_one_keeps_its_id(tmp_path, capsys):
    first, copy, moved = (tmp_path / name for name in ("first", "copy", "moved \udce9"))
    first.mkdir()
    first_id = load_or_create_wandb_id(first)
    assert first_id == load_or_create_wandb_id(first) == (first / "wandb-id").read_text()
    shutil.copytree(first, copy)
    copy_id = load_or_create_wandb_id(copy)
    assert copy_id not in ("", first_id) and f"{copy} is a copy of {first}" in capsys.readouterr().err
    assert (load_or_create_wandb_id(first), load_or_create_wandb_id(copy)) == (first_id, copy_id)
    first.rename(moved)
    assert (load_or_create_wandb_id(moved), load_or_create_wandb_id(moved)) == (first_id, first_id)
    first.symlink_to(moved)
    assert load_or_create_wandb_id(first) == first_id and capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"5", b"\xff"])
def test_a_damaged_record_of_the_path_is_named_with_its_remedy(tmp_path, content):
    run_id = load_or_create_wandb_id(tmp_path)
    (tmp_path / "wandb-folder").write_bytes(content)
    with pytest.raises(ConfigError, match="wandb-folder is damaged; delete it to continue the W&B run in wandb-id"):
        load_or_create_wandb_id(tmp_path)
    (tmp_path / "wandb-folder").unlink()
    assert load_or_create_wandb_id(tmp_path) == run_id


def test_a_run_directory_without_a_recorded_path_keeps_its_id(tmp_path):
    (tmp_path / "wandb-id").write_text("0123abcd")
    assert load_or_create_wandb_id(tmp_path) == "0123abcd"
