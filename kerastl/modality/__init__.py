"""Modalities: an example as named inputs of a network, decoded from raw bytes, changed at random, and shown to a person.

One folder a modality, which knows no label and no network. Rooms above ask the noun `Modality` and never which one it is. Nothing here imports TensorFlow or NumPy when it
is imported itself: listings answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from errno import ENOENT
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from kerastl.errors import UserError, nearest
from kerastl.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import tensorflow as tf

    from kerastl.backbones import BackboneSpec

# Of files that name no modality: they are older than the choice.
FIRST, TEXT = "image", "text"
MODALITIES = (FIRST, TEXT)

# A raw example: its bytes, or the path of the file that holds them.
RawExample: TypeAlias = "bytes | Path"
# Some examples: the name of each input of the network -> its array, [b, ...].
Batch: TypeAlias = Mapping[str, "np.ndarray"]


@dataclass(frozen=True)
class InputSpec:
    """One named input of the network, as it is decoded once and stored.

    Attributes:
        shape: of one example.
        dtype: as NumPy names it.
        values: of ids: how many there are, 0 and above; None of all other inputs.
    """

    shape: tuple[int, ...]
    dtype: str
    values: int | None = None


class Mixing(Protocol):
    """Which examples of a split are mixed with which others, in one view."""

    @property
    def partner(self) -> np.ndarray:
        """Position in the split of each other example, int64 [n]; its own where nothing is mixed."""

    @property
    def ratio(self) -> np.ndarray:
        """Each example's own share of the label, float32 [n], 0..1; 1 where nothing is mixed."""

    def mix(self, own: Batch, others: Batch, positions: np.ndarray) -> Batch:
        """The examples at int [b] mixed with their partners, both in the view of the plan."""


