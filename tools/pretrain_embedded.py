"""Trains the weights that ship inside kerastl, from data that a package registry carries.

The embedded backbone is `keras.applications.MobileNet(alpha=0.25)`. It is trained on Fashion-MNIST
(MIT licence), whose ten classes of clothes alone make poor features: telling a coat from a sandal
needs no detail. So, after one epoch of plain classification, most of the gradient comes from
instance discrimination (SimCLR, arXiv:2002.05709): two renderings of one piece of one garment must
be recognised as the same among all others of the batch. The renderings differ in what should not
matter elsewhere either: small affine and elastic warps, resolution (8 to 28 pixels), contrast,
polarity, and whether the shape is drawn filled or as its outline. A class head on the same features
keeps the labels in play. Nothing but Fashion-MNIST is ever read.

Run it from the project's root; it takes about 20 minutes on two CPU cores that are shared:

    apt-get install dataset-fashion-mnist
    python tools/pretrain_embedded.py --data /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import keras
import numpy as np
import tensorflow as tf

DEFAULT_OUTPUT = Path("kerastl/weights/mobilenet_025_fashion_mnist.weights.h5")
FASHION_CLASSES = 10
FINAL_IMAGE_SIZE = 64
SOURCE_PIXELS = 28
# 8 is what scanned characters and thumbnails come down to; 28 is all that Fashion-MNIST has.
RESOLUTIONS = (8, 10, 14, 20, 28, 28)


@dataclass(frozen=True)
class Schedule:
    """How long, at which size and against what the backbone is trained."""

    epochs: int = 7
    plain_epochs: int = (
        1  # untouched images and the class head only: from random weights contrast stays at chance
    )
    final_size_epochs: int = 1
    batch_size: int = 128
    image_size: int = 48  # a third of the time that 64 takes; the last epochs are trained at 64
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.05
    label_smoothing: float = 0.1
    class_weight: float = 0.3
    contrast_weight: float = 1.0
    temperature: float = 0.2


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped, as LeCun's MNIST page defines it.

    Returns:
        uint8 array of the shape that the file states.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not a gzipped idx file of unsigned bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_fashion_mnist(directory: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28, 1] and labels int32 [n] of `part`, 'train' or 't10k'."""
    files = [directory / f"{part}-images-idx3-ubyte.gz", directory / f"{part}-labels-idx1-ubyte.gz"]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise SystemExit(
            f"Missing {', '.join(missing)}. `apt-get install dataset-fashion-mnist` provides them."
        )
    return read_idx(files[0])[..., np.newaxis], read_idx(files[1]).astype(np.int32)


