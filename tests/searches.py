"""What the tests of the search have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import small_backbone_file

from kerastl.recipe import Recipe, load_recipe, resolve
from kerastl.search.hyperparameters import Hyperparameter, Space
from kerastl.search.space import load_space

FIRST, SECOND = "block2_out", "block1_out"
TINY: dict[str, Any] = {
    "backbone.name": small_backbone_file(),
    "augment.views": 2,
    "head_phase.epochs": 3,
    "finetune_phase.epochs": 1,
}


LINE = Space((Hyperparameter("head.dropout", low=0.0, high=0.9),))


def tiny(source: Path, store: Path, **sets: Any) -> Recipe:
    flags = {
        **TINY,
        "head.features": "last",
        "head.start": "zeros",
        "data.source": str(source),
        "cache.directory": str(store),
        "cache.mode": "disk",
    }
    return load_recipe(flags={**flags, **{key.replace("__", "."): value for key, value in sets.items()}})


def space_of(text: str, folder: Path, recipe: Recipe | None = None) -> Space:
    (folder / "space.toml").write_text(text)
    recipe = recipe or load_recipe("photos")
    return load_space(folder / "space.toml", recipe, resolve(recipe, 1000, 10))


def opened(folder: Path, tuner: str, space: Space, trials: int, seed: int = 0, first: Any = None) -> Any:
    """An oracle that begins, or goes on, in a folder."""
    from kerastl.search.oracle import make_oracle
    from kerastl.search.search_folder import SearchFolder

    oracle = make_oracle(tuner, space, "min", trials, 5, seed, first)
    oracle.open(SearchFolder(folder))
    return oracle


def searched(folder: Path, run: Any, trials: int = 4, tuner: str = "random", space: Space = LINE) -> Any:
    from kerastl.search.trial import search

    oracle = opened(folder, tuner, space, trials)
    search(oracle, run)
    return oracle


def scored(recipe: Recipe, values: dict[str, Any], shared: Any, heads: Any, **options: Any) -> Any:
    from kerastl.search.trial import run_trial, trial_recipe

    options = {"monitor": "val_calibrated_loss", **options}
    return run_trial(trial_recipe(recipe, values, shared), shared, heads, **options)


def graphs_alive() -> int:
    import gc

    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


def report_of(
    folder: Path, baseline: np.ndarray, trials: np.ndarray, shares: dict[int, float] | None = None
) -> Any:
    """The report of a search whose trials lost so much on each image."""
    from kerastl.report.search_report import COMPLETED, TrialRecord
    from kerastl.search.results import make_report
    from kerastl.search.search_folder import SearchFolder, read_records, write_record

    place = SearchFolder(folder)
    score = float(baseline.mean())
    write_record(place.baseline, TrialRecord("baseline", {}, score=score, losses=baseline))
    for number, row in enumerate(trials):
        values, share = {"head.dropout": number / 50}, (shares or {}).get(number, 1.0)
        record = TrialRecord(
            str(number), values, share, COMPLETED, float(row.mean()), seconds=2.0, losses=row
        )
        write_record(place.of_trial(str(number)), record)
    return make_report(place, "d", LINE, "random", "val_loss", "", read_records(place), "")


def command(source: Path, *words: str) -> list[str]:
    sets = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    return ["tune", "--data", str(source), "--name", "colours", *sets, "--no-export", *words]
