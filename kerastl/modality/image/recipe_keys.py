"""The recipe keys of images, beside those that every kind of example has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerastl.declare import auto, key

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec


@dataclass(frozen=True)
class ImageData:
    """Keys of `[data]`."""

    min_images_per_class: int | None = key(
        None,
        "leave out classes with fewer images to learn from than this, and say so; stop at them without it",
        low=2,
    )
    resize: str = key(
        "stretch",
        "how an image becomes the square input: stretch ignores its proportions, crop takes the middle, pad adds black borders",
        choices=("stretch", "crop", "pad"),
        affects="features",
    )
    significant_bits: int | None = key(
        None,
        "bits that the levels of 16-bit PNG and TIFF use: instruments store 10 to 14, and 2 to the power of this is white; as "
        "many as some of the training images need without it",
        low=8,
        high=16,
    )


@dataclass(frozen=True)
class ImageBackbone:
    """Keys of `[backbone]`."""

    image_size: int = auto("side of the square input in pixels", low=8, high=2048)


@dataclass(frozen=True)
class ImageAugment:
    """Keys of `[augment]`. Knobs left out follow the level."""

    horizontal_flip: bool = auto("mirror half of the images left to right")
    crop_min_area: float = auto(
        "random resized crops cover at least this share of the image; 1 for no crop", above=0, high=1
    )
    color: float = auto("largest relative change of brightness, contrast and saturation", low=0, high=1)
    rotation_degrees: float = auto("largest rotation to either side", low=0, high=180)
    erase_probability: float = auto("share of images with an erased rectangle", low=0, high=1)
    policy_operations: int = auto("random operations of the RandAugment-like policy", low=0, high=10)
    policy_magnitude: float = auto("strength of these operations", low=0, high=1)
    mixup_alpha: float = auto("MixUp: both parameters of the Beta distribution; 0 for none", low=0)
    cutmix_alpha: float = auto("CutMix: both parameters of the Beta distribution; 0 for none", low=0)


IMAGE_FLAGS = {"--image-size": "backbone.image_size"}
"""Flag -> recipe key, of keys that most users need."""

LEVELS: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {"horizontal_flip": True, "crop_min_area": 0.35, "color": 0.1},
    "medium": {
        "horizontal_flip": True,
        "crop_min_area": 0.25,
        "color": 0.3,
        "rotation_degrees": 10.0,
        "erase_probability": 0.25,
    },
    "strong": {
        "horizontal_flip": True,
        "crop_min_area": 0.2,
        "color": 0.3,
        "erase_probability": 0.25,
        "policy_operations": 2,
        "policy_magnitude": 0.5,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
    },
}
NO_AUGMENTATION: dict[str, Any] = {
    "horizontal_flip": False,
    "crop_min_area": 1.0,
    "color": 0.0,
    "rotation_degrees": 0.0,
    "erase_probability": 0.0,
    "policy_operations": 0,
    "policy_magnitude": 0.5,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}


def size_rule(spec: BackboneSpec) -> dict[str, Any]:
    """Values for the open keys of `[backbone]`: the size that the network was published for."""
    return {"image_size": spec.image_size}


def size_checks(backbone: ImageBackbone, spec: BackboneSpec) -> list[str]:
    """Problems of the size that is set."""
    size, problems = backbone.image_size, []
    if size is not None and size < spec.min_image_size:
        problems.append(
            f"backbone.image_size = {size}: '{spec.name}' takes images of at least {spec.min_image_size} pixels"
        )
    if size is not None and spec.max_image_size is not None and size > spec.max_image_size:
        problems.append(
            f"backbone.image_size = {size}: '{spec.name}' takes images of {spec.max_image_size} pixels alone"
        )
    return problems
