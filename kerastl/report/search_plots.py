"""Pictures of a search: importance of its keys, score against each of them, and all trials as lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kerastl.report.plots import _figure as make_figure
from kerastl.report.plots import _save as save_figure
from kerastl.report.plots import _shades as shades_of_blue
from kerastl.report.search_report import Importance, SearchedKey, SearchReport
from kerastl.task import sign_of

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
COLUMNS = 3
LABELS_UP_TO = 8


def plot_importance(importance: Importance, path: Path | str) -> None:
    """Draw a bar for each key, the most important on top."""
    named = sorted(importance.values.items(), key=lambda pair: pair[1])
    figure = make_figure(7.0, 1.2 + 0.35 * len(named))
    axis = figure.add_subplot()
    axis.barh([key for key, _ in named], [value for _, value in named], color=BLUE, height=0.6)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("share of the variance of ranks that is lost once the key is shuffled")
    axis.set_title(
        f"a forest over {importance.trials} trials explains {importance.explained:.2f}",
        fontsize=10,
        loc="left",
    )
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_keys(report: SearchReport, path: Path | str) -> None:
    """Draw the score of each trial against each key, hollow where it had fewer epochs than it asked for.

    Trials in which the key had no meaning are left out.
    """
    columns = min(COLUMNS, len(report.keys))
    rows = -(-len(report.keys) // columns)
    figure = make_figure(3.4 * columns, 2.7 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for number in range(rows * columns):
        axis = grid[number // columns, number % columns]
        if number >= len(report.keys):
            axis.set_visible(False)
            continue
        key = report.keys[number]
        placed = zip(key.places, report.trials, strict=True)
        shown = [(place, t) for place, t in placed if t.score is not None and place is not None]
        for whole in (False, True):
            of_kind = [(place, t.score) for place, t in shown if (t.share >= 1) == whole]
            axis.plot(
                [place for place, _ in of_kind],
                [score for _, score in of_kind],
                "o",
                color=BLUE,
                # Fewer epochs give another score: such a trial is no dot among those with all of theirs.
                markerfacecolor=BLUE if whole else "none",
                markersize=5 if whole else 3.5,
                alpha=0.7,
            )
        best = [(place, t.score) for place, t in shown if t.trial_id == report.best]
        axis.plot([at for at, _ in best], [score for _, score in best], "D", color=ORANGE, markersize=8)
        if report.baseline is not None:
            axis.axhline(report.baseline, color=GREY, linestyle="--", linewidth=1)
        axis.set_xlim(-0.06, 1.06)
        slanted = bool(key.labels) and max(map(len, key.labels)) > 5
        # Slanted labels end below their place; centred ones would seem to stand for the place beside it.
        options = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axis.set_xticks(*_ticks(key), fontsize=8, **options)
        axis.set_title(key.key, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        if number % columns == 0:
            axis.set_ylabel(report.monitor)
    legend = [
        ("orange: the winner", bool(report.best)),
        ("hollow: with fewer epochs", any(t.share < 1 for t in report.trials if t.score is not None)),
        ("dashed: the recipe as it was", report.baseline is not None),
    ]
    figure.suptitle("; ".join(words for words, there in legend if there), x=0.01, ha="left", fontsize=10)
    save_figure(figure, path)


def plot_parallel(report: SearchReport, path: Path | str) -> None:
    """Draw each trial with all its epochs as a line through its values, the better the darker.

    A key without meaning is a gap. Trials with fewer epochs are left out, and counted in the title.
    """
    figure = make_figure(1.8 * (len(report.keys) + 1) + 1.0, 4.2)
    axis = figure.add_subplot()
    finished = [n for n, trial in enumerate(report.trials) if trial.score is not None and trial.share >= 1]
    scores = np.array([report.trials[n].score for n in finished], np.float64)
    sign = sign_of(report.monitor)
    ranks = (sign * scores).argsort().argsort() / max(len(scores) - 1, 1)
    spread = float(np.ptp(scores)) or 1.0
    positions = [float(place) for place in range(len(report.keys) + 1)]
    for number, rank in sorted(zip(finished, ranks, strict=True), key=lambda pair: -pair[1]):
        trial = report.trials[number]
        places = (key.places[number] for key in report.keys)
        heights = [np.nan if place is None else place for place in places]
        heights.append((float(trial.score or 0.0) - scores.min()) / spread)
        best = trial.trial_id == report.best
        axis.plot(
            positions, heights, marker=".", color=ORANGE if best else shades_of_blue()(0.95 - 0.75 * rank),
            linewidth=2.5 if best else 1.2, zorder=3 if best else 2,
        )  # fmt: skip
    for position, key in zip(positions, report.keys, strict=False):
        axis.axvline(position, color="#bbbbbb", linewidth=0.8, zorder=1)
        for height, label in zip(*_ticks(key), strict=True):
            axis.annotate(label, (position, height), (3, 0), "data", "offset points", fontsize=7, va="center")
    axis.axvline(positions[-1], color="#bbbbbb", linewidth=0.8, zorder=1)
    for height, score in ((0.0, scores.min()), (1.0, scores.max())):
        axis.annotate(
            f"{score:.3f}", (positions[-1], height), (3, 0), "data", "offset points", fontsize=8, va="center"
        )
    axis.set_xticks(
        positions, [*(key.key.replace(".", "\n") for key in report.keys), report.monitor], fontsize=8
    )
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    short = sum(trial.share < 1 for trial in report.trials if trial.score is not None)
    legend = [("orange: the winner", bool(report.best)), (f"without {short} with fewer epochs", short > 0)]
    axis.set_title("; ".join(words for words, there in legend if there), fontsize=10, loc="left")
    save_figure(figure, path)


def _ticks(key: SearchedKey) -> tuple[list[float], list[str]]:
    if not key.labels:
        return [0.0, 1.0], [key.low, key.high]
    count = len(key.labels)
    shown = range(count) if count <= LABELS_UP_TO else (0, count // 2, count - 1)
    return [place / max(count - 1, 1) for place in shown], [key.labels[place] for place in shown]
