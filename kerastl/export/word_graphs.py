"""Graphs of a served model that answers the words of an example: entities, words, and what the head reads of each.

Examples of any length are cut into rows of the network, which are computed some at a time: a text of a megabyte has a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kerastl.export.signature import SERVING_EMBEDDING, SERVING_RAW, SERVING_WORDS, Serving
from kerastl.modality.words import Windows, worded
from kerastl.model.graph import alone
from kerastl.model.heads import embedding_model
from kerastl.task.tagging import Entities, dense

# Rows that are computed together: their attention takes 50 KiB a row and head at 128 pieces.
ROWS_AT_ONCE = 64

Inputs = Callable[[keras.Model, Mapping[str, Any]], list[tf.Tensor]]


def word_graphs(
    model: keras.Model, serving: Serving, network_inputs: Inputs
) -> dict[str, Callable[[tf.Tensor], dict[str, tf.Tensor]]]:
    """Functions of raw examples, string [n], by the names of their signatures.

    Args:
        model: decoded rows -> logits [rows, steps, k].
        serving: how it is served.
        network_inputs: `kerastl.export.saved_model.network_inputs`.
    """
    task, modality = serving.task, worded(serving.modality)
    assert isinstance(task, Entities), "the one task that answers words"
    embed = embedding_model(model)

    def of_words(raw: tf.Tensor, network: keras.Model) -> tuple[tf.Tensor, Windows]:
        found = modality.windows(raw)
        inputs = serving.modality.trimmed(modality.windowed(found))
        steps = _in_parts(network_inputs(model, inputs), network)
        return tf.gather_nd(steps, tf.stack([found.rows, found.columns], 1)), found

    def entities(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, found = of_words(raw, model)
        return task.word_answers(
            logits,
            found.starts,
            found.ends,
            found.words,
            serving.class_names,
            lambda texts, starts, ends: modality.excerpts(raw, texts, starts, ends),
        )

    def words(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, found = of_words(raw, model)
        counts = found.words[1:] - found.words[:-1]
        values = {"starts": found.starts, "ends": found.ends, "probabilities": tf.nn.softmax(logits)}
        return {"count": counts, **{name: dense(each, counts) for name, each in values.items()}}

    def embedding(raw: tf.Tensor) -> dict[str, tf.Tensor]:
        values, found = of_words(raw, embed)
        counts = found.words[1:] - found.words[:-1]
        return {"count": counts, "embedding": dense(values, counts)}

    return {SERVING_RAW: entities, SERVING_WORDS: words, SERVING_EMBEDDING: embedding}


def _in_parts(inputs: Sequence[tf.Tensor], network: keras.Model) -> tf.Tensor:
    """float32 [rows, steps, width] of a network, a few rows at a time."""
    count = tf.shape(inputs[0])[0]
    size = tf.clip_by_value(count, 1, ROWS_AT_ONCE)
    parts = tf.maximum((count + size - 1) // size, 1)
    missing = parts * size - count
    some = []
    for each in inputs:
        filled = tf.pad(each, [[0, missing], *[[0, 0]] * (each.shape.rank - 1)])
        some.append(tf.reshape(filled, tf.concat([[parts, size], tf.shape(each)[1:]], 0)))
    width = network.output_shape[-1]
    found = tf.map_fn(
        lambda part: tf.cast(network(alone(list(part)), training=False), tf.float32),
        tuple(some),
        fn_output_signature=tf.TensorSpec([None, None, width], tf.float32),
        parallel_iterations=1,
    )
    return tf.reshape(found, [parts * size, tf.shape(found)[2], width])
