"""An export of examples that are no images: two named inputs, one of whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest

from kerastl.errors import ExportError
from kerastl.export.check import check_export, expected_answers
from kerastl.export.signature import Serving
from kerastl.export.warmup import write_warmup
from kerastl.modality import InputSpec, one_by_one

WIDTH = 4
NAMES = ("falling", "level", "rising")


@dataclass(frozen=True)
class Series:
    """A few float32 numbers, one after the other: what an export asks of a modality, and nothing else."""

    name: ClassVar[str] = "series"
    noun: ClassVar[str] = "row"
    request: ClassVar[str] = "series_bytes"
    decoded_signature: ClassVar[str] = "serving_series"
    scale: float = 1.0

    @property
    def spec(self) -> dict[str, InputSpec]:
        return {"values": InputSpec((WIDTH,), "float32"), "length": InputSpec((), "int32")}

    def check(self, raw: Any) -> Any:
        import tensorflow as tf

        return tf.debugging.assert_greater(tf.strings.length(raw), 0, "an empty series")

    @staticmethod
    def kind_of(raw: bytes) -> str:
        return "series"

    def trimmed(self, inputs: Any) -> Any:
        return inputs

    def decode_all(self, raw: Any, kind: str | None = None) -> dict[str, Any]:
        return one_by_one(self.decode, raw, self.spec)

    def decode(self, raw: Any) -> dict[str, Any]:
        import tensorflow as tf

        values = tf.io.decode_raw(raw, tf.float32) * self.scale
        count = tf.size(values)
        padded = tf.ensure_shape(tf.pad(values, [[0, WIDTH - count]]), [WIDTH])
        return {"values": padded, "length": count}


def model() -> Any:
    """The mean of the numbers that are there, through a layer of its own."""
    import keras

    values = keras.Input((WIDTH,), name="values")
    length = keras.Input((), dtype="int32", name="length")
    total = keras.ops.sum(values, axis=1, keepdims=True)
    mean = total / keras.ops.cast(keras.ops.expand_dims(length, 1), "float32")
    logits = keras.layers.Dense(3)(mean)
    network = keras.Model([length, values], logits)  # in another order than the modality's
    network.layers[-1].set_weights([np.array([[-3.0, 0, 3]]), np.array([0.0, 1, 0])])
    return network


@pytest.fixture(scope="module")
def raw() -> list[bytes]:
    random = np.random.default_rng(0)
    return [random.normal(size=1 + at % WIDTH).astype(np.float32).tobytes() for at in range(9)]


def test_raw_and_decoded_examples_of_another_kind_are_served_and_checked(
    tmp_path: Path, raw: list[bytes]
) -> None:
    import tensorflow as tf

    from kerastl.export.saved_model import write_saved_model

    serving, network = Serving(NAMES, Series()), model()  # type: ignore[arg-type]
    expected = expected_answers(network, raw, serving)
    assert {name: values.dtype.name for name, values in expected.inputs.items()} == {
        "values": "float32",
        "length": "int32",
    }
    write_saved_model(network, serving, tmp_path / "1")
    result = check_export(tmp_path / "1", expected, serving)
    assert result.problems == () and result.noun == "row"
    assert result.signatures == ("serving_default", "serving_embedding", "serving_series")
    assert write_warmup(tmp_path / "1", "m", raw, Series.request) == 2

    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    given = signatures["serving_series"].structured_input_signature[1]
    assert {name: spec.dtype.name for name, spec in given.items()} == {"values": "float32", "length": "int32"}
    nothing = signatures["serving_default"](series_bytes=tf.constant([], tf.string))
    assert nothing["probabilities"].shape == (0, 3)

    doubled = expected_answers(network, raw, Serving(NAMES, Series(2.0)))  # type: ignore[arg-type]
    refused = check_export(tmp_path / "1", doubled, serving)
    assert "probabilities differ" in refused.problems[0] and "Worst in row" in refused.problems[0]


def test_a_model_with_inputs_of_another_shape_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.export.saved_model import write_saved_model

    wider = MappingProxyType({"length": InputSpec((), "int32"), "values": InputSpec((5,), "float32")})
    monkeypatch.setattr(Series, "spec", wider)
    with pytest.raises(ExportError, match=r"takes rows of shape \(4,\), not \(5,\)"):
        write_saved_model(model(), Serving(NAMES, Series()), tmp_path / "1")  # type: ignore[arg-type]
