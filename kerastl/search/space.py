"""The search space as data: recipe keys and what each may be, checked whole before anything is built.

A space is a TOML file with the recipe's own tables. Each key has one of these:

    learning_rate = { low = 1e-5, high = 1e-2, scale = "log" }     a range; `step` makes it a ladder
    learning_rate = { around = 10, step = 3.1623 }                 from a tenth to ten times what the recipe says
    pooling       = ["avg", "max"]                                 a list without order
    hidden        = { ordered = [[], [128], [512]] }               a list whose neighbours are alike
    unfreeze_from = { joins = 6 }                                  at most six joins of the backbone, or "all"

The unfreeze point is always ordered, from nothing thawed to everything: its place in the list is searched. What the recipe
itself says belongs to every hyperparameter: where a file leaves it out it is added, so that a search can begin there and vary one key
of it at a time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.backbones import BackboneSpec, get_backbone
from kerastl.errors import RecipeError, nearest
from kerastl.recipe import Recipe, Settings, recipe_from_dict, recipe_keys
from kerastl.recipe.keys import affecting
from kerastl.recipe.load import read_toml
from kerastl.search.hyperparameters import (
    FINETUNE,
    NOTHING_THAWED,
    UNFREEZE_POINT,
    Hyperparameter,
    Space,
    values_of,
    with_values,
)

SPACES = Path(__file__).parent / "spaces"
DEFAULT = "default"
RANGE_KEYS = ("low", "high", "around", "scale", "step")
FORMS = "a list, or a table with low and high, around, ordered or joins"
# What a head of one's own layers takes the place of.
HEAD = ("head.features", "head.hidden", "head.dropout", "head.l2")
# Of a step of a ladder.
NEXT_TO = 0.25


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with kerastl: name -> file."""
    return {path.stem: path for path in sorted(SPACES.glob("*.toml"))}


def load_space(path: Path | str | None, recipe: Recipe, resolved: Settings) -> Space:
    """Read a space and check it whole against a recipe.

    Args:
        path: a TOML file or the name of a shipped space; the default space without it.
        recipe: what the trials vary, as it was given.
        resolved: the same without open keys; `around` and `joins` refer to it.

    Raises:
        RecipeError: with all problems, each naming its key.
        UserError: the file cannot be read.
    """
    origin, tables = read_toml(path or DEFAULT, shipped_spaces(), "search space")
    frozen = resolved.finetune_phase.unfreeze_from == NOTHING_THAWED or resolved.finetune_phase.epochs == 0
    problems: list[str] = []
    hints = {name: (hint, item.metadata) for name, item, hint in recipe_keys()}
    parameters: list[Hyperparameter] = []
    added: list[str] = []
    for key, form in _flat(tables, hints):
        # Without a named space: the keys that mean something for a recipe of a head alone, with layers of one's own, or solved.
        nothing = (
            (frozen and key.startswith(FINETUNE))
            or (recipe.head.layers and key in HEAD)
            or (not resolved.head_phase.epochs and key.startswith("head_phase."))
        )
        if path is None and nothing:
            continue
        hp = _hyperparameter(key, form, recipe, resolved, hints, problems)
        if hp is not None:
            parameters.append(_with_own(hp, resolved, hints[key][1]["choices"]))
            more = len(parameters[-1].corners()) != len(hp.corners())
            if more or (not hp.values and parameters[-1].corners() != hp.corners()):
                added.append(f"{key} = {values_of(resolved, Space((hp,)))[key]}")
    problems += _conflicts(parameters, frozen)
    if not parameters and not problems:
        problems.append(f"expected at least one recipe key, each with {FORMS}")
    if problems:
        raise RecipeError(problems, origin)
    return Space(tuple(sorted(parameters, key=lambda hp: hp.needs_finetuning)), origin, tuple(added))


