"""The packages are imported as pggan.datasets, pggan.metrics and pggan.checkpoints, each module once, beside others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = """
import runpy, sys
sys.argv = ["-m", "--help"]
for name in ("datasets", "metrics", "checkpoints"):
    sys.orig_argv = ["python", "-m", name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit:
        pass
assert not [name for name in sys.modules if name.startswith(("datasets.", "metrics.", "checkpoints."))]
import datasets, pggan.datasets
assert datasets.DataError is pggan.datasets.DataError
"""
OTHERS = """
import datasets, metrics, checkpoints
sys.path.append({root!r})
import pggan.datasets
assert "torch" not in sys.modules  # takes seconds to import; each worker process would, too
import pggan.use.evaluate, pggan.training, pggan.config
assert pggan.Generator and pggan.load and "load" in dir(pggan)
assert not hasattr(datasets, "DataError") and pggan.datasets.DataError
"""


def run(folder, program):
    process = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr


def test_commands_in_a_clone_load_each_module_once():
    run(ROOT, COMMANDS)


@pytest.mark.parametrize("links", [True, False])
def test_packages_of_the_same_names_are_left_alone(tmp_path, links):
    """Without links: on Windows, and after torch.hub's download, each is a text file."""
    for name in ("datasets", "metrics", "checkpoints"):
        shutil.copytree(ROOT / name, tmp_path / "clone" / name)
        (tmp_path / f"{name}.py").touch()
    shutil.copytree(ROOT / "pggan", tmp_path / "clone" / "pggan", symlinks=True)
    if not links:
        for name in ("datasets", "metrics", "checkpoints"):
            (tmp_path / "clone" / "pggan" / name).unlink()
            (tmp_path / "clone" / "pggan" / name).write_text(f"../{name}")
    run(tmp_path, "import sys" + OTHERS.format(root=str(tmp_path / "clone")))
