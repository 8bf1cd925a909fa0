"""The recipe keys that modalities declare, the levels of augmentation, and the rules and checks of these keys.

`kerastl.recipe.schema` composes its tables of these; another modality adds its own here. A recipe has the keys of all
modalities, and those of others than its own stay as they are: see `foreign_keys`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerastl.modality import FIRST, TEXT
from kerastl.modality.image.recipe_keys import (
    IMAGE_FLAGS,
    LEVELS,
    ImageAugment,
    ImageBackbone,
    ImageData,
    size_checks,
    size_rule,
)
from kerastl.modality.image.recipe_keys import NO_AUGMENTATION as NO_IMAGE_AUGMENTATION
from kerastl.modality.text.text_keys import TEXT_FLAGS, TextData, text_checks, text_rule

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec

__all__ = ["LEVELS"]
MODALITY_FLAGS = {**IMAGE_FLAGS, **TEXT_FLAGS}
"""Flag -> recipe key, of keys that most users need."""


@dataclass(frozen=True)
class DataKeys(TextData, ImageData):
    """Keys of `[data]` that a modality declares."""

    @property
    def fewest_per_class(self) -> int | None:
        """The fewest examples to learn from that a class may have; None stops at classes that have too few."""
        return self.min_images_per_class if self.min_texts_per_class is None else self.min_texts_per_class


@dataclass(frozen=True)
class BackboneKeys(ImageBackbone):
    """Keys of `[backbone]` that a modality declares."""


@dataclass(frozen=True)
class AugmentKeys(ImageAugment):
    """Keys of `[augment]` that a modality declares."""


NO_AUGMENTATION: Mapping[str, Mapping[str, Any]] = {FIRST: NO_IMAGE_AUGMENTATION, TEXT: {}}
"""The knobs of each modality, with which they change nothing."""
_LEVELS = {FIRST: LEVELS, TEXT: {"none": LEVELS["none"]}}
_DECLARED: Mapping[str, Mapping[str, type]] = {
    FIRST: {"data": ImageData, "backbone": ImageBackbone, "augment": ImageAugment},
    TEXT: {"data": TextData},
}


@functools.cache
def foreign_keys(modality: str) -> frozenset[str]:
    """Dotted names of the keys that mean nothing for such examples, as other modalities declare them."""
    return frozenset(
        f"{table}.{field.name}"
        for name, tables in _DECLARED.items()
        for table, keys in tables.items()
        for field in dataclasses.fields(keys)
        if name != modality
    )


def levels_of(modality: str) -> Mapping[str, Mapping[str, Any]]:
    """The levels of augmentation of such examples."""
    return _LEVELS[modality]


def fewest_key(noun: str) -> str:
    """The key that says how many examples to learn from a class has to have."""
    return f"data.min_{noun}s_per_class"


def data_rule(spec: BackboneSpec) -> dict[str, Any]:
    """Values for the open keys of `[data]`."""
    return {"modality": spec.modality, **(text_rule(spec) if spec.modality == TEXT else {})}


def backbone_rule(spec: BackboneSpec) -> dict[str, Any]:
    """Values for the open keys of `[backbone]`."""
    return size_rule(spec) if spec.modality == FIRST else {}


def modality_checks(recipe: Any, spec: BackboneSpec) -> list[str]:
    """Problems of a recipe's keys that a backbone's modality declares, or that others do."""
    kind = spec.modality
    if recipe.data.modality not in (None, kind):
        return [f"data.modality = '{recipe.data.modality}': the backbone '{spec.name}' takes {kind}s"]
    # Where neither data nor backbone are named by their kind, the data may still turn out to be of another one.
    foreign = set() if recipe.kind_is_open else foreign_keys(kind)
    problems = [
        f"{name} = {value!r}: expected none, as the backbone '{spec.name}' takes {kind}s"
        for name in sorted(foreign)
        for table, key in [name.split(".")]
        if (value := getattr(getattr(recipe, table), key))
        != type(getattr(recipe, table)).__dataclass_fields__[key].default
    ]
    if kind == FIRST:
        return problems + size_checks(recipe.backbone, spec)
    if recipe.augment.level not in (None, *_LEVELS[kind]):
        problems.append(
            f"augment.level = '{recipe.augment.level}': expected none, as {kind}s are not changed at random"
        )
    if recipe.augment.views not in (None, 1):
        problems.append(
            f"augment.views = {recipe.augment.views}: expected 1, as {kind}s are not changed at random"
        )
    if recipe.finetune_phase.mixup_alpha:
        problems.append(
            f"finetune_phase.mixup_alpha = {recipe.finetune_phase.mixup_alpha}: expected 0, as {kind}s of different lengths cannot be "
            "blended; head_phase.mixup_alpha blends their means"
        )
    return problems + text_checks(recipe.data, spec)
