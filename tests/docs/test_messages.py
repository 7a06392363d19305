"""Messages mention only options that a command has."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from pggan.config import TrainConfig, option_name

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w-])--(no-)?([a-z][a-z0-9-]*[a-z0-9]|[a-z])(?![\w-]*=[\"'])")
FOREIGN_OPTIONS = {  # options of other programs that messages mention or the code passes
    "--create-dirs": "curl",
    "--help": "argparse",
    "--no-deps": "pip",
    "--nproc-per-node": "torchrun",
    "--measure": "benchmarks/overheads.py, for the process it starts",
}
MAY_BUILD_NAMES = {"option_name", "spell_option"}  # from the name of a TrainConfig field, so the option exists


def list_files() -> list[Path]:
    names = ("pggan", "datasets", "metrics", "checkpoints", "benchmarks")
    return [ROOT / "train.py", ROOT / "hubconf.py", *(path for name in names for path in (ROOT / name).rglob("*.py"))]


def find_strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every string of a module that is not a docstring, with its line; f-strings part by part."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno


def find_options(tree: ast.AST) -> Iterator[str]:
    """Yield the options that add_argument calls declare."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("--"))


@cache
def list_options() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in list_files()]
    found = {option for tree in trees for option in find_options(tree)} | {option_name(f) for f in fields(TrainConfig)}
    return found | {option_name(f).replace("--", "--no-") for f in fields(TrainConfig) if f.type == "bool"}


def find_unknown_options(source: str, options: set[str]) -> list[str]:
    """Return the options in a module's strings that no command has, and the lines that build an option's name."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in MAY_BUILD_NAMES:
            node.body = [ast.Pass()]
    for text, line in find_strings(tree):
        found += [f"line {line}: {m[0]}" for m in OPTION.finditer(text) if m[0] not in options]
        if text.endswith(("--", "--no-")) and re.search(r"(^|[\s(])--(no-)?$", text):
            found.append(f"line {line}: an option's name is built here; use config.option_name")
    return found


def test_messages_mention_only_options_that_exist():
    options = list_options() | FOREIGN_OPTIONS.keys()
    problems = {
        str(path.relative_to(ROOT)): found
        for path in list_files()
        if (found := find_unknown_options(path.read_text(encoding="utf-8"), options))
    }
    assert not problems, problems


def test_options_of_other_programs_are_not_declared_here():
    assert not FOREIGN_OPTIONS.keys() & list_options()


@pytest.mark.parametrize(
    "source",
    [
        'raise ValueError("use --label-size 3")',
        'say(f"{path}: --label-size {size} must agree with it")',
        'say(f"--{name} must agree with it")',
        'option = "--" + name.replace("_", "-")',
        'say("give --no-fmap-max")',
    ],
)
def test_nonexistent_option_is_found(source):
    assert find_unknown_options(source, list_options())


@pytest.mark.parametrize("source", ['say("use --fmap-max 8, --no-growing")', '"""--label-size"""', 'say("a -- b")'])
def test_existing_option_is_accepted(source):
    assert not find_unknown_options(source, list_options())
