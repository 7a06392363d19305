"""Generate two pages from the code: `python tests/docs/generated.py` writes them.

docs/commands.md is the --help of every command; docs/tree.md is the first docstring line of every module.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
PACKAGES = ("pggan", "metrics", "datasets", "checkpoints")
COMMANDS_HEAD = """\
# Commands

The output of `--help` (for train.py, `--help-all`). `python tests/docs/generated.py` writes this page.
"""
TREE_HEAD = """\
# The tree

The first line of every module's docstring. `python tests/docs/generated.py` writes this page.
[How the modules fit together](code.md).
"""


@cache
def load_programs() -> dict[str, Callable[[], None]]:
    """Return each program's main() by name."""
    programs = {"train.py": importlib.import_module("train").main}
    for name in ("pggan", "datasets", "metrics", "checkpoints"):
        # from the file, because other projects have packages of these names
        spec = spec_from_file_location(f"{name}.__main__", ROOT / name / "__main__.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        programs[f"python -m {name}"] = module.main
    return programs


def read_help(main: Callable[[], None], *words: str) -> str:
    """Return a command's --help output, 100 columns wide."""
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1", "PGGAN_CACHE": "~/.cache/pggan"}),
        mock.patch.object(sys, "argv", ["train.py", *words, "--help"]),
        mock.patch.object(sys, "stdout", io.TextIOWrapper(io.BytesIO(), write_through=True)) as stdout,
        contextlib.suppress(SystemExit),
    ):
        main()
    stdout.seek(0)
    return stdout.read().rstrip()


def list_subcommands(text: str) -> Iterator[str]:
    """Yield the commands that a program's help lists, indented by four spaces."""
    listed = text.partition("COMMAND\n")[2].partition("\n\n")[0]
    for line in listed.splitlines():
        if line.startswith("    ") and line[4:5].strip():
            yield line.split()[0]


def make_commands_page() -> str:
    parts = [COMMANDS_HEAD]
    for name, main in load_programs().items():
        text = read_help(main, *(["--help-all"] if name == "train.py" else []))
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
        more = ["stats"] if name.endswith("metrics") else list_subcommands(text)
        parts += [f"### {name} {word}\n\n```text\n{read_help(main, word)}\n```\n" for word in more]
    return "\n".join(parts)


def make_tree_page() -> str:
    parts = [TREE_HEAD, make_table([ROOT / "train.py", ROOT / "hubconf.py"])]
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            parts.append(f"## {folder.relative_to(ROOT)}\n\n{read_first_line(folder / '__init__.py')}\n")
            parts.append(make_table([path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]))
    return "\n".join(parts)


def make_table(modules: list[Path]) -> str:
    rows = [f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {read_first_line(path)} |" for path in modules]
    return "\n".join(["| module | |", "|---|---|", *rows, ""])


def read_first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


PAGES = {"commands.md": make_commands_page, "tree.md": make_tree_page}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")
