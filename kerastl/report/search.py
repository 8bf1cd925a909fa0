"""The result of a search in words: for a page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kerastl.task import MONITORS, sign_of
from kerastl.wording import counted, duration, escape, table
from kerastl.writing import write_text_atomic

BEST_SHOWN = 10


@dataclass(frozen=True)
class Luck:
    """How much of a gain is owed to having picked the best of many.

    Attributes:
        apparent: gain of the best trial on all validation images.
        expected: gain on images that had no part in the choice.
        low: lower end of the 95 % interval of the latter.
        high: its upper end.
        trials: that were chosen from.
        images: that it was measured on.
    """

    apparent: float
    expected: float
    low: float
    high: float
    trials: int
    images: int


@dataclass(frozen=True)
class Importance:
    """How much each key mattered.

    Attributes:
        values: key -> share of the variance of the trials' ranks that is no longer predicted without it.
        explained: share that is predicted with all of them; at 0 or below the search says nothing of its keys.
        trials: that it rests on.
    """

    values: Mapping[str, float]
    explained: float
    trials: int


@dataclass(frozen=True)
class SearchTrial:
    """A trial as the page shows it.

    Attributes:
        name: its number.
        values: recipe key -> value, of the keys that had a meaning.
        places: recipe key -> place on its axis, 0..1.
        score: None where it failed.
        share: of the epochs that it was allowed.
        reason: why it failed.
        seconds: wall time.
    """

    name: str
    values: Mapping[str, Any]
    places: Mapping[str, float]
    score: float | None
    share: float
    reason: str
    seconds: float


@dataclass(frozen=True)
class SearchAxis:
    """A searched key: its name, the labels of its values (none for a range), and its ends."""

    key: str
    labels: tuple[str, ...]
    low: str
    high: str


@dataclass(frozen=True)
class SearchReport:
    """What came out of a search.

    Attributes:
        name: of the search.
        tuner: that chose the trials.
        monitor: the validation metric that is the score.
        measured: what a score is the mean of, in words.
        axes: what was searched.
        trials: in their order.
        baseline: score of the recipe as it was given; None where it failed.
        best: name of the winning trial; empty where the recipe stays as it was given.
        chance: name of the trial that scored best, where no gain of it is to be expected on other images; else empty.
        luck: of the choice; None where it was not measured.
        importance: of the keys; None where there were too few trials.
        work: what was computed, in words.
        seconds: of all trials, added up.
        wall_seconds: that the search took, over all its starts.
        test: the winner's result on the test split, in words; empty until it was measured.
    """

    name: str
    tuner: str
    monitor: str
    measured: str
    axes: tuple[SearchAxis, ...]
    trials: tuple[SearchTrial, ...]
    baseline: float | None
    best: str
    luck: Luck | None
    importance: Importance | None
    work: str
    seconds: float
    wall_seconds: float
    chance: str = ""
    test: str = ""

    @property
    def best_score(self) -> float:
        """Score of the winner."""
        return self.score_of(self.best)

    def score_of(self, name: str) -> float:
        """Score of a trial by its name; of the recipe as it was given by none."""
        scores = {trial.name: trial.score for trial in self.trials} | {"": self.baseline}
        return float(scores[name] or 0.0)

    @property
    def baseline_words(self) -> str:
        """Score of the recipe as it was, or that it failed."""
        return "failed" if self.baseline is None else f"{self.baseline:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def search_text(report: SearchReport) -> str:
    """The summary for a terminal."""
    failed = sum(trial.score is None for trial in report.trials)
    lines = [
        f"{counted(len(report.trials), 'trial')} in {duration(report.wall_seconds)}, of which trials took "
        f"{duration(report.seconds)}" + (f", {failed} failed" if failed else ""),
        f"  {report.monitor:<20}{report.best_score:.4f} (trial {report.best})" if report.best
        else f"  {report.monitor:<20}{no_winner_words(report)}",
        f"  recipe as it was    {report.baseline_words}",
    ]  # fmt: skip
    if report.luck:
        lines.append(f"  {'gain':<20}{luck_words(report.luck)}")
    if report.importance:
        named = sorted(report.importance.values.items(), key=lambda pair: -pair[1])
        lines.append(f"  {'importance':<20}" + ", ".join(f"{key} {value:.2f}" for key, value in named))
    lines.append(f"  {'computed':<20}{report.work}")
    return "\n".join(lines)


def no_winner_words(report: SearchReport) -> str:
    """Why the recipe stays as it was."""
    if not report.chance:
        return "no trial was better than the recipe as it is, which stays"
    return f"trial {report.chance} with {report.score_of(report.chance):.4f} is no better than chance: the recipe stays as it is"


def luck_words(luck: Luck) -> str:
    """A gain and how much of it to expect on other images."""
    if luck.apparent <= 0:
        return "none"
    said = f"{luck.apparent:.4f} on validation; {luck.expected:.4f} to expect on other images"
    said += f" (95 % interval {luck.low:.4f} to {luck.high:.4f})"
    if luck.expected <= 0:
        return f"{said}: no better than chance, the best of {luck.trials} is luck"
    return f"{said}, the rest is luck of picking the best of {luck.trials}"


def write_search_page(folder: Path, page: Path, report: SearchReport, winner_toml: str) -> None:
    """Write the page; it shows those of the three pictures that lie in the folder.

    Raises:
        WriteError: the folder cannot be written.
    """
    parts = [f"# {escape(report.name)}: a search", "", "```", search_text(report), "```", ""]
    parts += [
        f"Tuner: {report.tuner}. Score: {report.measured}; "
        f"{'more' if MONITORS[report.monitor] else 'less'} is better. "
        "Trials saw training and validation images only.", "",
    ]  # fmt: skip
    if report.test:
        parts += [f"The winner, trained again by `kerastl fit`, met the test split once: {report.test}.", ""]
    parts += ["## Winning recipe", "", "```toml", winner_toml.strip(), "```", ""]
    parts += ["## Best trials", "", *_trials_table(report), ""]
    failed = [trial for trial in report.trials if trial.score is None]
    if failed:
        parts += ["## Failed trials", ""]
        parts += [f"- {trial.name}: {escape(trial.reason)}" for trial in failed] + [""]
    if report.luck:
        parts += [
            "## Luck", "",
            f"Gain over the recipe as it was: {luck_words(report.luck)}.", "",
            f"The choice among {report.luck.trials} trials was repeated on 1,000 bootstrap samples of "
            f"{counted(report.luck.images, 'validation image')}: the best trial was picked on the images drawn and "
            "measured on those not drawn (Tsamardinos, Greasidou and Borboudakis 2018). Luck with training images "
            "and seeds is not in it.", "",
        ]  # fmt: skip
    parts += ["## Which keys mattered", "", *_importance_lines(report.importance), ""]
    for title, name in (
        ("Importance of the keys", "importance.png"),
        ("Score against each key", "keys.png"),
        ("Trials with all their epochs, the best in dark", "parallel.png"),
    ):
        if (folder / name).exists():
            parts += [f"![{title}]({name})", ""]
    parts += ["All trials: `trials.csv`.", ""]
    write_text_atomic(page, "\n".join(parts))


def _trials_table(report: SearchReport) -> list[str]:
    keys = [axis.key for axis in report.axes]
    sign = sign_of(report.monitor)
    # Only trials with all their epochs can win; Hyperband's shortened ones come after them.
    done = sorted(
        (t for t in report.trials if t.score is not None),
        key=lambda t: (t.share < 1, sign * (t.score or 0.0)),
    )
    rows = [
        [trial.name, f"{trial.score:.4f}", *(escape(value_text(trial.values.get(key))) for key in keys),
         f"{trial.share:.2f}", duration(trial.seconds)]
        for trial in done[:BEST_SHOWN]
    ]  # fmt: skip
    return table(["trial", "score", *(f"`{key}`" for key in keys), "epochs", "time"], rows, left=())


def _importance_lines(importance: Importance | None) -> list[str]:
    if importance is None:
        return ["Too few finished trials to say which keys mattered."]
    named = sorted(importance.values.items(), key=lambda pair: -pair[1])
    lines = table(["key", "importance"], [[f"`{key}`", f"{value:.3f}"] for key, value in named], left=(0,))
    note = (
        f"By how much a random forest predicts the rank of unseen trials worse once the key is shuffled (permutation "
        f"importance, Breiman 2001), as a share of the ranks' variance; with all keys it explains "
        f"{importance.explained:.2f} of it, over {counted(importance.trials, 'trial')}."
    )
    if importance.explained <= 0:
        note += " That is nothing: from these trials no key can be told to matter."
    return [*lines, "", note]


def value_text(value: Any) -> str:
    """A recipe's value for a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
