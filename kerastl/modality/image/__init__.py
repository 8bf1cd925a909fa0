"""Images: encoded bytes to pixels, and random changes to pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerastl.modality import Batch, InputSpec, count_of

if TYPE_CHECKING:
    import tensorflow as tf

    from kerastl.modality.image.mix import MixPlan

PIXELS = "pixels"


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
    image_size: int
    resize: str = "stretch"
    significant_bits: int = 16

    @property
    def spec(self) -> dict[str, InputSpec]:
        """`pixels`: RGB, 0..255."""
        return {PIXELS: InputSpec((self.image_size, self.image_size, 3), "uint8")}

    def facts(self) -> dict[str, Any]:
        """See `Modality`."""
        import tensorflow as tf

        from kerastl.modality.image.decode import DECODE_VERSION

        return {**dataclasses.asdict(self), "decode": DECODE_VERSION, "tensorflow": tf.__version__}

    def decode(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """See `Modality`, and `kerastl.modality.image.decode.decode`."""
        from kerastl.modality.image.decode import decode

        return {PIXELS: decode(raw, self.image_size, self.resize, self.significant_bits)}

    def is_served(self, raw: tf.Tensor) -> tf.Tensor:
        """See `Modality`."""
        from kerastl.modality.image.decode import is_served

        return is_served(raw)

    def servable(self, raw: bytes) -> tuple[bytes, str]:
        """See `Modality`, and `kerastl.modality.image.convert.servable`."""
        from kerastl.modality.image.convert import servable

        return servable(raw)

    def reason_of(self, message: str) -> str:
        """See `Modality`."""
        from kerastl.encoded import reason_of

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
