"""Ranking of backbones by their frozen features: its rows, its file and its picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from kerastl.report.plots_choices import plot_ranking
from kerastl.writing import write_json_atomic


@dataclass(frozen=True)
class RankedBackbone:
    """A backbone and how well its frozen features suit the examples.

    Attributes:
        name: of the backbone.
        accuracy: of a linear probe on examples that it was not fitted on, mean over the folds; its mean average
            precision where examples have several labels.
        spread: standard deviation over the folds.
        folds: how many there were.
        log_evidence: LogME; comparable between backbones on the same examples only.
        inverse_penalty: scikit-learn's `C` that suited the probe best.
        parameters: of the backbone.
        image_size: side of its square input.
        features: length of its pooled feature vector.
        examples_per_second: of a bare forward pass on this machine.
        weights: `bundled`, `imagenet`, `file` or `none`.
    """

    name: str
    accuracy: float
    spread: float
    folds: int
    log_evidence: float
    inverse_penalty: float
    parameters: int
    image_size: int
    features: int
    examples_per_second: float
    weights: str


@dataclass(frozen=True)
class LeftOut:
    """A backbone that could not be ranked, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Ranking:
    """Result of a ranking.

    Attributes:
        run: folder with `ranking.json` and `ranking.png`.
        examples: how many were probed, those of train and validation.
        rows: the backbones, the most accurate first; the evidence decides between equals.
        left_out: those that could not be ranked.
        metric: what the probe was measured by, `accuracy` or `mean average precision`.
        noun: one example.
    """

    run: Path
    examples: int
    rows: tuple[RankedBackbone, ...]
    left_out: tuple[LeftOut, ...]
    metric: str = "accuracy"
    noun: str = "example"


def write_ranking(ranking: Ranking) -> None:
    """Write `ranking.json` and `ranking.png` into the run's folder."""
    rows, run = ranking.rows, ranking.run
    write_json_atomic(run / "ranking.json", {**dataclasses.asdict(ranking), "run": str(run)})
    plot_ranking(
        [row.name for row in rows],
        [row.accuracy for row in rows],
        [row.spread for row in rows],
        [row.examples_per_second for row in rows],
        run / "ranking.png",
        noun=ranking.noun,
        metric=ranking.metric,
    )