class Modality(Protocol):
    """A kind of example, and its decoding; frozen, so that equal settings are equal modalities.

    Attributes:
        name: of the modality, `image`.
        noun: one example in messages, `image`; `kerastl.wording.counted` makes its plural.
        request: name of the raw input that a served model takes, `image_bytes`.
        smaller: what a user may set to make decoded examples smaller, for messages.
        decoded_signature: name of the served signature that takes decoded inputs, `serving_pixels`.
        takes: what raw examples `decode` takes, in words.
        takes_not: what has to be converted first, in words.
        converted: what a client has to know of examples that were converted first, after their number.
        layout: what the numbers of a decoded input are, as plain values.
        network: what a network of such examples is, for messages.
        pictures: whether examples are pictures, which are shown as such.
        near_words: what `near` finds, in words: of one example, of several, and how it may be mended.
        own_files: key of `[data]` -> name of the copy that a run keeps of the file that it names, so that its model can be asked when the original
            is gone.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    request: ClassVar[str]
    smaller: ClassVar[str]
    decoded_signature: ClassVar[str]
    takes: ClassVar[str]
    takes_not: ClassVar[str]
    converted: ClassVar[str]
    layout: ClassVar[Mapping[str, Any]]
    network: ClassVar[str]
    pictures: ClassVar[bool]
    near_words: ClassVar[tuple[str, str, str]]
    own_files: ClassVar[Mapping[str, str]]

    @staticmethod
    def inputs_of(shapes: Sequence[tuple[int | None, ...]]) -> dict[str, InputSpec]:
        """The named inputs that a network with inputs of these shapes, [b, ...], is given; the usual size where one is free.

        Raises:
            ValueError: it takes no such examples; the text says why in a few words.
        """

    @staticmethod
    def self_test() -> str:
        """Which version decodes.

        Raises:
            RuntimeError: an example does not come back as it was.
        """

    @staticmethod
    def measure(data: Any, raw: Callable[[int], Iterable[bytes]]) -> tuple[dict[str, Any], str]:
        """Values for those keys of `[data]` that follow from the raw examples, and a warning; nothing and '' where there are none.

        Args:
            data: the open `[data]` table.
            raw: takes a number; that many training examples, spread over the split. Those that cannot be read are left out.
        """

    @staticmethod
    def beside_weights(data: Any, folder: Path | None, spec: BackboneSpec) -> dict[str, Any]:
        """Values for those keys of `[data]` that follow from what lies beside a backbone's weights.

        Args:
            data: the open `[data]` table.
            folder: of the weights; None where they lie in no folder.
            spec: the backbone.

        Raises:
            UserError: something that is needed is not there, or is another backbone's.
        """

    @staticmethod
    def find(patterns: Sequence[str], progress: Progress) -> list[tuple[str, RawExample]]:
        """Names and raw examples that words of a command line mean, such as files, folders and glob patterns, without repeats.

        Raises:
            UserError: there are none.
        """

    @staticmethod
    def sendable(raw: bytes) -> tuple[bytes, str]:
        """Raw bytes as a served model takes them, and what they were converted from in a word, without TensorFlow; see `servable`."""

    @staticmethod
    def at(settings: Mapping[str, Any]) -> str:
        """The decoding in a few words of Markdown, from what `settings` returned."""

    def settings(self) -> dict[str, Any]:
        """The settings that decoding depends on, as plain values: records of exported models hold them."""

    def own_contents(self) -> Mapping[str, bytes]:
        """The content of each file of `own_files`, by its name: a run keeps them, and they lie beside a model that takes decoded inputs."""

    def __hash__(self) -> int: ...

    @property
    def size(self) -> str:
        """The size of the network's inputs in words, `image size 224`."""

    @property
    def spec(self) -> Mapping[str, InputSpec]:
        """The network's inputs by name."""

    def facts(self) -> dict[str, Any]:
        """All that decoded inputs depend on apart from the raw bytes, as plain values: part of the cache keys."""

    @staticmethod
    def kind_of(raw: bytes) -> str:
        """The kind of raw bytes, by their beginning, as `decode` tells them apart; '' for those that it does not take as they are."""

    def decode_all(self, raw: tf.Tensor, kind: str | None = None) -> dict[str, tf.Tensor]:
        """The named inputs of some examples, [n, ...], by TensorFlow operations alone: training, evaluation and serving share it.

        Args:
            raw: string [n]; n may be 0.
            kind: what `kind_of` says of all examples that are going to be decoded, so that the graph needs nothing for other
                kinds; None if that is not known.

        Raises:
            tf.errors.OpError: one cannot be decoded.
        """

    def trimmed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Decoded inputs of a batch, arrays or tensors, without what fills up all of its examples; the network answers as before."""

    def check(self, raw: tf.Tensor) -> tf.Operation:
        """An operation to wait for, which fails where one of string [n] is by its beginning nothing that `decode` takes, and says
        which one; it may be something that `servable` converts.
        """

    def own_scale(self, value: tf.Tensor) -> tf.Tensor:
        """A decoded input behind an operation after which integers of eight bits may have another scale."""

    def full_range(self, inputs: Batch) -> Batch:
        """Decoded examples changed so that the smallest and the largest value that an input can have are among them."""

    @staticmethod
    def servable(raw: bytes) -> tuple[bytes, str]:
        """Raw bytes that `decode` takes, and what they were converted from in a word; '' where they are the same.

        Raises:
            ValueError: they cannot be read; the text says why in a few words.
        """

    @staticmethod
    def reason_of(message: str) -> str:
        """Why an example could not be decoded, in a few words, from TensorFlow's message; '' for an empty one."""

    def view(self, inputs: Batch, keys: np.ndarray, augment: Any) -> Batch:
        """Examples changed at random, a pure function of their keys.

        Args:
            inputs: decoded examples.
            keys: int32 [b, 2], from `kerastl.modality.draws.example_keys`.
            augment: the resolved `[augment]` table.
        """

    def view_facts(self, augment: Any) -> dict[str, Any]:
        """All that `view` and `mixing` depend on apart from examples and keys, as plain values: part of the cache keys."""

    def mixes(self, augment: Any) -> bool:
        """True if views other than 0 are mixed from two examples."""

    def mixing(self, ids: np.ndarray, view: int, augment: Any) -> Mixing:
        """The plan of a view that is mixed, a pure function of its arguments; `ids` are those of the whole split."""

    def sketches(self, inputs: Batch) -> np.ndarray:
        """Few bytes of each example by which nearly equal ones are found, uint8 [b, k]; k = 0 where there is no such thing."""

    def near(self, held_out: np.ndarray, others: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
        """Nearly equal examples by their sketches, and how many were compared: see `kerastl.modality.image.copies.near_copies`."""

    def shown(self, inputs: Batch) -> Sequence[Any]:
        """Each example as a person sees it: a picture, uint8 [height, width, 3], or where these are no `pictures` a str."""


def bytes_of(raw: RawExample) -> bytes:
    """A raw example, read where it is a file; UTF-8's mark at the beginning of a file is no part of it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return raw if isinstance(raw, bytes) else raw.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except ValueError as error:  # no file can have such a name: it holds a zero byte, or what is no text
        raise FileNotFoundError(ENOENT, "No such file") from error


def one_by_one(
    decode: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    raw: tf.Tensor,
    spec: Mapping[str, InputSpec],
    parallel: int | None = None,
) -> dict[str, tf.Tensor]:
    """Named inputs [n, ...] of examples that are decoded singly.

    Args:
        decode: scalar string -> named inputs of one example.
        raw: string [n].
        spec: of the inputs.
        parallel: how many are decoded at a time in a graph; TensorFlow's choice without it.
    """
    import tensorflow as tf

    # without the full shape an empty batch would end in an error
    signature = {name: tf.TensorSpec(each.shape, each.dtype) for name, each in spec.items()}
    return tf.map_fn(decode, raw, fn_output_signature=signature, parallel_iterations=parallel)


def modality_of(settings: Any) -> Modality:
    """The modality of a recipe; how it decodes follows from its keys.

    Args:
        settings: resolved; of an open recipe, only what depends on no key (`noun`, `request`) may be asked.

    Raises:
        UserError: a file cannot be read that decoding depends on, such as a vocabulary.
    """
    from kerastl.modality.image import image_of
    from kerastl.modality.text import text_of

    makers: Mapping[str, Callable[[Any], Modality]] = {FIRST: image_of, TEXT: text_of}
    return makers[settings.modality](settings)


def modality_named(name: str) -> type[Modality]:
    """The modality of that name, before its settings are known.

    Raises:
        UserError: there is none; names the nearest.
    """
    from kerastl.modality.image import Image
    from kerastl.modality.text import Text

    known: dict[str, type[Modality]] = {Image.name: Image, Text.name: Text}
    if name not in known:
        raise UserError(
            f"Unknown modality '{name}'.{nearest(name, known)} Expected one of: {', '.join(known)}."
        )
    return known[name]


def only(batch: Mapping[str, Any]) -> Any:
    """The one array of a batch, where a network has one input.

    Raises:
        ValueError: it has several.
    """
    (value,) = batch.values()
    return value


def count_of(batch: Batch) -> int:
    """Number of examples in a batch."""
    return len(next(iter(batch.values())))
