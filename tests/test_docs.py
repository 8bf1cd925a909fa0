"""The documents say what the code does."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from kerastl.cli import COMMANDS, cli
from kerastl.recipe import load_recipe, recipe_keys, shipped_recipes

ROOT = Path(__file__).parents[1]
GENERATOR = ROOT / "tools" / "docs.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generator", GENERATOR)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_what_the_code_says(generator: ModuleType) -> None:
    assert generator.stale_pages(ROOT / "docs") == [], "run `make docs`"


def test_a_page_that_is_stale_or_missing_is_noticed(generator: ModuleType, tmp_path: Path) -> None:
    for name, make in generator.PAGES.items():
        (tmp_path / name).write_text(make(), encoding="utf-8")
    assert generator.stale_pages(tmp_path) == []
    page = tmp_path / "recipes.md"
    page.write_text(page.read_text(encoding="utf-8").replace("`dropout`", "`drop_out`"), encoding="utf-8")
    (tmp_path / "cli.md").unlink()
    assert generator.stale_pages(tmp_path) == ["cli.md", "recipes.md"]


def test_the_recipe_page_names_every_key(generator: ModuleType) -> None:
    page = generator.recipes_page()
    for dotted, _, _ in recipe_keys():
        assert f"| `{dotted.rpartition('.')[2]}` |" in page


def commands_in(page: Path) -> list[str]:
    """Lines of code blocks that call kerastl, without comments and prompts."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    .*\n)+", text, flags=re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (line.strip().removeprefix("$ ").removeprefix(".venv/bin/") for line in lines)
    return [line for line in found if line.startswith("kerastl ")]


def parse(line: str) -> None:
    """Let click read a command line without running the command.

    Raises:
        click.UsageError, RecipeError: it could not be run.
    """
    words = shlex.split(line, comments=True)[1:]
    root = click.Context(cli, info_name="kerastl")
    if not words or words[0].startswith("-"):
        return
    name, command, rest = cli.resolve_command(root, words)
    assert command is not None
    if {"-h", "--help"} & set(rest):
        return
    values = command.make_context(name, rest, parent=root).params
    recipe = values.get("recipe")
    if "sets" in values:
        load_recipe(recipe if recipe in shipped_recipes() else None, values["sets"])


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page.is_file() and page.name not in ("cli.md", "recipes.md")]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_command_in_a_document_can_be_parsed(page: Path) -> None:
    for line in commands_in(page):
        parse(line)


@pytest.mark.parametrize("line", ["kerastl fti", "kerastl fit --dat photos", "kerastl fit --set sed=1"])
def test_a_command_that_would_fail_is_noticed(line: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n```bash\n# so:\n$ {line}   # a comment\n```\n")
    assert len(commands_in(page)) == 1
    with pytest.raises(Exception, match=r"Did you mean|No such option"):
        parse(commands_in(page)[0])


def test_every_make_target_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "help", "serve", "lint", "check", "install"} <= targets
    for page in [*WRITTEN, ROOT / "saved_models" / "README.md"]:
        used = set(
            re.findall(r"(?:^|`|    )make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        )
        assert used <= targets, page.name


def test_help_of_every_command_is_in_the_command_line_page(generator: ModuleType) -> None:
    page = generator.command_line_page()
    for name in COMMANDS:
        assert f"## kerastl {name}\n" in page


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-slow", "lint", "check", "serve", "clean"):
        assert re.search(rf"^  {target} +\S", done.stdout, flags=re.MULTILINE)


def test_what_the_quick_tests_leave_out_the_slow_ones_run() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    marks = [line.partition(":")[0] for line in config["tool:pytest"]["markers"].split("\n") if line]
    assert len(marks) >= 3
    assert f'-m "{" and ".join(f"not {mark}" for mark in marks)}"' in config["tool:pytest"]["addopts"]
    assert f'-m "{" or ".join(marks)}"' in (ROOT / "Makefile").read_text(encoding="utf-8")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"`{mark}`" in page for mark in marks)


def test_the_doc_check_fails_from_the_shell_when_a_page_is_stale(tmp_path: Path) -> None:
    copy = tmp_path / "tools" / "docs.py"
    copy.parent.mkdir()
    shutil.copy(GENERATOR, copy)
    command = [sys.executable, str(copy)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "cli.md" in done.stderr
    subprocess.run(command, check=True, env=environment)
    assert subprocess.run([*command, "--check"], env=environment).returncode == 0


def run_python_in(page: Path) -> dict[str, object]:
    """Run the Python blocks of a page one after the other; the names that they leave."""
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, page.name, "exec"), names)
    return names


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_python_in(ROOT / "docs" / "python.md")
    said = capsys.readouterr().out
    assert "Did you mean 'unfreeze_from'" in said and "head 0" in said
    assert names["fitted"].report.metrics.accuracy > 0.5  # type: ignore[attr-defined]
    assert (tmp_path / "saved_models" / "digits" / "1").is_dir()


def cells_of(notebook: Path) -> list[dict[str, object]]:
    return [
        cell
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "notebook"}
    for cell in cells_of(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)  # type: ignore[arg-type]
    assert names["fitted"].report.metrics.accuracy > 0.8  # type: ignore[attr-defined]
    assert names["exported"].path.is_dir()  # type: ignore[attr-defined]


def test_a_notebook_holds_no_outputs() -> None:
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells_of(notebook))


def test_an_example_that_fails_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError):
        run_python_in(page)
