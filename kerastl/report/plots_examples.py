"""Pictures of a run's examples: augmented ones, and those that its model is wrong about. See `kerastl.report.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.cells import cell_len

from kerastl.evaluation.answers import LabelledAnswer
from kerastl.report.plots import _figure, _save
from kerastl.wording import cut

_COLUMNS = 4
_CAPTION_WIDTH = 26


def plot_augmentation(rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: Path | str) -> None:
    """Draw training examples beside what augmentation makes of them.

    Args:
        rows: (label, [original, view, view, …]), as `Modality.shown` draws them: uint8 [height, width, 3], RGB.
        path: the PNG to write.
    """
    columns = max(len(pictures) for _, pictures in rows)
    labels = [cut(label, 22) for label, _ in rows]
    margin = max(cell_len(label) for label in labels) * 0.085 + 0.2
    figure = _figure(1.3 * columns + margin, 1.3 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (_, pictures) in enumerate(rows):
        for column in range(columns):
            axis = grid[row, column]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if column < len(pictures):
                axis.imshow(np.asarray(pictures[column], np.uint8), interpolation="nearest")
            if row == 0:
                axis.set_title("original" if column == 0 else f"view {column}", fontsize=10)
        grid[row, 0].set_ylabel(
            labels[row], rotation=0, ha="right", va="center", fontsize=10, parse_math=False, labelpad=6
        )
    _save(figure, path)


def plot_worst(rows: Sequence[tuple[np.ndarray, LabelledAnswer]], path: Path | str) -> None:
    """Draw examples with what they are and what they were taken for.

    Args:
        rows: pictures as `Modality.shown` draws them, uint8 [height, width, 3], RGB, and the answers to them; four stand in a line.
        path: the PNG to write.
    """
    columns = min(_COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = _figure(2.2 * columns, 2.3 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, (picture, answer) in zip(grid.flat, rows, strict=False):
        axis.imshow(picture, interpolation="nearest")
        predicted = f"{cut(answer.predicted or 'none', _CAPTION_WIDTH - 6)} {answer.probability:.2f}"
        caption = f"{cut(answer.true or 'none', _CAPTION_WIDTH)}\ntaken for {predicted}"
        axis.set_title(caption, fontsize=8, parse_math=False)
    _save(figure, path)
