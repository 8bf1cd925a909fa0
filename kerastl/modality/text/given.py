"""Texts that are split into words already: where the words lie in one text, and which piece each begins with."""

from __future__ import annotations

import tensorflow as tf

from kerastl.modality.text.split import code_points, rows_of


def joined(words: tf.RaggedTensor) -> tuple[tf.Tensor, tf.RaggedTensor, tf.RaggedTensor]:
    """Texts of words with a space behind each.

    Args:
        words: ragged string [n, (words)].

    Returns:
        The texts, string [n], and in each the first character of each word and the place behind its last, ragged int32
        [n, (words)].
    """
    splits = tf.cast(words.row_splits, tf.int32)
    row = rows_of(splits[1:], tf.size(words.values))
    # Not joined by spaces: TensorFlow 2.21 leaves out the one behind an empty word that a text begins with.
    texts = tf.strings.unsorted_segment_join(tf.strings.join([words.values, " "]), row, tf.size(splits) - 1)
    _, characters = code_points(words.values)
    # As many spaces lie before a word as words in its row, and no piece of a character reaches across a space.
    starts = characters[:-1] - tf.gather(tf.gather(characters, splits), row)
    starts += tf.range(tf.size(row)) - tf.gather(splits, row)
    return texts, words.with_values(starts), words.with_values(starts + characters[1:] - characters[:-1])


def first_pieces(
    piece_starts: tf.RaggedTensor, starts: tf.RaggedTensor, ends: tf.RaggedTensor
) -> tf.RaggedTensor:
    """The first piece that begins within each span of a text.

    Args:
        piece_starts: ragged int32 [n, (pieces)], the character that each piece begins with, in order.
        starts: ragged int32 [n, (spans)], the first character of each span.
        ends: ragged int32 [n, (spans)], the place behind its last.

    Returns:
        Ragged int32 [n, (spans)], places among the text's pieces; -1 where none begins there.
    """
    row = tf.cast(rows_of(tf.cast(starts.row_splits[1:], tf.int32), tf.size(starts.values)), tf.int64)
    bounds = tf.cast(piece_starts.row_splits, tf.int32)
    piece_row = tf.cast(rows_of(bounds[1:], tf.size(piece_starts.values)), tf.int64)

    def key(rows: tf.Tensor, characters: tf.Tensor) -> tf.Tensor:
        return rows * 2**32 + tf.cast(characters, tf.int64)

    keys = key(piece_row, piece_starts.values)
    place = tf.searchsorted(keys, key(row, starts.values))
    key_there = tf.gather(tf.concat([keys, [tf.int64.max]], 0), place)
    inside = key_there < key(row, ends.values)
    return starts.with_values(tf.where(inside, place - tf.gather(bounds, row), -1))
