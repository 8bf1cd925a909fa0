"""Images: encoded bytes to pixels, and random changes to pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kerastl.modality import Batch, InputSpec, RawExample, count_of, one_by_one
from kerastl.modality.image.files import (
    CONVERTED,
    NOT_SERVED,
    SERVED,
    SERVED_WORDS,
    as_png,
    find_images,
    format_of,
    reason_of,
)
from kerastl.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from kerastl.modality.image.mix import MixPlan

PIXELS = "pixels"
# Of a network that takes any.
USUAL_SIZE = 224
IMAGES_MEASURED = 64


@dataclass(frozen=True)
class Image:
    """The modality of images; see `kerastl.modality.Modality`.

    Attributes:
        image_size: side of the network's square input in pixels.
        resize: `stretch`, `crop` or `pad`: how an image becomes that square.
        significant_bits: of PNG files of 16 bits; see `kerastl.modality.image.decode.decode`.
    """

    name: ClassVar[str] = "image"
    noun: ClassVar[str] = "image"
    request: ClassVar[str] = "image_bytes"
    smaller: ClassVar[str] = "a smaller backbone.image_size"
    decoded_signature: ClassVar[str] = "serving_pixels"
    takes: ClassVar[str] = f"{SERVED_WORDS} files, of an animation the first frame"
    takes_not: ClassVar[str] = NOT_SERVED
    converted: ClassVar[str] = CONVERTED
    layout: ClassVar[Mapping[str, Any]] = {"channels": "RGB", "range": [0, 255]}
    network: ClassVar[str] = (
        "Expected a functional Keras model with one input [batch, side, side, 3]: RGB pixels, 0..255."
    )
    pictures: ClassVar[bool] = True
    near_words: ClassVar[tuple[str, str, str]] = (
        "looks nearly the same as",
        "look nearly the same as",
        "If they are frames of one scene or shots of one thing, name the groups:",
    )
    own_files: ClassVar[Mapping[str, str]] = {}
    image_size: int
    resize: str = "stretch"
    significant_bits: int = 16

    @staticmethod
    def inputs_of(shapes: Sequence[tuple[int | None, ...]]) -> dict[str, InputSpec]:
        """See `Modality`."""
        if len(shapes) != 1:
            raise ValueError(f"it has {len(shapes)} inputs")
        (shape,) = shapes
        if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise ValueError(f"its input has the shape {shape}")
        return Image(shape[1] or USUAL_SIZE).spec

    @staticmethod
    def self_test() -> str:
        """See `Modality`."""
        import numpy as np
        import tensorflow as tf

        from kerastl.modality.image.decode import DECODE_VERSION, decode

        grey = np.full([8, 8, 3], 127, np.uint8)
        if not np.array_equal(decode(tf.io.encode_png(grey), 8, "stretch"), grey):
            raise RuntimeError("a grey image does not come back as it was")
        return f"version {DECODE_VERSION}"

    @staticmethod
    def measure(data: Any, raw: Callable[[int], Iterable[bytes]]) -> tuple[dict[str, Any], str]:
        """See `Modality`: `significant_bits`."""
        if data.significant_bits is not None:
            return {}, ""
        from kerastl.modality.image.convert import bits_used

        bits = bits_used(raw(IMAGES_MEASURED))
        warning = (
            f"Images of 16 bits use only {bits} of them, as up to {IMAGES_MEASURED} training images show: {2**bits - 1:,} and more is "
            "read as white, here and by the exported model. Set data.significant_bits for another range."
        )
        return {"significant_bits": bits}, warning if bits < 16 else ""

    @staticmethod
    def beside_weights(data: Any, folder: Path | None, spec: Any) -> dict[str, Any]:
        """See `Modality`: nothing."""
        return {}

    @staticmethod
    def find(patterns: Sequence[str], progress: Progress) -> list[tuple[str, RawExample]]:
        """See `Modality`, and `kerastl.modality.image.files.find_images`."""
        return [(path, Path(path)) for path in find_images(patterns, progress)]

    @staticmethod
    def sendable(raw: bytes) -> tuple[bytes, str]:
        """See `Modality`; an empty file is for the server to refuse."""
        return (raw, "") if not raw or format_of(raw) in SERVED else as_png(raw)

    @staticmethod
    def at(settings: Mapping[str, Any]) -> str:
        """See `Modality`: `at 224 pixels (stretch)`."""
        return f"at {settings['image_size']} pixels (`{settings['resize']}`)"

    def settings(self) -> dict[str, Any]:
        """See `Modality`: the fields."""
        return dataclasses.asdict(self)

    @staticmethod
    def own_contents() -> dict[str, bytes]:
        """See `Modality`: none."""
        return {}

    @property
    def size(self) -> str:
        """See `Modality`."""
        return f"image size {self.image_size}"

    @property
    def spec(self) -> dict[str, InputSpec]:
        """`pixels`: RGB, 0..255."""
        return {PIXELS: InputSpec((self.image_size, self.image_size, 3), "uint8")}

    def facts(self) -> dict[str, Any]:
        """See `Modality`."""
        import tensorflow as tf

        from kerastl.modality.image.decode import DECODE_VERSION

        return {**self.settings(), "decode": DECODE_VERSION, "tensorflow": tf.__version__}

    @staticmethod
    def kind_of(raw: bytes) -> str:
        """See `Modality`: the format."""
        from kerastl.modality.image.decode import kind_of

        return kind_of(raw)

    def decode_all(self, raw: tf.Tensor, kind: str | None = None) -> dict[str, tf.Tensor]:
        """See `Modality`: one after the other where the kind is known, which threads do side by side; else several at a time."""
        return one_by_one(lambda each: self.decode(each, kind), raw, self.spec, None if kind is None else 1)

    def decode(self, raw: tf.Tensor, kind: str | None = None) -> dict[str, tf.Tensor]:
        """The named inputs of one image, a scalar string; see `kerastl.modality.image.decode.decode`."""
        from kerastl.modality.image.decode import decode

        return {PIXELS: decode(raw, self.image_size, self.resize, self.significant_bits, kind)}

    def trimmed(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Modality`: all of an image counts."""
        return inputs

    def check(self, raw: tf.Tensor) -> tf.Operation:
        """See `Modality`, and `kerastl.modality.image.decode.check_formats`."""
        from kerastl.modality.image.decode import check_formats

        return check_formats(raw)

    def own_scale(self, value: tf.Tensor) -> tf.Tensor:
        """See `Modality`.

        A preprocessing that begins by reordering channels (`caffe`: ResNet, VGG) does so with slices, which pass their
        scale on: the converter (TensorFlow 2.21) gives the input the range -124..255 of what stands after the mean was
        subtracted, and 0..255 are no longer the input itself.
        """
        import tensorflow as tf

        return tf.nn.conv2d(value, tf.eye(3, batch_shape=[1, 1]), 1, "VALID")

    def full_range(self, inputs: Batch) -> Batch:
        """See `Modality`: a black and a white pixel in the first image.

        The integer model's input scale is taken from the values seen: only with both ends among them is a pixel's
        value, 0..255, the input itself.
        """
        pixels = inputs[PIXELS].copy()
        pixels[0, 0, 0], pixels[0, -1, -1] = 0, 255
        return {PIXELS: pixels}

    @staticmethod
    def servable(raw: bytes) -> tuple[bytes, str]:
        """See `Modality`, and `kerastl.modality.image.convert.servable`."""
        from kerastl.modality.image.convert import servable

        return servable(raw)

    @staticmethod
    def reason_of(message: str) -> str:
        """See `Modality`."""
        return reason_of(message)

    def view(self, inputs: Batch, keys: np.ndarray, augment: Any) -> Batch:
        """See `Modality`, and `kerastl.modality.image.augment.augment`."""
        from kerastl.modality.image.augment import augmenter

        return {PIXELS: augmenter(augment)(inputs[PIXELS], keys).numpy()}

    def view_facts(self, augment: Any) -> dict[str, Any]:
        """See `Modality`."""
        from kerastl.modality.image.augment import AUGMENT_VERSION

        knobs = dataclasses.asdict(augment)
        # How many views there are, and what the knobs were called together.
        del knobs["level"], knobs["views"]
        return {"augment": knobs, "version": AUGMENT_VERSION}

    def mixes(self, augment: Any) -> bool:
        """See `Modality`: MixUp or CutMix."""
        return bool(augment.mixup_alpha or augment.cutmix_alpha)

    def mixing(self, ids: np.ndarray, view: int, augment: Any) -> MixPlan:
        """See `Modality`."""
        from kerastl.modality.image.mix import mix_plan

        alphas = augment.mixup_alpha, augment.cutmix_alpha
        return mix_plan(ids, augment.seed, view, *alphas, self.image_size)

    def sketches(self, inputs: Batch) -> np.ndarray:
        """See `Modality`: thumbnails, uint8 [b, 72]."""
        from kerastl.modality.image.copies import thumbnails_of

        return thumbnails_of(inputs[PIXELS]).reshape(count_of(inputs), -1)

    def near(self, held_out: np.ndarray, others: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
        """See `Modality`."""
        from kerastl.modality.image.copies import HEIGHT, WIDTH, near_copies

        shape = (-1, HEIGHT, WIDTH)
        return near_copies(held_out.reshape(shape), others.reshape(shape))

    def shown(self, inputs: Batch) -> Sequence[np.ndarray]:
        """See `Modality`: the pixels themselves."""
        return list(inputs[PIXELS])


def image_of(settings: Any) -> Image:
    """The modality of a recipe of images."""
    data = settings.data
    return Image(settings.backbone.image_size, data.resize, data.significant_bits or 16)
