"""Windows has no `fcntl`: what needs no locks works there, and all else ends with one message, before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """if True:
    import contextlib, io, json, sys
    sys.modules["fcntl"] = None
    from kerastl.cli import COMMANDS, main
    lines = [*([name, "--help"] for name in COMMANDS), *json.loads(sys.argv[1])]
    for words in ([["--help"], *lines] if not sys.argv[2:] else lines[len(COMMANDS):]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(words)
            except SystemExit as error:
                code = error.code
        print(json.dumps([words, code, out.getvalue(), err.getvalue()]))
"""


def results(folder: Path, lines: list[list[str]], alone: bool = False) -> dict[str, tuple[int, str, str]]:
    """Exit code, output and errors of command lines in a process without `fcntl`, and of every command's help."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(lines), *(["alone"] if alone else [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {" ".join(words): (code, out, err) for words, code, out, err in rows}


def test_help_and_listings_need_no_locks(tmp_path: Path) -> None:
    listings = [["backbones"], ["datasets"], ["models", "list"], ["models", "rollback", "--help"]]
    found = results(tmp_path, listings)
    assert len(found) > 15
    assert {code for code, _, _ in found.values()} == {0}, found
    assert all("Usage: kerastl" in out for words, (_, out, _) in found.items() if words.endswith("--help"))


@pytest.mark.parametrize("words", ["fit digits", "tune digits --trials 1", "models rollback m"])
def test_what_needs_locks_says_so_before_it_works(tmp_path: Path, words: str) -> None:
    for version in "12":
        version_folder = tmp_path / "saved_models" / "m" / version
        version_folder.mkdir(parents=True)
        (version_folder / "saved_model.pb").touch()
    ((code, out, err),) = results(tmp_path, [words.split()], alone=True).values()
    assert (code, out) == (2, "")
    assert "file locks" in err and "WSL" in err and "fault in kerastl" not in err
    assert not (tmp_path / "runs").exists()
    assert sorted(path.name for path in (tmp_path / "saved_models" / "m").glob("[0-9]*")) == ["1", "2"]


def test_where_nobody_can_tell_a_lock_counts_as_held(tmp_path: Path) -> None:
    """So that what is kept can be listed, and is not removed."""
    (tmp_path / "lock").touch()
    program = "import sys; sys.modules['fcntl'] = None; from pathlib import Path; from kerastl.locking import FileLock\n"
    program += "print([FileLock(Path(name)).held() for name in ('lock', 'none')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "[True, False]\n", done.stderr
