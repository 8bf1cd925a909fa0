"""Words to pieces in TensorFlow operations: the longest piece that a word begins with, then the longest that goes on.

Pieces are found by their fingerprints in a sorted vector, not in a lookup table: a table is a resource, which must be tracked,
filled when a model is loaded, and cannot be frozen into a graph.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from kerastl.errors import UserError
from kerastl.modality.text.split import rows_of
from kerastl.modality.text.vocabulary import CONTINUES, MOST_IN_WORD, UNKNOWN, Vocabulary

# TensorFlow never changes this hash; see tf.strings.to_hash_bucket_fast.
_BUCKETS = 2**63 - 1


class WordPieces(NamedTuple):
    """Pieces of k words, P in all.

    Attributes:
        ids: int32 [P].
        splits: int32 [k + 1], the first piece of each word, and P.
    """

    ids: tf.Tensor
    splits: tf.Tensor


class LongestMatch:
    """Finds the pieces of words; its tables are tensors in memory, constants of the graphs that use them.

    Args:
        vocabulary: the pieces.

    Raises:
        UserError: two pieces have one fingerprint; of 30,000 pieces that happens once in 10^10 vocabularies.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._unknown = vocabulary.ids[UNKNOWN]
        self._longest = max(len(piece) for piece in vocabulary.pieces)
        with tf.init_scope(), tf.device("CPU:0"):
            pieces = tf.constant(vocabulary.pieces)
            prints = tf.strings.to_hash_bucket_fast(pieces, _BUCKETS)
            self._ids = tf.argsort(prints, stable=True)
            self._pieces = tf.gather(pieces, self._ids)
            self._prints = tf.gather(prints, self._ids)
            if bool(tf.reduce_any(self._prints[1:] == self._prints[:-1])):
                raise UserError(
                    "Two pieces of the vocabulary have the same fingerprint: leave one of them out."
                )
        # A graph also where the rest runs eagerly: a thousand steps of a loop take seconds there.
        signature = [tf.TensorSpec([None], tf.string)]
        self._match = tf.function(self._on_processor, input_signature=signature, autograph=False)

    def __call__(self, words: tf.Tensor) -> WordPieces:
        """The pieces of words, `[UNK]` alone where no piece fits.

        Args:
            words: string [k], distinct, normalised, of at most MOST_IN_WORD characters.
        """
        ids = self.find(words)
        missing = tf.where(ids < 0)[:, 0]
        made = self._match(tf.gather(words, missing))
        # Rows of the words that are pieces, then of those that are made of several.
        count = tf.size(ids)
        row = tf.tensor_scatter_nd_update(
            tf.range(count), missing[:, None], count + tf.range(tf.size(missing))
        )
        return gather_pieces(
            WordPieces(
                tf.concat([ids, made.ids], 0),
                tf.concat([tf.range(count), count + made.splits], 0),
            ),
            row,
        )

    def find(self, words: tf.Tensor) -> tf.Tensor:
        """Ids of the pieces that words are, int32 [k]; -1 for others."""
        prints = tf.strings.to_hash_bucket_fast(words, _BUCKETS)
        place = tf.minimum(tf.searchsorted(self._prints, prints), tf.size(self._prints) - 1)
        return tf.where(tf.gather(self._pieces, place) == words, tf.gather(self._ids, place), -1)

    def _on_processor(self, words: tf.Tensor) -> WordPieces:
        with tf.device("CPU:0"):
            return self._of_several(words)

    def _of_several(self, words: tf.Tensor) -> WordPieces:
        """Pieces of words, none of which is a piece by itself."""
        lengths = tf.strings.length(words, unit="UTF8_CHAR")

        def reach(start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
            return tf.minimum(length, start + self._longest)

        # The words that are not done, the rest of each, and the end of the part that is tried next.
        def step(
            at: tf.Tensor, word: tf.Tensor, start: tf.Tensor, end: tf.Tensor, found: tf.TensorArray
        ) -> tuple[tf.Tensor, ...]:
            length = tf.gather(lengths, word)
            part = tf.strings.substr(tf.gather(words, word), start, end - start, unit="UTF8_CHAR")
            ids = self.find(tf.strings.join([tf.where(start > 0, CONTINUES, ""), part]))
            fits = ids >= 0
            # A word of which nothing fits any more is unknown as a whole, whatever was found before.
            fails = ~fits & (end == start + 1)
            said = fits | fails
            found = found.write(at, tf.gather(tf.stack([word, start, ids], 1), tf.where(said)[:, 0]))
            start = tf.where(fits, end, start)
            end = tf.where(fits, reach(start, length), end - 1)
            going = tf.where((start < length) & ~fails)[:, 0]
            word, start, end = (tf.gather(each, going) for each in (word, start, end))
            return at + 1, word, start, end, found

        word = tf.range(tf.size(words))
        start = tf.zeros_like(word)
        rows = tf.TensorArray(tf.int32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, 3])
        vector = tf.TensorShape([None])
        _, _, _, _, rows = tf.while_loop(
            lambda at, word, *_: tf.size(word) > 0,
            step,
            (0, word, start, reach(start, lengths), rows),
            (tf.TensorShape([]), vector, vector, vector, tf.TensorShape(None)),
            parallel_iterations=1,
        )
        # An array that nothing was written to has nothing to join.
        rows = rows.write(rows.size(), tf.zeros([0, 3], tf.int32)).concat()
        word, start, ids = rows[:, 0], rows[:, 1], rows[:, 2]
        count = tf.size(words)
        failed = tf.math.unsorted_segment_min(ids, word, count) < 0
        last = ids < 0
        kept = tf.where(last | ~tf.gather(failed, word))[:, 0]
        word, start, ids, last = (tf.gather(each, kept) for each in (word, start, ids, last))
        start = tf.where(last, 0, start)
        order = tf.argsort(word * (MOST_IN_WORD + 1) + start)
        counts = tf.math.unsorted_segment_sum(tf.ones_like(word), word, count)
        return WordPieces(
            tf.gather(tf.where(last, self._unknown, ids), order),
            tf.concat([[0], tf.cumsum(counts)], 0),
        )


def gather_pieces(pieces: WordPieces, words: tf.Tensor) -> WordPieces:
    """The pieces of some words, int32 [k], in their order."""
    firsts = tf.gather(pieces.splits, words)
    counts = tf.gather(pieces.splits, words + 1) - firsts
    behind = tf.cumsum(counts)
    splits = tf.concat([[0], behind], 0)
    word = rows_of(behind, splits[-1])
    place = tf.range(splits[-1]) + tf.gather(firsts - splits[:-1], word)
    return WordPieces(tf.gather(pieces.ids, place), splits)
