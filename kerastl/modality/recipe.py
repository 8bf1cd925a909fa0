"""The recipe keys that modalities declare, the levels of augmentation, and the rules and checks of these keys.

`kerastl.recipe.schema` composes its tables of these; another modality adds its own here.
"""

from __future__ import annotations

from dataclasses import dataclass

from kerastl.modality.image.recipe_keys import (
    FEWEST_KEY,
    LEVELS,
    MODALITY_FLAGS,
    NO_AUGMENTATION,
    ImageAugment,
    ImageBackbone,
    ImageData,
    size_checks,
    size_rule,
)

__all__ = [
    "FEWEST_KEY",
    "LEVELS",
    "MODALITY_FLAGS",
    "NO_AUGMENTATION",
    "AugmentKeys",
    "BackboneKeys",
    "DataKeys",
    "size_checks",
    "size_rule",
]


@dataclass(frozen=True)
class DataKeys(ImageData):
    """Keys of `[data]` that a modality declares."""


@dataclass(frozen=True)
class BackboneKeys(ImageBackbone):
    """Keys of `[backbone]` that a modality declares."""


@dataclass(frozen=True)
class AugmentKeys(ImageAugment):
    """Keys of `[augment]` that a modality declares."""
