"""Texts longer than a row of the network as several rows that overlap, and the row and column that answers each word.

The row answers a word in which it has most context: in the overlap of two rows the border lies in its middle. No word is left out,
and each is answered once. Devlin et al., "BERT" (2019), read long paragraphs so (`run_squad.py`, `_check_is_max_context`).
"""

from __future__ import annotations

import tensorflow as tf

from kerastl.modality.text.longest import WordPieces
from kerastl.modality.text.split import Split, rows_of
from kerastl.modality.words import Windows

# Of what fits between the two special pieces: shared by a row and the next one.
OVERLAP_SHARE = 4
SPECIAL = 2


def overlap_of(max_pieces: int) -> int:
    """Pieces that a row shares with the next one."""
    return (max_pieces - SPECIAL) // OVERLAP_SHARE


def windows_of(
    split: Split,
    found: WordPieces,
    starts: tf.Tensor,
    ends: tf.Tensor,
    max_pieces: int,
    special: tuple[int, int, int],
) -> Windows:
    """Rows for texts that are split into words and pieces.

    Row k of a text has the words that begin among its pieces k s to k s + room, where s is the room less the overlap. So a word
    is torn only where it has more pieces than rows share.

    Args:
        split: the words.
        found: their pieces.
        starts: int32 [W], the first character of each word in its text.
        ends: int32 [W], the place behind its last.
        max_pieces: the length of a row, at least 3.
        special: ids of `[CLS]`, `[SEP]` and `[PAD]`.
    """
    room, overlap = max_pieces - SPECIAL, overlap_of(max_pieces)
    stride, (first, last, padding) = room - overlap, special
    pieces = tf.gather(found.splits, split.words)
    more = tf.maximum(pieces[1:] - pieces[:-1] - room, 0)
    counts = 1 + (more + stride - 1) // stride
    behind = tf.cumsum(counts)
    texts = rows_of(behind, tf.reduce_sum(counts))
    begin = tf.gather(pieces, texts) + stride * (tf.range(tf.size(texts)) - tf.gather(behind - counts, texts))
    end = tf.minimum(begin + room, tf.gather(pieces[1:], texts))
    # A word begins with its first piece: found.splits rises by one at least from each to the next.
    low, high = tf.searchsorted(found.splits, begin), tf.searchsorted(found.splits, end)
    start = tf.gather(found.splits, low)
    lengths = tf.minimum(tf.gather(found.splits, high) - start, room)
    column = tf.range(room)[None]
    place = tf.where(column < lengths[:, None], start[:, None] + column, tf.size(found.ids))
    body = tf.gather(tf.concat([found.ids, [padding]], 0), place)
    ids = tf.pad(body, [[0, 0], [1, 0]], constant_values=first)
    ids = tf.pad(ids, [[0, 0], [0, 1]], constant_values=padding)
    ids = tf.where(tf.range(max_pieces)[None] == lengths[:, None] + 1, last, ids)
    text = rows_of(split.words[1:], tf.size(split.starts))
    at = found.splits[:-1]
    own = (at - tf.gather(pieces, text) - overlap // 2) // stride
    own = tf.clip_by_value(own, 0, tf.gather(counts, text) - 1)
    rows = tf.gather(behind - counts, text) + own
    return Windows(
        tf.ensure_shape(ids, [None, max_pieces]),
        lengths + SPECIAL,
        texts,
        tf.stack([low, high], 1),
        starts,
        ends,
        split.words,
        rows,
        at - tf.gather(start, rows) + 1,
    )
