"""The bundled digits: real, lossless, and always the same."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from kerastl.data.png import encode_png
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.recipe.schema import DataRecipe


def test_digits_are_scikit_learns_over_the_whole_range() -> None:
    examples = open_examples(DataRecipe())
    bundle = load_digits()
    assert len(examples) == 1797 and examples.class_names == tuple("0123456789")
    assert np.array_equal(examples.labels, bundle.target) and examples.labels.dtype == np.int32
    assert examples.ids[0] == "digits:0000" and examples.ids[-1] == "digits:1796"
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in examples.raw(np.array([3, 99]))]
    for image, counts in zip(images, bundle.images[[3, 99]], strict=True):
        assert image.dtype == np.uint8 and image.shape == (8, 8)
        assert np.array_equal(image, np.round(counts * 255 / 16))
    assert list(examples.raw(np.array([], np.int64))) == []


def test_png_is_lossless_and_tensorflow_reads_it() -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    data = encode_png(pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(tf.io.decode_png(data).numpy()[..., 0], pixels)


def test_digits_split_without_warnings_and_the_same_each_time() -> None:
    first, second = (make_splits(open_examples(DataRecipe()), DataRecipe()) for _ in range(2))
    assert first.fingerprint == second.fingerprint and first.warnings == ()
    assert sum(first.counts().values()) == 1797
    assert abs(first.counts()["test"] / 1797 - 0.2) < 0.04
