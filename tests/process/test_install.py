"""Installed by pip, in a clone, or loaded by torch.hub, pggan works from any folder, and beside packages of others.

Others are Hugging Face's `datasets`, for which a stand-in is written, and a `checkpoints.py` of the user's own. With
--long, the stand-in makes way for the real package, if it is installed.
"""

import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from pggan import Generator
from pggan.checkpoints import save

PACKAGES = ("datasets", "metrics", "checkpoints")
EXTRAS = ("torchvision", "lsun", "video", "onnx", "safetensors")  # those that README.md's commands need
INSTALLS = ("wheel", "editable", "clone")
ORDERS = [(install, order) for install in INSTALLS for order in ("theirs first", "ours first")]
ORDERS[3] = pytest.param(*ORDERS[3], marks=pytest.mark.long)  # each costs two seconds, and this one is like the first
OURS = """
import pggan.__main__, pggan.checkpoints, pggan.datasets, pggan.metrics, pggan.training
from pggan.use.report.page import __file__ as page
assert pggan.datasets.DataError and pggan.metrics.Suite and pggan.checkpoints.RunDirectory
assert pggan.load("G.pt").sample(2).shape == (2, 3, 8, 8)
assert pathlib.Path(page).with_name("page.html").exists()
"""
CHECK = 'datasets.load_dataset and not hasattr(datasets, "DataError")'
THEIRS = f"""
import datasets, datasets.features, checkpoints
assert {CHECK} and checkpoints.VALUE == "the user's"
"""
HUB = """
import sys, torch
G = torch.hub.load({clone!r}, "trained", "G.pt", source="local")
assert G.sample(2).shape == (2, 3, 8, 8)
assert sys.modules["pggan"].__file__.startswith({clone!r})
import pggan.training  # from the clone, which has left sys.path
"""

COMMANDS = """
import contextlib, runpy, sys
*modules, script = sys.argv[1:]
for module in modules:
    sys.argv = ["-m", "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
for arguments in ["--help"], ["G.pt", "--seeds", "0-3", "--out", "grid.png"]:
    sys.argv = [script, "sample", *arguments]
    with contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
"""


class Environment:
    """A virtual environment that sees the packages of this one, and a folder of the user's to work in.

    Args:
        folder: an empty one. clone: the code. install: one of INSTALLS; the clone is first in PYTHONPATH.
        is_real: whether to use Hugging Face's own `datasets` rather than a stand-in.
    """

    def __init__(self, folder, clone, install, is_real):
        venv.create(folder / "venv", symlinks=True)
        self.scripts, self.user = folder / "venv" / "bin", folder / "user"
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.variables |= {"PGGAN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.user.mkdir()
        self.site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
        outer = [path for path in sys.path if Path(path).name.endswith("-packages")]
        (self.site / "outer.pth").write_text("\n".join(outer))
        if install == "clone":
            self.variables["PYTHONPATH"] = str(clone)
        else:
            pip = f"pip --python {self.scripts / 'python'} --disable-pip-version-check install --quiet --no-index"
            arguments = [*pip.split(), "--no-deps", "--no-build-isolation", *["-e"][: install == "editable"], clone]
            subprocess.run([sys.executable, "-m", *map(str, arguments)], env=self.variables, check=True)
        if not is_real:
            (self.site / "datasets").mkdir()
            (self.site / "datasets" / "__init__.py").write_text("def load_dataset(): ...")
            (self.site / "datasets" / "features.py").touch()
        (self.user / "checkpoints.py").write_text('VALUE = "the user\'s"')
        network = {"resolution": 8, "channels": 3, "fmap_base": 32, "fmap_max": 8}
        state = {"G_ema": Generator(**network).state_dict()}
        stage = {"resolution": 8, "alpha": 1.0}
        content = {"images": 0, "stage": stage, "config": {}, "networks": {"generator": network}, "classes": []}
        save(self.user / "G.pt", {**content, "state": state})

    def run(self, *arguments, program="python", cwd=None):
        """Return what a program of the environment prints, by default in the user's folder."""
        process = subprocess.run(
            [self.scripts / program, *map(str, arguments)],
            cwd=cwd or self.user,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a copy of the code, with the links in pggan/ as on Windows and in torch.hub's downloads: as text files."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("pggan", *PACKAGES):
        shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "hubconf.py", "train.py"):
        shutil.copy(ROOT / name, clone)
    for name in PACKAGES:
        (clone / "pggan" / name).unlink()
        (clone / "pggan" / name).write_text(f"../{name}")
    return clone


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.long)])
def is_real(request):
    if request.param == "real":
        try:
            metadata.version("datasets")
        except metadata.PackageNotFoundError:
            pytest.skip("needs Hugging Face's package: pip install datasets")
    return request.param == "real"


@pytest.fixture(scope="module")
def environments(clone, is_real, tmp_path_factory):
    """Return environments(install), which makes each environment once."""
    made = {}

    def get(install):
        if install not in made:
            made[install] = Environment(tmp_path_factory.mktemp(install), clone, install, is_real)
        return made[install]

    return get


@pytest.mark.parametrize("install, order", ORDERS)
def test_packages_of_others_are_left_alone(environments, install, order):
    program = THEIRS + OURS + THEIRS if order == "theirs first" else OURS + THEIRS + OURS
    environments(install).run("-c", "import pathlib" + program)


def test_torch_hub_leaves_packages_of_others_alone(environments, clone):
    environments("wheel").run("-c", "import datasets" + HUB.format(clone=str(clone)) + THEIRS)


def test_notebook_in_the_clone_imports_packages_of_others(environments, clone):
    """A kernel that starts there has the clone first in sys.path, as has `python -c`."""
    kernel = environments("wheel")
    ours = OURS.replace("G.pt", str(kernel.user / "G.pt"))
    cells = ["import pathlib, datasets", ours, f"assert pggan.__file__.startswith({str(clone)!r}) and {CHECK}"]
    kernel.run("-c", f"for cell in {cells!r}: exec(cell)", cwd=clone)


def test_commands_run_in_any_folder_and_name_themselves_as_started(environments):
    """All in one process, which imports torch once."""
    user = environments("wheel")
    text = user.run("-c", COMMANDS, *[f"pggan.{name}" for name in PACKAGES], user.scripts / "pggan")
    assert all(f"usage: python -m pggan.{name} " in text and f"python -m {name}" not in text for name in PACKAGES)
    assert "usage: pggan sample " in text and "\n  pggan sample runs/" in text and "python -m pggan sample" not in text
    assert Image.open(user.user / "grid.png").width > 8


@pytest.mark.parametrize("install", INSTALLS)
def test_caches_are_built_by_worker_processes(environments, install):
    user = environments(install)
    (user.user / "photos").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(user.user / "photos" / f"{i}.png")
    user.run("-m", "pggan.datasets", "build", "photos", "--workers", "2")


def test_wheel_adds_one_name_and_every_module(environments):
    site = environments("wheel").site
    added = {path.name.partition("-")[0] for path in site.iterdir()} - {"outer.pth", "datasets", "__pycache__"}
    assert added == {"pggan"}
    modules = {path.relative_to(ROOT) for path in (ROOT / "pggan").rglob("*.py")}
    modules |= {Path("pggan", path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert {path.relative_to(site) for path in (site / "pggan").rglob("*.py")} == modules


def test_requirements_are_those_of_the_package_and_of_some_extras():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [project["optional-dependencies"][name] for name in EXTRAS]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == [*project["dependencies"], *chain.from_iterable(chosen)]
