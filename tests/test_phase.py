"""One phase: what it trains on, which weights it keeps, and how it ends."""

from __future__ import annotations

import dataclasses
from collections import Counter

import keras
import numpy as np
import pytest
from held import Held

from kerastl.errors import TrainingError
from kerastl.evaluation.monitors import is_better
from kerastl.features.readers import Features, reader_of
from kerastl.features.views import Views
from kerastl.modality.image import Image
from kerastl.recipe import AugmentRecipe, FinetunePhaseRecipe, HeadPhaseRecipe, Recipe, resolve
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL, all_labels_right
from kerastl.training.batches import PhaseData, balanced_weights, batches, epoch_order, mixed, part_of
from kerastl.training.phase import evaluation_batch, predict_logits, run_phase, validate
from kerastl.training.reuse import inference_of

CLASSES = 3
SETTINGS = HeadPhaseRecipe(
    epochs=12,
    batch_size=16,
    learning_rate=0.05,
    weight_decay=0.0,
    warmup_epochs=1.0,
    label_smoothing=0.0,
    gradient_clip_norm=1.0,
    patience_epochs=0,
    monitor="val_calibrated_loss",
)


def features(count: int, seed: int, view_count: int = 1) -> Features:
    """Three clouds of points in eight dimensions."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(0).normal(size=(CLASSES, 8)) * 1.5
    pooled = tuple(
        (centres[labels] + generator.normal(size=(count, 8))).astype(np.float32) for _ in range(view_count)
    )
    ids = np.array([f"{seed}/{index}" for index in range(count)], object)
    images = np.zeros((count, 2, 2, 3), np.uint8)
    views = Views(Held({"pixels": images}), Image(2), labels, CLASSES, ids, AugmentRecipe("none"))
    return features_of(views, *pooled)


def features_of(views: Views, *pooled: np.ndarray) -> Features:
    return Features(views, len(pooled), reader_of(np.concatenate(pooled), 0, views.count))


def data(train: Features | None = None) -> PhaseData:
    train = train or features(120, seed=1)
    validation = features(60, seed=2)
    return PhaseData(train, train.pooled_batch, validation, validation.pooled_batch)


def linear_model() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))


def phase_settings(**changes: object) -> HeadPhaseRecipe:
    return dataclasses.replace(SETTINGS, **changes)


def test_the_best_epochs_weights_are_restored_not_the_last() -> None:
    model, phase_data = linear_model(), data()
    # A rate this high overshoots: the last epoch is not the best one.
    result = run_phase(
        "head_phase", model, phase_data, phase_settings(learning_rate=3.0, warmup_epochs=0.0), seed=0
    )
    best = min(result.history, key=lambda row: row["val_calibrated_loss"])
    assert result.best_epoch == best["epoch"]
    now = validate(inference_of(model), phase_data, SETTINGS, CLASSIFICATION, 256)
    assert now["val_calibrated_loss"] == pytest.approx(best["val_calibrated_loss"], rel=1e-6)
    assert result.best == pytest.approx(now)
    assert best["val_calibrated_loss"] < result.history[-1]["val_calibrated_loss"], (
        "the control: the last epoch must be worse here"
    )


@pytest.mark.parametrize(
    ("told", "scatter", "patience", "kept"),
    [
        # validation log-losses of the start and of three epochs
        ([1.0, 0.50, 0.40, 0.42], 1.0, 0, 3),
        ([1.0, 0.50, 0.40, 0.42], 0.01, 0, 2),
        ([0.41, 0.50, 0.40, 0.42], 1.0, 0, 2),
        ([0.30, 0.50, 0.40, 0.42], 1.0, 0, 0),
        ([1.0, 0.40, 0.41, 0.42], 1.0, 2, 1),
    ],
    ids=["as good", "worse", "worse than the start", "none better", "stopped before the end"],
)
def test_the_last_epoch_is_kept_where_validation_cannot_tell_it_from_the_best(
    told: list[float], scatter: float, patience: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.training import phase

    noise = np.random.default_rng(0).normal(size=(len(told), 60))
    noise = scatter * (noise - noise.mean(axis=1, keepdims=True))
    calls = iter(range(len(told)))
    now = [0]

    def metrics(*arguments: object) -> dict[str, float]:
        now[0] = next(calls)
        return {"val_loss": 1.0, "val_calibrated_loss": told[now[0]], "val_accuracy": 0.5}

    monkeypatch.setattr(phase, "validation_metrics", metrics)
    monkeypatch.setattr(phase, "example_losses", lambda *arguments: told[now[0]] + noise[now[0]])
    seen: list[np.ndarray] = []
    model = linear_model()
    seen.append(model.get_weights()[0])
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()[0])
    )
    settings = phase_settings(epochs=3, patience_epochs=patience)
    result = run_phase("head_phase", model, data(), settings, seed=0, callbacks=[note])
    assert result.best_epoch == kept and result.best["val_calibrated_loss"] == told[kept]
    np.testing.assert_array_equal(result.weights[0], seen[kept])
    np.testing.assert_array_equal(model.get_weights()[0], seen[kept])


def test_more_epochs_trace_nothing_more() -> None:
    traces: list[int] = []

    class Noted(keras.layers.Layer):
        def call(self, x: object) -> object:
            traces.append(1)
            return x

    counts = []
    for epochs in (2, 6):
        inputs = keras.Input((8,))
        model = keras.Model(inputs, keras.layers.Dense(CLASSES)(Noted()(inputs)))
        traces.clear()
        run_phase("head_phase", model, data(), phase_settings(epochs=epochs, patience_epochs=0), seed=0)
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0


def test_no_pipeline_waits_for_its_tuner_to_wake() -> None:
    phase_data = data()
    pipeline = batches(phase_data, SETTINGS, 8, 0, keras.Input((8,)))
    assert pipeline.options().autotune.enabled is False
    assert keras.ops.shape(next(iter(pipeline))[0]) == (15, 8)


def test_patience_ends_the_phase() -> None:
    result = run_phase(
        "head_phase",
        linear_model(),
        data(),
        phase_settings(epochs=200, learning_rate=3.0, patience_epochs=3),
        seed=0,
    )
    assert result.ended == "patience"
    assert len(result.history) == result.best_epoch + 3


def test_weights_stay_where_no_epoch_beats_the_start() -> None:
    model = linear_model()
    before = model.get_weights()
    perfect = {"val_loss": 0.0, "val_calibrated_loss": 0.0, "val_accuracy": 1.0}
    result = run_phase("finetune_phase", model, data(), SETTINGS, seed=0, start=perfect)
    assert result.best_epoch == 0 and result.best == perfect
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    moved = run_phase(
        "finetune_phase",
        model,
        data(),
        SETTINGS,
        seed=0,
        start={"val_loss": 99.0, "val_calibrated_loss": 99.0, "val_accuracy": 0.0},
    )
    assert moved.best_epoch > 0, "the control: a start that is easily beaten is left behind"


def test_a_phase_never_ends_worse_than_it_began() -> None:
    model = linear_model()
    began = validate(inference_of(model), data(), SETTINGS, CLASSIFICATION, 256)
    # Labels that have nothing to do with the points: whatever is learnt is worse than what was there.
    clean = features(120, seed=1)
    shuffled = np.random.default_rng(0).permutation(clean.views.classes)
    noise = features_of(
        dataclasses.replace(clean.views, classes=shuffled), clean.pooled_batch(np.arange(120), 0)
    )
    model.set_weights([weights * 0 for weights in model.get_weights()])
    result = run_phase("head_phase", model, data(noise), phase_settings(learning_rate=1.0), seed=0)
    assert result.best["val_calibrated_loss"] <= np.log(3) + 1e-9 < result.history[0]["val_calibrated_loss"]
    assert began["val_calibrated_loss"] != result.best["val_calibrated_loss"], (
        "the start is measured, not assumed"
    )


def test_validation_takes_twice_a_training_batch_and_no_more() -> None:
    seen: list[int] = []

    def reader(positions: np.ndarray, view: int) -> np.ndarray:
        seen.append(len(positions))
        return features(60, seed=2).pooled_batch(positions, view)

    phase_data = dataclasses.replace(data(), validation_inputs=reader)
    run_phase("finetune_phase", linear_model(), phase_data, FinetunePhaseRecipe(**vars(SETTINGS)), seed=0)
    assert max(seen) == 32 and sum(seen[:2]) == 60
    seen.clear()
    run_phase("head_phase", linear_model(), phase_data, SETTINGS, seed=0)
    assert max(seen) == 60, "a head alone costs nothing"
    assert evaluation_batch(FinetunePhaseRecipe(batch_size=512)) == 256


def test_a_loss_that_is_not_a_number_names_phase_rate_and_remedy() -> None:
    clean = features(120, seed=1)
    rows = clean.pooled_batch(np.arange(120), 0)
    rows[5] = np.nan
    poisoned = features_of(clean.views, rows)
    with pytest.raises(
        TrainingError, match=r"head phase is nan in epoch 1.*0\.05.*Lower head_phase\.learning_rate"
    ):
        run_phase("head_phase", linear_model(), data(poisoned), SETTINGS, seed=0)


def test_a_loss_that_is_not_a_number_is_noticed_before_the_epoch_ends() -> None:
    count, read = 16 * 500, []
    clean = features(count, seed=1)
    rows = np.full_like(clean.pooled_batch(np.arange(count), 0), np.nan)
    poisoned = features_of(clean.views, rows)
    batch = poisoned.pooled_batch
    poisoned = dataclasses.replace(
        poisoned,
        pooled_batch=lambda positions, view: (read.append(len(positions)), batch(positions, view))[1],
    )
    with pytest.raises(TrainingError, match=r"head phase is nan in epoch 1"):
        run_phase("head_phase", linear_model(), data(poisoned), SETTINGS, seed=0)
    assert 100 <= len(read) < 200, "a few batches more are made ahead"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    runs = [run_phase("head_phase", linear_model(), data(), SETTINGS, seed=seed) for seed in (5, 5, 6)]
    for one, two in zip(runs[0].weights, runs[1].weights, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((one != three).any() for one, three in zip(runs[0].weights, runs[2].weights, strict=True))


def test_every_epoch_sees_every_image_once_and_each_image_in_its_next_view() -> None:
    train = features(48, seed=1, view_count=3)
    seen: list[tuple[tuple[int, int], ...]] = []

    def reader(positions: np.ndarray, view: np.ndarray) -> np.ndarray:
        seen.append(tuple(zip(positions.tolist(), view.tolist(), strict=True)))
        return train.pooled_batch(positions, view)

    phase_data = dataclasses.replace(data(train), train_inputs=reader)
    run_phase("head_phase", linear_model(), phase_data, phase_settings(epochs=4, batch_size=48), seed=0)
    # The first call asks for shapes; two threads may swap neighbours, so count instead of comparing order.
    epochs = seen[1:]
    assert all(sorted(position for position, _ in epoch) == list(range(48)) for epoch in epochs)
    assert all(sorted(view for _, view in epoch) == [0] * 16 + [1] * 16 + [2] * 16 for epoch in epochs)
    shown = Counter(pair for epoch in epochs for pair in epoch)
    assert len(shown) == 48 * 3 and sorted(shown.values()) == [1] * 96 + [2] * 48


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    result = run_phase(
        "head_phase", linear_model(), data(features(6, seed=1)), phase_settings(batch_size=64), seed=0
    )
    assert len(result.history) == 12


def test_balanced_weights_give_each_class_the_same_say() -> None:
    targets = np.eye(3, dtype=np.float32)[[0] * 90 + [1] * 9 + [2]]
    weights = balanced_weights(targets.sum(axis=0), 100)
    assert (targets * weights).sum(axis=0) == pytest.approx([100 / 3] * 3)
    assert (targets @ weights).mean() == pytest.approx(1.0)


def test_class_weights_raise_the_recall_of_a_rare_class() -> None:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 190 + [1] * 10)
    pooled = np.where(labels[:, None] == 1, 0.25, -0.25) + generator.normal(size=(200, 8))
    base = features(200, seed=1)
    train = features_of(dataclasses.replace(base.views, classes=labels), pooled.astype(np.float32))
    phase_data = PhaseData(train, train.pooled_batch, train, train.pooled_batch)
    recall, results = {}, {}
    for weighting in ("none", "balanced"):
        model = linear_model()
        settings = phase_settings(class_weights=weighting, epochs=4)
        results[weighting] = run_phase("head_phase", model, phase_data, settings, seed=0)
        predicted = predict_logits(inference_of(model), 200, train.pooled_batch, 256).argmax(axis=1)
        recall[weighting] = (predicted[labels == 1] == 1).mean()
    assert recall["balanced"] > recall["none"]
    # What judges them weighs as what trained them: by its own measure each is the better one.
    judged = {
        weighting: validate(
            inference_of(model), phase_data, phase_settings(class_weights=weighting), CLASSIFICATION, 256
        )
        for weighting in recall
    }
    assert judged["balanced"] == pytest.approx(results["balanced"].best)
    assert judged["none"]["val_loss"] != pytest.approx(judged["balanced"]["val_loss"], rel=0.05)


def test_the_training_accuracy_of_mixed_labels_counts_images_whose_labels_are_all_right() -> None:
    labels = np.array([[0.7, 0.0, 0.3], [0.7, 0.0, 0.3], [1.0, 0.0, 1.0]], np.float32)
    logits = np.array([[2.0, -1.0, -2.0], [2.0, -1.0, 2.0], [2.0, -1.0, 2.0]], np.float32)
    assert all_labels_right(labels, logits).numpy().tolist() == [1.0, 0.0, 1.0]


def test_multi_label_learns_each_label_by_itself() -> None:
    base = features(120, seed=1)
    rows = base.pooled_batch(np.arange(120), 0)
    train = features_of(
        dataclasses.replace(base.views, classes=(rows[:, :3] > 0).astype(np.uint8), task=MULTI_LABEL), rows
    )
    phase_data = PhaseData(train, train.pooled_batch, train, train.pooled_batch)
    result = run_phase(
        "head_phase", linear_model(), phase_data, phase_settings(epochs=40), seed=0, task=MULTI_LABEL
    )
    assert result.best["val_accuracy"] > 0.6


def test_the_order_of_an_epoch_depends_on_seed_phase_and_epoch_only() -> None:
    order = epoch_order(100, 1, "head_phase", 0)
    np.testing.assert_array_equal(order, epoch_order(100, 1, "head_phase", 0))
    for other in (epoch_order(100, 2, "head_phase", 0), epoch_order(100, 1, "finetune_phase", 0)):
        assert (order != other).any()
    assert (order != epoch_order(100, 1, "head_phase", 1)).any()


def test_being_too_sure_is_no_reason_to_lose_but_being_wrong_is() -> None:
    """What fine-tuning does to a head that was trained with label smoothing, and why the default forgives it."""
    modest = {"val_loss": 0.48, "val_calibrated_loss": 0.47, "val_accuracy": 0.86}
    sure = {"val_loss": 0.51, "val_calibrated_loss": 0.43, "val_accuracy": 0.89}
    assert is_better("val_calibrated_loss", sure, modest) and not is_better("val_loss", sure, modest)
    assert resolve(Recipe(), 100, 2).head_phase.monitor == "val_calibrated_loss"
    worse = {"val_loss": 0.47, "val_calibrated_loss": 0.49, "val_accuracy": 0.85}
    assert not is_better("val_calibrated_loss", worse, modest)


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (9, 3), (2, 2), (1000, 16)])
def test_parts_cover_everything_once_and_are_as_long_as_each_other(count: int, parts: int) -> None:
    expected = np.array_split(np.arange(count), parts)
    for part in range(parts):
        np.testing.assert_array_equal(np.arange(count)[part_of(count, parts, part)], expected[part])


def test_mixing_blends_inputs_and_labels_by_the_same_shares() -> None:
    labels = np.eye(4, dtype=np.float32)
    inputs = np.repeat(labels[:, None, :], 3, axis=1).astype(
        np.float16
    )  # the label, written into the features
    blended, soft = mixed(inputs, labels, 0.5, [1, 2])
    np.testing.assert_allclose(blended, np.repeat(soft[:, None, :], 3, axis=1), atol=2e-3)
    assert blended.dtype == np.float32, "blends are not rounded again"
    assert soft.sum(axis=1) == pytest.approx(np.ones(4))
    assert ((soft > 0.01).sum(axis=1) == 2).any(), "the control: something was mixed"
    assert (mixed(inputs, labels, 0.5, [1, 2])[1] == soft).all()
    assert (mixed(inputs, labels, 0.5, [1, 3])[1] != soft).any(), "another step mixes otherwise"


def test_a_phase_mixes_only_where_it_is_asked_to() -> None:
    def labels(alpha: float) -> list[np.ndarray]:
        held = data()
        stream = batches(held, phase_settings(mixup_alpha=alpha, epochs=1), 8, 0, keras.Input((8,)))
        return [np.asarray(batch[1]) for batch in stream]

    assert all(np.isin(part, (0.0, 1.0)).all() for part in labels(0.0))
    assert any(((part > 0) & (part < 1)).any() for part in labels(1.0))
    result = run_phase("head_phase", linear_model(), data(), phase_settings(mixup_alpha=0.4), seed=0)
    assert result.best["val_accuracy"] > 0.6
