"""Everything public says what it is: modules, and the classes and functions defined in them."""

import ast
import importlib
import pydoc

import pytest
from fences import ROOT

ROOMS = ("pggan", "metrics", "datasets", "checkpoints")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
OF_A_COMMAND = {"main", "add_parser", "run"}


def definitions(path):
    return {n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize(
    "path",
    [ROOT / "train.py", ROOT / "hubconf.py", ROOT / "console.py", *MODULES],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_and_classes_are_documented(path):
    """But for the parts that every command has, which its module's docstring and its --help tell of."""
    public = {name: node for name, node in definitions(path).items() if not name.startswith("_")}
    assert not [name for name, node in public.items() if not ast.get_docstring(node) and name not in OF_A_COMMAND]


@pytest.mark.parametrize("room", ROOMS)
def test_pydoc_reads_like_a_page(room):
    text = pydoc.render_doc(importlib.import_module(room), renderer=pydoc.plaintext)
    assert "DESCRIPTION" in text or text.splitlines()[3].strip()
    assert "PACKAGE CONTENTS" in text
