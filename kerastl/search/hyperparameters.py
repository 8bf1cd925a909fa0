"""Hyperparameters of a search: recipe keys, the values that each may take, and how they go into a recipe."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kerastl.recipe import Recipe, Settings
from kerastl.recipe.keys import check_value, keys_of, value_at

UNFREEZE_POINT = "finetune_phase.unfreeze_from"
FINETUNE = "finetune_phase."
NOTHING_THAWED = "backbone"
# Two values of a hyperparameter that differ by less are one: each is rounded to four digits.
SAME = 5e-4
# Of a range in a grid.
GRID_VALUES = 5


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
        """True for keys that mean nothing where nothing is thawed."""
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
    """All hyperparameters of a search.

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
    kinds = {name: (hint, item.metadata) for name, item, hint in keys_of(Recipe)}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        with contextlib.suppress(ValueError):  # the recipe's own check says what is wrong
            value = check_value(value, *kinds[key])
        tables.setdefault(table, {})[name] = value
    top = tables.pop("", {})
    changed = {table: replace(getattr(recipe, table), **those) for table, those in tables.items()}
    return replace(recipe, **top, **changed)


def values_of(resolved: Settings, space: Space) -> dict[str, Any]:
    """Values of the unfreeze point and of each key of a space in a resolved recipe."""
    names = [UNFREEZE_POINT, *(hp.key for hp in space)]
    return {name: value_at(resolved, name) for name in names}


def first_values(space: Space, own: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values of a recipe in an oracle's terms, with which a search begins; None where they lie outside the space.

    Args:
        space: what is searched.
        own: recipe keys and values of the recipe as it is.
    """
    values: dict[str, Any] = {}
    for hp in space:
        value = own[hp.key]
        if hp.needs_finetuning and own[UNFREEZE_POINT] == NOTHING_THAWED:
            continue
        if hp.values and value in hp.values:
            values[hp.key] = hp.values.index(value)
        elif not hp.values and hp.low <= value <= hp.high:
            values[hp.key] = value
        else:
            return None
    return values


def thawed_places(space: Space) -> list[int] | None:
    """Places in the list of the unfreeze point where something is thawed; None where all thaw, or it is not searched."""
    hp = space.unfreeze_point
    if hp is None or NOTHING_THAWED not in hp.values:
        return None
    return [place for place, name in enumerate(hp.values) if name != NOTHING_THAWED]


def combinations(space: Space) -> list[dict[str, Any]]:
    """Every combination of a grid, keys without meaning left out; a range gives five values, evenly spread."""
    thawed = thawed_places(space)
    different: dict[str, dict[str, Any]] = {}
    for chosen in itertools.product(*(_grid_values(hp) for hp in space)):
        values = dict(zip((hp.key for hp in space), chosen, strict=True))
        if thawed is not None and values[UNFREEZE_POINT] not in thawed:
            values = {hp.key: values[hp.key] for hp in space if not hp.needs_finetuning}
        different.setdefault(repr(values), values)
    return list(different.values())


def _grid_values(hp: Hyperparameter) -> list[Any]:
    if hp.values:
        return list(range(len(hp.values)))
    if hp.scale == "log":
        step = (hp.high / hp.low) ** (1 / (GRID_VALUES - 1))
        values = [hp.low * step**place for place in range(GRID_VALUES)]
    else:
        values = [hp.low + (hp.high - hp.low) * place / (GRID_VALUES - 1) for place in range(GRID_VALUES)]
    if hp.own is not None and not any(math.isclose(value, hp.own, rel_tol=SAME) for value in values):
        values = sorted([*values, hp.own])
    return list(dict.fromkeys(round(v) for v in values)) if hp.whole else values
