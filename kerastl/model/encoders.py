"""Encoders of sequences of pieces, made of Keras' own layers alone: what is saved needs nothing but Keras to be loaded.

    pieces, length ─► embeddings ─► layer_1 ─► … ─► layer_n

Each layer takes the hidden states and the number of real pieces, and makes the mask of attention from the two: the
states give no more than how many steps there are. So a cut between two layers carries the length, which is one number an
example, and neither the pieces nor a mask. The embeddings and each layer are models of their own, so that the
cut points of an encoder are their outputs and nothing within them.

Dropout is left out: it changes nothing in what is frozen, and would be drawn anew in every step of a fine-tune phase.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers, ops

from kerastl.model.encoder_config import GELU, RELU, TANH_GELU, EncoderConfig
from kerastl.model.steps import step_numbers, steps_seen

# Inputs: numbers of pieces, int32 [batch, steps], and how many of them are real, int32 [batch].
PIECES, LENGTH = "pieces", "length"
EMBEDDINGS = "embeddings"
# Written out, as TensorFlow's own is made of `erfc`, which tf2onnx (1.17) does not know and which takes 2.5 times as long.
ROOT_OF_HALF = 0.5**0.5
# Keras' layer saves no activation with a setting, its operations do. The tanh is an approximation: MiniLM, which was trained with the
# exact one, would be 5e-3 off.
_ACTIVATIONS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    GELU: lambda states: states * 0.5 * (ops.erf(states * ROOT_OF_HALF) + 1.0),
    TANH_GELU: lambda states: ops.gelu(states, approximate=True),
    RELU: ops.relu,
}


def layer_name(number: int) -> str:
    """The name of a layer, and of the cut point after it; the first has number 1."""
    return f"layer_{number}"


def build_encoder(config: EncoderConfig, name: str = "encoder") -> keras.Model:
    """An encoder with random weights, under the current dtype policy.

    Args:
        config: Its sizes.
        name: Of the model.

    Returns:
        Functional model of two inputs, in this order: `pieces`, int32 [batch, steps], 0 and above and below `config.vocabulary`
        also where they only fill up; `length`, int32 [batch], how many of them are real, from the left -> hidden
        states [batch, steps, width] of the last layer. There may be `config.positions` steps at most. States of steps
        past the length mean nothing, and no other state depends on them.
    """
    pieces = keras.Input((None,), dtype="int32", name=PIECES)
    length = keras.Input((), dtype="int32", name=LENGTH)
    states = _embeddings(config)([pieces, step_numbers(pieces) - 1])
    for number in range(1, config.layers + 1):
        states = _layer(config, layer_name(number))([states, length])
    return keras.Model([pieces, length], states, name=name)


def _embeddings(config: EncoderConfig) -> keras.Model:
    pieces = keras.Input((None,), dtype="int32", name=PIECES)
    positions = keras.Input((None,), dtype="int32", name="positions")
    words = layers.Embedding(config.vocabulary, config.embedding_width, name="pieces_embedding")(pieces)
    places = layers.Embedding(config.positions, config.embedding_width, name="positions_embedding")(positions)
    states = layers.Add(name="embeddings_sum")([words, places])
    states = layers.LayerNormalization(epsilon=config.epsilon, name="embeddings_norm")(states)
    if config.embedding_width != config.width:
        states = layers.Dense(config.width, name="embeddings_project")(states)
    return keras.Model([pieces, positions], states, name=EMBEDDINGS)


def _layer(config: EncoderConfig, name: str) -> keras.Model:
    """Hidden states and lengths -> hidden states."""
    states = keras.Input((None, config.width), name="states")
    length = keras.Input((), dtype="int32", name=LENGTH)
    mask = ops.expand_dims(steps_seen(states, length), 1)  # of each step that is attended to, for all steps
    attention = layers.MultiHeadAttention(
        config.heads, config.width // config.heads, name=f"{name}_attention"
    )
    attended = attention(states, states, attention_mask=mask)
    attended = layers.Add(name=f"{name}_attention_sum")([states, attended])
    attended = layers.LayerNormalization(epsilon=config.epsilon, name=f"{name}_attention_norm")(attended)
    inner = _ACTIVATIONS[config.activation](layers.Dense(config.inner, name=f"{name}_inner")(attended))
    outer = layers.Dense(config.width, name=f"{name}_outer")(inner)
    outer = layers.Add(name=f"{name}_sum")([attended, outer])
    outer = layers.LayerNormalization(epsilon=config.epsilon, name=f"{name}_norm")(outer)
    return keras.Model([states, length], outer, name=name)
