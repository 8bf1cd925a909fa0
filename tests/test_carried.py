"""Training above a cut that carries inputs: a transformer's blocks on stored activations and the masks of the same rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from held import Held
from test_features import Said, every_engine
from toy_transformer import STEPS, WORDS, network_on, transformer, unmasked

from kerastl.errors import UserError
from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features
from kerastl.features.views import FrozenViews, Views
from kerastl.modality import Batch
from kerastl.modality.image import Image
from kerastl.model.build import Network
from kerastl.model.cut import Cut, cut
from kerastl.model.head_input import HeadInput
from kerastl.recipe import AugmentRecipe, CacheRecipe, HeadRecipe, Recipe, Settings
from kerastl.recipe.rule import resolve
from kerastl.store.array import digests
from kerastl.training.batches import PhaseData
from kerastl.training.phase import PhaseResult, predict_logits, run_phase
from kerastl.training.reuse import inference_of
from kerastl.training.two_phase import Steps, thaw_for_phase, transfer

POINT, CLASSES, COUNT = "block_0", 3, 72
EVERY = np.arange(COUNT)


def texts() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Words by class, and any words where there is padding: without the mask they mislead."""
    generator = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    mask = np.arange(STEPS) < generator.integers(1, 4, (COUNT, 1))
    own = 1 + 6 * labels[:, None] + generator.integers(0, 6, (COUNT, STEPS))
    words = np.where(mask, own, generator.integers(1, WORDS, (COUNT, STEPS)))
    return {"token_ids": words.astype(np.int32), "padding_mask": mask}, labels


@dataclasses.dataclass(frozen=True)
class Text(Image):
    """A modality of which other views leave the first word out."""

    def view(self, inputs: Batch, keys: np.ndarray, augment: object) -> Batch:
        mask = inputs["padding_mask"].copy()
        mask[:, 0] = False
        return {**inputs, "padding_mask": mask}


def views_of(inputs: dict[str, np.ndarray], labels: np.ndarray) -> Views:
    ids = np.array([f"text-{index}" for index in range(COUNT)], object)
    return Views(Held(inputs), Text(1), labels, CLASSES, ids, AugmentRecipe("none"))


def toy() -> Network:
    keras.utils.set_random_seed(5)
    return network_on(transformer(), CLASSES)


def stored(
    parts: Cut,
    network: Network,
    folder: Path,
    outputs: tuple[str, ...] = ("pooled", "activation"),
    mode: str = "disk",
    view_count: int = 1,
    engine: str = "auto",
) -> tuple[Features, Frozen]:
    """Features of all texts, kept in thirty-two bits."""
    inputs, labels = texts()
    contents = digests(
        [b"".join(row.tobytes() for row in rows) for rows in zip(*inputs.values(), strict=True)]
    )
    split = FrozenViews("train", views_of(inputs, labels), view_count, contents, {}, {})
    recipe = CacheRecipe(mode=mode, directory=str(folder / "store"), dtype="float32")
    frozen = Frozen(parts, network.backbone, engine)
    (found,) = extract(
        frozen, [split], Cache(recipe, folder / "scratch"), Wanted(HeadInput(), outputs, 3), Said()
    )
    return found, frozen


