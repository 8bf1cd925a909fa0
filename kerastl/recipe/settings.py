"""All that is asked of a run, and the same once nothing is left open."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

from kerastl.backbones import BUNDLED_DATA, DEFAULT_BACKBONES, TEXT, is_preset, modality_of_backbone
from kerastl.declare import Affects, auto, key
from kerastl.modality import FIRST
from kerastl.modality.recipe import foreign_keys
from kerastl.presets import read_preset
from kerastl.recipe.checks import check_recipe
from kerastl.recipe.keys import keys_of, value_at
from kerastl.recipe.schema import (
    AugmentRecipe,
    BackboneRecipe,
    CacheRecipe,
    CalibrationRecipe,
    DataRecipe,
    FinetunePhaseRecipe,
    HeadPhaseRecipe,
    HeadRecipe,
)
from kerastl.task import WORD_TASKS, Task, task_named, task_of_source


@dataclass(frozen=True)
class Recipe:
    """All that is asked of a run, checked whole when it is made.

    Raises:
        RecipeError: with every problem, each naming its key.
    """

    AFFECTS: ClassVar[Affects] = "run"
    # Of the recipe as it was asked for; where the data turn out to be of another kind, it gets that kind's backbone.
    names_no_backbone: ClassVar[bool] = False
    name: str = auto(
        "name of the run and of the exported model: letters a to z, digits, _, - and .; from data and backbone without it"
    )
    seed: int = key(0, "random seed", low=0, high=2**31 - 1)
    precision: str = key(
        "auto",
        "arithmetic of the network; auto takes mixed_bfloat16 where all GPUs have units for it (NVIDIA, compute capability "
        "8.0 or more), float32 elsewhere",
        choices=("auto", "float32", "mixed_bfloat16"),
    )
    deterministic: bool = key(False, "same bits at every repetition on the same machine; slower on a GPU")
    data: DataRecipe = field(default_factory=DataRecipe)
    backbone: BackboneRecipe = field(default_factory=BackboneRecipe)
    head: HeadRecipe = field(default_factory=HeadRecipe)
    head_phase: HeadPhaseRecipe = field(default_factory=HeadPhaseRecipe)
    finetune_phase: FinetunePhaseRecipe = field(default_factory=FinetunePhaseRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    cache: CacheRecipe = field(default_factory=CacheRecipe)
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)

    def __post_init__(self) -> None:
        if self.data.task is None:
            object.__setattr__(self, "data", replace(self.data, task=task_of_source(self.data.source)))
        if self.backbone.name is None:
            usual = TEXT if self.data.task in WORD_TASKS else FIRST
            default = DEFAULT_BACKBONES[self.data.modality or usual]
            default = BUNDLED_DATA.get(self.data.source, default)
            object.__setattr__(self, "backbone", replace(self.backbone, name=default))
            object.__setattr__(self, "names_no_backbone", True)
        check_recipe(self)

    @property
    def kind_is_open(self) -> bool:
        """True if the data may turn out to be of another kind than the backbone's, which is then chosen by them."""
        return self.names_no_backbone and self.data.modality is None

    @property
    def modality(self) -> str:
        """Name of what an example is: as the backbone takes it."""
        name: str | None = self.backbone.name  # None in settings that are not whole
        if self.data.modality or name is None:
            return self.data.modality or FIRST
        return read_preset(name).modality if is_preset(name) else modality_of_backbone(name)

    @property
    def task(self) -> Task:
        """The task that `data.task` names."""
        return task_named(self.data.task)


@dataclass(frozen=True)
class Settings(Recipe):
    """A recipe without open keys, as `kerastl.recipe.resolve` makes it. None stands only where a key is optional, for not used.

    Raises:
        ValueError: a key is open.
    """

    def __post_init__(self) -> None:
        # Not checked against each other again: a file of weights may be gone by the time that a trained model is used.
        foreign = foreign_keys(self.modality)
        open_keys = [
            name
            for name, item, _ in keys_of(Recipe)
            if item.metadata["auto"] and value_at(self, name) is None and name not in foreign
        ]
        if open_keys:
            raise ValueError(f"open keys in settings: {', '.join(open_keys)}")


# A recipe, or settings: what changes one of them gives back the same.
Asked = TypeVar("Asked", bound=Recipe)
