import errno
import fcntl
import json
import os
import stat

import pytest

from pggan.checkpoints import CheckpointError, RunDirectory, load
from pggan.checkpoints.run_directory import append_line, read_lines


def make_content(images):
    return {"images": images, "stage": {"resolution": 8, "alpha": 1}, "config": {}, "networks": {}, "state": {}}


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "runs" / "faces")
    directory.create({"seed": 1})
    return directory


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_written_before_create(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    assert not directory.exists() and directory.load_newest(print) is None
    directory.cut_logs(0)
    assert list_names(tmp_path) == []


def test_create_makes_the_folders_and_a_config_that_reads_back(run):
    assert run.exists() and run.read_config() == {"seed": 1}
    assert list_names(run.folder) == ["checkpoints", "config.json", "samples"]
    run.create({"seed": 2, "lr": {"4": 0.001}})
    assert RunDirectory(str(run.folder)).read_config() == {"seed": 2, "lr": {"4": 0.001}}


def test_an_unwritable_path_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write the run directory .*file/run: \w+") as error:
        RunDirectory(tmp_path / "file" / "run").create({})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", '{"seed": ', None])
def test_an_unreadable_config_is_reported(run, text):
    run.config.unlink() if text is None else run.config.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        run.read_config()


def test_the_latest_checkpoint_is_the_one_saved_last(run):
    for images in (1, 2):
        run.save(make_content(images))
        assert run.load_newest(print)["images"] == images


def test_a_stage_checkpoint_links_to_the_latest_and_outlives_it(run):
    run.save(make_content(1))
    kept = run.keep_stage(8)
    assert kept == run.stage_path(8) == run.checkpoints / "stage-0008.pt" and os.path.samefile(kept, run.latest)
    run.save(make_content(2))
    assert load(kept)["images"] == 1 and run.load_newest(print)["images"] == 2


def test_keeping_a_stage_again_replaces_it_and_leaves_no_other_files(run):
    run.save(make_content(1))
    run.keep_stage(8)
    run.keep_stage(8)
    assert list_names(run.checkpoints) == ["latest.pt", "stage-0008.pt"]
    run.save(make_content(2))
    assert load(run.keep_stage(8))["images"] == 2 and list_names(run.checkpoints) == ["latest.pt", "stage-0008.pt"]


def test_a_stage_can_be_kept_after_a_kill_while_keeping_it(run):
    run.save(make_content(1))
    (run.checkpoints / ".stage-0008.pt.writing").write_bytes(b"half")
    assert os.path.samefile(run.keep_stage(8), run.latest) and run.load_newest(print)["images"] == 1


def test_a_stage_checkpoint_is_copied_if_links_are_unsupported(run, monkeypatch):
    def fail(*_):
        raise OSError("links are not for this disk")

    monkeypatch.setattr(os, "link", fail)
    run.save(make_content(1))
    kept = run.keep_stage(16)
    assert not os.path.samefile(kept, run.latest) and kept.read_bytes() == run.latest.read_bytes()


@pytest.mark.parametrize("ending", ["", '{"images": 3', '{"images": 30, "loss": 0.', "\0\0\0"])
def test_lines_after_the_checkpoint_and_a_half_written_one_are_cut(run, ending):
    for images in (1, 2, 3, 4):
        append_line(run.log, {"images": images, "loss": images / 3})
    append_line(run.metrics, {"images": 4, "fid": 9.5})
    with run.log.open("a") as file:
        file.write(ending)
    run.cut_logs(3)
    assert read_lines(run.log) == [{"images": i, "loss": i / 3} for i in (1, 2, 3)] and read_lines(run.metrics) == []
    append_line(run.log, {"images": 4})
    assert [json.loads(line)["images"] for line in run.log.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_last_line_without_its_newline_is_kept_and_completed(run):
    run.log.write_text('{"images": 1}\n{"images": 2}')
    run.cut_logs(2)
    assert run.log.read_text() == '{"images": 1}\n{"images": 2}\n'


def test_a_broken_line_in_the_middle_is_reported(run):
    run.log.write_text('{"images": 1}\n{"ima\n{"images": 3}\n')
    with pytest.raises(CheckpointError, match=r"log\.jsonl, line 2 is not JSON"):
        run.cut_logs(3)


def test_cutting_leaves_earlier_lines_unchanged(run):
    values = {"images": 1, "loss": 0.1 + 0.2, "fid": float("inf"), "name": "dög", "none": None}
    append_line(run.log, values)
    before = run.log.read_bytes()
    run.cut_logs(1)
    assert run.log.read_bytes() == before and read_lines(run.log) == [values]


@pytest.mark.parametrize("number", ["EINVAL", "EOPNOTSUPP", "EIO", "EPERM", "ENOSYS"])
def test_a_file_system_that_cannot_sync_folders_works_with_one_warning(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def fail_for_folders(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(getattr(errno, number), "refused")
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    run, warnings = RunDirectory(tmp_path / "run"), []
    run.lock(warnings.append)
    run.create({"seed": 1})
    run.save(make_content(1))
    run.keep_best()
    run.release()
    assert len(warnings) == 1 and "after a power loss" in warnings[0] and load(run.best)["images"] == 1


@pytest.mark.parametrize("number", ["EIO", "ENOSPC"])
def test_a_file_that_cannot_be_synced_is_an_error(run, monkeypatch, number):
    def fail_for_files(file):
        if stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(os, "fsync", fail_for_files)
    with pytest.raises(OSError, match="refused"):
        run.save(make_content(1))
    with pytest.raises(OSError, match="refused"):
        append_line(run.log, {"images": 1})
    assert list_names(run.checkpoints) == []


def test_a_folder_that_cannot_be_synced_on_a_full_disk_is_an_error(run, monkeypatch):
    def fail_for_folders(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.ENOSPC, "refused")

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(OSError, match="refused"):
        run.save(make_content(1))


@pytest.mark.parametrize("number", ["EOPNOTSUPP", "ENOLCK", "EIO", "EINVAL"])
def test_a_file_system_without_locks_works_with_one_warning(tmp_path, monkeypatch, number):
    def fail(file, operation):
        raise OSError(getattr(errno, number), "refused")

    monkeypatch.setattr(fcntl, "flock", fail)
    for _ in range(2):  # one run after the other
        run, warnings = RunDirectory(tmp_path / "run"), []
        run.lock(warnings.append)
        run.create({"seed": 1})
        run.release()
        assert len(warnings) == 1 and "has no locks" in warnings[0]
