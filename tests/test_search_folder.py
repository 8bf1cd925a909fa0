"""The folder of a search: whose it is, what is removed from it, and its clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import LINE, report_of, tiny

from kerastl.errors import UserError


def test_the_budget_counts_all_starts_of_a_search(tmp_path: Path) -> None:
    from kerastl.progress import Progress
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.trial_log import TrialLog

    folder = SearchFolder(tmp_path)
    with TrialLog(folder, "val_loss", 9, 0.2, Progress()) as table:
        assert not table.out_of_time()
        time.sleep(0.25)
        assert table.out_of_time()
    # though no trial has ended
    with TrialLog(folder, "val_loss", 9, 0.2, Progress()) as table:
        assert table.out_of_time()
    with TrialLog(folder, "val_loss", 9, 60.0, Progress()) as table:
        assert not table.out_of_time()


def test_a_search_says_how_long_it_took_beside_its_trials(tmp_path: Path) -> None:
    from kerastl.progress import Progress
    from kerastl.report.search_report import search_text
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.trial_log import TrialLog

    said: list[str] = []

    class Listening(Progress):
        def note(self, message: str) -> None:
            said.append(message)

    losses = np.ones((3, 20), np.float32)
    report_of(tmp_path, losses[0], losses[1:])
    with TrialLog(SearchFolder(tmp_path), "val_loss", 9, None, Listening()) as table:
        table._began -= 100
        table.start(None)
        table.ended("1")
    report = report_of(tmp_path, losses[0], losses[1:])
    assert (report.seconds, round(report.wall_seconds)) == (4.0, 100)
    assert "2 trials in 1 min 40 s, of which trials took 4.0 s" in search_text(report)
    line = said[-1].split()
    assert (
        line[said[-2].split().index("seconds")] == "2.0"
        and line[said[-2].split().index("seconds") + 1] == "100"
    )


def test_another_search_gets_a_folder_of_its_own(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.jobs.open import open_splits
    from kerastl.progress import Progress
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same, folder_for

    recipe = tiny(solid_colours, tmp_path / "store")
    resolved, splits = open_splits(recipe)

    def place(tuner: str, trials: int = 20) -> str:
        spec = SearchSpec(recipe, resolved, LINE, SearchSettings(tuner, trials), splits)
        folder = folder_for(spec, tmp_path / "tuning" / "colours", Progress())
        folder.path.mkdir(parents=True, exist_ok=True)
        check_same(folder, spec)
        return folder.path.name

    assert [place("random"), place("grid"), place("bayesian")] == ["colours", "colours-2", "colours-3"]
    # the same search goes on where it was, with more trials too
    assert [place("grid"), place("random", 30)] == ["colours-2", "colours"]
    SearchFolder(tmp_path / "tuning" / "colours").search_json.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        place("random")


def test_scratch_of_killed_processes_is_removed_and_that_of_others_is_not(tmp_path: Path) -> None:
    from kerastl.search.search_folder import SearchFolder, scratch_folder

    code = (
        "import os, sys; from pathlib import Path; from kerastl.search.search_folder import SearchFolder, scratch_folder\n"
        "with scratch_folder(SearchFolder(Path(sys.argv[1]))) as place:\n"
        "    place.mkdir(); (place / 'pixels.npy').write_text('x'); print(place, flush=True); sys.stdin.readline()\n"
    )
    pipe = subprocess.PIPE

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
        )

    killed, alive = start(), start()
    try:
        places = [Path(process.stdout.readline().strip()) for process in (killed, alive) if process.stdout]
        killed.kill()
        killed.wait()
        assert all((place / "pixels.npy").is_file() for place in places), (
            "the control: a killed process leaves it"
        )
        with scratch_folder(SearchFolder(tmp_path)) as mine:
            mine.mkdir()
            assert [place.exists() for place in places] == [False, True]
        alive.communicate("\n", timeout=60)
    finally:
        for process in (killed, alive):
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_search_goes_on_under_another_name_and_not_with_another_seed(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.jobs.open import open_splits
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same

    def asked(**sets: Any) -> SearchSpec:
        recipe = tiny(solid_colours, tmp_path / "store", **sets)
        resolved, splits = open_splits(recipe)
        return SearchSpec(recipe, resolved, LINE, SearchSettings(), splits)

    folder = SearchFolder(tmp_path)
    for name in (None, "flowers", "other"):
        check_same(folder, asked(name=name))
    with pytest.raises(UserError, match="other than there: recipe"):
        check_same(folder, asked(seed=7))


def test_a_search_does_not_go_on_with_another_file_of_weights_under_the_same_name(
    solid_colours: Path, tmp_path: Path
) -> None:
    from kerastl.jobs.open import open_splits
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import SearchSettings, SearchSpec, check_same

    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"some")
    recipe = tiny(solid_colours, tmp_path / "store", **{"backbone.weights": str(weights)})
    resolved, splits = open_splits(recipe)
    spec = SearchSpec(recipe, resolved, LINE, SearchSettings(), splits)
    folder = SearchFolder(tmp_path / "search")
    folder.path.mkdir()
    for _ in range(2):
        check_same(folder, spec)
    weights.write_bytes(b"other")
    with pytest.raises(UserError, match="other than there: files"):
        check_same(folder, spec)


def test_a_folder_that_holds_something_else_is_no_search(tmp_path: Path) -> None:
    from kerastl.search.search_folder import SearchFolder
    from kerastl.search.spec import check_same

    class Asked:
        def identity(self) -> dict[str, str]:
            return {"recipe": "any"}

    asked: Any = Asked()
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="not the folder of a search and holds other files \\('cat'\\)"):
        check_same(SearchFolder(tmp_path / "photos"), asked)
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["cat"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".lock").touch()
    for _ in range(2):
        check_same(SearchFolder(tmp_path / "new"), asked)
