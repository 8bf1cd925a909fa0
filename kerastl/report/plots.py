"""Pictures of a run: learning curves, confusion matrix, augmented examples.

The only room that knows matplotlib, which is loaded when a picture is drawn: its import takes a second.
Figures are made without pyplot, so that no window system, global state or backend of the caller is touched.
Colours are those of Okabe and Ito (2008, "Color Universal Design") and a one-hue scale, and no line is told
from another by colour alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.cells import cell_len

from kerastl.report.page import phase_title
from kerastl.wording import counted, cut
from kerastl.writing import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_DOTS_PER_INCH = 110
_COUNTS_UP_TO = 20
_DRAWN_ANYWAY = ("val_loss", "val_accuracy")
_NAMES_UP_TO = 120


def plot_curves(
    histories: Sequence[tuple[str, Sequence[Mapping[str, float]]]],
    path: Path | str,
    best_epochs: Mapping[str, int] | None = None,
    winner: str | None = None,
    monitors: Mapping[str, str] | None = None,
) -> None:
    """Draw loss, accuracy, the monitored metric and learning rate over the epochs of all phases.

    Args:
        histories: (phase, a mapping an epoch from `loss`, `val_loss`, `accuracy`, `val_accuracy`, `learning_rate`
            and the monitors to its value); what is missing or not finite leaves a gap.
        path: the PNG to write.
        best_epochs: phase → epoch, from 1, whose weights were kept; the lowest `val_loss` without it.
        winner: phase whose weights the model has.
        monitors: phase → validation metric that chose its best epoch; `val_loss` without it. Where it is neither loss
            nor accuracy it gets a panel of its own.
    """
    from matplotlib.ticker import MaxNLocator

    monitors = {phase: (monitors or {}).get(phase, "val_loss") for phase, _ in histories}
    panels = [
        (f"{title}\n(monitor)" if validation in monitors.values() else title, train, validation)
        for title, train, validation in (
            *(
                (_title(key), None, key)
                for key in dict.fromkeys(monitors.values())
                if key not in _DRAWN_ANYWAY
            ),
            ("loss", "loss", "val_loss"),
            ("accuracy", "accuracy", "val_accuracy"),
            ("learning rate", "learning_rate", None),
        )
        if any(
            key in epoch for _, epochs in histories for epoch in epochs for key in (train, validation) if key
        )
    ]
    heights = [1.0 if title == "learning rate" else 2.2 for title, _, _ in panels]
    figure = _figure(8.5, 1.3 + 1.25 * sum(heights))
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    axes: list[Axes] = []
    for row, (title, train, validation) in enumerate(panels):
        axis = figure.add_subplot(grid[row], sharex=axes[0] if axes else None)
        axes.append(axis)
        _draw_panel(axis, histories, train, validation, best_epochs or {}, winner)
        axis.set_ylabel(title)
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelbottom=row == len(panels) - 1)
        if validation and validation in monitors.values() and validation.endswith("loss"):
            _scale_log(
                axis, "y"
            )  # the first epochs would press the later ones, which differ by little, onto one line
        if train == "learning_rate":
            _scale_rates(axis, [_column(epochs, train) for _, epochs in histories])
    total = sum(len(epochs) for _, epochs in histories)
    start = 0
    for number, (phase, epochs) in enumerate(histories):
        for axis in axes:
            if number:
                axis.axvline(start + 0.5, color=_GREY, linewidth=1.2, linestyle=(0, (4, 3)))
        title, position, align = phase_title(phase), start + 0.5 + len(epochs) / 2, "center"
        if (
            len(epochs) < total / 4
        ):  # a phase that is narrow beside the other: its name grows away from the edge
            position, align = (start + 0.5, "left") if number == 0 else (start + len(epochs) + 0.5, "right")
        if epochs:
            axes[0].annotate(
                title, (position, 1.02), xycoords=axes[0].get_xaxis_transform(), ha=align, va="bottom"
            )
        start += len(epochs)
    # the figures stand above the curves: beside their points they would cover other points
    captions = [
        _caption(*history, best_epochs or {}, winner if len(histories) > 1 else None, monitors[history[0]])
        for history in histories
    ]
    figure.suptitle("\n".join(captions), x=0.01, ha="left", fontsize=10)
    axes[-1].set_xlabel("epoch, counted through both phases" if len(histories) > 1 else "epoch")
    axes[-1].set_xlim(0.5, total + 0.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    shown = {
        name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    _save(figure, path)


def _draw_panel(
    axis: Axes,
    histories: Sequence[tuple[str, Sequence[Mapping[str, float]]]],
    train: str | None,
    validation: str | None,
    best_epochs: Mapping[str, int],
    winner: str | None,
) -> None:
    start = 0
    for phase, epochs in histories:
        positions = np.arange(start + 1, start + len(epochs) + 1)
        # a phase of one epoch is a point, not a line
        dot = "." if len(epochs) < 30 else ""
        if train and validation is None:
            axis.plot(positions, _column(epochs, train), color=_GREEN, marker=dot, linewidth=1.6)
        elif train:
            axis.plot(
                positions, _column(epochs, train), color=_BLUE, linestyle="--", marker=dot, linewidth=1.4,
                label="training",
            )  # fmt: skip
        if validation is not None:
            values = _column(epochs, validation)
            axis.plot(positions, values, color=_ORANGE, marker=dot, linewidth=2, label="validation")
            best = best_epochs.get(phase, _lowest(_column(epochs, "val_loss")))
            if best and best <= len(epochs) and math.isfinite(values[best - 1]):
                at = start + best
                filled = winner is None or phase == winner
                axis.plot(
                    [at], [values[best - 1]], linestyle="", marker="D", markersize=8, markeredgewidth=1.5, zorder=5,
                    markeredgecolor="black", markerfacecolor="black" if filled else "white",
                    label="best epoch, kept" if filled and winner else "best epoch of the phase",
                )  # fmt: skip
        start += len(epochs)


def _caption(
    phase: str,
    epochs: Sequence[Mapping[str, float]],
    best_epochs: Mapping[str, int],
    winner: str | None,
    monitor: str,
) -> str:
    if not epochs:
        return f"{phase_title(phase)}{', kept' if phase == winner else ''}: no epochs"
    best = best_epochs.get(phase, _lowest(_column(epochs, "val_loss")))
    if not 1 <= best <= len(epochs):
        better = "none better than what it began with of " if phase in best_epochs else ""
        return f"{phase_title(phase)}: {better}{counted(len(epochs), 'epoch')}"
    figures = [
        f"{_title(key)} {epochs[best - 1][key]:.3f}"
        for key in dict.fromkeys((monitor, *_DRAWN_ANYWAY))
        if key in epochs[best - 1]
    ]
    kept = ", kept" if phase == winner else ""
    return f"{phase_title(phase)}{kept}: best at its epoch {best} of {len(epochs)} (validation {', '.join(figures)})"


def _title(key: str) -> str:
    """A validation metric as the figure calls it: `val_calibrated_loss` → `calibrated loss`."""
    return key.removeprefix("val_").replace("_", " ").replace("f1", "F1")


def _scale_log(axis: Axes, which: Literal["x", "y"]) -> None:
    """Logarithmic with figures as people write them, where values lie far enough apart for such ticks among them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.dataLim.intervalx if which == "x" else axis.dataLim.intervaly
    if not 0 < 4 * low < high < math.inf:
        return
    axis.set(**{f"{which}scale": "log"})
    scale = axis.xaxis if which == "x" else axis.yaxis
    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter(StrMethodFormatter("{x:g}"))
    scale.set_minor_formatter(NullFormatter())


