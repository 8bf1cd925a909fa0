"""The search from Python: data, networks and layers that are handed over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import COLOURS
from keras import layers
from test_net import Doubled, network, own_head
from test_python import SIDE, colours

import kerastl as api
from kerastl.errors import UserError
from kerastl.search import SearchSettings

X, Y = colours()
BAD, GOOD = 1e-6, 0.03
RATES = f"[head_phase]\nlearning_rate = {{ordered = [{BAD}, {GOOD}]}}\n"
QUICK = {
    "image_size": SIDE, "head_epochs": 3, "finetune_epochs": 1, "augment": "none", "deterministic": True,
    "unfreeze_from": "block1_out", "head_phase": {"learning_rate": BAD},
}  # fmt: skip
GRID = SearchSettings("grid")


def data_of(x: np.ndarray = X) -> Any:
    return api.from_arrays(x, Y, class_names=list(COLOURS))


def net_on(data: Any, unit: float = 1.0) -> Any:
    """A network and a head of its own layers, made anew; `unit` is part of its weights."""
    model = network()
    kernel = model.get_layer("block1_conv").kernel
    kernel.assign(kernel * unit)
    return api.build(model, data, head=own_head(), **QUICK)


class Heard(api.Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search on handed data, network and layers, and the arguments that it was called with."""
    folder, heard = tmp_path_factory.mktemp("search"), Heard()
    (folder / "rates.toml").write_text(RATES)
    arguments = {
        "space": folder / "rates.toml", "settings": GRID, "directory": folder / "found", "runs_dir": folder / "runs",
        "models_dir": folder / "models",
    }  # fmt: skip
    return api.tune(net_on(data_of()), **arguments, progress=heard), arguments, heard


def test_a_search_on_handed_data_trains_its_winner_as_fit_does(searched: Any, tmp_path: Path) -> None:
    summary, _, heard = searched
    assert summary.values == {"head_phase.learning_rate": GOOD} and summary.model is None
    run = api.load(summary.run)
    # the winning trial used a network that another had trained, with layers and draws of dropout
    best = {phase.phase: phase.best_value for phase in run.report.phases}
    assert best[run.report.winner] == summary.score < summary.baseline
    again = api.fit(summary.winner, data_of(), runs_dir=tmp_path)
    assert again.report.metrics.to_dict() == run.report.metrics.to_dict()
    assert f'kerastl.fit("{summary.winner}", data)' in summary.winner.read_text()
    assert any(line.startswith("Training the winner: kerastl.fit(") for line in heard.notes)
    # the run needs the search's folder no more
    assert run.recipe.backbone.name == str(summary.run / "backbone.keras")
    assert run.recipe.head.layers == str(summary.run / "head.keras")
    assert run.predict(X[0]).label in COLOURS


def test_a_search_goes_on_with_the_same_contents_alone(searched: Any) -> None:
    summary, arguments, _ = searched
    # all of it made anew, as another process would
    assert api.tune(net_on(data_of()), **arguments) == summary
    darker = np.maximum(X.astype(int) - 1, 0).astype(np.uint8)
    with pytest.raises(UserError, match="other than there: data"):
        api.tune(net_on(data_of(darker)), **arguments)
    with pytest.raises(UserError, match="other than there: files"):
        api.tune(net_on(data_of(), 1.1), **arguments)


def test_workers_are_refused_before_anything_runs_what_lies_in_this_process(
    tmp_path: Path, solid_colours: Path
) -> None:
    two = dataclasses.replace(GRID, workers=2)
    places: Any = {"settings": two, "directory": tmp_path / "search", "runs_dir": tmp_path / "runs"}
    with pytest.raises(UserError, match=r"72 images in arrays were handed over.*Use workers=1, or"):
        api.tune("mobilenet_025", data_of(), **places)
    there = api.from_folder(solid_colours)
    with pytest.raises(UserError, match=r"head\.keras holds the layer test_net>Doubled"):
        api.tune(api.build(network(), there, head=[Doubled()], **QUICK), **places)
    assert not (tmp_path / "search").exists()


def test_what_workers_can_open_is_not_refused(solid_colours: Path, tmp_path: Path) -> None:
    from kerastl.jobs.python import handed_over
    from kerastl.search.hyperparameters import Space
    from kerastl.search.spec import SearchSpec, check_shared

    net = api.build(network(), api.from_folder(solid_colours), head=[layers.Dense(4, "relu")], **QUICK)
    asked, _, files = handed_over(net, None, {})
    spec = SearchSpec(asked, net.recipe, Space(()), GRID, net.splits, files)
    check_shared(spec)
    # they read the networks from the search's folder, and see that they are the chief's
    there = SearchSpec.from_dict(spec.kept_in(tmp_path).to_dict())
    assert (
        there.recipe.backbone.name == str(tmp_path / "backbone.keras") and there.identity() == spec.identity()
    )


def test_options_and_names_make_the_recipe_as_in_fit(
    solid_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.search import job

    class Stop(Exception):
        pass

    def stop(spec: Any, *rest: Any) -> None:
        raise Stop(spec)

    monkeypatch.setattr(job, "_search", stop)
    with pytest.raises(Stop) as caught:
        api.tune(
            "mobilenet_025", solid_colours, directory=tmp_path / "one", dropout=0.3, unfreeze_from="backbone"
        )
    (spec,) = caught.value.args
    assert (spec.recipe.head.dropout, spec.recipe.backbone.name) == (0.3, "mobilenet_025")
    assert spec.recipe.data.source == str(solid_colours) and spec.splits.train.count > 40
    # without a named space: the keys that mean something for layers of one's own
    with pytest.raises(Stop) as caught:
        api.tune(net_on(data_of()), directory=tmp_path / "two")
    assert {hp.key.partition(".")[0] for hp in caught.value.args[0].space} == {"head_phase", "finetune_phase"}


def test_a_renewed_head_of_ones_own_layers_is_a_new_one(tmp_path: Path) -> None:
    from kerastl.model.heads import make_head, renew_head
    from kerastl.recipe import HeadRecipe

    keras.utils.set_random_seed(0)
    own = [layers.Dense(6, "relu"), layers.GaussianNoise(0.5, seed=3), layers.Dropout(0.5, seed=4)]
    keras.Sequential([keras.Input((8,)), *own]).save(tmp_path / "head.keras")
    recipe, bias = HeadRecipe(layers=str(tmp_path / "head.keras")), np.array([0.5, -1.0, 2.0], "float32")
    features = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    used, new = (make_head(recipe, 8, 3, bias=bias, adjustable=adjustable) for adjustable in (True, False))
    for _ in range(2):
        used.model(features, training=True)
    used.model.set_weights([weights + 1 for weights in used.model.get_weights()])
    renew_head(used.model, recipe, 3, bias, 0)
    for head in (used, new):
        head.logits.kernel.assign(np.ones(head.logits.kernel.shape))
    drawn = [keras.ops.convert_to_numpy(head.model(features, training=True)) for head in (used, new)]
    np.testing.assert_array_equal(*drawn)
    assert (keras.ops.convert_to_numpy(used.model(features, training=True)) != drawn[0]).any(), "they draw"