def _flat(tables: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    names = {name.partition(".")[0] for name in known if "." in name}
    for name, value in tables.items():
        if (name in names and isinstance(value, Mapping)) or (
            isinstance(value, Mapping) and name not in known and not set(value) & {*RANGE_KEYS, "ordered"}
        ):
            yield from ((f"{name}.{key}", form) for key, form in value.items())
        else:
            yield name, value


def _hyperparameter(
    key: str, form: Any, recipe: Recipe, resolved: Settings, hints: Mapping[str, Any], problems: list[str]
) -> Hyperparameter | None:
    if key not in hints:
        # The recipe's own complaint names the nearest key.
        table, _, name = key.rpartition(".")
        try:
            recipe_from_dict({table: {name: 0}} if table else {name: 0})
        except RecipeError as error:
            problems += error.problems
        return None
    if key in affecting(Recipe, "run", "data"):
        problems.append(f"{key}: cannot be searched: all trials are compared on the same examples and terms")
        return None
    try:
        hp = _read_form(
            key, form, resolved, "int" in str(hints[key][0]) and "tuple" not in str(hints[key][0])
        )
    except ValueError as error:
        problems.append(f"{key} = {form!r}: {error}")
        return None
    wrong = [line for value in hp.corners() for line in _complaints(recipe, key, value)]
    problems += list(dict.fromkeys(wrong))
    return None if wrong else hp


def _with_own(hp: Hyperparameter, resolved: Settings, choices: Sequence[str] | None) -> Hyperparameter:
    """The hyperparameter with what the recipe says on it: in its place among ordered values, or within the range."""
    given = values_of(resolved, Space((hp,)))
    own = given[hp.key]
    if own is None or (hp.needs_finetuning and given[UNFREEZE_POINT] == NOTHING_THAWED):
        return hp
    if not hp.values and (own > 0 or hp.scale == "linear"):
        return dataclasses.replace(hp, low=min(hp.low, own), high=max(hp.high, own), own=own)
    values = list(hp.values)
    if not values:  # no logarithmic range reaches zero: a ladder of whole and half powers of ten does
        rungs = max(2, math.ceil(2 * math.log10(hp.high / hp.low)) + 1)
        steps = [(hp.high / hp.low) ** (rung / (rungs - 1)) for rung in range(rungs)]
        values = list(dict.fromkeys(hp.decoded(hp.low * step) for step in steps))
    if own not in values:
        places: Sequence[Any] = sorted([*values, own])
        if hp.key == UNFREEZE_POINT:
            places = get_backbone(resolved.backbone.name).unfreeze_points
        elif choices and {*values, own} <= set(choices):
            places = choices
        rising = sorted(values, key=places.index)
        if values in (rising, rising[::-1]):
            values = sorted([*values, own], key=places.index, reverse=values != rising)
        else:
            values.append(own)
    return dataclasses.replace(
        hp,
        values=tuple(values),
        ordered=hp.ordered or not hp.values,
        low=0.0,
        high=0.0,
        scale="linear",
        whole=False,
    )


def _complaints(recipe: Recipe, key: str, value: Any) -> tuple[str, ...]:
    try:
        with_values(recipe, {key: value})
    except RecipeError as error:
        return error.problems
    return ()


def _read_form(key: str, form: Any, resolved: Settings, whole: bool) -> Hyperparameter:
    if key == UNFREEZE_POINT:
        return _unfreeze_points(form, get_backbone(resolved.backbone.name))
    if isinstance(form, list):
        return Hyperparameter(key, values=_several(form))
    if not isinstance(form, Mapping):
        raise ValueError(f"expected {FORMS}")
    if "ordered" in form:
        _only(form, ("ordered",))
        return Hyperparameter(key, values=_several(form["ordered"]), ordered=True)
    _only(form, RANGE_KEYS)
    return _range(key, form, resolved, whole)


def _range(key: str, form: Mapping[str, Any], resolved: Settings, whole: bool) -> Hyperparameter:
    numbers = {name: form[name] for name in ("low", "high", "around", "step") if name in form}
    wrong = [name for name, n in numbers.items() if isinstance(n, bool) or not isinstance(n, (int, float))]
    if wrong:
        raise ValueError(f"expected a number for {wrong[0]}")
    scale = form.get("scale", "log" if "around" in form else "linear")
    if scale not in ("log", "linear"):
        raise ValueError(
            f"expected scale = log or linear.{nearest(str(scale), ('log', 'linear'))}".rstrip(".")
        )
    if "around" in form:
        centre = values_of(resolved, Space((Hyperparameter(key),)))[key]
        if {"low", "high"} & set(form) or scale != "log" or form["around"] <= 1:
            raise ValueError("expected around = a factor above 1 alone, such as 10 (and perhaps step)")
        if isinstance(centre, bool) or not isinstance(centre, (int, float)) or centre <= 0:
            raise ValueError(f"around needs a recipe that says a number above 0; it says {centre!r}")
        numbers |= {"low": centre / form["around"], "high": centre * form["around"]}
    if not {"low", "high"} <= set(numbers):
        raise ValueError("expected low and high")
    low, high, step = float(numbers["low"]), float(numbers["high"]), numbers.get("step")
    if not low < high:
        raise ValueError("expected low below high")
    if scale == "log" and low <= 0:
        raise ValueError("expected low above 0 on a logarithmic scale")
    if step is not None and (step <= 1 if scale == "log" else step <= 0):
        raise ValueError(f"expected a step above {1 if scale == 'log' else 0} on a {scale} scale")
    if whole and (
        low != int(low) or high != int(high) or (scale == "linear" and step not in (None, int(step or 1)))
    ):
        raise ValueError("expected whole numbers")
    hp = Hyperparameter(key, low=low, high=high, scale=scale, whole=whole)
    if step is None:
        return hp
    # A ladder is a list: two trials on one rung have the very same value, and so the same head phase.
    rungs = math.floor((math.log(high / low, step) if scale == "log" else (high - low) / step) + 1e-6)
    values = [hp.decoded(low * step**n if scale == "log" else low + n * step) for n in range(rungs + 1)]
    own = values_of(resolved, Space((hp,)))[key]
    if isinstance(own, (int, float)) and (own > 0 or scale == "linear"):
        # The recipe's own value stands for the rung that it is next to: a second one there would tell nothing new.
        apart = [
            abs(math.log(value / own, step)) if scale == "log" else abs(value - own) / step
            for value in values
        ]
        if min(apart) < NEXT_TO:
            values[apart.index(min(apart))] = own
    if len(dict.fromkeys(values)) < 2:
        raise ValueError("expected a step that leaves at least two different values")
    return Hyperparameter(key, values=tuple(dict.fromkeys(values)), ordered=True)


def _unfreeze_points(form: Any, spec: BackboneSpec) -> Hyperparameter:
    """Always ordered: a text among unordered ones tells a model of the score nothing of its neighbours."""
    points = list(spec.unfreeze_points)
    if isinstance(form, Mapping) and "joins" in form:
        _only(form, ("joins",))
        count = form["joins"]
        if count == "all":
            return Hyperparameter(UNFREEZE_POINT, values=tuple(points), ordered=True)
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ValueError('expected joins = "all" or a whole number of at least 2')
        return Hyperparameter(UNFREEZE_POINT, values=spread_joins(spec, count), ordered=True)
    names = form.get("ordered") if isinstance(form, Mapping) else form
    if not isinstance(names, list):
        raise ValueError(f'expected a list of joins, or joins = "all", such as {points[:3]}')
    wrong = [name for name in names if name not in points]
    if wrong:
        raise ValueError(
            f"unknown unfreeze point '{wrong[0]}' for backbone '{spec.name}'.{nearest(str(wrong[0]), points)} "
            f"Expected some of: {', '.join(points)}"
        )
    return Hyperparameter(
        UNFREEZE_POINT, values=tuple(sorted(_several(names), key=points.index)), ordered=True
    )


def spread_joins(spec: BackboneSpec, count: int) -> tuple[str, ...]:
    """At most `count` unfreeze points, from nothing thawed to everything, even in the weights that they train."""
    most = spec.trained_parameters[-1]
    shares = [most * part / (count - 1) for part in range(count)]
    nearest_places = {
        min(range(len(spec.unfreeze_points)), key=lambda at: abs(spec.trained_parameters[at] - share))
        for share in shares
    } | {0, len(spec.unfreeze_points) - 1}
    return tuple(spec.unfreeze_points[place] for place in sorted(nearest_places))


def _several(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError("expected a list of at least two values")
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("expected values that differ")
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _only(form: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in form:
        if name not in names:
            raise ValueError(
                f"unknown '{name}'.{nearest(name, (*names, 'ordered', 'joins'))} Expected {FORMS}"
            )


def _conflicts(parameters: Sequence[Hyperparameter], frozen: bool) -> list[str]:
    keys = {hp.key for hp in parameters}
    problems = []
    if "backbone.name" in keys and UNFREEZE_POINT in keys:
        problems.append(
            f"{UNFREEZE_POINT} and backbone.name: expected one of them; each backbone has joins of its own"
        )
    if frozen and UNFREEZE_POINT not in keys:
        problems += [
            f"{hp.key}: the recipe unfreezes nothing: search {UNFREEZE_POINT} as well, or leave this key out"
            for hp in parameters
            if hp.needs_finetuning
        ]
    return problems
