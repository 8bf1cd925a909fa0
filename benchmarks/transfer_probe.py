"""Do the embedded weights transfer? A linear probe on data that they have never seen.

scikit-learn's handwritten digits (8x8 greys) go through the embedded backbone once; a logistic
regression with one fixed penalty is fitted on the pooled, standardised features of a few labels a
class and tested on all the others. The same with random weights, and on the raw pixels, says what
the weights are worth. Nothing is tuned on the digits.

    python benchmarks/transfer_probe.py
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

WEIGHTS = Path(__file__).parent.parent / "kerastl/weights/mobilenet_025_fashion_mnist.weights.h5"
IMAGE_SIZE = 64
PENALTY_C = 0.1
LABELS_PER_CLASS = (10, 100)


def pooled_features(images: np.ndarray, weights: Path | None, seed: int = 0) -> np.ndarray:
    """Pooled features float32 [n, 256] of greys 0..255 [n, h, w]; `weights` None means random ones."""
    keras.utils.set_random_seed(seed)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    backbone = keras.applications.MobileNet(
        alpha=0.25, include_top=False, pooling="avg", weights=None, input_shape=shape
    )
    if weights is not None:
        backbone.load_weights(weights)
    resized = tf.image.resize(images[..., np.newaxis].astype(np.float32), shape[:2], antialias=True)
    return backbone.predict(tf.repeat(resized / 127.5 - 1.0, 3, axis=-1), batch_size=256, verbose=0)


def probe(features: np.ndarray, labels: np.ndarray, labels_per_class: int, draws: int) -> list[float]:
    """Accuracy on all that was not drawn, for each of `draws` random draws of labels."""
    accuracies = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(labels))
        chosen = np.concatenate([order[labels[order] == c][:labels_per_class] for c in np.unique(labels)])
        rest = np.setdiff1d(order, chosen)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY_C, max_iter=2000))
        model.fit(features[chosen], labels[chosen])
        accuracies.append(float(model.score(features[rest], labels[rest])))
    return accuracies


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table that stands in kerastl/weights/README.md."""
    parser = argparse.ArgumentParser(
        description="Linear probe of the embedded weights on handwritten digits."
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="a .weights.h5 file of the backbone")
    parser.add_argument("--draws", type=int, default=5, help="random draws of labels")
    options = parser.parse_args(arguments)
    digits = load_digits()
    images = digits.images * (255.0 / 16.0)
    rows = {
        "embedded weights": pooled_features(images, options.weights),
        "random weights": pooled_features(images, None),
        "raw 8x8 pixels": images.reshape(len(images), -1),
    }
    out = sys.stdout
    out.write("| features | " + " | ".join(f"{n} labels a class" for n in LABELS_PER_CLASS) + " |\n")
    out.write("|---|" + "---|" * len(LABELS_PER_CLASS) + "\n")
    for name, features in rows.items():
        cells = []
        for count in LABELS_PER_CLASS:
            found = probe(features, digits.target, count, options.draws)
            cells.append(f"{np.median(found):.3f} ({min(found):.3f}-{max(found):.3f})")
        out.write(f"| {name} | " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    main()
