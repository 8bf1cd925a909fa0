"""WordPiece in stock TensorFlow operations, the same in training and in an exported graph, with offsets into the text as it was sent.

Equal to Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece, whose names of special pieces within a text (`[SEP]`) are plain
text here: what a user sends cannot end a sequence. The one other difference stands in `kerastl.modality.text.characters`.
Wu et al., "Google's Neural Machine Translation System" (2016), for the longest match; Devlin et al., "BERT" (2019), for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import tensorflow as tf

from kerastl.modality.text.longest import LongestMatch, WordPieces, gather_pieces
from kerastl.modality.text.split import Split, Splitter, behind_marks, rows_of
from kerastl.modality.text.text_keys import HEAD, HEAD_TAIL
from kerastl.modality.text.vocabulary import MOST_IN_WORD, PADDING, SEPARATOR, START, UNKNOWN, Vocabulary
from kerastl.modality.text.windows import windows_of
from kerastl.modality.words import Windows

# Of what fits between the two special pieces; the rest is taken from a text's end. Of 512 pieces the first 128 and the last 382 were
# the best in Sun et al., "How to Fine-Tune BERT for Text Classification?" (2019).
HEAD_SHARE = 4
SPECIAL_PIECES = 2


class Encoded(NamedTuple):
    """Rows of a network: `[CLS]`, the pieces of a text, `[SEP]`, and `[PAD]` up to the end.

    Attributes:
        ids: int32 [n, max_pieces].
        lengths: int32 [n], ids before the padding, 2..max_pieces.
        cut: bool [n], whether a text has more pieces than the row.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    cut: tf.Tensor


_Function = TypeVar("_Function", bound=Callable[..., object])


def _traced_as_it_is(function: _Function) -> _Function:
    """The function without autograph, which takes three seconds of each trace to find nothing to convert."""
    plain: _Function = tf.autograph.experimental.do_not_convert(function)
    return plain


class WordPiece:
    """Makes pieces of texts, eagerly, in a `tf.function` or in an exported graph.

    It holds tensors in memory and no table: nothing has to be tracked for an export, and a graph holds them as constants.

    Args:
        vocabulary: of the model.
        lowercase: True for an uncased model: letters are lowered and accents stripped (`do_lower_case`).

    Example:
        >>> wordpiece = WordPiece(read_vocabulary(Path("minilm/vocab.txt")), lowercase=True)
        >>> wordpiece.encode(tf.constant(["Héllo!"]), 6).ids.numpy()
        array([[ 101, 7592,  999,  102,    0,    0]], dtype=int32)
    """

    def __init__(self, vocabulary: Vocabulary, lowercase: bool) -> None:
        self.vocabulary = vocabulary
        self.lowercase = lowercase
        self._split = Splitter(lowercase)
        self._match = LongestMatch(vocabulary)

    @_traced_as_it_is
    def encode(self, texts: tf.Tensor, max_pieces: int, truncation: str = HEAD) -> Encoded:
        """Rows of a network for texts.

        Args:
            texts: string [n], UTF-8.
            max_pieces: the length of a row, at least 3.
            truncation: of longer texts: `head` keeps the beginning, as Hugging Face does; `head_tail` a quarter from the beginning
                and the rest from the end, after Sun et al. (2019).

        Raises:
            ValueError: `max_pieces` is less than 3, or the truncation is unknown.
        """
        head = _head(max_pieces, truncation)
        with tf.device("CPU:0"):
            whole = self._split(texts)
            split = _cut(whole, head, max_pieces)
            rows = self._encoded(split, self._pieces_of(split), head, max_pieces)
            # Words are left out only where there are more of them than pieces in a row.
            fewer = tf.not_equal(whole.words[1:] - whole.words[:-1], split.words[1:] - split.words[:-1])
            return rows._replace(cut=rows.cut | fewer)

    @_traced_as_it_is
    def windows(self, texts: tf.Tensor, max_pieces: int) -> Windows:
        """Rows of a network for texts, of which long ones have several that overlap, and which of them answers each word.

        Args:
            texts: string [n], UTF-8.
            max_pieces: the length of a row, at least 3.

        Raises:
            ValueError: `max_pieces` is less than 3.
        """
        _head(max_pieces, HEAD)
        ids = self.vocabulary.ids
        with tf.device("CPU:0"):
            split = self._split(texts)
            found = self._pieces_of(split)
            starts, ends = _word_spans(split)
            special = (ids[START], ids[SEPARATOR], ids[PADDING])
            return windows_of(split, found, starts, ends, max_pieces, special)

    def _pieces_of(self, split: Split) -> WordPieces:
        """Pieces of all words; each distinct word is looked up once."""
        short = split.ends - split.starts <= MOST_IN_WORD
        words, which = tf.unique(_strings(split, tf.cast(tf.where(short)[:, 0], tf.int32)))
        found = self._match(words)
        # One more row, for words that are too long.
        found = WordPieces(
            tf.concat([found.ids, [self.vocabulary.ids[UNKNOWN]]], 0),
            tf.concat([found.splits, found.splits[-1:] + 1], 0),
        )
        rows = tf.fill(tf.shape(split.starts), tf.size(words))
        return gather_pieces(found, tf.tensor_scatter_nd_update(rows, tf.where(short), which))

    def _encoded(self, split: Split, found: WordPieces, head: int, max_pieces: int) -> Encoded:
        ids = self.vocabulary.ids
        room = max_pieces - SPECIAL_PIECES
        bounds = tf.gather(found.splits, split.words)
        counts = bounds[1:, None] - bounds[:-1, None]
        column = tf.range(room)[None]
        lengths = tf.minimum(counts, room)
        place = tf.where((column < head) | (counts <= room), column, column + counts - room)
        place = tf.where(column < lengths, bounds[:-1, None] + place, tf.size(found.ids))
        body = tf.gather(tf.concat([found.ids, [ids[PADDING]]], 0), place)
        rows = tf.pad(body, [[0, 0], [1, 0]], constant_values=ids[START])
        rows = tf.pad(rows, [[0, 0], [0, 1]], constant_values=ids[PADDING])
        rows = tf.where(tf.range(max_pieces)[None] == lengths + 1, ids[SEPARATOR], rows)
        return Encoded(
            tf.ensure_shape(rows, [None, max_pieces]), lengths[:, 0] + SPECIAL_PIECES, counts[:, 0] > room
        )


