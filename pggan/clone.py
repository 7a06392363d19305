"""Let other projects' packages named datasets, metrics or checkpoints be imported when a clone comes before them.

That is so with a clone on PYTHONPATH, and in a notebook or `python -c` that was started in the clone.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def prefer_other_package(name: str, file: str) -> None:
    """Replace this package in sys.modules by a package or module of the same name from the rest of sys.path, if any.

    Does nothing if the package is imported as part of pggan, or for its own command, as in `python -m datasets`.

    Args:
        name: `__name__` of the package that calls this. file: its `__file__`.
    """
    # While Python locates a command's module, sys.argv[0] is "-m" in place of "-m NAME"; afterwards it is the module's
    # file, also in spawned workers
    is_sought = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m") == name
    if "." in name or is_sought or sys.argv[:1] == [str(Path(file).with_name("__main__.py"))]:
        return
    clone = Path(file).resolve().parents[1]
    spec = PathFinder.find_spec(name, [folder for folder in sys.path if Path(folder).resolve() != clone])
    if spec and spec.loader:  # None for a folder without __init__.py
        sys.modules[name] = module_from_spec(spec)  # `import` returns this one, even if it is another than it loaded
        spec.loader.exec_module(sys.modules[name])
