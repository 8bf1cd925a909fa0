"""Declares recipe keys, for the recipe's own tables and for those of a modality."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

# What another value of a key changes, the earliest of: which examples there are (data), the frozen part's outputs (features),
# the layers of the head (head), the graph of a training step (step), or numbers alone (value). What a key of a run changes
# is the same for all trials of a search.
Affects = Literal["run", "data", "features", "head", "step", "value"]


def key(
    default: Any,
    help: str,
    *,
    affects: Affects | None = None,
    auto: bool = False,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    above: float | None = None,
    names: bool = False,
) -> Any:
    """A recipe key: its default, what it means, which values it takes, and what it affects where that is not what its table says.

    `low`/`high` include their bound, `above`/`below` leave it out. Of `names`, several may be given as a list.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    return field(
        default=default,
        metadata={
            "help": help,
            "affects": affects,
            "auto": auto,
            "choices": choices,
            "names": names,
            **bounds,
        },
    )


def auto(help: str, **values: Any) -> Any:
    """A key that the rule fills in where it is left out: None in a `Recipe`, never in `Settings`."""
    return key(None, help, auto=True, **values)
