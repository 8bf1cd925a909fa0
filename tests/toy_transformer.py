"""A small transformer with a padding mask that every block takes: a network of several inputs, for tests."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kerastl.backbones import BackboneSpec
from kerastl.model.build import Network, build_model
from kerastl.model.graph import trained_parameters, unfreeze_points
from kerastl.recipe.schema import HeadRecipe

STEPS, WORDS, WIDTH = 6, 20, 8


@keras.saving.register_keras_serializable("toy")
class MaskedBlock(layers.Layer):
    """A pre-norm transformer block with a mask, as one layer of two inputs."""

    def __init__(self, width: int = WIDTH, **named: Any) -> None:
        super().__init__(**named)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.norm, self.dense = layers.LayerNormalization(), layers.Dense(width, activation="gelu")

    def build(self, shape: Any) -> None:
        self.attention.build(shape, shape)
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x: Any, mask: Any) -> Any:
        normed = self.norm(x)
        x = x + self.attention(normed, normed, attention_mask=mask)
        return x + self.dense(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


def transformer(
    blocks: int = 3, mask: str = "input", nested: bool = True, segments: bool = False, implicit: bool = False
) -> keras.Model:
    """Token ids and a padding mask, which every block takes -> sequence.

    Args:
        blocks: how many.
        mask: `input`; `length`, computed from an input of that name; `computed`, from the ids; `weighted`, a bias of
            attention that passes a layer with weights.
        nested: each block as one layer, else its layers in the graph of the model.
        segments: a third input, embedded beside the ids.
        implicit: the embedding hands a mask of Keras' own on.
    """
    tokens = layers.Input((STEPS,), dtype="int32", name="token_ids")
    inputs = [tokens]
    if mask == "computed":
        seen = ops.not_equal(tokens, 0)
    elif mask == "length":
        inputs.append(layers.Input((1,), dtype="int32", name="length"))
        seen = ops.less(ops.expand_dims(ops.arange(STEPS), 0), inputs[-1])
    else:
        inputs.append(layers.Input((STEPS,), dtype="bool", name="padding_mask"))
        seen = inputs[-1]
    if mask == "weighted":
        seen = layers.Dense(STEPS, activation="sigmoid", name="weighs")(ops.cast(seen, "float32")) > 0.5
    pairs = ops.expand_dims(seen, 1)  # no weights, and shared by all blocks
    x = layers.Embedding(WORDS, WIDTH, name="tokens", mask_zero=implicit)(tokens)
    if segments:
        inputs.append(layers.Input((STEPS,), dtype="int32", name="segment_ids"))
        x = layers.Add(name="embeddings")([x, layers.Embedding(2, WIDTH, name="segments")(inputs[-1])])
    for number in range(blocks):
        if nested:
            x = MaskedBlock(name=f"block_{number}")(x, pairs)
        else:
            normed = layers.LayerNormalization(name=f"norm_{number}")(x)
            attention = layers.MultiHeadAttention(2, WIDTH // 2, name=f"attention_{number}")
            x = layers.Add(name=f"block_{number}")([x, attention(normed, normed, attention_mask=pairs)])
    return keras.Model(inputs, layers.LayerNormalization(name="last")(x), name="toy")


def sentences(model: keras.Model, count: int = 5, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs of a transformer by name, of different lengths."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, STEPS + 1, (count, 1)).astype(np.int32)
    mask = np.arange(STEPS) < lengths
    found = {
        "token_ids": (generator.integers(1, WORDS, (count, STEPS)) * mask).astype(np.int32),
        "padding_mask": mask,
        "length": lengths,
        "segment_ids": generator.integers(0, 2, (count, STEPS)).astype(np.int32),
    }
    return {each.name: found[each.name] for each in model.inputs}


def unmasked(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same words, all of them said to be there."""
    full = {"padding_mask": np.ones_like, "length": lambda lengths: np.full_like(lengths, STEPS)}
    return {name: full.get(name, np.array)(values) for name, values in inputs.items()}


def network_on(backbone: keras.Model, classes: int = 3, **head: Any) -> Network:
    """A backbone of several inputs with a head that answers something other than zero."""
    points = unfreeze_points(backbone)
    spec = BackboneSpec(
        name=backbone.name,
        builder="",
        module="",
        preprocessing="identity",
        image_size=1,
        min_image_size=1,
        parameters=backbone.count_params(),
        feature_channels=WIDTH,
        unfreeze_points=points,
        trained_parameters=trained_parameters(backbone, points),
        file="toy.keras",
    )
    network = build_model(backbone, spec, HeadRecipe(**head), classes)
    kernel = network.logits.kernel
    kernel.assign(np.random.default_rng(3).normal(size=kernel.shape))
    return network
