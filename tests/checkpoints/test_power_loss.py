"""Simulate a power failure before each file-system operation of a save: data that was not synced is lost."""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

from pggan.checkpoints import RunDirectory, load
from pggan.checkpoints.run_directory import append_line, read_lines

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
CRASHED, DONE = 3, 4


def make_content(images):
    numbers = torch.full((2000,), float(images))
    stage = {"resolution": 8, "alpha": 1}
    return {"images": images, "stage": stage, "config": {}, "networks": {}, "state": {"G": {"w": numbers}}}


def write_tick(run):
    """Change the run directory as one tick of training does."""
    append_line(run.log, {"images": 3})
    run.save(make_content(3), keep_last=2)
    run.keep_stage(8)
    run.keep_best()
    append_line(run.metrics, {"images": 3, "fid": 2.0})


class Power:
    """Fail before operation number `left` in a folder: files lose unsynced data and, with `lose_names`, names."""

    def __init__(self, folder, left, lose_names, rng):
        self.folder, self.left, self.lose_names, self.rng = str(folder), left, lose_names, rng
        self.dirty, self.synced = {}, Path(f"{folder}-synced")
        self.take_snapshot()
        self.fsync, os.fsync = os.fsync, self.on_fsync
        sys.addaudithook(self.on_event)

    def on_event(self, event, arguments):
        if self.synced is None:
            return
        paths = [os.fspath(a) for a in arguments[:2] if isinstance(a, (str, os.PathLike))]
        if not any(path.startswith(self.folder + "/") for path in paths):
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.link", "os.remove", "os.truncate"):
            self.count_operation()
        if writes:
            self.dirty[paths[0]] = os.path.getsize(paths[0]) if os.path.exists(paths[0]) else 0
        if event == "os.rename" and paths[0] in self.dirty:
            self.dirty[paths[1]] = self.dirty.pop(paths[0])

    def on_fsync(self, descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self.count_operation()
        self.fsync(descriptor)
        self.dirty.pop(path, None)
        if os.path.isdir(path):
            self.take_snapshot()

    def take_snapshot(self):
        synced, self.synced = self.synced, None
        shutil.rmtree(synced, ignore_errors=True)
        shutil.copytree(self.folder, synced, copy_function=os.link)
        self.synced = synced

    def count_operation(self):
        self.left -= 1
        if self.left >= 0:
            return
        synced, self.synced = self.synced, None
        for path, synced_size in self.dirty.items():
            size = os.path.getsize(path)
            os.truncate(path, self.rng.randint(min(synced_size, size), size))
        if self.lose_names:
            shutil.rmtree(self.folder)
            shutil.copytree(synced, self.folder, copy_function=os.link)
        os._exit(CRASHED)


def crash_at(folder, step, lose_names, rng):
    """Write a tick in a child process that crashes before this step; return whether there was such a step."""
    child = os.fork()
    if child == 0:
        try:
            run = RunDirectory(folder)
            run.load_newest(lambda line: None)
            Power(folder, step, lose_names, rng)
            write_tick(run)
        except BaseException:
            os._exit(1)
        os._exit(DONE)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (CRASHED, DONE)
    return code == CRASHED


@pytest.mark.parametrize("lose_names", [False, True])
def test_a_power_failure_at_any_operation_of_a_save_is_survived(tmp_path, lose_names, tries, count_fault):
    rng, steps = random.Random(0), set()
    for number in range(tries(1, 10)):
        for step in range(100):
            folder = tmp_path / f"{number}-{step}"
            run = RunDirectory(folder)
            run.create({"seed": 1})
            for images in (1, 2):
                append_line(run.log, {"images": images})
                run.save(make_content(images), keep_last=2)
            append_line(run.metrics, {"images": 2, "fid": 3.0})
            crashed = crash_at(folder, step, lose_names, rng)
            run, warnings = RunDirectory(folder), []
            found = run.load_newest(warnings.append)
            assert found["images"] in (2, 3) and (found["state"]["G"]["w"] == found["images"]).all() and not warnings
            assert found["images"] == 3 or read_lines(run.metrics)[-1]["images"] == 2, "evaluated but not saved"
            for path in run.checkpoints.glob("*.pt"):
                assert load(path)["images"] in (1, 2, 3)
            run.cut_logs(found["images"])
            assert [line["images"] for line in read_lines(run.log)] == [1, 2, 3][: found["images"]]
            assert run.read_config() == {"seed": 1}
            write_tick(run)
            assert load(run.latest)["images"] == load(run.stage_path(8))["images"] == load(run.best)["images"] == 3
            if not crashed:
                break
            steps.add(step)
            count_fault("power lost at an operation of a save" + (", names not synced" if lose_names else ""))
    assert not crashed and len(steps) > 15
