"""The other side of every comparison: the loop of Keras' transfer-learning guide.

Written from the guide's description, without anything of kerastl: the backbone is frozen under
GlobalAveragePooling, Dropout 0.2 and Dense and trained with Adam 1e-3; then all of it is thawed
with BatchNorm kept frozen, and trained with Adam 1e-5. Batches of 32, no augmentation, every
training example used for training, the last epoch's weights taken.

The frozen backbone gives the same features in every epoch, so `stored_head=True` computes them
once and trains the same head on them: the same arithmetic in a fraction of the time. Use it to
compare accuracy, never to compare speed.

    python benchmarks/guide.py --backbone resnet50 --data DIR --weights FILE --seed 0
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

BACKBONES = {
    "resnet50": "ResNet50",
    "vgg16": "VGG16",
    "inception_v3": "InceptionV3",
    "mobilenet_v2": "MobileNetV2",
}
PREPROCESSING = {
    "ResNet50": "resnet",
    "VGG16": "vgg16",
    "InceptionV3": "inception_v3",
    "MobileNetV2": "mobilenet_v2",
}


def load_split(directory: Path, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """A split with one folder a class -> float32 [n, size, size, 3] in 0..255 and int64 [n]."""
    import tensorflow as tf

    images, labels = [], []
    for index, folder in enumerate(sorted(p for p in directory.iterdir() if p.is_dir())):
        for path in sorted(folder.iterdir()):
            pixels = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
            images.append(tf.image.resize(pixels, (image_size, image_size), antialias=True).numpy())
            labels.append(index)
    return np.stack(images), np.asarray(labels)


def keep_per_class(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` random examples of every class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)])


def run_guide(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    backbone: str,
    weights: str | None,
    seed: int,
    head_epochs: int = 10,
    finetune_epochs: int = 5,
    stored_head: bool = True,
) -> dict:
    """Run both phases of the guide and return the test accuracy after each, with the seconds."""
    import keras

    keras.utils.set_random_seed(seed)
    name = BACKBONES[backbone]
    preprocess = getattr(keras.applications, PREPROCESSING[name]).preprocess_input
    size = train[0].shape[1]
    base = getattr(keras.applications, name)(include_top=False, weights=weights, input_shape=(size, size, 3))
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base(preprocess(inputs), training=False))
    head = keras.Sequential([keras.layers.Dropout(0.2), keras.layers.Dense(int(train[1].max()) + 1)])
    model = keras.Model(inputs, head(pooled))

    def compile_with(target: keras.Model, learning_rate: float) -> None:
        target.compile(
            keras.optimizers.Adam(learning_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    result: dict = {"backbone": backbone, "seed": seed, "image_size": size, "train_examples": len(train[1])}
    started = time.perf_counter()
    if stored_head:
        features = keras.Model(inputs, pooled)
        compile_with(head, 1e-3)
        head.fit(
            features.predict(train[0], verbose=0), train[1], batch_size=32, epochs=head_epochs, verbose=0
        )
    else:
        compile_with(model, 1e-3)
        model.fit(*train, batch_size=32, epochs=head_epochs, verbose=0)
    result["head_seconds"] = time.perf_counter() - started
    compile_with(model, 1e-3)
    result["head_accuracy"] = float(model.evaluate(*test, batch_size=32, verbose=0)[1])
    if finetune_epochs:
        base.trainable = True
        for layer in base.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        compile_with(model, 1e-5)
        started = time.perf_counter()
        model.fit(*train, batch_size=32, epochs=finetune_epochs, verbose=0)
        result["finetune_seconds"] = time.perf_counter() - started
        result["finetune_accuracy"] = float(model.evaluate(*test, batch_size=32, verbose=0)[1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=sorted(BACKBONES), required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and test/, one folder a class"
    )
    parser.add_argument("--weights", help="weights file; random weights without it")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-class", type=int, help="train on this many images a class")
    parser.add_argument(
        "--whole-loop", action="store_true", help="run the backbone in every head epoch, for timing"
    )
    arguments = parser.parse_args()
    train = load_split(arguments.data / "train", arguments.image_size)
    test = load_split(arguments.data / "test", arguments.image_size)
    if arguments.per_class:
        kept = keep_per_class(train[1], arguments.per_class, arguments.seed)
        train = train[0][kept], train[1][kept]
    result = run_guide(
        train,
        test,
        arguments.backbone,
        arguments.weights,
        arguments.seed,
        stored_head=not arguments.whole_loop,
    )
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