def _scale_rates(axis: Axes, rates: Sequence[np.ndarray]) -> None:
    """Logarithmic, because the phases' rates lie far apart; the end of a cosine, at 0, runs out of the picture."""
    peaks = [np.nanmax(each) for each in rates if np.isfinite(each).any() and np.nanmax(each) > 0]
    if peaks:
        axis.set_yscale("log")
        axis.set_ylim(min(peaks) / 50, max(peaks) * 2)


def plot_confusion(
    matrix: Sequence[Sequence[int]] | np.ndarray, class_names: Sequence[str], path: Path | str, nouns: str
) -> None:
    """Draw a confusion matrix: each row, a true class, shaded by the share of its examples.

    Args:
        matrix: counts, [true][predicted].
        class_names: in the order of the matrix.
        path: the PNG to write. Counts are written into the cells up to 20 classes.
        nouns: several examples in words.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(matrix, np.int64)
    classes = len(counts)
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    names = [cut(name, 24) for name in class_names]
    step = 1 if classes <= _NAMES_UP_TO else math.ceil(classes / 50)
    # boxes would tell no class from another where the fonts lack a script
    numbered = step > 1 or bool(_fonts(names)[1])
    longest = 3 if numbered else max(map(cell_len, names))
    cell = 0.55 if classes <= _COUNTS_UP_TO else max(0.13, 0.3 - classes / 500)
    font = 9 if classes <= _COUNTS_UP_TO else max(5.5, min(8.0, 72 * cell * 0.8))
    margin = longest * font * 0.62 / 72 + 0.8
    side = min(max(classes * cell, 2.6), 16)
    figure = _figure(side + margin + 1.2, side + margin + 0.5)
    axis = figure.add_subplot()
    # where no counts can be written, faint cells must show: one error in 25 already gets a fifth of the scale
    norm = PowerNorm(1.0 if classes <= _COUNTS_UP_TO else 0.5, vmin=0, vmax=1)
    picture = axis.imshow(np.ma.masked_invalid(shares), cmap=_shades(), norm=norm, interpolation="nearest")
    ticks = np.arange(0, classes, step)
    shown = [str(i) if numbered else names[i] for i in ticks]
    upright = longest * font * 0.62 / 72 < side / classes
    axis.set_xticks(ticks, shown, rotation=0 if upright else 90, fontsize=font, parse_math=False)
    axis.set_yticks(ticks, shown, fontsize=font, parse_math=False)
    # the first is 0, as in the report, labels.txt and answers
    axis.set_xlabel("predicted class (number)" if numbered else "predicted class")
    axis.set_ylabel("true class (number)" if numbered else "true class")
    if classes <= _COUNTS_UP_TO:
        for true in range(classes):
            for predicted in range(classes):
                if counts[true, predicted]:
                    color = "white" if shares[true, predicted] > 0.55 else "black"
                    axis.text(
                        predicted, true, f"{counts[true, predicted]}", ha="center", va="center", color=color,
                        fontsize=9 if counts.max() < 10_000 else 7,
                    )  # fmt: skip
    elif step == 1:  # thin lines lead the eye from a cell to its names
        lines = np.arange(4.5, classes - 1, 5)
        axis.hlines(lines, -0.5, classes - 0.5, color="#cccccc", linewidth=0.5)
        axis.vlines(lines, -0.5, classes - 0.5, color="#cccccc", linewidth=0.5)
    bar = figure.colorbar(picture, ax=axis, shrink=0.8, fraction=0.05, pad=0.02)
    bar.set_label(f"share of the true class's {nouns}")
    right = int(np.trace(counts))
    axis.set_title(f"{right:,} of {int(counts.sum()):,} {nouns} on the diagonal", fontsize=10)
    _save(figure, path)


def _column(epochs: Sequence[Mapping[str, float]], key: str) -> np.ndarray:
    return np.array([epoch.get(key, math.nan) for epoch in epochs], np.float64)


def _lowest(values: np.ndarray) -> int:
    return int(np.nanargmin(values)) + 1 if np.isfinite(values).any() else 0


def _shades() -> Any:
    from matplotlib import colormaps

    # grey: a class without an example has no shares
    return colormaps["Blues"].with_extremes(bad="#e8e8e8")


def _figure(width_inches: float, height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=_DOTS_PER_INCH, layout="constrained")


def _fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Families of fonts that draw these texts, the usual one first, and the characters that none here draws."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    families = list(rcParams["font.family"])
    lacking = {ord(character) for text in texts for character in text if not character.isspace()}
    lacking -= set(get_font(findfont(FontProperties())).get_charmap())
    for font in fontManager.ttflist:
        if not lacking:
            break
        if "LastResort" in font.name.replace(" ", ""):  # draws every character as a box
            continue
        try:
            found = lacking & set(get_font(font.fname).get_charmap())
        except (OSError, RuntimeError):  # a file that is gone, or no font
            continue
        families += [font.name] if found else []
        lacking -= found
    return families, set(map(chr, lacking))


def _save(figure: Figure, path: Path | str) -> None:
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    families, _ = _fonts(text.get_text() for text in texts)
    for text in texts if len(families) > 1 else []:
        text.set_fontfamily(families)
    with replace_atomically(path) as temporary, warnings.catch_warnings():
        # what no font here has is drawn as boxes, or as a number: no reason to alarm
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format="png", facecolor="white")
