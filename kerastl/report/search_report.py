"""The result of a search in words: for a page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.markdown import render
from kerastl.task import MONITORS, sign_of
from kerastl.wording import counted, duration
from kerastl.writing import write_text_atomic

BEST_SHOWN = 10
COMPLETED, FAILED = "completed", "failed"
_RENAMED = {"images": "examples"}


@dataclass(frozen=True)
class SelectionBias:
    """Selection bias: the part of a gain that is owed to having picked the best of many.

    Attributes:
        apparent: gain of the best trial on all validation examples.
        expected: gain on examples that had no part in the choice.
        low: lower end of the 95 % interval of the latter.
        high: its upper end.
        trials: that were chosen from.
        examples: number of them that it was measured on.
    """

    apparent: float
    expected: float
    low: float
    high: float
    trials: int
    examples: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SelectionBias:
        """The bias that a search's result.json holds; earlier versions had another key."""
        return cls(**{_RENAMED.get(key, key): value for key, value in values.items()})


@dataclass(frozen=True)
class Importance:
    """Importance of each key.

    Attributes:
        values: key -> share of the variance of the trials' ranks that is no longer predicted without it.
        explained: share that is predicted with all of them; at 0 or below the search says nothing of its keys.
        trials: that it rests on.
    """

    values: Mapping[str, float]
    explained: float
    trials: int


@dataclass(frozen=True)
class TrialRecord:
    """A trial: what it set, and what came of it.

    Attributes:
        trial_id: its number, as text.
        values: recipe keys that it set, those without a meaning left out.
        share: of the epochs that it was allowed, 1 for all.
        status: `completed` or `failed`.
        score: mean of the monitored validation metric over all trainings of the trial; None where it failed.
        metrics: means of all validation metrics.
        scores: the monitored metric of each training.
        winner: phase that was kept, of the first training.
        seconds: wall time.
        reason: why it failed.
        forward_passes: of the frozen part that it needed; none where all features were stored.
        heads: head phases that it ran.
        worker: name of the process that ran it; empty where the search has one alone.
        losses: float32 [examples], what each validation example adds to the score, less is better; a file of its own, None
            unless it was read.
    """

    trial_id: str
    values: dict[str, Any]
    share: float = 1.0
    status: str = COMPLETED
    score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    winner: str = ""
    seconds: float = 0.0
    reason: str = ""
    forward_passes: int = 0
    heads: int = 0
    worker: str = ""
    losses: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class SearchedKey:
    """A recipe key that was searched.

    Attributes:
        key: its dotted name.
        labels: of its values; none for a range.
        low: its lower end, or first value.
        high: its upper end, or last value.
        places: of each trial, in their order: 0..1 from one end to the other, None where the key had no meaning.
    """

    key: str
    labels: tuple[str, ...]
    low: str
    high: str
    places: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class SearchReport:
    """Results of a search.

    Attributes:
        name: of the search.
        tuner: that chose the trials.
        monitor: the validation metric that is the score.
        measured: what a score is the mean of, in words.
        keys: what was searched.
        trials: in their order.
        baseline: score of the recipe as it was given; None where it failed.
        best: name of the winning trial; empty where the recipe stays as it was given.
        chance: name of the trial that scored best, where no gain of it is to be expected on other examples; else empty.
        bias: of the choice; None where it was not measured.
        importance: of the keys; None where there were too few trials.
        work: what was computed, in words.
        seconds: of all trials, added up.
        wall_seconds: that the search took, over all its starts.
        test: the winner's result on the test split, in words; empty until it was measured.
        noun: one example in words.
    """

    name: str
    tuner: str
    monitor: str
    measured: str
    keys: tuple[SearchedKey, ...]
    trials: tuple[TrialRecord, ...]
    baseline: float | None
    best: str
    bias: SelectionBias | None
    importance: Importance | None
    work: str
    seconds: float
    wall_seconds: float
    chance: str = ""
    test: str = ""
    noun: str = "example"

    @property
    def best_score(self) -> float:
        """Score of the winner."""
        return self.score_of(self.best)

    def score_of(self, name: str) -> float:
        """Score of a trial by its name; of the recipe as it was given by none."""
        scores = {trial.trial_id: trial.score for trial in self.trials} | {"": self.baseline}
        return float(scores[name] or 0.0)

    @property
    def baseline_text(self) -> str:
        """Score of the recipe as it was, or that it failed."""
        return "failed" if self.baseline is None else f"{self.baseline:.4f}"


