"""Pages generated from the code: `python tests/docs/generated.py` writes them.

docs/commands.md is --help of every command; docs/tree.md is the first line of every module.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
ROOMS = ("pggan", "metrics", "datasets", "checkpoints")
COMMANDS_HEAD = """\
# Commands

The output of `--help` (for train.py, `--help-all`). `python tests/docs/generated.py` writes this page.
"""
TREE_HEAD = """\
# The tree

The first line of every module's docstring. `python tests/docs/generated.py` writes this page.
[How the modules fit together](code.md).
"""


def programs() -> dict[str, Callable[[], None]]:
    """Each program and its main()."""
    modules = {"train.py": "train"} | {
        f"python -m {name}": f"{name}.__main__" for name in ("pggan", "datasets", "metrics", "checkpoints")
    }
    return {name: importlib.import_module(module).main for name, module in modules.items()}


def help_of(main: Callable[[], None], *words: str) -> str:
    """What a command prints for --help, 100 columns wide."""
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1", "PGGAN_CACHE": "~/.cache/pggan"}),
        mock.patch.object(sys, "argv", ["train.py", *words, "--help"]),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(io.BytesIO(), write_through=True)) as stdout,
        contextlib.suppress(SystemExit),
    ):
        main()
    stdout.seek(0)
    return stdout.read().rstrip()


def subcommands(text: str) -> Iterator[str]:
    """The commands that a program's own help lists, indented by four."""
    listed = text.partition("COMMAND\n")[2].partition("\n\n")[0]
    for line in listed.splitlines():
        if line.startswith("    ") and line[4:5].strip():
            yield line.split()[0]


def commands_page() -> str:
    parts = [COMMANDS_HEAD]
    for name, main in programs().items():
        text = help_of(main, *(["--help-all"] if name == "train.py" else []))
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
        more = ["stats"] if name.endswith("metrics") else subcommands(text)
        parts += [f"### {name} {word}\n\n```text\n{help_of(main, word)}\n```\n" for word in more]
    return "\n".join(parts)


def tree_page() -> str:
    parts = [TREE_HEAD, table([ROOT / "train.py", ROOT / "console.py", ROOT / "hubconf.py"])]
    for room in ROOMS:
        for folder in sorted({path.parent for path in (ROOT / room).rglob("*.py")}):
            parts.append(f"## {folder.relative_to(ROOT)}\n\n{first_line(folder / '__init__.py')}\n")
            parts.append(table([path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]))
    return "\n".join(parts)


def table(modules: list[Path]) -> str:
    rows = [f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {first_line(path)} |" for path in modules]
    return "\n".join(["| module | |", "|---|---|", *rows, ""])


def first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


PAGES = {"commands.md": commands_page, "tree.md": tree_page}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")
