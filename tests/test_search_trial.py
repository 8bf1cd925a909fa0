"""Trials: what they share, what they take over, and what ends one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import FIRST, LINE, SECOND, graphs_alive, scored, tiny

from kerastl.errors import TrainingError
from kerastl.recipe import resolve
from kerastl.search.hyperparameters import UNFREEZE_POINT, Hyperparameter, Space


def test_a_trial_whose_answers_are_no_numbers_fails_though_its_loss_is_one(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.jobs.open import open_splits
    from kerastl.report.search_report import FAILED
    from kerastl.search.head_phases import HeadPhases
    from kerastl.search.search_folder import SearchFolder, read_record
    from kerastl.search.spec import SearchSettings, SearchSpec
    from kerastl.search.trial import TrialRunner

    # One step an epoch: its loss is that of the weights before it.
    recipe = tiny(
        solid_colours, tmp_path / "store", finetune_phase__unfreeze_from="backbone",
        head_phase__batch_size=512, head_phase__warmup_epochs=0.0, head_phase__optimizer="sgd",
        head_phase__gradient_clip_norm=0.0,
    )  # fmt: skip
    folder, shared = SearchFolder(tmp_path / "search"), shared_of(recipe)
    heads = HeadPhases(folder.heads)
    spec = SearchSpec(recipe, *open_splits(recipe)[:1], LINE, SearchSettings(), shared.splits)
    runner = TrialRunner(spec, folder, shared, heads)
    place = folder.of_trial("0")
    with pytest.raises(TrainingError, match="no finite answer in epoch 1"):
        runner.run(place, "0", {"head_phase.learning_rate": 3e38})
    record = read_record(place)
    assert (
        record is not None and record.status == FAILED and "Lower head_phase.learning_rate" in record.reason
    )
    assert runner.run(folder.of_trial("1"), "1", {"head_phase.learning_rate": 1e-3}) > 0


@pytest.mark.slow
def test_each_image_view_and_cut_passes_the_frozen_part_once(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store")
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    cuts = (FIRST, SECOND)
    settings = [
        {UNFREEZE_POINT: cut, "finetune_phase.learning_rate": rate} for rate in (1e-4, 1e-3) for cut in cuts
    ]
    results = [scored(recipe, values, shared, heads) for values in settings]
    counts = shared.splits.counts()
    once = 2 * counts["train"] + counts["validation"]
    assert shared.forward_passes == once * len(cuts) and shared.decoded == 1
    assert (heads.trained, heads.reused) == (1, 3)
    assert all(result.losses.shape == (counts["validation"],) for result in results)
    # nothing of the test split was decoded
    assert "test" not in shared.prepared(resolve(recipe, 10, 3)).inputs

    # the control: trials that share nothing
    apart = 0
    for number, values in enumerate(settings[:2]):
        alone = tiny(solid_colours, tmp_path / f"store-{number}")
        for again in range(2):
            other = shared_of(
                dataclasses.replace(alone, cache=dataclasses.replace(alone.cache, mode="memory"))
            )
            scored(alone, values, other, HeadPhases(tmp_path / f"heads-{number}-{again}"))
            apart += other.forward_passes
    assert apart == once * 4 > shared.forward_passes


@pytest.mark.slow
def test_features_in_memory_serve_all_trials_too(solid_colours: Path, tmp_path: Path, shared_of: Any) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(
        solid_colours, tmp_path / "store", cache__mode="memory", finetune_phase__unfreeze_from="backbone"
    )
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    for values in ({}, {"head.pooling": "gem"}, {UNFREEZE_POINT: FIRST}):
        scored(recipe, values, shared, heads)
    counts = shared.splits.counts()
    once = 2 * counts["train"] + counts["validation"]
    # all poolings lie in the first trial's pass; the cut is another part of the network
    assert shared.forward_passes == 2 * once and heads.trained == 2
    shared.cache.release()
    other = shared_of(recipe)
    scored(recipe, {}, other, heads)
    assert other.forward_passes == once, "the control: another search has a memory of its own"


def test_a_search_warns_before_it_begins_where_the_store_has_no_room_for_all_cuts(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases
    from kerastl.search.trial import room_warning

    first, second = FIRST, SECOND
    recipe = tiny(solid_colours, tmp_path / "store", finetune_phase__unfreeze_from=first)
    rates = Hyperparameter("head_phase.learning_rate", values=(1e-3, 1e-2), ordered=True)  # of no feature
    space = Space((Hyperparameter(UNFREEZE_POINT, values=("backbone", first, second), ordered=True), rates))
    shared, heads = shared_of(recipe), HeadPhases(tmp_path / "heads")
    assert room_warning(recipe, space, shared) == "", "the control"
    assert shared.forward_passes == 0, "nothing is run"
    counts = shared.splits.counts()
    # pooled features in three ways, once for all cuts, and the activations at both cuts
    pooled, activations = 3 * 8 * 4, 2 * (8 * 8 * 8) * 2
    needed = (2 * counts["train"] + counts["validation"]) * (pooled + activations)

    def room_is(left: int) -> None:
        shared.cache.folder.max_bytes = left + sum(array.bytes for array in shared.cache.folder.arrays())

    room_is(needed)
    assert room_warning(recipe, space, shared) == ""
    room_is(needed - 1)
    assert "not all can be kept there" in room_warning(recipe, space, shared)
    # what lies there already needs no room
    room_is(10**9)
    for values in ({}, {UNFREEZE_POINT: second}):
        scored(recipe, values, shared, heads)
    room_is(0)
    assert room_warning(recipe, space, shared) == ""
    others = Space((Hyperparameter("augment.color", values=(0.1, 0.3), ordered=True),))
    assert "not all can be kept there" in room_warning(recipe, others, shared)


def test_a_head_phase_that_is_taken_over_changes_no_score(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    phases = {"head_phase__epochs": 1, "finetune_phase__epochs": 3, "finetune_phase__learning_rate": 1e-3}
    recipe = tiny(solid_colours, tmp_path / "store", head__dropout=0.5, **phases)
    values = {UNFREEZE_POINT: FIRST}
    shared = shared_of(recipe)
    first = scored(recipe, values, shared, HeadPhases(tmp_path / "heads"))
    assert first.winner == "finetune_phase"
    kept = HeadPhases(tmp_path / "heads")  # another process: nothing in memory
    second = scored(recipe, values, shared, kept)
    assert (kept.trained, kept.reused) == (0, 1)
    assert np.abs(second.losses - first.losses).max() < 1e-5
    other = scored(recipe, {**values, "head.dropout": 0.2}, shared, kept)
    assert kept.trained == 1 and other.score != pytest.approx(first.score, abs=1e-6)
    # what was damaged is run again
    for path in (tmp_path / "heads").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    again = HeadPhases(tmp_path / "heads")
    scored(recipe, values, shared, again)
    assert again.trained == 1


@pytest.mark.slow
def test_two_processes_run_a_head_phase_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "from kerastl.search.head_phases import HeadPhases; from kerastl.training.phase import PhaseResult\n"
        "def train():\n"
        "    time.sleep(1.5)\n"
        "    return PhaseResult('head_phase', (), 1, 'val_loss', {}, (np.ones(3),), 1.0, 1.0, 'epochs')\n"
        "heads = HeadPhases(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline()\n"
        "result = heads.get({'a': sys.argv[2]}, train)\n"
        "print(heads.trained, heads.reused, result.weights[0].sum())\n"
    )

    pipe, keys = subprocess.PIPE, ("same", "same", "other")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "heads"), key], stdin=pipe, stdout=pipe, text=True)
        for key in keys
    ]  # fmt: skip
    assert all(process.stdout and process.stdout.readline() == "ready\n" for process in processes)
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    *same, other = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(same) == ["0 1 3.0", "1 0 3.0"] and other == "1 0 3.0"


def test_folds_measure_every_image_once_and_repeats_are_averaged(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", finetune_phase__unfreeze_from="backbone")
    shared = shared_of(recipe, 3)
    result = scored(recipe, {}, shared, HeadPhases(tmp_path / "heads"), repeats=2)
    counts = shared.splits.counts()
    assert len(result.scores) == 6 and result.score == pytest.approx(np.mean(result.scores))
    assert len(result.losses) == counts["train"] + counts["validation"]
    assert shared.forward_passes == 2 * len(result.losses)


def test_folds_keep_groups_whole_and_hold_out_every_image_once(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.data.examples import text_column
    from kerastl.jobs.open import open_splits
    from kerastl.search.shared import fold_positions, pooled_splits

    split = pooled_splits(open_splits(tiny(solid_colours, tmp_path))[1]).train
    groups = text_column([f"g{number // 4}" for number in range(len(split.examples))])
    split = dataclasses.replace(split, examples=dataclasses.replace(split.examples, groups=groups))
    parts = fold_positions(split, 3, "image")
    assert sorted(np.concatenate([held for _, held in parts])) == list(range(split.count))
    of = groups[split.indices]
    assert all(not set(of[train]) & set(of[held]) for train, held in parts)


def fit_a_line() -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((8, 4), np.float32), np.zeros((8, 2), np.float32), verbose=0)


def test_graphs_of_a_training_are_forgotten_with_it() -> None:
    from kerastl.training.reuse import leak_workaround

    with leak_workaround():  # lets go of what the control leaves
        fit_a_line()
        before = graphs_alive()
        with leak_workaround():
            fit_a_line()
        assert graphs_alive() == before
        fit_a_line()
        assert graphs_alive() > before, "the control: Keras' fit alone leaves its graphs behind"


def test_trials_leave_no_graphs_behind(solid_colours: Path, tmp_path: Path, shared_of: Any) -> None:
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", head_phase__epochs=1)
    shared, heads, counts = shared_of(recipe), HeadPhases(tmp_path / "heads"), []
    for number in range(3):
        scored(recipe, {UNFREEZE_POINT: FIRST, "head.dropout": number / 10}, shared, heads)
        counts.append(graphs_alive())
    assert heads.trained == 3 and counts[0] == counts[1] == counts[2]


def test_hyperbands_share_is_of_both_phases_epochs(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:
    from kerastl.search.oracle import EPOCHS, epochs_share
    from kerastl.search.trial import trial_recipe

    recipe = tiny(solid_colours, tmp_path, head_phase__epochs=100, finetune_phase__epochs=20)
    third = trial_recipe(recipe, {}, shared_of(recipe), epochs_share({EPOCHS: 5}, 20))
    assert (third.head_phase.epochs, third.finetune_phase.epochs) == (25, 5)
    assert epochs_share({}, 20) == 1.0
