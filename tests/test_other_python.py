"""`make test-other` finds a Python of another version, and only one that answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "other_python.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def stub(path: Path, lines: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def found(folder: Path, own: str = "3.11") -> str:
    bash = shutil.which("bash")
    assert bash
    used = stub(folder / "venv" / "python", f"echo {own}")
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder)}
    done = subprocess.run([bash, str(SCRIPT), str(used)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_shim_that_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    stub(tmp_path / "bin" / "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    assert found(tmp_path) == ""
    stub(tmp_path / "bin" / "python3.12")
    assert found(tmp_path) == "python3.12"


def test_versions_of_pyenv_are_found_and_the_own_one_is_not_taken_again(tmp_path: Path) -> None:
    newest = stub(tmp_path / ".pyenv" / "versions" / "3.13.0" / "bin" / "python")
    stub(tmp_path / ".pyenv" / "versions" / "3.10.1" / "bin" / "python")
    assert found(tmp_path) == str(newest)
    assert found(tmp_path, own="3.13") == ""
    stub(tmp_path / "bin" / "python3.11")
    assert found(tmp_path, own="3.13") == "python3.11"
