"""Where datasets and metrics keep their caches."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from pggan.checkpoints import lock
from pggan.datasets import find_cache_folder, pyramid
from pggan.datasets.cache_files import find_temporary_folder
from pggan.metrics import default_folder
from pggan.metrics.weights import find_download_folder

NAMES = ("PGGAN_CACHE", "XDG_CACHE_HOME", "HOME")
TEMPORARY = f"{tempfile.gettempdir()}/pggan-{os.getuid()}"


@pytest.mark.parametrize(
    ("chosen", "xdg", "home", "expected"),
    [
        ("/chosen", "/xdg", "/home/me", "/chosen"),
        (None, "/xdg", "/home/me", "/xdg/pggan"),
        (None, "/xdg", None, "/xdg/pggan"),
        (None, None, "/home/me", "/home/me/.cache/pggan"),
        ("", "", "/home/me", "/home/me/.cache/pggan"),
        (None, None, None, TEMPORARY),
    ],
)
def test_both_packages_keep_their_caches_in_one_place(monkeypatch, chosen, xdg, home, expected):
    for name, value in zip(NAMES, (chosen, xdg, home), strict=True):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if home is None:
        monkeypatch.setattr(Path, "home", fail_without_home)
    assert find_cache_folder() == Path(expected) and default_folder() == Path(expected, "metrics")


def fail_without_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_temporary_folder_is_reported_once(monkeypatch, capsys):
    find_temporary_folder.cache_clear()
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail_without_home)
    assert find_cache_folder() == find_cache_folder() == Path(TEMPORARY)
    assert capsys.readouterr().err.count("there is no home folder") == 1


def test_downloads_without_a_home_folder_do_not_go_to_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "~/.cache/torch/hub")  # torch's answer without a home folder
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path))
    assert find_download_folder() == tmp_path / "metrics"


def test_both_packages_work_without_locks_after_the_same_errors():
    assert pyramid.NO_LOCKS == lock.NO_LOCKS
