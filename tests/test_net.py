"""Networks that are handed over in Python, and the phases one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import Kerastl
from keras import layers
from test_python import COLOURS, QUICK, SIDE, Seen, colours

import kerastl as api
from kerastl.errors import RecipeError, UserError

X, Y = colours()
THAWED = {
    **QUICK,
    "head_epochs": 2,
    "unfreeze_from": "block1_out",
    "finetune_phase": {"epochs": 2, "learning_rate": 1e-2},
}


def network(*more: keras.Layer) -> keras.Model:
    """Two blocks, pooled and classified as tutorials do it."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, name="stem")(layers.Rescaling(1 / 127.5, offset=-1)(images))
    for layer in more:
        x = layer(x)
    for number in (1, 2):
        y = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"block{number}_conv")(x)
        x = layers.Add(name=f"block{number}_out")([x, y])
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="Mine")


@pytest.fixture(scope="module")
def data() -> Any:
    return api.from_arrays(X, Y, class_names=list(COLOURS))


@pytest.fixture(scope="module")
def mine() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def in_one_call(data: Any, mine: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fit of a network with a head of its own layers."""
    return api.fit(api.build(mine, data, head=own_head(), **THAWED), runs_dir=tmp_path_factory.mktemp("runs"))


def own_head() -> list[keras.Layer]:
    keras.utils.set_random_seed(2)
    return [layers.Dense(12, "relu", name="mine"), layers.Dropout(0.1, seed=3)]


def figures(history: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {
        phase: {name: values for name, values in columns.items() if name != "seconds"}
        for phase, columns in history.items()
    }


def rows(phase: Any) -> dict[str, list[float]]:
    return {name: [row[name] for row in phase.history] for name in phase.history[0] if name != "seconds"}


def test_nothing_is_computed_when_a_network_is_built(mine: keras.Model, data: Any) -> None:
    net = api.build(mine, data, **THAWED)
    assert set(net.unfreeze_points) >= {"backbone", "block1_out", "stem", "input"}
    assert net.recipe.name == "arrays-mine" and net._setup is None
    assert (
        repr(net)
        == "Net('arrays-mine', " + ", ".join(f"{n} {s}" for s, n in net.splits.counts().items()) + ")"
    )


def test_the_run_keeps_what_was_handed_over(
    in_one_call: Any, mine: keras.Model, data: Any, kerastl: Kerastl, tmp_path: Path
) -> None:
    from PIL import Image

    run = in_one_call.run
    recipe = (run / "recipe.toml").read_text()
    assert f'name = "{run / "backbone.keras"}"' in recipe and f'layers = "{run / "head.keras"}"' in recipe
    names = [layer.name for layer in in_one_call.model.layers]
    assert names[-4:] == ["standardize", "mine", "dropout", "logits"] or names[-4:-2] == [
        "standardize",
        "mine",
    ]
    assert set(in_one_call.history) == {"head_phase", "finetune_phase"}
    Image.fromarray(X[0]).save(tmp_path / "one.png")
    done = kerastl("predict", run, tmp_path / "one.png", "--csv")
    assert done.returncode == 0 and f",{in_one_call.predict(X[0]).label}," in done.stdout, done.stderr
    again = api.fit(run / "recipe.toml", data, runs_dir=run.parent)
    assert figures(again.history) == figures(in_one_call.history)


def test_a_frozen_network_gives_the_features_of_its_last_activation(mine: keras.Model, data: Any) -> None:
    found = api.features(api.build(mine, data, features="last", **QUICK))
    last = keras.Model(mine.inputs[0], mine.layers[-2].output)(X.astype(np.float32), training=False).numpy()
    order = {identity: row for row, identity in enumerate(data.ids)}
    assert found.features.shape == (72, 8) and [order[each] for each in found.ids] == list(range(72))
    assert np.allclose(found.features, last, atol=1e-5) and np.array_equal(found.labels, Y)
    assert set(found.splits) == {"train", "validation", "test"}


def test_features_of_other_data_are_those_of_the_same_backbone(mine: keras.Model, data: Any) -> None:
    net = api.build(mine, data, features="last", **QUICK)
    others, numbers = colours(12, seed=5)
    found = api.features(net, api.from_arrays(others, numbers))
    last = keras.Model(mine.inputs[0], mine.layers[-2].output)(
        others.astype(np.float32), training=False
    ).numpy()
    assert np.allclose(found.features, last, atol=1e-5) and np.array_equal(found.labels, numbers)


def test_the_steps_give_what_fit_gives_to_the_bit(
    in_one_call: Any, mine: keras.Model, data: Any, tmp_path: Path
) -> None:
    net = api.build(mine, data, head=own_head(), **{**THAWED, "unfreeze_from": "backbone"})
    api.features(net)
    head = api.train_head(net)
    api.unfreeze(net, "block1_out")
    tuned = api.finetune(net, finetune_phase={"epochs": 2, "learning_rate": 1e-2})
    expected = figures(in_one_call.history)
    assert rows(head) == expected["head_phase"] and rows(tuned) == expected["finetune_phase"]
    stepped = api.finish(net, runs_dir=tmp_path)
    assert stepped.report.metrics.to_dict() == in_one_call.report.metrics.to_dict()
    assert stepped.report.winner == in_one_call.report.winner
    pairs = zip(stepped.model.get_weights(), in_one_call.model.get_weights(), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    assert {path.name for path in stepped.run.iterdir()} == {path.name for path in in_one_call.run.iterdir()}
    assert stepped.evaluate().accuracy == stepped.report.metrics.accuracy


def test_steps_are_taken_in_their_order(mine: keras.Model, data: Any, tmp_path: Path) -> None:
    net = api.build(mine, data, **QUICK)
    with pytest.raises(UserError, match="is not trained"):
        api.finetune(net)
    with pytest.raises(UserError, match="Nothing is trained yet"):
        api.finish(net, runs_dir=tmp_path)
    with pytest.raises(UserError, match=r"image_size: a step takes keys of its phase alone"):
        api.train_head(net, image_size=48)
    seen = Seen()
    api.train_head(net, callbacks=[seen], head_epochs=1)
    assert seen.epochs == [("head", 0)]
    with pytest.raises(UserError, match="is trained"):
        api.train_head(net)
    with pytest.raises(UserError, match="Nothing is unfrozen"):
        api.finetune(net)
    with pytest.raises(RecipeError, match="Did you mean 'block1_out'"):
        api.unfreeze(net, "block1")
    fitted = api.finish(net, runs_dir=tmp_path)
    assert len(fitted.history["head_phase"]["loss"]) == 1 and not net.phases


def test_a_network_is_fitted_more_than_once_and_each_fit_begins_anew(
    mine: keras.Model, data: Any, tmp_path: Path
) -> None:
    net = api.build(mine, data, **{**THAWED, "head_epochs": 1, "finetune_epochs": 1})
    api.train_head(net)
    api.finetune(net)
    with pytest.raises(UserError, match=r"comes once.*fine-tuned already.*kerastl.fit\(net\)"):
        api.finetune(net)
    weights = net.model.get_weights()
    first, second = (api.fit(net, runs_dir=tmp_path / str(turn)) for turn in range(2))
    assert figures(first.history) == figures(second.history)
    assert rows(net.phases[0]) == figures(first.history)["head_phase"]
    assert all(np.array_equal(*pair) for pair in zip(weights, net.model.get_weights(), strict=True))
    other = api.fit(net, runs_dir=tmp_path / "other", seed=1)
    assert figures(other.history) != figures(first.history), "the control: another seed trains otherwise"


@keras.saving.register_keras_serializable("test_net")
class Doubled(layers.Layer):
    """A layer that Keras can load again."""

    def call(self, x: Any) -> Any:
        return 2 * x


class Unknown(layers.Layer):
    """One that it cannot."""

    def call(self, x: Any) -> Any:
        return x


def test_layers_of_ones_own_are_loaded_again(data: Any) -> None:
    net = api.build(network(Doubled()), data, head=[Doubled()], **QUICK)
    assert "Doubled" in {type(layer).__name__ for layer in net.model.layers} | {
        type(layer).__name__ for layer in net.setup.network.backbone.layers
    }


def test_what_cannot_be_loaded_again_is_refused_before_any_training(data: Any, mine: keras.Model) -> None:
    with pytest.raises(
        UserError,
        match=r"backbone 'Mine' cannot be saved and loaded again.*Unknown.*register_keras_serializable",
    ):
        api.build(network(Unknown()), data, **QUICK)
    with pytest.raises(UserError, match=r"head cannot be saved and loaded again.*Unknown"):
        api.build(mine, data, head=[Unknown()], **QUICK)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ([layers.Dense(3, "softmax")], "gives probabilities. Expected logits"),
        ([layers.Dense(3), layers.Softmax()], "gives probabilities"),
        ([layers.Conv2D(3, 1)], r"do not take pooled features \[batch, 8\]"),
        ([lambda x: x], "expected a list of Keras layers"),
        ([layers.Reshape((2, 4))], r"Expected a Sequential model from \[batch, 8\]"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    head: list[Any], message: str, data: Any, mine: keras.Model
) -> None:
    with pytest.raises(UserError, match=message):
        api.build(mine, data, head=head, **QUICK)


def test_a_last_layer_of_ones_own_is_kept(data: Any, mine: keras.Model) -> None:
    net = api.build(mine, data, head=[layers.Dense(3, name="answers")], **QUICK)
    assert [layer.name for layer in net.model.layers][-2:] == ["standardize", "answers"]
    other = api.build(mine, data, head=[layers.Dense(3, "relu", name="hidden")], **QUICK)
    assert [layer.name for layer in other.model.layers][-2:] == ["hidden", "logits"]


def test_layers_and_the_keys_of_a_head_exclude_each_other(data: Any, mine: keras.Model) -> None:
    with pytest.raises(RecipeError, match=r"head.layers and head.dropout: expected one of them"):
        api.build(mine, data, head=[layers.Dense(4)], dropout=0.2, **QUICK)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3)]),
            r"its input has the shape \(None, 8, 8, 1\)",
        ),
        (keras.Sequential([layers.Conv2D(2, 3)]), "it is no functional model"),
        (keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()]), "no activation"),
    ],
)
def test_a_model_that_is_no_backbone_is_refused(model: keras.Model, message: str, data: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        api.build(model, data)
    assert "Expected a functional" in str(caught.value) and "/" not in str(caught.value).split(":")[0]
