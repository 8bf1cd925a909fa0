"""Pictures of what is chosen before a run: a learning rate, a backbone. See `kerastl.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kerastl.report.plots import _BLUE, _GREEN, _GREY, _ORANGE, _figure, _save, _scale_log


def plot_rate_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Mapping[str, float | None],
    path: Path | str,
) -> None:
    """Draw the loss of a range test over its rates.

    Args:
        rates: of each step.
        losses: each batch's loss, drawn faintly.
        smoothed: their running mean.
        marks: word -> rate to mark with an upright line; None is left out.
        path: the PNG to write.
    """
    figure = _figure(7.5, 4.5)
    axis = figure.add_subplot()
    axis.plot(rates, losses, color=_GREY, linewidth=0.7, alpha=0.6, label="one batch")
    axis.plot(rates, smoothed, color=_BLUE, linewidth=2, label="smoothed")
    styles = ((_ORANGE, "-"), (_GREEN, "--"), (_GREY, ":"))
    shown = [(word, rate) for word, rate in marks.items() if rate is not None]
    for (word, rate), (color, line) in zip(shown, styles, strict=False):
        axis.axvline(rate, color=color, linestyle=line, linewidth=1.5, label=f"{word} {rate:.1e}")
    axis.set_xscale("log")
    # where it diverges the loss would leave no room for the rest
    axis.set_ylim(0.9 * min(smoothed), 1.5 * max(smoothed[0], min(smoothed)))
    axis.set_xlabel("learning rate")
    axis.set_ylabel("training loss")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    _save(figure, path)


def plot_ranking(
    names: Sequence[str],
    accuracies: Sequence[float],
    spreads: Sequence[float],
    speeds: Sequence[float],
    path: Path | str,
    *,
    noun: str,
    metric: str = "accuracy",
) -> None:
    """Draw accuracy over the speed of the forward pass; those that no other beats in both are joined.

    Args:
        names: of the backbones.
        accuracies: 0..1.
        spreads: half the length of each error bar.
        speeds: of the forward pass, in examples a second.
        path: the PNG to write.
        noun: one example in words.
        metric: what the accuracies are.
    """
    figure = _figure(7.5, 5)
    axis = figure.add_subplot()
    places, heights = np.asarray(speeds), np.asarray(accuracies)
    axis.errorbar(places, heights, spreads, linestyle="", color=_BLUE, marker="o", capsize=3, elinewidth=1)
    best = [index for index in range(len(names)) if not _is_beaten(index, places, heights)]
    best.sort(key=lambda index: places[index])
    axis.plot(places[best], heights[best], color=_ORANGE, linestyle="--", linewidth=1.2, zorder=0)
    middle = np.sqrt(places.min() * places.max())
    for name, speed, height in zip(names, places, heights, strict=True):
        # names grow away from the nearer edge
        offset, align = (6, "left") if speed <= middle else (-6, "right")
        axis.annotate(
            name, (speed, height), xytext=(offset, 5), textcoords="offset points", ha=align, fontsize=9,
            parse_math=False,
        )  # fmt: skip
    _scale_log(axis, "x")
    axis.margins(x=0.2, y=0.15)
    axis.set_xlabel(f"{noun}s a second of the forward pass")
    axis.set_ylabel(f"{metric} of the linear probe")
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _is_beaten(index: int, speeds: np.ndarray, heights: np.ndarray) -> bool:
    faster, better = speeds >= speeds[index], heights >= heights[index]
    strictly = (speeds > speeds[index]) | (heights > heights[index])
    return bool((faster & better & strictly).any())
