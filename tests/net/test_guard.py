"""The net holds what users hold on to: it imports `kerastl` itself and nothing inside it, and replaces nothing of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("*.py"))


def reaches_inside(source: str) -> list[str]:
    """What a file takes from inside the package, a line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            public = node.module != "kerastl" or {alias.name for alias in node.names} <= public_names()
            names += [] if public else [f"kerastl.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr in (
            "import_module",
            "setattr",
            "patch",
            "MonkeyPatch",
        ):
            names = [f"kerastl.{node.attr}"]
        elif isinstance(node, ast.Name) and node.id in ("monkeypatch", "__import__"):
            names = [f"kerastl.{node.id}"]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "kerastl"
        ):
            names = [] if node.attr in public_names() | {"__all__"} else [f"kerastl.{node.attr}"]
        else:
            names = []
        found += [
            f"line {getattr(node, 'lineno', 0)}: {name}" for name in names if name.startswith("kerastl.")
        ]
    return found


def public_names() -> set[str]:
    import kerastl

    return set(kerastl.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_of_the_net_knows_the_public_api_and_the_command_line_alone(path: Path) -> None:
    assert reaches_inside(path.read_text()) == []


INSIDE = [
    "import kerastl.cli",
    "import kerastl.recipe as recipe",
    "from kerastl.recipe import load_recipe",
    "def late():\n    from kerastl.run import open_run",
    "from kerastl import jobs",
    "import kerastl\nkerastl.jobs.fit",
    "import importlib\nimportlib.import_module('kerastl.cli')",
    "def test(monkeypatch):\n    monkeypatch.delattr('kerastl.fit')",
    "import pytest\nwith pytest.MonkeyPatch.context() as patch: pass",
    "from unittest import mock\nmock.patch('kerastl.fit')",
]


@pytest.mark.parametrize("source", INSIDE)
def test_a_file_that_reaches_inside_is_caught(source: str) -> None:
    assert reaches_inside(source)


def test_what_users_may_import_is_no_reach_inside() -> None:
    source = "import kerastl\nfrom kerastl import fit, load_recipe\nkerastl.fit(kerastl.load_recipe('kerastl.toml'))"
    assert reaches_inside(source) == []
