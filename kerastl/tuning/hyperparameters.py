"""Hyperparameters of a search: recipe keys, the values that each may take, and how they go into a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kerastl.recipe import Recipe, Settings, recipe_from_dict, recipe_to_dict
from kerastl.recipe.keys import value_at

UNFREEZE_POINT = "finetune_phase.unfreeze_from"
FINETUNE = "finetune_phase."
NOTHING_THAWED = "backbone"
# Two values of a hyperparameter that differ by less are one: each is rounded to four digits.
SAME = 5e-4


@dataclass(frozen=True)
class Hyperparameter:
    """A recipe key and the values that it may take.

    Attributes:
        key: dotted name in the recipe.
        values: those of a list, in order; empty for a range.
        ordered: whether neighbours in the list are alike.
        low: of a range; any value between its ends may be chosen.
        high: of a range.
        scale: `log` or `linear`.
        whole: whether the key takes whole numbers only.
        own: of a range, what the recipe itself says; it is taken as it stands, where other values are rounded.
    """

    key: str
    values: tuple[Any, ...] = ()
    ordered: bool = False
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    whole: bool = False
    own: float | None = None

    @property
    def needs_finetuning(self) -> bool:
        """Whether the key means nothing where nothing is thawed."""
        return self.key.startswith(FINETUNE) and self.key != UNFREEZE_POINT

    def corners(self) -> tuple[Any, ...]:
        """Values to check: all of a list, both ends of a range."""
        return self.values or (self._number(self.low), self._number(self.high))

    def decoded(self, raw: Any) -> Any:
        """The recipe's value for what the oracle chose: a place in the list, or a number."""
        return self.values[int(raw)] if self.values else self._number(raw)

    def encoded(self, value: Any) -> float:
        """0..1 from one end of its range to the other, for models of the score; a list's by its order."""
        if self.values:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        low, high, here = (math.log(x) if self.scale == "log" else x for x in (self.low, self.high, value))
        return (here - low) / (high - low)

    def _number(self, value: float) -> int | float:
        # Four digits: more would only hide that neighbours are the same. A model of the score may step over an end.
        value = min(max(value, self.low), self.high)
        if self.own is not None and math.isclose(value, self.own, rel_tol=SAME):
            return self.own
        return round(value) if self.whole else float(f"{value:.4g}")


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        hyperparameters: the unfreeze point before the keys that depend on it.
        origin: the file, for messages.
        added: what the file leaves out of the recipe as it is, and was added, in words.
    """

    hyperparameters: tuple[Hyperparameter, ...]
    origin: str = "space"
    added: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Hyperparameter]:
        return iter(self.hyperparameters)

    @property
    def unfreeze_point(self) -> Hyperparameter | None:
        """The hyperparameter of the unfreeze point, where it is searched."""
        return next((hp for hp in self.hyperparameters if hp.key == UNFREEZE_POINT), None)

    def decoded(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Recipe keys and values of what an oracle chose; keys that are not active are left out."""
        return {hp.key: hp.decoded(raw[hp.key]) for hp in self.hyperparameters if hp.key in raw}


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys set, checked whole.

    Raises:
        RecipeError: a value is none that the recipe takes.
    """
    tables = recipe_to_dict(recipe)
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (tables.setdefault(table, {}) if table else tables)[name] = value
    return recipe_from_dict(tables)


def values_of(resolved: Settings, space: Space) -> dict[str, Any]:
    """What a resolved recipe says of the unfreeze point and of each key of a space."""
    names = [UNFREEZE_POINT, *(hp.key for hp in space)]
    return {name: value_at(resolved, name) for name in names}
