"""The bundled source: scikit-learn's 1,797 handwritten digits, so that a demo needs no download."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kerastl.data.duplicates import copies_of, digest_of
from kerastl.data.examples import CARVE, Examples, fingerprint, no_stamps, repeated, text_column
from kerastl.data.png import encode_png
from kerastl.modality.image import Image


def open_digits() -> Examples:
    """The digits 0 to 9, 8 × 8 grey pixels each, without given splits.

    The data are the test part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin and
    C. Kaynak, 1998, https://doi.org/10.24432/C50P49), as `sklearn.datasets.load_digits` brings them.

    Returns:
        1,797 examples with ids `digits:0000` to `digits:1796`; encoded as grey PNG, 0..255.
    """
    pixels, labels = _digits()
    ids = text_column([f"digits:{index:04d}" for index in range(len(labels))])
    splits = repeated(CARVE, len(labels))
    class_names = tuple(str(digit) for digit in range(10))

    return Examples(
        ids=ids,
        labels=labels,
        class_names=class_names,
        groups=repeated("", len(labels)),
        splits=splits,
        raw=lambda indices: (encode_png(pixels[index]) for index in indices),
        noun=Image.noun,
        origin="the digits bundled with scikit-learn",
        place="scikit-learn digits",
        stamps=no_stamps(len(labels)),
        fingerprint=fingerprint((ids, splits), (labels, pixels), *class_names),
        contents=copies_of(np.array([digest_of(each.tobytes()) for each in pixels])),
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    # scikit-learn counts 0..16 dark pixels in each 4 × 4 cell; the whole range of a byte is used here.
    pixels = np.round(bundle.images * (255 / 16)).astype(np.uint8)
    labels = bundle.target.astype(np.int32)
    for array in (pixels, labels):
        array.flags.writeable = False
    return pixels, labels
