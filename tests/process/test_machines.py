"""Machines without semaphores, file locks, a home folder, or a console that can print every character."""

import os
import shutil
import subprocess
import sys
from errno import EAGAIN, EINVAL, ENOENT, ENOLCK, ENOSPC, ENOSYS, EROFS
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image

COMPILER = shutil.which("cc") or shutil.which("gcc")
NO_SHIM = "needs Linux and a C compiler"
SHORT = [*TINY, "--resolution", "8", "--fade-kimg", "0.05", "--stabilize-kimg", "0.05", "--metrics", "none"]


@pytest.fixture
def commands(new_commands):
    """Return commands that start a new Python, since each test changes the machine that Python sees at its start."""
    return new_commands


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """Return the path of unusual.c compiled to a shared library."""
    if sys.platform != "linux" or not COMPILER:
        pytest.skip(NO_SHIM)
    library = tmp_path_factory.mktemp("shim") / "unusual.so"
    source = Path(__file__).with_name("unusual.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def art(tmp_path):
    """Return a folder of 24 images."""
    folder = tmp_path / "art"
    folder.mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def fail_calls(commands, shim, **errors):
    """Make these system calls fail with these error numbers in the commands run from now on."""
    commands.environment["LD_PRELOAD"] = str(shim)
    commands.environment |= {name: str(number) for name, number in errors.items()}
    return commands


def assert_succeeded(process):
    assert process.returncode == 0 and "Traceback" not in process.err, process.err
    return process


@pytest.mark.parametrize(
    ("call", "error"), [("SEM_OPEN", e) for e in (ENOENT, EROFS, ENOSPC, ENOSYS)] + [("FORK", EAGAIN)]
)
def test_images_are_decoded_in_one_process_if_workers_cannot_start(commands, shim, art, call, error):
    commands.environment["PGGAN_CACHE"] = str(commands.folder / "cache")
    fail_calls(commands, shim, **{call: error})
    process = assert_succeeded(commands.run("-m", "datasets", "build", "art", "--resolution", "8", "--workers", "4"))
    assert "24 images in " in process.out and os.strerror(error) in process.err
    assert process.err.count("decoding in one process") == 1 and "PGGAN_CACHE" not in process.err
    if error == ENOENT:
        process = assert_succeeded(commands.run("-m", "datasets", "inspect", "art", "--workers", "4"))
        assert "unreadable  0" in process.out and process.err.count("decoding in one process") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_open_file_limit_is_not_blamed_on_the_cache(commands, art):
    commands.environment["PGGAN_CACHE"] = str(commands.folder / "cache")
    command = ["-m", "datasets", "build", "art", "--resolution", "8", "--workers", "24"]
    limited = ["import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (28, 28))"]
    limited += ["os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    process = assert_succeeded(commands.run("-c", "; ".join(limited), *command))
    assert "Too many open files" in process.err and "PGGAN_CACHE" not in process.err
    assert "decoding in " in process.err


def test_run_finishes_on_a_file_system_without_folder_sync_and_locks(commands, shim):
    commands.environment["PGGAN_CACHE"] = str(commands.folder / "cache")
    fail_calls(commands, shim, FSYNC_FOLDER=EINVAL, FLOCK=ENOLCK)
    first = assert_succeeded(commands.train(*SHORT, "--out", "run", "--total-kimg", "0.2"))
    assert first.err.count("warning: the file system of run has no locks") == 1
    assert first.err.count("warning: the file system of run cannot sync folders") == 1
    assert first.err.count("warning: the file system of the image cache ") == 1
    assert_succeeded(commands.run("-m", "pggan", "report", "run", "--out", "page.html"))
    assert (commands.folder / "page.html").stat().st_size > 10_000


def test_missing_flock_falls_back_to_another_lock(commands, shim, art):
    commands.environment["PGGAN_CACHE"] = str(commands.folder / "cache")
    fail_calls(commands, shim, FLOCK=ENOSYS)
    process = assert_succeeded(commands.run("-m", "datasets", "build", "art", "--resolution", "8", "--workers", "1"))
    assert process.err == ""


@pytest.fixture
def unprintable_name(commands, finished_run):
    """Return a finished run's folder name that is not valid UTF-8 and cannot be written in most encodings."""
    name = "写真 caf\udce9"
    try:
        shutil.copytree(finished_run, commands.folder / name)
    except OSError:
        pytest.skip("needs a file system that accepts any bytes in names")
    commands.environment["PYTHONIOENCODING"] = "cp1252"
    return name


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "checkpoints"],
        ["-m", "pggan", "sample", "--count", "1", "--device", "cpu", "--force", "--out", "写真.png"],
        ["-m", "pggan", "report"],
        [ROOT / "train.py", *TINY, "--out"],
    ],
    ids=lambda command: " ".join(map(str, command[1:3])),
)
def test_names_the_console_cannot_print_are_escaped(commands, unprintable_name, command):
    process = assert_succeeded(commands.run(*command, unprintable_name))
    assert "\\u5199\\u771f" in process.out + process.err


def test_caches_are_kept_in_the_temporary_folder_without_a_home_folder(commands, shim, art):
    temporary = commands.folder / "temporary"
    temporary.mkdir()
    fail_calls(commands, shim, GETPWUID=0)
    for name in ("HOME", "PGGAN_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        commands.environment.pop(name, None)
    commands.environment["TMPDIR"] = str(temporary)
    cache = temporary / f"pggan-{os.getuid()}"
    assert f"{cache}/metrics" in "".join(assert_succeeded(commands.run("-m", "metrics", "--help")).out.split())
    process = assert_succeeded(commands.train("art", *SHORT[1:], "--track", "tensorboard", "--out", "run"))
    assert process.err.count(f"there is no home folder, so caches are written to {cache}") == 1
    assert (cache / "datasets").is_dir()


NOTEBOOK = """
import io, sys, threading
from pggan.config import resolve_config
from pggan.training import train

class Cell(io.StringIO):  # like a notebook's output
    def fileno(self):
        raise io.UnsupportedOperation("fileno")

def train_twice():
    sys.stdout, sys.stderr = Cell(), Cell()
    try:
        for name in ("first", "second"):
            train(resolve_config(vars(parser.parse_args([*sys.argv[1:], "--out", name]))))
        outputs.append(sys.stdout.getvalue())
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

import argparse
from pggan.config import add_options
parser, outputs = argparse.ArgumentParser(), []
add_options(parser)
thread = threading.Thread(target=train_twice)
thread.start()
thread.join()
print(outputs[0])
"""


def test_training_runs_twice_in_a_notebook_thread(commands):
    process = assert_succeeded(commands.run("-c", NOTEBOOK, *SHORT))
    assert process.out.count("final samples") == 2
    sizes = [(commands.folder / name / "checkpoints" / "latest.pt").stat().st_size for name in ("first", "second")]
    assert sizes[0] == sizes[1]