def search_text(report: SearchReport) -> str:
    """The summary for a terminal."""
    failed = sum(trial.score is None for trial in report.trials)
    lines = [
        f"{counted(len(report.trials), 'trial')} in {duration(report.wall_seconds)}, of which trials took "
        f"{duration(report.seconds)}" + (f", {failed} failed" if failed else ""),
        f"  {report.monitor:<20}{report.best_score:.4f} (trial {report.best})" if report.best
        else f"  {report.monitor:<20}{no_winner_text(report)}",
        f"  recipe as it was    {report.baseline_text}",
    ]  # fmt: skip
    if report.bias:
        lines.append(f"  {'gain':<20}{gain_text(report.bias, report.noun)}")
    if report.importance:
        named = by_importance(report.importance)
        lines.append(f"  {'importance':<20}" + ", ".join(f"{key} {value:.2f}" for key, value in named))
    lines.append(f"  {'computed':<20}{report.work}")
    return "\n".join(lines)


def no_winner_text(report: SearchReport) -> str:
    """Reason for which the recipe stays as it was."""
    if not report.chance:
        return "no trial was better than the recipe as it is, which stays"
    return f"trial {report.chance} with {report.score_of(report.chance):.4f} is no better than chance: the recipe stays as it is"


def gain_text(bias: SelectionBias, noun: str) -> str:
    """A gain and how much of it to expect on other examples."""
    if bias.apparent <= 0:
        return "none"
    text = f"{bias.apparent:.4f} on validation; {bias.expected:.4f} to expect on other {noun}s"
    text += f" (95 % interval {bias.low:.4f} to {bias.high:.4f})"
    if bias.expected <= 0:
        return f"{text}: no better than chance, the best of {bias.trials} is selection bias"
    return f"{text}, the rest is selection bias of the best of {bias.trials}"


def write_search_page(folder: Path, page: Path, report: SearchReport, winner_toml: str) -> None:
    """Write the page; it shows those of the three pictures that lie in the folder.

    Raises:
        WriteError: the folder cannot be written.
    """
    sign = sign_of(report.monitor)
    # Only trials with all their epochs can win; Hyperband's shortened ones come after them.
    done = sorted(
        (t for t in report.trials if t.score is not None),
        key=lambda t: (t.share < 1, sign * (t.score or 0.0)),
    )
    pictures = (
        ("Importance of the keys", "importance.png"),
        ("Score against each key", "keys.png"),
        ("Trials with all their epochs, the best in dark", "parallel.png"),
    )
    text = render(
        Path(__file__).with_name("search.md.j2"),
        report=report,
        summary=search_text(report),
        more_is_better=MONITORS[report.monitor],
        winner_toml=winner_toml,
        best=done[:BEST_SHOWN],
        failed=[trial for trial in report.trials if trial.score is None],
        gain=gain_text(report.bias, report.noun) if report.bias else "",
        importance=by_importance(report.importance) if report.importance else (),
        pictures=[each for each in pictures if (folder / each[1]).exists()],
        value_text=value_text,
    )
    write_text_atomic(page, text)


def by_importance(importance: Importance) -> list[tuple[str, float]]:
    """Keys and their importance, the largest first."""
    return sorted(importance.values.items(), key=lambda pair: -pair[1])


def value_text(value: Any) -> str:
    """A recipe's value for a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
