"""Texts to words in TensorFlow operations: normalised, split at spaces and punctuation, and each character's origin kept.

All characters of all texts lie in one vector, and every step is an operation on such vectors: nothing here takes time or memory
by the longest text times their number.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from kerastl.modality.text.characters import (
    BLOCK,
    HANGUL,
    LEADS,
    MARK,
    MOST_CHARACTERS,
    REPLACED,
    SPACE,
    SYLLABLE,
    TAIL_COUNT,
    TAILS,
    VOWEL_COUNT,
    VOWELS,
    character_map,
)


class Split(NamedTuple):
    """Words of n texts: W words, of m normalised characters, from N characters as they were sent.

    Attributes:
        codes: int32 [m], normalised code points; among them spaces, which belong to no word.
        origins: int32 [m], the character, 0..N-1, that each comes from.
        starts: int32 [W], the first of each word's `codes`.
        ends: int32 [W], the place behind its last.
        words: int32 [n + 1], the first word of each text, and W.
        texts: int32 [n + 1], the first character of each text, and N.
        kinds: int32 [N], of each character; see `kerastl.modality.text.characters`.
    """

    codes: tf.Tensor
    origins: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor
    words: tf.Tensor
    texts: tf.Tensor
    kinds: tf.Tensor


class Splitter:
    """Splits texts as BERT does. Its tables are tensors in memory: a graph that uses them holds them as constants.

    Args:
        lowercase: True for an uncased model: letters are lowered and accents stripped; False leaves both.
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase
        table = character_map(lowercase)
        with tf.init_scope(), tf.device("CPU:0"):
            self._blocks = tf.constant(table.blocks)
            self._kinds = tf.constant(table.kinds.reshape(-1))
            self._counts = tf.constant(table.counts)
            self._alone = tf.constant(table.alone)
            self._characters = tf.constant(table.characters.reshape(-1))

    def __call__(self, texts: tf.Tensor) -> Split:
        """Words of each text.

        Args:
            texts: string [n], UTF-8; what is no UTF-8 is dropped, but counted as `code_points` says.
        """
        sent, text_splits = code_points(texts)
        kinds = self._kinds_of(sent)
        counts = tf.gather(self._counts, kinds)
        if self.lowercase:
            has_tail = (kinds == SYLLABLE) & ((sent - HANGUL.start) % TAIL_COUNT > 0)
            counts += tf.cast(has_tail, tf.int32)
        behind = tf.cumsum(counts)
        rows = tf.gather(tf.concat([[0], behind], 0), text_splits)
        total = rows[-1]
        origins = rows_of(behind, total)
        kind = tf.gather(kinds, origins)
        codes = tf.gather(sent, origins)
        if self.lowercase:
            place = tf.range(total) - tf.gather(behind - counts, origins)
            codes = self._replaced(codes, kind, place)
        alone, space = tf.gather(self._alone, kind), kind == SPACE
        apart = alone | space
        # A word begins behind a space, at and behind a word of one character, and with its text.
        after = tf.concat([[True], apart[:-1]], 0)[:total] | _marked(rows[:-1], total)
        begins = ~space & (alone | after)
        bounds = tf.cast(tf.where(begins | space)[:, 0], tf.int32)
        is_word = tf.where(tf.gather(begins, bounds))[:, 0]
        starts = tf.gather(bounds, is_word)
        ends = tf.gather(tf.concat([bounds, [total]], 0), is_word + 1)
        words = tf.searchsorted(starts, rows)
        return Split(codes, origins, starts, ends, words, text_splits, kinds)

    def _kinds_of(self, codes: tf.Tensor) -> tf.Tensor:
        row, place = codes // BLOCK, codes % BLOCK
        return tf.gather(self._kinds, tf.gather(self._blocks, row) * BLOCK + place)

    def _replaced(self, codes: tf.Tensor, kinds: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """The character at a place, 0..2, in the stead of each of `codes`."""
        given = tf.gather(self._characters, kinds * MOST_CHARACTERS + place)
        codes = tf.where(kinds >= REPLACED, given, codes)
        syllable = codes - HANGUL.start
        parts = (
            LEADS + syllable // (VOWEL_COUNT * TAIL_COUNT),
            VOWELS + syllable // TAIL_COUNT % VOWEL_COUNT,
            TAILS + syllable % TAIL_COUNT,
        )
        jamo = tf.where(place == 0, parts[0], tf.where(place == 1, parts[1], parts[2]))
        return tf.where(kinds == SYLLABLE, jamo, codes)


def code_points(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Characters of texts, as all offsets count them: Unicode code points, and one U+FFFD for each that
    `bytes.decode("utf-8", "replace")` puts in the place of bytes that are no UTF-8.

    Args:
        texts: string [n], UTF-8.

    Returns:
        Those of all texts, int32 [N], and the first of each text and N, int32 [n + 1].
    """
    decoded = tf.strings.unicode_decode(tf.ensure_shape(texts, [None]), "UTF-8", errors="replace")
    return decoded.values, tf.cast(decoded.row_splits, tf.int32)


def excerpts(texts: tf.Tensor, which: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Spans of characters, as UTF-8 of what `code_points` counts; see `kerastl.modality.words.Worded.excerpts`."""
    with tf.device("CPU:0"):
        codes, splits = code_points(texts)
        begin = tf.gather(splits, which)
        # Rows of what lies before each span and of the span itself, by turns.
        bounds = tf.reshape(tf.stack([begin + starts, begin + ends], 1), [-1])
        bounds = tf.concat([[0], bounds, [tf.size(codes)]], 0)
        rows = tf.RaggedTensor.from_row_splits(codes, tf.cast(bounds, tf.int64), validate=False)
        return tf.strings.unicode_encode(tf.gather(rows, 2 * tf.range(tf.size(starts)) + 1), "UTF-8")


def behind_marks(split: Split, places: tf.Tensor) -> tf.Tensor:
    """Places, 0..N, moved behind the marks that are dropped there: an accent that was sent as a character of its own belongs to
    the letter before it.

    Args:
        split: of the texts.
        places: int32 [W], behind the last character of each word.
    """
    solid = split.kinds != MARK
    before = tf.cumsum(tf.cast(solid, tf.int32))
    count = tf.size(split.kinds)
    where = tf.concat([tf.cast(tf.where(solid)[:, 0], tf.int32), [count]], 0)
    moved = tf.gather(where, tf.gather(tf.concat([[0], before], 0), places))
    text = rows_of(split.words[1:], tf.size(places))
    return tf.minimum(moved, tf.gather(split.texts[1:], text))


def rows_of(ends: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """The row of each of `total` elements, int32, from the place behind each row's last element, int32 [rows].

    `tf.repeat` and ragged tensors would make a matrix as wide as the longest row.
    """
    ended = tf.math.unsorted_segment_sum(tf.ones_like(ends), ends, total + 1)
    return tf.cumsum(ended)[:total]


def _marked(places: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """True at the places, bool [total]; those behind the end are left out."""
    return tf.math.unsorted_segment_sum(tf.ones_like(places), places, total + 1)[:total] > 0
