"""Options and counters of the long fault suite (make test-faults), which repeats each fault and counts losses."""

import json
import os
import platform
import time
from collections import Counter
from pathlib import Path

import pytest

tries, losses = Counter(), Counter()


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="repeat faults as often as docs/reliability.md states")
    parser.addoption("--faults-table", metavar="FOLDER", help="write faults.md and faults.json to this folder")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: "process" not in item.path.parts)  # slow tests first, to balance the workers
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="runs only with --long (make test-faults)"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Return a folder for caches that tests share, in every worker: drawing the embedded dataset takes seconds."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cache"


@pytest.fixture(name="tries")
def choose_tries(request):
    """Return a function tries(short, long): how often to repeat a fault, without and with --long."""
    return lambda short, long: long if request.config.getoption("--long") else short


@pytest.fixture
def count_fault(request):
    """Return a function count_fault(fault, number=1) that counts survived faults; a failing test counts as a loss."""
    return lambda fault, number=1: request.node.user_properties.append((fault, number))


def pytest_runtest_logreport(report):
    if report.when == "call":
        for fault, number in report.user_properties:
            tries[fault] += number
        losses.update({fault for fault, _ in report.user_properties} if report.failed else ())


def pytest_sessionfinish(session):
    folder = session.config.getoption("--faults-table")
    if not folder or not tries or hasattr(session.config, "workerinput"):
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = [{"fault": fault, "tries": tries[fault], "losses": losses[fault]} for fault in sorted(tries)]
    import torch

    setup = {
        "command": "make test-faults",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "failed_tests": session.testsfailed,
    }
    (folder / "faults.json").write_text(json.dumps(setup | {"faults": table}, indent=1) + "\n")
    lines = ["| fault | tries | losses |", "|---|---|---|"]
    lines += [f"| {row['fault']} | {row['tries']:,} | {row['losses']} |" for row in table]
    note = ", ".join(f"{key} {value}" for key, value in setup.items())
    (folder / "faults.md").write_text("\n".join([*lines, "", note]) + "\n")
