"""Texts: encoded bytes to the pieces of a vocabulary, and back to the characters that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kerastl.errors import UserError
from kerastl.modality import Batch, InputSpec, RawExample
from kerastl.modality.text.text_keys import HEAD, USUAL_PIECES
from kerastl.modality.text.vocabulary import PADDING, Vocabulary, read_vocabulary
from kerastl.modality.text_files import find_texts, utf8_of
from kerastl.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from kerastl.modality import Mixing
    from kerastl.modality.text.wordpiece import WordPiece
    from kerastl.modality.words import Windows

PIECES, LENGTH = "pieces", "length"
VOCABULARY_FILE = "vocab.txt"
# To be raised with any change of the pieces of a text, or of what is noted of them.
PIECES_VERSION = 2
_SELF_TEST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "cafe", "##s")


@dataclass(frozen=True)
class Text:
    """The modality of texts; see `kerastl.modality.Modality`.

    Attributes:
        vocabulary: of the network; None of a recipe that is still open.
        lowercase: letters are lowered and accents stripped.
        max_pieces: the length of a row, `[CLS]` and `[SEP]` among them.
        truncation: of longer texts; see `kerastl.modality.text.wordpiece.WordPiece.encode`.
    """

    name: ClassVar[str] = "text"
    noun: ClassVar[str] = "text"
    request: ClassVar[str] = "text"
    smaller: ClassVar[str] = "a smaller data.max_pieces"
    decoded_signature: ClassVar[str] = "serving_pieces"
    takes: ClassVar[str] = "texts in UTF-8"
    takes_not: ClassVar[str] = "UTF-16 and UTF-32 have to be converted first, as `kerastl predict` does"
    converted: ClassVar[str] = (
        "were brought to UTF-8 before they were decoded. An exported model takes UTF-8 alone: what asks a server has to do the "
        "same first, as `kerastl predict` does"
    )
    layout: ClassVar[Mapping[str, Any]] = {"pieces": "places in the vocabulary", "filled_up_with": PADDING}
    network: ClassVar[str] = (
        "Expected a functional Keras model with the inputs pieces, int32 [batch, steps], and length, int32 [batch]."
    )
    pictures: ClassVar[bool] = False
    near_words: ClassVar[tuple[str, str, str]] = (
        "is to the network the same as",
        "are to the network the same as",
        "They may differ in capitals, accents, spaces, or behind data.max_pieces alone. Take the copies out, or give them one group:",
    )
    own_files: ClassVar[Mapping[str, str]] = {"vocabulary": VOCABULARY_FILE}
    vocabulary: Vocabulary | None
    lowercase: bool = True
    max_pieces: int = USUAL_PIECES
    truncation: str = HEAD

    @staticmethod
    def inputs_of(shapes: Sequence[tuple[int | None, ...]]) -> dict[str, InputSpec]:
        """See `Modality`."""
        if [len(shape) for shape in shapes] != [2, 1]:
            raise ValueError(f"its inputs have the shapes {', '.join(map(str, shapes))}")
        if shapes[0][1] is not None:
            raise ValueError(f"it takes {shapes[0][1]} steps and no other number")
        return Text(None).spec

    @staticmethod
    def self_test() -> str:
        """See `Modality`."""
        import tensorflow as tf

        decoded = Text(Vocabulary(_SELF_TEST), max_pieces=5).decode_all(tf.constant(["Cafés"]))
        if decoded[PIECES].numpy().tolist() != [[2, 4, 5, 3, 0]]:
            raise RuntimeError("a word does not come back in its pieces")
        return f"version {PIECES_VERSION}"

    @staticmethod
    def measure(data: Any, raw: Any) -> tuple[dict[str, Any], str]:
        """See `Modality`: nothing follows from a look at some texts."""
        return {}, ""

    @staticmethod
    def beside_weights(data: Any, folder: Path | None, spec: Any) -> dict[str, Any]:
        """See `Modality`: the vocabulary, and whether it is one of lower case."""
        from kerastl.modality.text.beside_weights import vocabulary_keys

        return vocabulary_keys(data, folder, spec)

    @staticmethod
    def find(patterns: Sequence[str], progress: Progress) -> list[tuple[str, RawExample]]:
        """See `Modality`, and `kerastl.modality.text_files.find_texts`."""
        return find_texts(patterns, progress)

    @staticmethod
    def sendable(raw: bytes) -> tuple[bytes, str]:
        """See `Modality`."""
        return utf8_of(raw)

    @staticmethod
    def at(settings: Mapping[str, Any]) -> str:
        """See `Modality`: `at 256 pieces (head)`."""
        return f"at {settings['max_pieces']} pieces (`{settings['truncation']}`)"

    def settings(self) -> dict[str, Any]:
        """See `Modality`; the vocabulary by its digest."""
        return {
            "vocabulary": None if self.vocabulary is None else self.vocabulary.digest,
            "lowercase": self.lowercase,
            "max_pieces": self.max_pieces,
            "truncation": self.truncation,
        }

    def own_contents(self) -> dict[str, bytes]:
        """See `Modality`: the vocabulary, a piece a line."""
        return {VOCABULARY_FILE: "".join(f"{piece}\n" for piece in self._known.pieces).encode()}

    @property
    def size(self) -> str:
        """See `Modality`."""
        return f"{self.max_pieces} pieces at most"

    @property
    def spec(self) -> dict[str, InputSpec]:
        """`pieces`: ids of `[CLS]`, the text, `[SEP]` and `[PAD]` up to the end; `length`: how many stand before the padding."""
        known = None if self.vocabulary is None else len(self.vocabulary)
        return {PIECES: InputSpec((self.max_pieces,), "int32", known), LENGTH: InputSpec((), "int32")}

    def facts(self) -> dict[str, Any]:
        """See `Modality`."""
        return {**self.settings(), "pieces": PIECES_VERSION}

    @staticmethod
    def kind_of(raw: bytes) -> str:
        """See `Modality`: there is one, UTF-8."""
        try:
            return "" if utf8_of(raw)[0] is not raw else "utf-8"
        except ValueError:
            return ""

    def decode_all(self, raw: tf.Tensor, kind: str | None = None) -> dict[str, tf.Tensor]:
        """See `Modality`: all texts by one call of each operation, so that each distinct word is looked up once."""
        return self.decode_noting(raw)[0]

    def decode_noting(self, raw: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """See `kerastl.modality.cuts.Cutting`."""
        rows = _wordpiece(self._known, self.lowercase).encode(raw, self.max_pieces, self.truncation)
        return {PIECES: rows.ids, LENGTH: rows.lengths}, rows.cut

    @property
    def cut_words(self) -> str:
        """See `Cutting`."""
        return f"longer than {self.max_pieces} pieces: the rest of them is not seen (data.max_pieces, data.truncation)"

    def windows(self, raw: tf.Tensor) -> Windows:
        """See `kerastl.modality.words.Worded`."""
        return _wordpiece(self._known, self.lowercase).windows(raw, self.max_pieces)

    def windowed(self, windows: Windows) -> dict[str, tf.Tensor]:
        """See `Worded`."""
        return {PIECES: windows.ids, LENGTH: windows.lengths}

    def excerpts(self, raw: tf.Tensor, texts: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """See `Worded`."""
        from kerastl.modality.text.split import excerpts

        return excerpts(raw, texts, starts, ends)

    def trimmed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Modality`: as many pieces as the longest text has."""
        import tensorflow as tf

        most = tf.maximum(tf.reduce_max(inputs[LENGTH]), 1)
        return {PIECES: inputs[PIECES][:, :most], LENGTH: inputs[LENGTH]}

    def check(self, raw: tf.Tensor) -> tf.Operation:
        """See `Modality`: any bytes are taken; what is no UTF-8 among them is dropped."""
        import tensorflow as tf

        return tf.no_op()

    def own_scale(self, value: tf.Tensor) -> tf.Tensor:
        """See `Modality`: pieces are no quantities."""
        return value

    def full_range(self, inputs: Batch) -> Batch:
        """See `Modality`."""
        return inputs

    @staticmethod
    def servable(raw: bytes) -> tuple[bytes, str]:
        """See `Modality`, and `kerastl.modality.text_files.utf8_of`."""
        return utf8_of(raw)

    @staticmethod
    def reason_of(message: str) -> str:
        """See `Modality`."""
        return " ".join(message.split(" [Op:")[0].split(" [[{{")[0].split())[:120]

    def view(self, inputs: Batch, keys: np.ndarray, augment: Any) -> Batch:
        """See `Modality`: texts have one view, themselves."""
        return inputs

    def view_facts(self, augment: Any) -> dict[str, Any]:
        """See `Modality`."""
        return {}

    def mixes(self, augment: Any) -> bool:
        """See `Modality`."""
        return False

    def mixing(self, ids: np.ndarray, view: int, augment: Any) -> Mixing:
        """See `Modality`; never asked for, as nothing `mixes`."""
        raise NotImplementedError("texts are not mixed")

    def sketches(self, inputs: Batch) -> np.ndarray:
        """See `Modality`: digests of the pieces, uint8 [b, 8]."""
        from kerastl.modality.text.equal_pieces import digests_of

        return digests_of(inputs[PIECES], inputs[LENGTH])

    def near(self, held_out: np.ndarray, others: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
        """See `Modality`: texts with the same pieces."""
        from kerastl.modality.text.equal_pieces import equal_rows

        return equal_rows(held_out, others), len(held_out)

    def shown(self, inputs: Batch) -> Sequence[str]:
        """See `Modality`: the pieces as words, as the network sees them."""
        pieces = self._known.pieces
        rows = zip(inputs[PIECES], inputs[LENGTH], strict=True)
        return [" ".join(pieces[at] for at in row[1 : length - 1]).replace(" ##", "") for row, length in rows]

    @property
    def _known(self) -> Vocabulary:
        if self.vocabulary is None:
            raise UserError(
                f"The pieces of texts are not known: data.vocabulary names no file. Expected the path of the backbone's {VOCABULARY_FILE}."
            )
        return self.vocabulary


def text_of(settings: Any) -> Text:
    """The modality of a recipe of texts."""
    data = settings.data
    vocabulary = None if data.vocabulary is None else vocabulary_at(data.vocabulary)
    return Text(vocabulary, bool(data.lowercase), data.max_pieces or USUAL_PIECES, data.truncation)


def vocabulary_at(name: str) -> Vocabulary:
    """The vocabulary in a file, `vocab.txt` or `tokenizer.json`, which is read once unless it changes.

    Raises:
        UserError: it cannot be read, or is none.
    """
    path = Path(name).expanduser()
    try:
        state = path.stat()
    except OSError:
        return read_vocabulary(path)  # which tells why it cannot
    return _vocabulary(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _vocabulary(path: Path, changed: int, size: int) -> Vocabulary:
    if path.suffix == ".json":
        from kerastl.modality.text.tokenizer_json import read_tokenizer

        return read_tokenizer(path)[0]
    return read_vocabulary(path)


@lru_cache(maxsize=8)
def _wordpiece(vocabulary: Vocabulary, lowercase: bool) -> WordPiece:
    from kerastl.modality.text.wordpiece import WordPiece

    return WordPiece(vocabulary, lowercase)
