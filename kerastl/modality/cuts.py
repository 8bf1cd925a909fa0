"""Examples that are cut off: which of them have more than their decoded inputs hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import tensorflow as tf

# What is noted of such an example, beside the format that it was converted from.
CUT = "cut"
BETWEEN = "; "


@runtime_checkable
class Cutting(Protocol):
    """A modality that cuts long examples."""

    def decode_noting(self, raw: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The named inputs of raw examples, string [n], as `Modality.decode_all` gives them, and whether each is cut, bool [n]."""

    @property
    def cut_words(self) -> str:
        """A predicate of examples that are cut, for messages, behind their number and the verb."""


def noted(converted: str, cut: bool) -> str:
    """The note on an example; '' where there is nothing to note."""
    return BETWEEN.join(filter(None, [converted, CUT if cut else ""]))


def is_cut(note: str) -> bool:
    """True if an example with this note is cut."""
    return CUT in note.split(BETWEEN)


def converted_from(note: str) -> str:
    """The format that an example with this note was converted from; '' for none."""
    return BETWEEN.join(each for each in note.split(BETWEEN) if each != CUT)