def to_network_input(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Greys 0..255 [n, h, w, 1] -> float32 [n, size, size, 3] in -1..1, as kerastl resizes and scales."""
    resized = tf.image.resize(tf.cast(images, tf.float32), (image_size, image_size), antialias=True)
    return tf.repeat(resized / 127.5 - 1.0, 3, axis=-1)


def uniform(count: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """float32 [count] drawn uniformly from low..high."""
    return tf.random.uniform([count], low, high)


def sample(images: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Bilinear samples of `images` [n, s, s] at pixel coordinates x, y [n, h, w]; 0 outside."""
    side = tf.shape(images)[1] + 2
    # One pixel of black around the image makes "outside" and its fading edge an ordinary lookup.
    flat = tf.reshape(tf.pad(images, [[0, 0], [1, 1], [1, 1]]), [tf.shape(images)[0], -1])
    limit = tf.cast(side, tf.float32) - 1.001
    x, y = tf.clip_by_value(x + 1.0, 0.0, limit), tf.clip_by_value(y + 1.0, 0.0, limit)
    left, top = tf.floor(x), tf.floor(y)
    across, down = x - left, y - top
    index = tf.cast(top, tf.int32) * side + tf.cast(left, tf.int32)

    def at(offset: tf.Tensor | int) -> tf.Tensor:
        return tf.gather(flat, index + offset, batch_dims=1)

    upper = at(0) * (1.0 - across) + at(1) * across
    lower = at(side) * (1.0 - across) + at(side + 1) * across
    return upper * (1.0 - down) + lower * down


def draw_pattern(count: tf.Tensor) -> tf.Tensor:
    """What both renderings of an example share: float32 [count, 5] of angle, zoom, flip, centre x, y.

    Most patterns are the upright garment, the others a turned patch of it: garments alone have
    too few outlines.
    """
    whole = uniform(count, 0.0, 1.0) < 0.6
    angle = tf.where(whole, 0.0, uniform(count, -np.pi, np.pi))
    zoom = tf.where(whole, 1.0, uniform(count, 0.5, 0.9))
    flip = tf.where(uniform(count, 0.0, 1.0) < 0.5, -1.0, 1.0)
    reach = (1.0 - zoom) * 0.5 * SOURCE_PIXELS * 0.8
    return tf.stack(
        [angle, zoom, flip, uniform(count, -1.0, 1.0) * reach, uniform(count, -1.0, 1.0) * reach], axis=1
    )


def warp(images: tf.Tensor, pattern: tf.Tensor) -> tf.Tensor:
    """One rendering's geometry: `pattern`, then a small affine map and a smooth elastic warp.

    Args:
        images: float32 [n, 28, 28], 0..1.
        pattern: float32 [n, 5] from `draw_pattern`.
    """
    count = tf.shape(images)[0]
    angle, zoom, flip, centre_x, centre_y = [
        v[:, tf.newaxis, tf.newaxis] for v in tf.unstack(pattern, axis=1)
    ]
    turn, shear, stretch_x, stretch_y, move_x, move_y = [
        uniform(count, -reach, reach)[:, tf.newaxis, tf.newaxis]
        for reach in (np.pi / 12, 0.2, 0.25, 0.25, 2.5, 2.5)
    ]
    middle = (SOURCE_PIXELS - 1) / 2
    line = tf.range(SOURCE_PIXELS, dtype=tf.float32) - middle
    x, y = tf.meshgrid(line, line)
    elastic = tf.image.resize(tf.random.normal([count, 5, 5, 2], stddev=0.8), (SOURCE_PIXELS,) * 2, "bicubic")
    x = x[tf.newaxis] * tf.exp(stretch_x) + y[tf.newaxis] * shear + elastic[..., 0] + move_x
    y = y[tf.newaxis] * tf.exp(stretch_y) + elastic[..., 1] + move_y
    cosine, sine = tf.cos(angle + turn), tf.sin(angle + turn)
    source_x = zoom * flip * (cosine * x - sine * y) + centre_x + middle
    source_y = zoom * (sine * x + cosine * y) + centre_y + middle
    return sample(images, source_x, source_y)


def draw(images: tf.Tensor) -> tf.Tensor:
    """One rendering's style: filled, flat or outline; thin or thick; contrast and polarity.

    Args:
        images: float32 [n, 28, 28], 0..1.

    Returns:
        float32 [n, 28, 28, 1], 0..1.
    """
    count = tf.shape(images)[0]

    def chance(share: float) -> tf.Tensor:
        return tf.reshape(uniform(count, 0.0, 1.0) < share, [-1, 1, 1, 1])

    def column(low: float, high: float) -> tf.Tensor:
        return tf.reshape(uniform(count, low, high), [-1, 1, 1, 1])

    pixels = images[..., tf.newaxis]
    gradient_y, gradient_x = tf.image.image_gradients(pixels)
    outline = tf.sqrt(gradient_x**2 + gradient_y**2 + 1e-6)
    outline = tf.where(chance(0.5), tf.nn.max_pool2d(outline, 2, 1, "SAME"), outline)
    outline = outline / (tf.reduce_max(outline, axis=(1, 2), keepdims=True) + 1e-3)
    outline = tf.minimum(1.0, outline * 1.5)
    flat = tf.sigmoid((pixels - column(0.1, 0.6)) * 20.0)
    pixels = tf.where(chance(0.3), outline, tf.where(chance(0.3), flat, pixels))
    pixels = pixels ** tf.exp(column(-0.5, 0.5)) * column(0.5, 1.0)
    return tf.where(chance(0.15), 1.0 - pixels, pixels)


def render(images: tf.Tensor, pattern: tf.Tensor, image_size: int) -> tf.Tensor:
    """One rendering, uint8-like greys to network input [n, size, size, 3] in -1..1."""
    pixels = draw(warp(tf.cast(images[..., 0], tf.float32) / 255.0, pattern)) * 255.0
    # Resizing is done for whole batches, so each quarter of the batch gets one resolution.
    coarse = []
    for part in tf.split(pixels, 4):
        choice = tf.random.uniform([], 0, len(RESOLUTIONS), tf.int32)
        side = tf.gather(tf.constant(RESOLUTIONS), choice)
        small = tf.image.resize(part, tf.stack([side, side]), antialias=True)
        coarse.append(to_network_input(small, image_size))
    return tf.concat(coarse, axis=0)


def training_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, image_size: int, plain: bool, seed: int
) -> tf.data.Dataset:
    """Batches of (inputs, labels), inputs being one `plain` or two rendered; no partial batch."""

    def pair(batch: tf.Tensor, label: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        if plain:
            return (to_network_input(batch, image_size),), label
        pattern = draw_pattern(tf.shape(batch)[0])
        return (render(batch, pattern, image_size), render(batch, pattern, image_size)), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(len(images), seed=seed, reshuffle_each_iteration=True)
    return dataset.batch(batch_size, drop_remainder=True).map(pair).prefetch(4)


class Pretrainer(keras.Model):
    """Backbone with a class head and a projection head; the loss weighs both."""

    def __init__(self, backbone: keras.Model, schedule: Schedule) -> None:
        super().__init__()
        self.backbone = backbone
        self.schedule = schedule
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.classes = keras.layers.Dense(FASHION_CLASSES)
        self.projection = keras.Sequential(
            [
                keras.layers.Dense(256, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(128),
            ]
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        features = self.pool(self.backbone(inputs, training=training))
        return self.classes(features), self.projection(features, training=training)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        renderings, labels = data
        with tf.GradientTape() as tape:
            # Both renderings in one batch: BatchNorm must not be able to tell them apart.
            logits, projected = self(tf.concat(renderings, axis=0), training=True)
            targets = tf.one_hot(tf.tile(labels, [len(renderings)]), FASHION_CLASSES)
            class_loss = tf.reduce_mean(
                keras.losses.categorical_crossentropy(
                    targets, logits, from_logits=True, label_smoothing=self.schedule.label_smoothing
                )
            )
            if len(renderings) == 1:
                # Zero times the projection: the optimizer wants a gradient for every variable.
                contrast_loss = 0.0 * tf.reduce_sum(projected)
                loss = class_loss + contrast_loss
            else:
                contrast_loss = contrast(projected, self.schedule.temperature)
                loss = self.schedule.class_weight * class_loss + self.schedule.contrast_weight * contrast_loss
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"class_loss": class_loss, "contrast_loss": contrast_loss}


def contrast(projected: tf.Tensor, temperature: float) -> tf.Tensor:
    """NT-Xent of SimCLR (arXiv:2002.05709, equation 1); rows i and i + n/2 belong together."""
    normed = tf.math.l2_normalize(projected, axis=1)
    count = tf.shape(normed)[0]
    similarity = tf.matmul(normed, normed, transpose_b=True) / temperature - 1e9 * tf.eye(count)
    partner = tf.math.floormod(tf.range(count) + count // 2, count)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partner, similarity))


def build_backbone(image_size: int | None) -> keras.Model:
    """The embedded backbone with random weights; `image_size` None leaves the sides open."""
    shape = (image_size, image_size, 3)
    backbone = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None, input_shape=shape)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            # Keras counts all channels as fan-in of a depthwise kernel, so that it starts up to 16
            # times too small, and a step of AdamW at the rate that the other kernels need is huge.
            deviation = np.sqrt(2.0 / np.prod(layer.kernel_size))
            layer.kernel.assign(keras.random.normal(layer.kernel.shape, stddev=deviation))
    return backbone


def train(images: np.ndarray, labels: np.ndarray, schedule: Schedule, seed: int) -> Pretrainer:
    """Train from random weights: most epochs at the small size, the last ones at the final size."""
    keras.utils.set_random_seed(seed)
    model = Pretrainer(build_backbone(None), schedule)
    steps = schedule.epochs * (len(images) // schedule.batch_size)
    warmup = round(schedule.warmup_share * steps)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup, warmup_target=schedule.learning_rate, warmup_steps=warmup
        ),
        weight_decay=schedule.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    # XLA is 6 to 10 times slower than TensorFlow's own kernels for depthwise convolutions on a CPU.
    model.compile(optimizer, jit_compile=False)
    plain = min(schedule.plain_epochs, schedule.epochs)
    small = max(plain, schedule.epochs - schedule.final_size_epochs)
    stages = (
        (schedule.image_size, 0, plain),
        (schedule.image_size, plain, small),
        (FINAL_IMAGE_SIZE, small, schedule.epochs),
    )
    for size, first, last in stages:
        if first < last:
            batches = training_batches(images, labels, schedule.batch_size, size, first < plain, seed + first)
            model.fit(batches, initial_epoch=first, epochs=last, verbose=2)
    return model


def test_accuracy(model: Pretrainer, images: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the class head on untouched images at the final size."""
    correct = 0
    for start in range(0, len(images), 500):
        inputs = to_network_input(images[start : start + 500], FINAL_IMAGE_SIZE)
        logits, _ = model(inputs, training=False)
        correct += int(np.sum(np.argmax(logits, axis=-1) == labels[start : start + 500]))
    return correct / len(images)


def save_weights(backbone: keras.Model, path: Path) -> None:
    """Write Keras' own `.weights.h5` layout with kernels in float16 and all else in float32.

    Keras casts back when it loads. The file is copied dataset by dataset, because HDF5 does not
    give back the room of what is replaced in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".{os.getpid()}.{path.name}")
    backbone.save_weights(whole)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    with h5py.File(whole, "r") as source, h5py.File(partial, "w", libver="latest") as target:
        target.attrs.update(source.attrs)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                values = item[()]
                copied = target.create_dataset(
                    name, data=values.astype("float16") if values.ndim > 1 else values
                )
            else:
                copied = target.require_group(name)
            copied.attrs.update(item.attrs)

        source.visititems(copy)
    whole.unlink()
    partial.replace(path)


def feature_error(backbone: keras.Model, path: Path, images: np.ndarray) -> float:
    """Relative difference of pooled features between `backbone` and what `path` holds."""
    inputs = to_network_input(images, FINAL_IMAGE_SIZE)
    loaded = build_backbone(FINAL_IMAGE_SIZE)
    loaded.load_weights(path)
    exact, stored = [np.mean(network(inputs, training=False), axis=(1, 2)) for network in (backbone, loaded)]
    return float(np.linalg.norm(exact - stored) / np.linalg.norm(exact))


def main() -> None:
    """Train, write the file and state its result and SHA-256."""
    parser = argparse.ArgumentParser(
        description="Train the weights of the embedded backbone on Fashion-MNIST."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the .weights.h5 file to write")
    parser.add_argument("--epochs", type=int, default=Schedule.epochs, help="passes over the 60,000 images")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and renderings")
    options = parser.parse_args()
    started = time.perf_counter()
    tf.config.experimental.enable_op_determinism()
    images, labels = read_fashion_mnist(options.data, "train")
    test_images, test_labels = read_fashion_mnist(options.data, "t10k")
    model = train(images, labels, Schedule(epochs=options.epochs), options.seed)
    save_weights(model.backbone, options.output)
    accuracy = test_accuracy(model, test_images, test_labels)
    error = feature_error(model.backbone, options.output, test_images[:500])
    sys.stdout.write(
        f"Fashion-MNIST test accuracy {accuracy:.4f} ({len(test_images)} images)\n"
        f"float16 feature error {error:.5f}\n"
        f"{options.output}: {options.output.stat().st_size} bytes\n"
        f"sha256 {hashlib.sha256(options.output.read_bytes()).hexdigest()}\n"
        f"{time.perf_counter() - started:.0f} seconds\n"
    )


if __name__ == "__main__":
    main()
