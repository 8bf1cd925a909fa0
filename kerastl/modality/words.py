"""Words of examples, for tasks that answer each of them: what such a task asks of a modality beside `Modality`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from kerastl.errors import UserError
from kerastl.modality import Modality, modality_named

if TYPE_CHECKING:
    import tensorflow as tf


class Windows(NamedTuple):
    """R rows of a network for n texts with W words; offsets are in Unicode code points of a text as it was sent.

    Attributes:
        ids: int32 [R, most], the steps of each row, filled up to the end.
        lengths: int32 [R], steps before the filling.
        texts: int32 [R], the text of each row; those of a text follow each other.
        bounds: int32 [R, 2], the first word of each row, 0..W, and the place behind its last.
        starts: int32 [W], each word's first character.
        ends: int32 [W], the place behind its last.
        words: int32 [n + 1], the first word of each text, and W.
        rows: int32 [W], the row that answers each word.
        columns: int32 [W], where the word begins in it.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    texts: tf.Tensor
    bounds: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor
    words: tf.Tensor
    rows: tf.Tensor
    columns: tf.Tensor


@runtime_checkable
class Worded(Protocol):
    """A modality whose examples have words."""

    def windows(self, raw: tf.Tensor) -> Windows:
        """Rows of the network for raw examples, string [n], and the row and column that answers each word."""

    def windowed(self, windows: Windows) -> dict[str, tf.Tensor]:
        """The network's named inputs, [rows, ...], of `windows`."""

    def excerpts(self, raw: tf.Tensor, texts: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """Spans of characters of raw examples, string [m].

        Args:
            raw: string [n].
            texts: int32 [m], which example each is in; they follow each other and do not overlap.
            starts: int32 [m], first characters.
            ends: int32 [m], the places behind the last ones.
        """


def has_words(modality: str) -> bool:
    """True for the name of a modality whose examples have words."""
    return hasattr(modality_named(modality), "windows")


def worded(modality: Modality) -> Worded:
    """The modality as one whose examples have words.

    Raises:
        UserError: they have none.
    """
    if not isinstance(modality, Worded):
        raise UserError(f"{modality.noun.capitalize()}s have no words. Expected texts")
    return modality
