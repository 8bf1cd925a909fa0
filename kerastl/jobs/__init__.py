"""The whole job, as the command line and Python call it. Each verb is loaded at its first use."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerastl.jobs.benchmarking import Benchmark, BenchmarkRow, benchmark
    from kerastl.jobs.converting import ConvertedModel, convert
    from kerastl.jobs.fitting import FitSummary, fit
    from kerastl.jobs.listing import CheckLine, DatasetLine, check, datasets
    from kerastl.jobs.planning import Plan, PlanRow, plan
    from kerastl.jobs.predicting import Patience, Prediction, predict
    from kerastl.jobs.ranging import RateRangeSummary, lr_range
    from kerastl.jobs.ranking import Ranking, rank
    from kerastl.jobs.use import evaluate, evaluate_each, export

# TensorFlow reads it when it first uses a GPU, of which it would otherwise take all memory: from the other processes
# there, and from the libraries that it calls itself.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

__all__ = [
    "Benchmark",
    "BenchmarkRow",
    "CheckLine",
    "ConvertedModel",
    "DatasetLine",
    "FitSummary",
    "Patience",
    "Plan",
    "PlanRow",
    "Prediction",
    "Ranking",
    "RateRangeSummary",
    "benchmark",
    "check",
    "convert",
    "datasets",
    "evaluate",
    "evaluate_each",
    "export",
    "fit",
    "lr_range",
    "plan",
    "predict",
    "rank",
]

_HOMES = {
    "Benchmark": "benchmarking",
    "BenchmarkRow": "benchmarking",
    "benchmark": "benchmarking",
    "ConvertedModel": "converting",
    "convert": "converting",
    "FitSummary": "fitting",
    "Plan": "planning",
    "PlanRow": "planning",
    "CheckLine": "listing",
    "DatasetLine": "listing",
    "check": "listing",
    "datasets": "listing",
    "Patience": "predicting",
    "Prediction": "predicting",
    "evaluate": "use",
    "evaluate_each": "use",
    "export": "use",
    "fit": "fitting",
    "plan": "planning",
    "predict": "predicting",
    "Ranking": "ranking",
    "RateRangeSummary": "ranging",
    "lr_range": "ranging",
    "rank": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
