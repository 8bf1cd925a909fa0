"""The search: trials of the project's own two phases, chosen by Keras Tuner, on stores that all of them share.

It stands above the workflow, whose pieces each trial is made of and whose `fit` trains the winner; nothing
below knows of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastl.tuning.axes import Axis, Space
    from kerastl.tuning.job import TuneSummary, tune
    from kerastl.tuning.question import SearchSettings
    from kerastl.tuning.space import load_space, shipped_spaces

__all__ = ["Axis", "SearchSettings", "Space", "TuneSummary", "load_space", "shipped_spaces", "tune"]

_HOMES = {
    "Axis": "axes",
    "Space": "axes",
    "load_space": "space",
    "shipped_spaces": "space",
    "SearchSettings": "question",
    "TuneSummary": "job",
    "tune": "job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