def _head(max_pieces: int, truncation: str) -> int:
    """Pieces that are kept from the beginning of a text that is too long."""
    if max_pieces <= SPECIAL_PIECES:
        raise ValueError(f"max_pieces is {max_pieces}; expected at least 3: [CLS], a piece and [SEP].")
    if truncation == HEAD:
        return max_pieces - SPECIAL_PIECES
    if truncation == HEAD_TAIL:
        return max_pieces // HEAD_SHARE
    raise ValueError(f"Unknown truncation '{truncation}'; expected {HEAD} or {HEAD_TAIL}.")


def _cut(split: Split, head: int, max_pieces: int) -> Split:
    """Only the words that a row can hold pieces of: each has one at least."""
    tail = max_pieces - SPECIAL_PIECES - head
    row = rows_of(split.words[1:], tf.size(split.starts))
    place = tf.range(tf.size(row))
    kept = place < tf.gather(split.words[:-1] + head, row)
    if tail:
        kept |= place >= tf.gather(split.words[1:] - tail, row)
    which, words = _kept(kept, split.words)
    return split._replace(
        starts=tf.gather(split.starts, which), ends=tf.gather(split.ends, which), words=words
    )


def _kept(kept: tf.Tensor, splits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The places where bool [W] is true, and the row splits of what is there."""
    before = tf.concat([[0], tf.cumsum(tf.cast(kept, tf.int32))], 0)
    return tf.where(kept)[:, 0], tf.gather(before, splits)


def _strings(split: Split, words: tf.Tensor) -> tf.Tensor:
    """Some words, int32 [k], as strings."""
    # Rows of what lies before each word and of the word itself, by turns.
    bounds = tf.reshape(tf.stack([split.starts, split.ends], 1), [-1])
    bounds = tf.concat([[0], bounds, [tf.size(split.codes)]], 0)
    codes = tf.RaggedTensor.from_row_splits(split.codes, bounds, validate=False)
    return tf.strings.unicode_encode(tf.gather(codes, 2 * words + 1), "UTF-8")


def _word_spans(split: Split) -> tuple[tf.Tensor, tf.Tensor]:
    """The first character of each word in its text, and the place behind its last, int32 [W] each.

    Marks that an uncased model drops belong to the word before them: of `cafe\u0301` no accent is left over.
    """
    text = rows_of(split.words[1:], tf.size(split.starts))
    begin = tf.gather(split.texts, text)
    starts = tf.gather(split.origins, split.starts) - begin
    return starts, behind_marks(split, tf.gather(split.origins, split.ends - 1) + 1) - begin
