"""A second kind of example needs nothing but its modality: vectors of numbers, with two named inputs, go through features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastl.data.examples import Examples, Split, no_stamps, repeated, text_column
from kerastl.features.cache import Cache
from kerastl.features.engines import named_inputs
from kerastl.features.inputs import AGAIN, CHECKED, Inputs, OtherReading, decode_split
from kerastl.features.views import Views
from kerastl.modality import InputSpec, Mixing, Modality, modality_of, one_by_one
from kerastl.modality.image import Image
from kerastl.progress import Progress
from kerastl.recipe import AugmentRecipe, CacheRecipe, Recipe

LENGTH = 6


@dataclass(frozen=True)
class Vectors:
    """Raw float32 numbers, as many as there are -> `values` float32 [6], filled up with zeros, and `length` int32 [1]."""

    name: ClassVar[str] = "vector"
    noun: ClassVar[str] = "vector"
    request: ClassVar[str] = "vector_bytes"
    smaller: ClassVar[str] = "shorter vectors"
    scale: float = 1.0

    @property
    def spec(self) -> dict[str, InputSpec]:
        return {"values": InputSpec((LENGTH,), "float32"), "length": InputSpec((1,), "int32")}

    def facts(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @staticmethod
    def kind_of(raw: bytes) -> str:
        return "" if raw.startswith(b"text") else "numbers"

    def decode_all(self, raw: tf.Tensor, kind: str | None = None) -> dict[str, tf.Tensor]:
        return one_by_one(self.decode, raw, self.spec)

    def decode(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.io.decode_raw(raw, tf.float32)[:LENGTH] * self.scale
        length = tf.size(values)
        filled = tf.pad(values, [[0, LENGTH - length]])
        return {"values": tf.ensure_shape(filled, [LENGTH]), "length": length[None]}

    def check(self, raw: tf.Tensor) -> tf.Operation:
        return tf.debugging.assert_none_equal(tf.strings.substr(raw, 0, 4), b"text")

    @staticmethod
    def servable(raw: bytes) -> tuple[bytes, str]:
        if not raw.startswith(b"text"):
            return raw, ""
        try:
            return np.array(raw[4:].decode().split(), np.float32).tobytes(), "text"
        except ValueError as error:
            raise ValueError("no numbers") from error

    def reason_of(self, message: str) -> str:
        return "no float32 numbers" if "multiple" in message else message

    def view(self, inputs: Any, keys: np.ndarray, augment: Any) -> dict[str, np.ndarray]:
        return {**inputs, "values": inputs["values"] + (keys[:, :1] % 7).astype(np.float32)}

    def view_facts(self, augment: Any) -> dict[str, Any]:
        return {"added": 7}

    def mixes(self, augment: Any) -> bool:
        return False

    def mixing(self, ids: np.ndarray, view: int, augment: Any) -> Mixing:
        raise NotImplementedError

    def sketches(self, inputs: Any) -> np.ndarray:
        return np.zeros((len(inputs["values"]), 0), np.uint8)

    def near(self, held_out: np.ndarray, others: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
        return [], 0

    def shown(self, inputs: Any) -> list[Any]:
        return [str(row) for row in inputs["values"]]


GIVEN = [np.arange(1, 1 + count % (LENGTH + 2), dtype=np.float32) + count for count in range(70)]


def split_of(raws: list[bytes]) -> Split:
    count = len(raws)
    examples = Examples(
        ids=text_column([f"v{number}" for number in range(count)]),
        labels=np.arange(count, dtype=np.int32) % 2,
        class_names=("even", "odd"),
        groups=repeated("", count),
        splits=repeated("", count),
        raw=lambda indices: (raws[index] for index in indices),
        origin="numbers of a test",
        place="a test",
        stamps=no_stamps(count),
        fingerprint="0",
        noun=Vectors.noun,
    )
    return Split("train", examples, np.arange(count))


def decoded(
    folder: Path, raws: list[bytes], modality: Modality, reading: str = AGAIN
) -> tuple[Inputs, dict[int, str]]:
    cache = Cache(CacheRecipe(mode="disk", directory=str(folder / "store")), folder / "scratch")
    return decode_split(split_of(raws), modality, cache, Progress(), reading)


def raws_of() -> list[bytes]:
    raws = [values.tobytes() for values in GIVEN]
    text = b"text" + " ".join(str(number) for number in GIVEN[3]).encode()
    raws[3] = text.ljust(-(-len(text) // 4) * 4)  # as long as float32 numbers, which it must not be taken for
    return raws


def test_named_inputs_are_decoded_once_and_keep_their_dtypes(
    tmp_path: Path, decode_counts: list[int]
) -> None:
    every = np.arange(70)
    for passes in ([70], []):
        decode_counts.clear()
        inputs, reasons = decoded(tmp_path, raws_of(), Vectors())
        assert (decode_counts, reasons, inputs.kept, inputs.converted) == (passes, {}, True, {"text": 1})
        batch = inputs[every]
        assert [batch[name].dtype for name in ("values", "length")] == [np.float32, np.int32]
        for row, length, values in zip(batch["values"], batch["length"], GIVEN, strict=True):
            kept = values[:LENGTH]
            np.testing.assert_array_equal(row, [*kept, *np.zeros(LENGTH - len(kept))])
            assert length == [len(kept)]
    decode_counts.clear()
    decoded(tmp_path, raws_of(), Vectors(scale=2.0))
    assert decode_counts == [70], "the control: how they are decoded is part of the key"
    assert len(list((tmp_path / "store").glob("inputs_values-*"))) == 2


def test_inputs_that_are_streamed_are_those_that_are_kept(tmp_path: Path) -> None:
    kept, _ = decoded(tmp_path, raws_of(), Vectors())
    streamed, _ = decoded(tmp_path / "other", raws_of(), Vectors(), "in turn")
    for part, batch in zip(
        (slice(0, 40), slice(40, 70)), streamed.in_turn([np.arange(40), np.arange(40, 70)]), strict=True
    ):
        for name, values in kept[np.arange(70)[part]].items():
            np.testing.assert_array_equal(batch[name], values)
            assert batch[name].dtype == values.dtype
    assert kept.kept and not streamed.kept, "the control"


def test_a_network_takes_each_input_in_the_dtype_that_it_has_there() -> None:
    ids, mask = keras.Input((2,), dtype="int32", name="ids"), keras.Input((2,), dtype="bool", name="mask")
    model = keras.Model([mask, ids], [mask, ids])
    large = 2**24 + 1  # float32 has no such number
    inputs = {"ids": tf.constant([[large, 1]]), "mask": tf.constant([[1, 0]], tf.uint8)}
    given = named_inputs(model, inputs)
    assert [each.dtype for each in given] == [tf.bool, tf.int32] and given[1].numpy().tolist() == [[large, 1]]


def test_what_cannot_be_read_is_named_in_the_words_of_the_modality(tmp_path: Path) -> None:
    raws = [b"abc", b"text no", *raws_of()]
    inputs, reasons = decoded(tmp_path, raws, Vectors())
    assert reasons == {0: "no float32 numbers", 1: "no numbers"} and len(inputs) == 70
    streamed, none = decoded(tmp_path / "other", raws, Vectors(), "in turn")
    assert none == {}
    with pytest.raises(OtherReading, match="v0 cannot be read: no float32 numbers") as raised:
        list(streamed.in_turn([np.arange(72)]))
    assert raised.value.reading == CHECKED


def test_views_of_named_inputs_are_pure_functions_of_the_example(tmp_path: Path) -> None:
    inputs, _ = decoded(tmp_path, raws_of(), Vectors())
    ids, classes = split_of(raws_of()).ids, np.arange(70) % 2
    views = Views(inputs, Vectors(), classes, 2, ids, AugmentRecipe("none"))
    positions, each = np.array([5, 2, 9, 2]), np.array([1, 0, 2, 1])
    batch = views.batch(positions, each)
    for row, (position, view) in enumerate(zip(positions, each, strict=True)):
        alone = views.batch(np.array([position]), int(view))
        for name, values in batch.items():
            np.testing.assert_array_equal(values[row], alone[name][0])
    np.testing.assert_array_equal(batch["length"], inputs[positions]["length"])
    assert (views.batch(positions, 1)["values"] != views.batch(positions, 2)["values"]).any()
    assert (views.keys(inputs.contents, 1) != views.keys(inputs.contents, 2)).any()


def test_images_are_the_modality_of_a_recipe() -> None:
    recipe = Recipe()
    assert modality_of(recipe).noun == "image" and modality_of(recipe).request == "image_bytes"
    one, other = Image(32), Image(32, "crop")
    assert one.facts() != other.facts() and one == Image(32) and hash(one) == hash(Image(32))
    assert {name: (each.shape, each.dtype) for name, each in one.spec.items()} == {
        "pixels": ((32, 32, 3), "uint8")
    }


def test_the_check_of_a_machine_decodes_an_example_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from kerastl.jobs.check import check
    from kerastl.modality.text import Text

    found = {each.name: each for each in check()}
    assert found["image decoding"].ok and found["text decoding"].ok

    def broken() -> str:
        raise RuntimeError("a word does not come back in its pieces")

    monkeypatch.setattr(Text, "self_test", staticmethod(broken))
    found = {each.name: each for each in check()}
    assert found["image decoding"].ok and "does not come back" in found["text decoding"].detail
    assert not found["text decoding"].ok
