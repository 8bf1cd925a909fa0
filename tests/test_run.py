"""The run folder: unique, atomic, and clear about what stands in the way."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kerastl.errors import UserError
from kerastl.run import create_run, environment, open_run
from kerastl.wording import safe_name
from kerastl.writing import (
    NoSpaceError,
    WriteError,
    explain_write_errors,
    replace_atomically,
    write_json_atomic,
    write_text_atomic,
)


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    runs = [create_run(tmp_path / "deep" / "runs", "digits") for _ in range(5)]
    assert len({run.path for run in runs}) == 5
    assert all(run.path.is_dir() for run in runs)
    time, _, rest = runs[0].name.partition("-digits")
    assert rest == "" and len(time) == len("20240131-235959")


def test_every_piece_lies_in_the_run_folder_under_its_name(tmp_path: Path) -> None:
    run = create_run(tmp_path, "x")
    pieces = {getattr(run, name).name for name in dir(type(run)) if isinstance(getattr(type(run), name), property)
              and name != "name"}  # fmt: skip
    assert pieces == {
        "recipe.toml", "environment.json", "data.json", "splits.csv", "plan.txt", "head_phase.csv",
        "finetune_phase.csv", "model.keras", "report.json", "report.md", "curves.png", "confusion.png", "worst.png", "worst.csv",
        "predictions.csv", "augmentation.png", "log.txt", "tensorboard", "scratch", "calibration.json",
        "near_copies.csv", "backbone.keras", "head.keras", "images",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", ".hidden", "naïve"])
def test_names_that_cannot_be_folders_are_refused_with_one_that_can(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="For example"):
        create_run(tmp_path, name)
    assert list(tmp_path.iterdir()) == []
    create_run(tmp_path, safe_name(name))


def test_new_text_replaces_the_old_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.md"
    write_text_atomic(target, "old")
    write_text_atomic(target, "neu äöü\n")
    assert target.read_bytes() == "neu äöü\n".encode()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_half_way_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "model.keras"
    target.write_text("old")
    with pytest.raises(failure), replace_atomically(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".keras"
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    target = tmp_path / "data.json"
    write_text_atomic(target, "a" * 100_000)
    writer = (
        "import sys\nfrom kerastl.writing import write_text_atomic\n"
        "for i in range(200): write_text_atomic(sys.argv[1], 'ab'[i % 2] * 100_000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(target)], cwd=Path(__file__).parents[1]
    ) as process:
        reads = 0
        while process.poll() is None:
            text = target.read_text()
            assert text in ("a" * 100_000, "b" * 100_000)
            reads += 1
    assert process.returncode == 0 and reads > 10


def test_json_refuses_what_other_programs_cannot_read(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_json_atomic(target, {"a": [1, None, "ü"]})
    with pytest.raises(ValueError):
        write_json_atomic(target, {"a": float("nan")})
    assert json.loads(target.read_text()) == {"a": [1, None, "ü"]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux' /dev/full")
def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "splits.csv"
    target.write_text("old")
    with (
        pytest.raises(NoSpaceError, match=r"No space left.*splits\.csv.*Free some space"),
        replace_atomically(target) as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_known_from_the_words_of_other_libraries() -> None:
    with pytest.raises(NoSpaceError), explain_write_errors("model.keras"):
        raise RuntimeError("file write failed: errno = 28, error message = 'No space left on device'")
    with pytest.raises(RuntimeError, match="else"), explain_write_errors("model.keras"):
        raise RuntimeError("something else")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_without_permission_is_named(code: int) -> None:
    with (
        pytest.raises(WriteError, match=r"runs/x cannot be written.*permissions"),
        explain_write_errors("runs/x"),
    ):
        raise OSError(code, os.strerror(code))


@pytest.mark.skipif(
    not hasattr(os, "seteuid") or os.geteuid() != 0, reason="changes the user, which needs root"
)
def test_a_read_only_runs_folder_is_refused(tmp_path: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(WriteError, match="cannot be written"):
            create_run(tmp_path / "runs", "x")
    finally:
        os.seteuid(0)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(WriteError, match="a file is in the way"):
        create_run(tmp_path / "runs", "x")
    assert (tmp_path / "runs").read_text() == "mine"


def test_open_run_names_what_is_missing(tmp_path: Path) -> None:
    run = create_run(tmp_path, "flowers")
    with pytest.raises(UserError, match=r"is not the folder of a run: it lacks recipe\.toml, model\.keras"):
        open_run(run.path)
    run.recipe_toml.write_text("")
    with pytest.raises(
        UserError, match=r"lacks model\.keras\. The run was not finished: repeat.*recipe\.toml"
    ):
        open_run(run.path)
    with pytest.raises(UserError, match="holds 1 runs; name one of them"):
        open_run(tmp_path)
    with pytest.raises(UserError, match=f"Did you mean '{run.name}'"):
        open_run(tmp_path / run.name.replace("flowers", "flower"))
    with pytest.raises(UserError, match=r"is a file.*Did you mean"):
        open_run(run.recipe_toml)
    run.model_keras.write_text("")
    assert open_run(run.path) == run


def test_environment_is_plain_and_needs_no_tensorflow() -> None:
    script = "import sys, json\nfrom kerastl.run import environment\nx = json.dumps(environment())\n" \
             "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])
    values = environment()
    assert values["python"].startswith("3.") and values["cpu_count"] >= 1
    assert values["versions"]["tensorflow"]
    assert values["packages"]["click"] and values["processor"] and values["command"]
    if "tensorflow" not in sys.modules:
        assert values["gpus"] is None, "nobody knows"