def settings(**finetune: object) -> Settings:
    asked = Recipe(head=HeadRecipe(start="zeros"))
    found = resolve(asked, COUNT, CLASSES)
    phase = {"unfreeze_from": POINT, "epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "mixup_alpha": 0.0}
    head = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    return dataclasses.replace(
        found,
        head_phase=dataclasses.replace(found.head_phase, **head),
        finetune_phase=dataclasses.replace(found.finetune_phase, **(phase | finetune)),
    )


def finetuned(
    network: Network, model: keras.Model, parts: Cut, features: Features, inputs: object
) -> PhaseResult:
    """The fine-tune phase of blocks above a cut, by a model that takes what `inputs` reads."""
    recipe = settings()
    factors = thaw_for_phase(network, parts, recipe.finetune_phase)
    data = PhaseData(features, inputs, features, inputs)  # type: ignore[arg-type]
    return run_phase("finetune_phase", model, data, recipe.finetune_phase, seed=1, factors=factors)


def test_a_phase_above_the_cut_is_the_phase_of_the_whole_network(tmp_path: Path) -> None:
    network = toy()
    parts = cut(network, POINT)
    features, _ = stored(parts, network, tmp_path)
    batch = features.activation_batch(np.array([3, 0]), 0)
    assert isinstance(batch, dict) and set(batch) == {"activation", "padding_mask"}
    np.testing.assert_array_equal(batch["padding_mask"], texts()[0]["padding_mask"][[3, 0]])
    above = finetuned(network, parts.suffix, parts, features, features.activation_batch)
    assert above.best_epoch and above.best["val_loss"] < above.history[0]["val_loss"] + 1e-9
    live = toy()
    whole = cut(live, "input").suffix  # all of the network, on its inputs by name
    below = finetuned(live, whole, cut(live, POINT), features, features.views.batch)
    for kept, alive in zip(above.history, below.history, strict=True):
        for name in ("loss", "val_loss", "val_accuracy"):
            assert kept[name] == pytest.approx(alive[name], rel=1e-6), name
    for one, other in zip(network.model.weights, live.model.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    moved = {
        v.path
        for v, w in zip(network.model.weights, toy().model.weights, strict=True)
        if (v.numpy() != w.numpy()).any()
    }
    assert any("block_1" in path for path in moved) and not any("block_0" in path for path in moved)


def test_both_phases_read_stored_rows_and_carried_inputs_and_no_row_is_computed_twice(tmp_path: Path) -> None:
    network = toy()
    parts = cut(network, POINT)
    features, frozen = stored(parts, network, tmp_path)
    assert frozen.forward_passes == COUNT, "one pass for both outputs"
    result = transfer(network, parts, features, features, settings())
    assert frozen.forward_passes == COUNT, "no pass in either phase"
    assert result.winner == "finetune_phase" and result.validation["val_accuracy"] > 0.6
    logits = predict_logits(inference_of(parts.suffix), COUNT, features.activation_batch, 16)
    inputs = {name: keras.ops.convert_to_tensor(values) for name, values in texts()[0].items()}
    np.testing.assert_allclose(logits, network.model(inputs, training=False), rtol=1e-4, atol=1e-5)

    dropped = predict_logits(
        inference_of(parts.suffix), COUNT, lambda at, view: unmasked(features.activation_batch(at, view)), 16
    )
    assert np.abs(dropped - logits).max() > 1e-2, "the control: the mask matters above the cut"


def test_outputs_are_stored_by_name_and_only_missing_ones_are_computed(tmp_path: Path) -> None:
    network = toy()
    parts = cut(network, POINT)
    _, frozen = stored(parts, network, tmp_path, ("pooled",))
    assert frozen.forward_passes == COUNT
    every = ("pooled", "activation", "sequence")
    features, frozen = stored(parts, network, tmp_path, every)
    assert frozen.forward_passes == COUNT, "one pass for the two that are missing"
    _, again = stored(parts, network, tmp_path, every)
    assert again.forward_passes == 0
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "store").iterdir() if "-" in path.name)
    assert kept == sorted(every)
    inputs = {name: keras.ops.convert_to_tensor(values) for name, values in texts()[0].items()}
    for name, values in parts.prefix(*every)(inputs, training=False).items():
        np.testing.assert_allclose(features.outputs([name], EVERY, 0)[name], values, rtol=1e-5, atol=1e-5)


@every_engine
def test_live_activations_come_with_the_carried_inputs_of_the_same_rows(tmp_path: Path, engine: str) -> None:
    network = toy()
    parts = cut(network, POINT)
    (kept, _), (live, frozen) = (
        stored(parts, network, tmp_path, mode=mode, engine=engine) for mode in ("disk", "off")
    )
    assert frozen.forward_passes == 0
    some = np.array([7, 7, 2])
    for name, values in kept.activation_batch(some, 0).items():  # type: ignore[union-attr]
        np.testing.assert_array_equal(live.activation_batch(some, 0)[name], values)
    everything, _ = stored(cut(network, "input"), network, tmp_path)
    assert set(everything.activation_batch(some, 0)) == {"token_ids", "padding_mask"}


def test_carried_inputs_are_those_of_the_view_that_each_row_is_in(tmp_path: Path) -> None:
    network = toy()
    features, frozen = stored(cut(network, POINT), network, tmp_path, view_count=2)
    assert frozen.forward_passes == 2 * COUNT
    batch = features.activation_batch(np.array([4, 4, 5]), np.array([0, 1, 1]))
    assert batch["padding_mask"][:, 0].tolist() == [True, False, False]
    assert (batch["activation"][0] != batch["activation"][1]).any()


def test_masks_are_not_blended(tmp_path: Path) -> None:
    network = toy()
    parts = cut(network, POINT)
    features, _ = stored(parts, network, tmp_path)
    words = r"mixup_alpha = 0.2: above 'block_0' the network also takes padding_mask, which cannot be blended. Expected 0"
    with pytest.raises(UserError, match=words):
        transfer(network, parts, features, features, settings(mixup_alpha=0.2))
    head = Steps().head_phase(network, features, features, settings())
    with pytest.raises(UserError, match=words):
        Steps().finetune_phase(network, parts, features, features, settings(mixup_alpha=0.2), head)
