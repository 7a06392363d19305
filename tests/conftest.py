"""The long suite of faults: pytest -m faults --long (make test-faults) tries each fault more often and keeps count."""

import json
import platform
import time
from pathlib import Path

import pytest

counts = {}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="try faults as often as docs/reliability.md says")
    parser.addoption("--faults-table", metavar="FOLDER", help="write faults.md and faults.json there")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="make test-faults tries it"))


@pytest.fixture
def tries(request):
    """tries(short, long): how often a fault is tried."""
    return lambda short, long: long if request.config.getoption("--long") else short


@pytest.fixture
def count_fault(request):
    """count_fault(fault, tries): note that a fault was survived so many times; a failing test has a loss."""
    noted = {}

    def note(fault, number=1):
        noted[fault] = noted.get(fault, 0) + number

    yield note
    lost = getattr(request.node, "failed", False)
    for fault, number in noted.items():
        before = counts.get(fault, (0, 0))
        counts[fault] = (before[0] + number, before[1] + int(lost))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed


def pytest_sessionfinish(session):
    folder = session.config.getoption("--faults-table")
    if not folder or not counts:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = [{"fault": fault, "tries": tries, "losses": losses} for fault, (tries, losses) in sorted(counts.items())]
    import torch

    where = {
        "command": "make test-faults", "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(),
        "torch": torch.__version__, "machine": platform.machine(), "failed_tests": session.testsfailed,
    }  # fmt: skip
    (folder / "faults.json").write_text(json.dumps(where | {"faults": table}, indent=1) + "\n")
    lines = ["| fault | tries | losses |", "|---|---|---|"]
    lines += [f"| {row['fault']} | {row['tries']:,} | {row['losses']} |" for row in table]
    note = ", ".join(f"{key} {value}" for key, value in where.items())
    (folder / "faults.md").write_text("\n".join([*lines, "", note]) + "\n")
