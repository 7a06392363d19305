"""Run the project's commands in subprocesses or in this process, and share one finished run."""

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from forked import Forked

ROOT = Path(__file__).parents[2]
TINY = """
    synthetic --resolution 16 --fmap-base 64 --fmap-max 8 --batch-size 8 --fade-kimg 0.3 --stabilize-kimg 0.3
    --tick-kimg 0.1 --metrics swd --metric-images 48 --metric-every-kimg 0.2 --track none --device cpu
    --precision fp32
""".split()


class Result(namedtuple("Result", "code out err")):
    """The end of a command; like a process, it has a returncode, too."""

    returncode = property(lambda self: self.code)


class Commands:
    """Run this project's commands as a user would, in a separate folder, on one thread, without network access.

    Args:
        is_new: whether each starts Python anew, or is forked from a process that has imported torch, in seconds less.
    """

    def __init__(self, folder, cache, is_new=False):
        self.folder, self.is_new = folder, is_new
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        offline = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
        paths = {"PGGAN_CACHE": str(cache), "TORCH_HOME": str(cache / "torch"), "PYTHONPATH": str(ROOT)}
        self.environment = os.environ | threads | offline | paths

    def start(self, *arguments, **variables):
        """Start `python ARGUMENTS` with these environment variables, and return the process."""
        arguments, environment = [*map(str, arguments)], self.environment | variables
        if not self.is_new:
            return Forked(arguments, self.folder, environment)
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments, timeout=600):
        process = self.start(*arguments)
        process.out, process.err = process.communicate(timeout=timeout)
        return process

    def train(self, *arguments):
        return self.run(ROOT / "train.py", *arguments)

    def start_training(self, *arguments):
        return self.start(ROOT / "train.py", *arguments)


def pytest_sessionfinish():
    for process in multiprocessing.active_children():  # left by a failed test; Python would wait for them
        process.kill()


@pytest.fixture
def commands(tmp_path, cache):
    return Commands(tmp_path, cache)


@pytest.fixture
def new_commands(tmp_path, cache):
    return Commands(tmp_path, cache, is_new=True)


@pytest.fixture
def in_process(monkeypatch, capsys, tmp_path, cache):
    """Return in_process(module), which runs a command in this process: importing torch in a new one takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGGAN_CACHE", str(cache))

    def command(module):
        main = importlib.import_module(module).main

        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [module.split(".")[0], *map(str, arguments)])
            try:
                main()
                code = 0
            except SystemExit as system_exit:
                code = system_exit.code
            return Result(code, *capsys.readouterr())

        return run

    return command


@pytest.fixture
def pggan(in_process):
    return in_process("pggan.__main__")


@pytest.fixture
def train(in_process):
    return in_process("train")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, cache):
    """Return the run directory of a tiny run that trained to the end without interruption."""
    folder = tmp_path_factory.mktemp("finished")
    process = Commands(folder, cache, is_new=True).train(*TINY, "--out", "run")
    assert process.returncode == 0, process.err
    (folder / "run" / "stdout").write_text(process.out)
    return folder / "run"


@pytest.fixture(scope="session")
def cifar_images():
    """Return 64 training and 64 test images of CIFAR-10 by split, uint8 [64, 3, 32, 32] each."""
    with np.load(ROOT / "tests" / "golden" / "cifar10_64.npz") as file:
        return {split: file[split] for split in ("train", "test")}
