"""Hyperparameter search: trials of the two phases, chosen by Keras Tuner, on features that all of them share.

It stands above the jobs, whose pieces each trial is made of and whose `fit` trains the winner; nothing
below knows of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastl.search.hyperparameters import Hyperparameter, Space
    from kerastl.search.job import tune
    from kerastl.search.results import TuneSummary
    from kerastl.search.space import load_space, shipped_spaces
    from kerastl.search.spec import SearchSettings

_HOMES = {
    "Hyperparameter": "hyperparameters",
    "SearchSettings": "spec",
    "Space": "hyperparameters",
    "TuneSummary": "results",
    "load_space": "space",
    "shipped_spaces": "space",
    "tune": "job",
}
__all__ = [
    "Hyperparameter", "SearchSettings", "Space", "TuneSummary", "load_space", "shipped_spaces", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
