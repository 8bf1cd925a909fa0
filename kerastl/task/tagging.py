"""Entities: a tag of IOB2 for each word, and the spans of words that they mean."""

# ruff: noqa: D102 (methods are described in kerastl.task.Task)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kerastl.task import ENTITY_OUTPUTS
from kerastl.task.classification import Classification
from kerastl.task.tags import types_in

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Cuts spans of characters out of texts: numbers of the texts, starts and ends, int32 [m] each -> string [m].
Cut = Callable[["tf.Tensor", "tf.Tensor", "tf.Tensor"], "tf.Tensor"]


class Entities(Classification):
    """One tag a word: softmax. Labels, logits and all that is counted are of words, one behind another; see `kerastl.task.Task`.

    The tags that a model decides are read leniently (`kerastl.task.tags`): every sequence of them means some entities.
    """

    name = "entities"
    per_step = True
    # Of words most are outside of entities, and their log-loss says little of these.
    monitors = ("val_entity_f1", "val_calibrated_loss", "val_loss", "val_accuracy")
    accuracy_title = "words right"

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        import keras

        # Of the words in a batch, and not of all steps: how far it was filled up says nothing of a step's length.
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction="mean_with_sample_weight"
        )

    def word_answers(
        self,
        logits: tf.Tensor,
        starts: tf.Tensor,
        ends: tf.Tensor,
        words: tf.Tensor,
        class_names: Sequence[str],
        cut: Cut,
    ) -> dict[str, tf.Tensor]:
        """The entities of n texts; `kerastl.export.signature` lists the outputs.

        Args:
            logits: float32 [W, k], of the words of all texts.
            starts: int32 [W], the first character of each in its text.
            ends: int32 [W], the place behind its last.
            words: int32 [n + 1], the first word of each text, and W.
            class_names: names of the k tags; see `kerastl.task.tags.tag_names`.
            cut: gives the entities in words.
        """
        import tensorflow as tf

        count = tf.shape(logits)[0]
        codes = tf.argmax(logits, axis=1, output_type=tf.int32)
        kinds, places = (codes + 1) // 2, tf.range(count)
        text = tf.searchsorted(words[1:], places, side="right")
        is_first = places == tf.gather(words, text)
        before = tf.where(is_first, 0, tf.concat([[0], kinds], 0)[:count])
        begins = (kinds > 0) & ((codes % 2 == 1) | (kinds != before))
        first = tf.cast(tf.where(begins)[:, 0], tf.int32)
        ended = tf.concat([tf.cast(tf.where(begins | (kinds == 0))[:, 0], tf.int32), [count]], 0)
        last = tf.gather(ended, tf.searchsorted(ended, first, side="right")) - 1
        number = tf.size(first)
        # Words outside of entities belong to one more, which is left out.
        entity = tf.where(kinds > 0, tf.cumsum(tf.cast(begins, tf.int32)) - 1, number)
        surest = tf.reduce_max(tf.nn.softmax(logits), axis=1)
        scores = tf.math.unsorted_segment_min(surest, entity, number + 1)[:number]
        of_text, start, end = tf.gather(text, first), tf.gather(starts, first), tf.gather(ends, last)
        names = tf.gather(tf.constant(types_in(class_names)), tf.gather(kinds, first) - 1)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(of_text), of_text, tf.size(words) - 1)
        values = (cut(of_text, start, end), names, start, end, scores)
        found = {name: dense(each, counts) for name, each in zip(ENTITY_OUTPUTS, values, strict=True)}
        return {"count": counts, **found}


def dense(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Rows of different lengths, filled up with zeros to the longest; one column at least, as not all clients take an empty row.

    Args:
        values: [sum of counts, ...], row after row.
        counts: int32 [n].

    Returns:
        [n, most, ...].
    """
    import tensorflow as tf

    rows = tf.RaggedTensor.from_row_lengths(values, tf.cast(counts, tf.int64), validate=False)
    most = tf.maximum(tf.reduce_max(tf.concat([counts, [1]], 0)), 1)
    shape = tf.concat([[tf.size(counts)], [most], tf.shape(values)[1:]], 0)
    dense = rows.to_tensor(shape=tf.cast(shape, tf.int64) if values.shape.rank == 1 else None)
    if values.shape.rank > 1:
        missing = most - tf.shape(dense)[1]
        dense = tf.pad(dense, [[0, 0], [0, missing], *[[0, 0]] * (values.shape.rank - 1)])
    return tf.ensure_shape(dense, [None, None, *values.shape[1:]])


ENTITIES = Entities()
