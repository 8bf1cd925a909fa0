"""Networks that trials train on one after the other: each begins as if it were the first, and traces nothing again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import small_backbone_file
from searches import FIRST, SECOND, graphs_alive, scored, tiny

from kerastl.search.hyperparameters import UNFREEZE_POINT

# Every phase learns, so that what is left of one trial would be seen in the next.
LEARNING = {
    "head_phase__learning_rate": 0.01,
    "head_phase__epochs": 2,
    "finetune_phase__learning_rate": 3e-3,
    "finetune_phase__epochs": 3,
    "finetune_phase__batchnorm": "train",
    "finetune_phase__unfreeze_from": FIRST,
    "head__dropout": 0.3,
    "head__hidden": [8],
}
OTHERS: dict[str, Any] = {
    "head_phase.learning_rate": 0.03,
    "head_phase.batch_size": 8,
    "head.dropout": 0.0,
    "finetune_phase.learning_rate": 0.01,
    "finetune_phase.layer_decay": 0.5,
    "finetune_phase.weight_decay": 0.2,
    "finetune_phase.epochs": 1,
}


@pytest.fixture
def trial(solid_colours: Path, tmp_path: Path, shared_of: Any) -> Any:
    """`trial(values, shared=None)`: the result of a trial and what it shared; no head phase is taken over."""
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", **LEARNING)
    number = iter(range(100))

    def run(values: dict[str, Any], shared: Any = None, **options: Any) -> Any:
        shared = shared or shared_of(recipe)
        heads = HeadPhases(tmp_path / f"heads-{next(number)}")
        return scored(recipe, values, shared, heads, **options), shared

    return run


@pytest.mark.slow
def test_a_trial_on_a_used_network_is_the_trial_on_a_new_one_to_the_bit(trial: Any) -> None:
    new, _ = trial({})
    other, shared = trial(OTHERS)
    used, _ = trial({}, shared)
    assert shared.pool.made == 1 and new.winner == "finetune_phase"
    assert used.metrics == new.metrics
    np.testing.assert_array_equal(used.losses, new.losses)
    assert other.score != new.score, "the control: the trials differ"
    # seeds, too, are those of the trial at hand
    seeded, _ = trial({}, shared, repeats=2)
    assert seeded.scores == trial({}, repeats=2)[0].scores and shared.pool.made == 1
    assert seeded.scores[0] == new.score != seeded.scores[1]


def test_a_trial_that_diverged_leaves_nothing_behind(trial: Any) -> None:
    from kerastl.errors import TrainingError

    new, shared = trial({})
    with pytest.raises(TrainingError):
        trial({"finetune_phase.learning_rate": 3e38, "finetune_phase.warmup_epochs": 0.0}, shared)
    after, _ = trial({}, shared)
    assert shared.pool.made == 1
    np.testing.assert_array_equal(after.losses, new.losses)


@pytest.mark.slow
def test_what_changes_a_graph_gets_a_network_of_its_own(trial: Any) -> None:
    _, shared = trial({})
    made = 1
    for values in (
        {UNFREEZE_POINT: SECOND},
        {"finetune_phase.batchnorm": "frozen"},
        {"finetune_phase.weight_decay": 0.0},
        {"head_phase.label_smoothing": 0.2},
        {"head_phase.optimizer": "sgd"},
        {"head.pooling": "max"},
    ):
        one, _ = trial(values, shared)
        made += 1
        assert shared.pool.made == made
        alone, _ = trial(values)
        np.testing.assert_array_equal(one.losses, alone.losses)


def test_trials_that_differ_in_values_trace_nothing(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []
    call = keras.layers.Dense.call

    def noted(self: keras.layers.Dense, inputs: Any, training: Any = None) -> Any:
        traced.append(self.name)
        return call(self, inputs)

    monkeypatch.setattr(keras.layers.Dense, "call", noted)
    _, shared = trial({})
    assert traced
    traced.clear()
    trial(OTHERS, shared)
    assert not traced
    trial({"finetune_phase.label_smoothing": 0.2}, shared)
    assert traced, "the control: another loss is traced"


def test_a_network_that_was_let_go_of_is_made_again(trial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kerastl.training import reuse

    monkeypatch.setattr(reuse, "MOST_BYTES", 1)
    first, shared = trial({})
    (pooled,) = shared.pool._pooled.values()
    gone = weakref.ref(pooled.parts.suffix)
    del pooled
    trial({UNFREEZE_POINT: SECOND}, shared)
    again, _ = trial({}, shared)
    assert shared.pool.made == 3 and len(shared.pool._pooled) == 1
    gc.collect()
    assert gone() is None, "with its optimizer and traced steps"
    np.testing.assert_array_equal(again.losses, first.losses)


@pytest.mark.slow
def test_networks_that_were_let_go_of_leave_no_graphs(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from kerastl.training import reuse

    monkeypatch.setattr(reuse, "MOST", 1)
    _, shared = trial({})
    for key in ("head.l2", "finetune_phase.label_smoothing"):  # another head, and another cut of the same
        counts = []
        for number in range(1, 5):
            trial({key: 0.01 * number}, shared)
            counts.append(graphs_alive())
        assert counts[1] == counts[2] == counts[3], key
    monkeypatch.setattr(reuse, "MOST", 3)
    trial({}, shared)
    assert graphs_alive() > counts[3], "the control: two networks hold more than one"


@pytest.mark.slow
def test_folds_have_networks_of_their_own(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:  # fmt: skip
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(solid_colours, tmp_path / "store", **LEARNING)
    shared = shared_of(recipe, 2)
    scored(recipe, OTHERS, shared, HeadPhases(tmp_path / "a"))
    used = scored(recipe, {}, shared, HeadPhases(tmp_path / "b"))
    assert shared.pool.made == 2, "their heads standardise by other images"
    new = scored(recipe, {}, shared_of(recipe, 2), HeadPhases(tmp_path / "c"))
    np.testing.assert_array_equal(used.losses, new.losses)


def test_a_fit_repeats_what_the_search_found(trial: Any, tmp_path: Path, solid_colours: Path) -> None:
    from kerastl.jobs.fit import fit
    from kerastl.search.hyperparameters import with_values

    _, shared = trial({})
    values = {"head.dropout": 0.5, "finetune_phase.learning_rate": 2e-3}
    found, _ = trial(values, shared)
    recipe = with_values(tiny(solid_colours, tmp_path / "store", **LEARNING), values)
    fitted = fit(recipe, runs_dir=tmp_path / "runs", export_model=False)
    best = {phase.phase: phase.best_value for phase in fitted.report.phases}
    assert fitted.report.winner == found.winner == "finetune_phase"
    assert best[found.winner] == found.score
    other, _ = trial({**values, "head.dropout": 0.4}, shared)
    assert other.score != found.score, "the control: dropout is seen"


@pytest.mark.slow
def test_layers_of_the_backbone_that_draw_begin_anew(
    solid_colours: Path, tmp_path: Path, shared_of: Any
) -> None:  # fmt: skip
    from kerastl.search.head_phases import HeadPhases

    recipe = tiny(
        solid_colours, tmp_path / "store", backbone__name=small_backbone_file(drawing=True),
        augment__views=1, finetune_phase__epochs=1, finetune_phase__unfreeze_from=FIRST,
        finetune_phase__learning_rate=1e-3, finetune_phase__batchnorm="train",
    )  # fmt: skip
    shared, states = shared_of(recipe), []
    for name in "ab":
        scored(recipe, {}, shared, HeadPhases(tmp_path / name))
        (pooled,) = shared.pool._pooled.values()
        states.append([state.numpy().tolist() for state, _ in pooled.random_states])
    assert shared.pool.made == 1 and states[0] == states[1]
    starts = [start.tolist() for _, start in pooled.random_states]
    assert any(now != start for now, start in zip(states[0], starts, strict=True)), "the control: they draw"
    scored(recipe, {}, shared, HeadPhases(tmp_path / "c"), repeats=2)
    assert shared.pool.made == 2, "another seed makes other layers"


def test_a_traced_inference_stays_with_its_model_and_is_not_exported_with_it(tmp_path: Path) -> None:
    from kerastl.training.reuse import inference_of

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rows = tf.ones((4, 3))
    before = inference_of(model)(rows)
    assert inference_of(model) is inference_of(model)
    model.layers[0].bias.assign([1.0, 1.0])
    np.testing.assert_allclose(inference_of(model)(rows), before + 1.0, rtol=1e-6)
    model.export(tmp_path / "model", verbose=False)
    assert b"_kept_inference" not in (tmp_path / "model" / "saved_model.pb").read_bytes()
