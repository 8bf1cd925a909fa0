"""Whether what a model serves beside probabilities agrees with them: names, scores, labels, and what is accepted."""

from __future__ import annotations

import numpy as np

from kerastl.export.serving import Serving


def wrong_answers(
    served: dict[str, np.ndarray], expected: np.ndarray, serving: Serving, tolerance: float
) -> str:
    """What is wrong with the answers; nothing where all agrees.

    Args:
        served: outputs of a signature, by name.
        expected: probabilities float [n, k] of the model in memory.
        serving: how the model is to be served.
        tolerance: by which served probabilities may differ.
    """
    names, rows = np.array(serving.class_names), np.arange(len(expected))
    indices, probabilities = served["label_index"], served["probabilities"]
    if (
        probabilities.shape != expected.shape
        or indices.max() >= len(names)
        or served["classes"].shape != served["scores"].shape
        or served["scores"].shape != (len(expected), serving.top)
    ):
        return "the labels do not fit the classes."
    best = expected.max(axis=1)
    named_wrongly = (served["label"] != names[indices]) | (served["label"] != served["classes"][:, 0])
    # between two classes whose probabilities differ by less than the tolerance either may win
    not_best = expected[rows, indices] < best - 2 * tolerance
    column_of = {name: column for column, name in enumerate(serving.class_names)}
    columns = np.array([[column_of.get(name, -1) for name in row] for row in served["classes"]])
    scored_wrongly = (columns < 0).any(axis=1) | (
        np.take_along_axis(probabilities, np.maximum(columns, 0), axis=1) != served["scores"]
    ).any(axis=1)
    falling = (np.diff(served["scores"], axis=1) <= 0).all(axis=1)
    top = -np.sort(-probabilities, axis=1)[:, : serving.top]
    misplaced = ~falling | (top != served["scores"]).any(axis=1)
    wrong = np.flatnonzero(named_wrongly | not_best | scored_wrongly | misplaced)
    if len(wrong):
        first = int(wrong[0])
        return (
            f"{len(wrong)} of {len(expected)} labels are wrong; image {first} was called "
            f"{str(served['label'][first])!r} (column {int(indices[first])}), expected "
            f"{serving.class_names[int(expected[first].argmax())]!r}."
        )
    wrong_of_task = serving.task.wrong_answers(served, expected, serving.class_names, tolerance)
    return wrong_of_task or _wrong_acceptance(served, best, serving.threshold, tolerance)


def _wrong_acceptance(
    served: dict[str, np.ndarray], best: np.ndarray, threshold: float | None, tolerance: float
) -> str:
    if (threshold is None) != ("accepted" not in served):
        return (
            f"the threshold is {threshold}, but 'accepted' is {'' if threshold is None else 'not '}answered."
        )
    if threshold is None:
        return ""
    clear = np.abs(best - threshold) > tolerance
    wrong = int((served["accepted"] != (best >= threshold))[clear].sum())
    return f"'accepted' is wrong for {wrong} of {len(best)} images." if wrong else ""
