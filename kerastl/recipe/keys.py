"""The keys of a recipe by their names, and the check of a value against what its key says."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from kerastl.declare import Affects
from kerastl.errors import nearest

# TOML knows inf, and integers that no float holds.
LARGEST_NUMBER = 1e300


def _walk(cls: type, prefix: str = "") -> Iterator[tuple[str, type, dataclasses.Field[Any], Any]]:
    """Dotted name, table, dataclass field and type of each key, in their order."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _walk(typing.cast(type, hints[item.name]), f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, cls, item, hints[item.name]


@functools.cache
def keys_of(cls: type) -> tuple[tuple[str, dataclasses.Field[Any], Any], ...]:
    """All keys of a recipe's class in their order: dotted name, dataclass field (with its metadata), and type."""
    return tuple((name, item, hint) for name, _, item, hint in _walk(cls))


@functools.cache
def affecting(cls: type, *affects: Affects) -> tuple[str, ...]:
    """The keys of a recipe's class that affect one of these, by their dotted names."""
    return tuple(
        name
        for name, table, item, _ in _walk(cls)
        if (item.metadata["affects"] or table.AFFECTS) in affects  # type: ignore[attr-defined]
    )


def value_at(recipe: Any, name: str) -> Any:
    """The value of a dotted key."""
    for part in name.split("."):
        recipe = getattr(recipe, part)
    return recipe


def check_value(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """The value in the type of its key; ValueError says what is expected."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if (types.NoneType in kinds or metadata["auto"]) and (value is None or value == "auto"):
        return None
    kind = next(k for k in kinds if k is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of whole numbers, such as [256]")
        return tuple(_check_number(item, int, metadata) for item in value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if kind is str:
        if metadata.get("names") and isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        choices = metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(
                f"expected one of {', '.join(choices)}.{nearest(str(value), choices)}".rstrip(".")
            )
        if not isinstance(value, str) or not value:
            raise ValueError("expected a text in quotes")
        return value
    return _check_number(value, kind, metadata)


def _check_number(value: Any, kind: type, metadata: Mapping[str, Any]) -> int | float:
    name = "a whole number" if kind is int else "a number"
    low, high, above, below = (metadata.get(k) for k in ("low", "high", "above", "below"))
    bounds = [f"at least {low}" if low is not None else f"above {above}" if above is not None else ""]
    bounds.append(f"at most {high}" if high is not None else f"below {below}" if below is not None else "")
    expected = " ".join([name, " and ".join(b for b in bounds if b)]).strip()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"expected {expected}")
    if value != value or (kind is int and value != int(value)):
        raise ValueError(f"expected {expected}")
    inside = (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(f"expected {expected}")
    return kind(value)
