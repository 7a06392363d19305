"""Messages name no option that no command has."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from pggan.config import TrainConfig, option_name

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w-])--(no-)?([a-z][a-z0-9-]*[a-z0-9]|[a-z])(?![\w-]*=[\"'])")
OF_OTHERS = {  # programs of others, named in messages or run
    "--create-dirs": "curl",
    "--help": "argparse",
    "--no-deps": "pip",
    "--nproc-per-node": "torchrun",
    "--measure": "benchmarks/overheads.py, which starts itself with it",
}
MAY_BUILD_NAMES = {"option_name", "spell_option"}  # out of the name of a field of TrainConfig, which is sure to exist


def files() -> list[Path]:
    rooms = ("pggan", "datasets", "metrics", "checkpoints", "benchmarks")
    return [ROOT / "train.py", ROOT / "hubconf.py", *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]


def texts(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every string of a module that is not a docstring, f-strings in their parts, with its line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno


def declared(tree: ast.AST) -> Iterator[str]:
    """The options that calls of add_argument declare."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("--"))


def known() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files()]
    found = {option for tree in trees for option in declared(tree)} | {option_name(f) for f in fields(TrainConfig)}
    return found | {option_name(f).replace("--", "--no-") for f in fields(TrainConfig) if f.type == "bool"}


def unknown(source: str, options: set[str]) -> list[str]:
    """Options in a module's strings that no command has, and places that build the name of one."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in MAY_BUILD_NAMES:
            node.body = [ast.Pass()]
    for text, line in texts(tree):
        found += [f"line {line}: {m[0]}" for m in OPTION.finditer(text) if m[0] not in options]
        if text.endswith(("--", "--no-")) and re.search(r"(^|[\s(])--(no-)?$", text):
            found.append(f"line {line}: the name of an option is built; let config.option_name build it")
    return found


def test_every_option_in_a_message_is_one_that_a_command_has():
    options = known() | OF_OTHERS.keys()
    problems = {
        str(path.relative_to(ROOT)): found
        for path in files()
        if (found := unknown(path.read_text(encoding="utf-8"), options))
    }
    assert not problems, problems


def test_what_other_programs_have_is_not_declared_here_too():
    assert not OF_OTHERS.keys() & known()


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
def test_an_option_that_is_not_there_is_found(source):
    assert unknown(source, known())


@pytest.mark.parametrize("source", ['say("use --fmap-max 8, --no-growing")', '"""--label-size"""', 'say("a -- b")'])
def test_what_is_there_is_no_problem(source):
    assert not unknown(source, known())
