"""Every module, and every public class and function defined in one, has a docstring."""

import ast
import importlib
import pydoc

import pytest
from fences import ROOT

PACKAGES = ("pggan", "metrics", "datasets", "checkpoints")  # folders
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
COMMAND_FUNCTIONS = {"main", "add_parser", "run"}


def find_definitions(path):
    return {n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize(
    "path",
    [ROOT / "train.py", ROOT / "hubconf.py", *MODULES],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_and_classes_are_documented(path):
    """Skip the functions that every command has: the module's docstring and --help describe them."""
    public = {name: node for name, node in find_definitions(path).items() if not name.startswith("_")}
    assert not [name for name, node in public.items() if not ast.get_docstring(node) and name not in COMMAND_FUNCTIONS]


@pytest.mark.parametrize("package", PACKAGES)
def test_pydoc_shows_description_and_contents(package):
    module = importlib.import_module(package if package == "pggan" else f"pggan.{package}")
    text = pydoc.render_doc(module, renderer=pydoc.plaintext)
    assert "DESCRIPTION" in text or text.splitlines()[3].strip()
    assert "PACKAGE CONTENTS" in text
