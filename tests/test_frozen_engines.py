"""Engines of the frozen part: which one computes, that they agree, and that each repeats itself to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import openvino
import pytest
from test_carried import texts
from test_features import (
    EVERYTHING,
    POINT,
    SIZE,
    Said,
    features_of,
    frozen_at,
    frozen_views,
    new_network,
    views,
)
from toy_transformer import network_on, transformer

from kerastl import pipeline
from kerastl.backbones import get_backbone
from kerastl.errors import TrainingError, UserError
from kerastl.features import engines
from kerastl.features.cache import Cache
from kerastl.features.engines import BOUND, FEW_EXAMPLES, in_constants, in_openvino, in_variables
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import BATCH_SIZE, Frozen
from kerastl.modality import Batch
from kerastl.modality.image import Image
from kerastl.model.build import Network, build_backbone
from kerastl.model.cut import cut
from kerastl.model.head_input import HeadInput
from kerastl.recipe import CacheRecipe, Settings, load_recipe, resolve
from kerastl.recipe.keys import affecting
from kerastl.training.start import frozen_part

MANY = FEW_EXAMPLES + 1
OPENVINO = f"OpenVINO {'.'.join(openvino.get_version().split('.')[:2])}"
CONSTANTS, VARIABLES = "TensorFlow, weights in constants", "TensorFlow, weights in variables"


@pytest.fixture(scope="module")
def network() -> Network:
    return new_network()


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engines, "_TAKEN", {})
    yield


def pixels(seed: int = 1) -> Batch:
    shape = (BATCH_SIZE, SIZE, SIZE, 3)
    return {"pixels": np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)}


def coming(frozen: Frozen, count: int = MANY) -> Said:
    said = Said()
    frozen.prepare(count, "image", said)
    return said


# Each repeats itself


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_an_example_gives_the_same_bits_wherever_it_stands(network: Network, engine: str) -> None:
    names, batch, others = ("activation", "pooled"), pixels(), pixels(2)["pixels"]
    frozen = frozen_at(network, POINT, engine)
    found = frozen.run(batch, names)
    assert frozen.engine == {"tensorflow": CONSTANTS, "openvino": OPENVINO}[engine]
    others[[0, 17, 31]] = batch["pixels"][5]
    moved, alone = frozen.run({"pixels": others}, names), frozen.run({"pixels": others[:1]}, names)
    again = frozen_at(network, POINT, engine)
    apart = {name: again.run(batch, (name,))[name] for name in names}
    for name in names:
        for row in (0, 17, 31):
            np.testing.assert_array_equal(moved[name][row], found[name][5])
        np.testing.assert_array_equal(alone[name][0], found[name][5])
        np.testing.assert_array_equal(apart[name], found[name], "compiled anew, for one output")
        np.testing.assert_array_equal(frozen.run(batch, names)[name], found[name])
        assert (moved[name][1] != found[name][5]).any(), "the control"


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_gives_the_same_bits_with_any_number_of_threads(
    network: Network, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    model = cut(network, POINT).prefix("pooled")
    expected = in_openvino(model, pixels()).run(pixels())["pooled"]
    monkeypatch.setattr(engines, "_threads", lambda: threads)
    np.testing.assert_array_equal(in_openvino(model, pixels()).run(pixels())["pooled"], expected)


# They agree


def test_outputs_keep_their_names_though_two_are_one_tensor(network: Network) -> None:
    model = cut(network, "backbone").prefix("sequence", "activation", "pooled")
    expected = in_variables(model).run(pixels())
    for engine in (in_constants(model, pixels()), in_openvino(model, pixels())):
        found = engine.run(pixels())
        assert found.keys() == expected.keys()
        assert engines._checked(found, expected) < 1e-5
        assert all(each.dtype == np.float32 for each in found.values())


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_whole_numbers_and_masks_stay_what_they_are(engine: str) -> None:
    keras.utils.set_random_seed(5)
    toy = network_on(transformer(segments=False), 3)
    inputs = {name: values[:BATCH_SIZE] for name, values in texts()[0].items()}
    names = ("activation", "sequence", "pooled")
    expected = in_variables(cut(toy, "block_0").prefix(*names)).run(inputs)
    found = Frozen(cut(toy, "block_0"), toy.backbone, engine).run(inputs, names)
    assert engines._checked(found, expected) < 1e-5
    seen = {**inputs, "padding_mask": np.ones_like(inputs["padding_mask"])}
    unmasked = Frozen(cut(toy, "block_0"), toy.backbone, engine).run(seen, names)
    with pytest.raises(TrainingError):
        engines._checked(unmasked, expected)  # the control: the mask matters


# They compute with the weights that the key names


def test_training_changes_what_variables_say_alone() -> None:
    trained = new_network()
    model = cut(trained, POINT).prefix("pooled")
    made = [in_variables(model), in_constants(model, pixels()), in_openvino(model, pixels())]
    before = [engine.run(pixels())["pooled"] for engine in made]
    for weight in trained.backbone.trainable_weights:
        weight.assign(weight * 1.5)
    after = [engine.run(pixels())["pooled"] for engine in made]
    assert (before[0] != after[0]).any(), "the control"
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[2], after[2])


@pytest.mark.parametrize("engine", ["auto", "tensorflow", "openvino"])
def test_nothing_is_compiled_of_a_part_that_was_trained(engine: str) -> None:
    trained = new_network()
    frozen = frozen_at(trained, POINT, engine)
    cut(trained, POINT).suffix.layers[-1].trainable_weights[0].assign_add([[1.0]])
    trained.backbone.get_layer("conv_pw_13").kernel.assign_add(np.ones((1, 1, 256, 256)))
    with pytest.raises(RuntimeError, match="trained"):
        frozen.run(pixels(), ("pooled",))
    assert frozen.run(pixels(), ("activation",)), "what lies below is as it was"


def test_only_the_newest_is_held_and_it_is_let_go(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        "kerastl.features.frozen.engine_for",
        lambda task, inputs: made.append("") or in_variables(task.model),  # type: ignore[func-returns-value]
    )
    frozen = frozen_at(network, POINT)
    for names in (("pooled",), ("pooled",), ("activation",), ("pooled",)):
        frozen.run(pixels(), names)
    assert len(made) == 3
    frozen.release()
    frozen.run(pixels(), ("pooled",))
    assert len(made) == 4


# Which one computes


def test_few_examples_are_computed_by_what_is_compiled_soonest_and_the_rest_of_them_too(
    network: Network,
) -> None:
    frozen = frozen_at(network, POINT)
    said = coming(frozen, FEW_EXAMPLES)
    frozen.run(pixels(), ("pooled", "activation"))
    coming(frozen, MANY)
    frozen.run(pixels(), ("activation",))
    assert frozen.engine == VARIABLES and said.lines == [] and engines._TAKEN == {}


def race(monkeypatch: pytest.MonkeyPatch, openvino: float, tensorflow: float) -> list[str]:
    """Let the two take so many seconds for a batch.

    Returns:
        Names of the engines that were timed, filled as they are.
    """
    timed: list[str] = []

    def rate(engine: engines.Engine, inputs: Batch) -> float:
        timed.append(engine.name)
        return BATCH_SIZE / (openvino if engine.name == OPENVINO else tensorflow)

    monkeypatch.setattr(engines, "_rate", rate)
    return timed


def test_the_faster_one_is_taken_once_and_it_is_said(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = race(monkeypatch, 0.1, 0.25)
    first, second = frozen_at(network, POINT), frozen_at(network, "conv_pw_11_relu")
    said, quiet = coming(first), coming(second, 1)
    first.run(pixels(), ("pooled", "activation"))
    first.run(pixels(), ("activation",))
    second.run(pixels(), ("pooled",))
    assert first.engine == second.engine == OPENVINO and len(timed) == 2 and quiet.lines == []
    (line,) = said.lines
    assert line.startswith(f"Engine: {OPENVINO}, 320 images/s beside 128 of TensorFlow, difference "), line


def test_a_slower_one_is_not_taken(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    race(monkeypatch, 0.25, 0.1)
    frozen = frozen_at(network, POINT)
    said = coming(frozen)
    frozen.run(pixels(), ("pooled",))
    assert frozen.engine == CONSTANTS
    assert said.lines[0].startswith(f"Engine: TensorFlow, 320 images/s beside 128 of {OPENVINO}, difference ")


@pytest.mark.parametrize(("openvino", "taken"), [(0.114, OPENVINO), (0.116, CONSTANTS)])
def test_openvino_is_taken_where_the_two_are_close_after_one_turn_of_each(
    network: Network, monkeypatch: pytest.MonkeyPatch, openvino: float, taken: str
) -> None:
    timed = race(monkeypatch, openvino, 0.1)
    frozen = frozen_at(network, POINT)
    said = coming(frozen)
    frozen.run(pixels(), ("pooled",))
    assert frozen.engine == taken and timed == [OPENVINO, VARIABLES]
    rates = {
        OPENVINO: "281 images/s beside 320 of TensorFlow",
        CONSTANTS: f"320 images/s beside 276 of {OPENVINO}",
    }
    assert rates[taken] in said.lines[0]


def test_batches_of_other_steps_have_the_same_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = race(monkeypatch, 0.1, 0.25)

    def compiled(model: keras.Model, steps: int) -> str:
        said = Said()
        prefix = engines.Prefix("auto", model, "weights", "float32", MANY, "text", said)
        return engines.engine_for(prefix, {"pieces": np.ones((BATCH_SIZE, steps), np.int32)}).name

    open_steps, eight_steps = (
        keras.Model(inputs, {"pooled": keras.ops.mean(keras.layers.Embedding(9, 4)(inputs), axis=1)})
        for inputs in (keras.Input((steps,), dtype="int32", name="pieces") for steps in (None, 8))
    )
    assert {compiled(open_steps, steps) for steps in (32, 64, 96)} == {OPENVINO} and len(timed) == 2
    compiled(eight_steps, 8)
    assert len(timed) == 4, "the control: a side that a network does not leave open"


def shifted(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let half of OpenVINO's values differ by a share of them."""

    def wrong(model: keras.Model, inputs: Batch, traced: object) -> engines.Engine:
        right = in_openvino(model, inputs, traced)

        def run(batch: Batch) -> dict[str, np.ndarray]:
            factors = np.ones(BATCH_SIZE, np.float32)
            factors[BATCH_SIZE // 2 :] += share  # in one of the parts that are computed side by side
            return {
                name: each * factors.reshape(-1, *[1] * (each.ndim - 1))
                for name, each in right.run(batch).items()
            }

        return engines.Engine(right.name, run)

    monkeypatch.setattr(engines, "in_openvino", wrong)


def test_values_beyond_the_bound_are_not_taken(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted(monkeypatch, 2.1 * BOUND)
    frozen = frozen_at(network, POINT)
    said = coming(frozen)
    frozen.run(pixels(), ("pooled",))
    assert frozen.engine == CONSTANTS
    assert said.lines[0].startswith("Engine: TensorFlow. OpenVINO gives other values") and BOUND == 1e-4
    with pytest.raises(TrainingError, match=r'pooled.*1\.5e-04.*1e-04.*backbone.engine = "tensorflow"'):
        frozen_at(network, POINT, "openvino").run(pixels(), ("pooled",))
    shifted(monkeypatch, 0.5 * BOUND)
    assert frozen_at(network, POINT, "openvino").run(pixels(), ("pooled",)), "the control"


def test_one_wrong_channel_is_beyond_the_bound(network: Network) -> None:
    expected = in_variables(cut(network, POINT).prefix("sequence")).run(pixels())
    wrong = expected["sequence"].copy()
    wrong[..., 0] *= 1.1
    with pytest.raises(TrainingError):
        engines._checked({"sequence": wrong}, expected)
    assert engines._checked(expected, expected) == 0, "the control"


def test_a_network_that_openvino_cannot_compute(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise RuntimeError("no translator for Odd\nand more")

    monkeypatch.setattr("openvino.frontend.tensorflow.utils.create_tf_graph_iterator", fails)
    frozen = frozen_at(network, POINT)
    said = coming(frozen)
    frozen.run(pixels(), ("pooled",))
    assert frozen.engine == CONSTANTS and "no translator for Odd" in said.lines[0]
    with pytest.raises(UserError, match=r'cannot compute this network: .*backbone.engine = "tensorflow"'):
        frozen_at(network, POINT, "openvino").run(pixels(), ("pooled",))


def test_where_it_cannot_be_it_is_said_how_to_mend_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = frozen_at(network, POINT, "openvino")
    half.facts = {**half.facts, "precision": "mixed_bfloat16"}
    with pytest.raises(UserError, match=r'backbone.engine = "openvino": .*precision = "float32"'):
        half.run(pixels(), ("pooled",))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'kerastl\[openvino\]'"):
        frozen_at(network, POINT, "openvino").run(pixels(), ("pooled",))
    frozen = frozen_at(network, POINT)
    said = coming(frozen)
    frozen.run(pixels(), ("pooled",))
    assert frozen.engine == CONSTANTS and said.lines == []


def test_large_weights_and_those_that_cannot_be_constants_stay_in_variables(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cut(network, POINT).prefix("pooled")
    assert in_constants(model, pixels()).name == CONSTANTS
    with monkeypatch.context() as patch:
        patch.setattr(engines, "LARGEST_CONSTANTS", 1000)
        assert in_constants(model, pixels()).name == VARIABLES


@keras.saving.register_keras_serializable("engines")
class Counting(keras.layers.Layer):
    """Counts its calls, whatever they are for."""

    def build(self, shape: object) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="float32")

    def call(self, x: object) -> object:
        self.calls.value.assign_add(1.0)
        return x


def test_a_layer_that_assigns_to_its_variables_is_computed_with_them() -> None:
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, {"pooled": Counting()(inputs)})
    batch = {"x": np.ones((BATCH_SIZE, 4), np.float32)}
    engine = in_constants(model, batch)
    np.testing.assert_array_equal(engine.run(batch)["pooled"], batch["x"])
    assert engine.name == VARIABLES


def test_the_recipe_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("kerastl.training.start.Frozen", lambda cut, backbone, engine: asked.append(engine))
    for flags in ({}, {"backbone.engine": "openvino"}, {"deterministic": True}):
        recipe = resolve(load_recipe("digits", flags={"backbone.image_size": SIZE, **flags}), 100, 3)
        backbone = build_backbone(get_backbone("mobilenet_025"), Image(SIZE).spec)
        frozen_part(backbone, recipe, 3)
    assert asked == ["auto", "openvino", "tensorflow"]
    assert "backbone.engine" in affecting(Settings, "run") and "backbone.engine" not in affecting(
        Settings, "data", "features", "head", "step", "value"
    )


# What is kept


def test_what_one_engine_kept_serves_the_others(network: Network, tmp_path: Path) -> None:
    images = views(level="none")
    kept = features_of(frozen_at(network, POINT, "openvino"), images, 1, tmp_path)
    for engine in ("auto", "tensorflow"):
        frozen = frozen_at(network, POINT, engine)
        found = features_of(frozen, images, 1, tmp_path)
        np.testing.assert_array_equal(found.pooled_batch(EVERYTHING, 0), kept.pooled_batch(EVERYTHING, 0))
        assert frozen.forward_passes == 0 and frozen.engine is None, "nothing is compiled"
    features_of(frozen, images, 2, tmp_path)
    assert frozen.engine == CONSTANTS, "the control"


def test_extraction_tells_how_many_rows_are_missing(network: Network, tmp_path: Path) -> None:
    images, told = views(level="light"), []
    frozen = frozen_at(network, POINT)
    frozen.prepare = lambda coming, noun, progress: told.append((coming, noun))  # type: ignore[method-assign]
    features_of(frozen, images, 1, tmp_path)
    features_of(frozen, images, 3, tmp_path)
    features_of(frozen, images, 3, tmp_path / "live", "off")
    # Live, an image is computed in one view in each of ten epochs.
    wanted, full = Wanted(HeadInput("avg"), ("pooled", "activation"), finetune_epochs=10), ("disk", "memory")
    cache = Cache(CacheRecipe(directory=str(tmp_path / "full")), tmp_path / "scratch")
    extract(frozen, [frozen_views(images, 3)], cache, wanted, excluded=full)
    extract(
        frozen,
        [frozen_views(images, 3)],
        cache,
        dataclasses.replace(wanted, finetune_epochs=0),
        excluded=full,
    )
    assert told == [(count, "image") for count in (10, 20, 100, 100, 30)]


def test_no_more_threads_than_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setattr(pipeline, "os", SimpleNamespace(sched_getaffinity=lambda of: {3}))
    monkeypatch.setattr(engines, "os", SimpleNamespace(environ={}))
    assert engines._threads() == 1
    monkeypatch.setattr(engines.os, "environ", {"TF_NUM_INTRAOP_THREADS": "7"})
    assert engines._threads() == 7
