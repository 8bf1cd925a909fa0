"""Comparison of an exported model's answers with those of the model that it was made from.

An exported model can differ from the model in memory in ways that no exception shows: preprocessing left out or
done twice, augmentation still in, channels or labels in another order, another resize. All of them change
the answers to real examples, so the answers are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kerastl.export.process import Answers
from kerastl.export.signature import SERVING_RAW, Serving
from kerastl.modality import Batch

LARGEST_ACCURACY_LOSS = 0.02
SMALLEST_AGREEMENT = 0.8
"""For integers of eight bits, of the test examples: how much of the accuracy may be lost, and the share of labels that
has to stay. On a weak model a broken conversion loses little accuracy, and is found by the labels: it changes half of
them and more, where a sound one was seen to change a tenth."""
INTEGER_STEP = 1 / 256
"""Step of a probability of eight bits in LiteRT, for softmax and sigmoid alike."""
_SINGLE_STEPS = 2
"""Of an example asked alone and in a batch. The sums are of integers and the same; none was seen to differ at all."""


@dataclass(frozen=True)
class CheckExamples:
    """Examples on which an exported model is compared with the model in memory.

    Attributes:
        inputs: as training decodes them, [n, …].
        probabilities: float [n, k], of the model in memory.
        embeddings: float32 [n, d], of the same; None where they are not compared.
        raw: their original bytes; empty where only decoded ones are asked about.
        labels: int [n], or 0 and 1, [n, k]: what they are; None where accuracy is not measured.
        is_test: bool [n]: whether an example is of the test split; accuracy is measured on those.
    """

    inputs: Batch
    probabilities: np.ndarray
    embeddings: np.ndarray | None = None
    raw: tuple[bytes, ...] = ()
    labels: np.ndarray | None = None
    is_test: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Result of the comparison.

    Attributes:
        largest_difference: of a served probability from the expected one, over all passes; infinite if an answer was not a
            number.
        count: number of examples.
        tolerance: largest difference that passes; integers are held to labels and accuracy instead.
        signatures: names of the signatures that were found.
        problems: what is wrong, a line each; empty if all agrees.
        label_agreement: share of all examples that are called as the model calls them; this and the following are 0 where
            no labels were given.
        accuracy: on the test examples.
        model_accuracy: of the model in memory on the same.
        test_count: number of test examples.
        noun: one example in words.
    """

    largest_difference: float
    count: int
    tolerance: float
    signatures: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    label_agreement: float = 0.0
    accuracy: float = 0.0
    model_accuracy: float = 0.0
    test_count: int = 0
    noun: str = "example"

    @property
    def passed(self) -> bool:
        """True if the exported model may be published."""
        return not self.problems


def compare(
    answers: Answers,
    examples: CheckExamples,
    serving: Serving,
    tolerance: float,
    is_integer: bool = False,
    problems: Sequence[str] = (),
) -> CheckResult:
    """Compare all passes with what is expected, and passes of the same kind with each other.

    Args:
        answers: the first pass is over all examples.
        examples: what was asked, and what is expected.
        serving: how the model is to be served.
        tolerance: largest difference of a probability that passes; embeddings may differ by as much of their largest value.
        is_integer: the model computes in integers of eight bits.
        problems: what is wrong beside the answers.
    """
    largest, repeats_differ, noun = 0.0, 0.0, serving.modality.noun
    wrong: list[str] = []
    first_of: dict[str, np.ndarray] = {}
    for each in answers.passes:
        where, what, given = f"{each.signature} in batches of {each.batch_size}", "probabilities", each.main
        expected, allowed = examples.probabilities[: each.count], tolerance
        if "embedding" in each.outputs:
            assert examples.embeddings is not None
            what, expected = "embeddings", examples.embeddings[: each.count]
            allowed = tolerance * max(1.0, float(np.abs(examples.embeddings).max()))
        if not _fits(given, expected):
            wrong.append(
                f"{where}: {what} are {list(given.shape)}{'' if np.isfinite(given).all() else ' and not all finite'}, "
                f"expected {list(expected.shape)} finite numbers."
            )
            largest = float("inf")
            continue
        differences = np.abs(given.astype(np.float64) - expected)
        most = float(differences.max())
        largest = max(largest, most if what == "probabilities" else 0.0)
        if most > allowed and not is_integer:
            row, column = np.unravel_index(differences.argmax(), differences.shape)
            wrong.append(
                f"{where}: {what} differ by up to {most:.2g}, at most {allowed:.2g} may be. Worst in {noun} {row}, column "
                f"{column}: {given[row, column]:.4f}, expected {expected[row, column]:.4f}."
            )
        if each.signature in (SERVING_RAW, serving.modality.decoded_signature):
            problem = wrong_labels(each.outputs, expected, serving, tolerance)
            wrong += [f"{where}: {problem}"] if problem else []
        alone = _moved(given, first_of.setdefault(each.signature, given))
        if is_integer and alone > (_SINGLE_STEPS + 0.5) * INTEGER_STEP:
            wrong.append(
                f"{where}: {what} differ by up to {alone:.2g} from those in larger batches, at most "
                f"{_SINGLE_STEPS * INTEGER_STEP:.2g} may be."
            )
        repeat = _moved(given, first_of.setdefault(where, given))
        # threads may add up in another order the second time: that is no random answer
        if repeat > allowed / 10:
            repeats_differ = max(repeats_differ, repeat)
    wrong += problems
    if repeats_differ:
        wrong.append(f"The same request got answers that differ by {repeats_differ:.2g} when sent twice.")
    if random := answers.facts.get("random_operations"):
        wrong.append(f"The graph holds random operations: {', '.join(random)}.")
    result = CheckResult(
        largest_difference=largest,
        count=len(examples.probabilities),
        tolerance=tolerance,
        signatures=tuple(answers.facts.get("signatures", ())),
        problems=tuple(dict.fromkeys(wrong)),
        noun=noun,
    )
    given = answers.passes[0].main
    if examples.labels is None or not _fits(given, examples.probabilities):
        return result
    return _with_accuracy(result, given, examples, serving, is_integer)


def _fits(given: np.ndarray, expected: np.ndarray) -> bool:
    return given.shape == expected.shape and bool(np.isfinite(given).all())


def _moved(given: np.ndarray, before: np.ndarray) -> float:
    """Largest difference in the examples that are in both."""
    shared = min(len(given), len(before))
    return float(np.abs(given[:shared] - before[:shared]).max())


def _with_accuracy(
    result: CheckResult, given: np.ndarray, examples: CheckExamples, serving: Serving, is_integer: bool
) -> CheckResult:
    """The result with labels and accuracy, by which integers pass or do not."""
    exclusive, (labels, is_test) = serving.task.exclusive, (examples.labels, examples.is_test)
    assert labels is not None and is_test is not None
    served, expected = (p.argmax(axis=1) if exclusive else p >= 0.5 for p in (given, examples.probabilities))
    agree, right, model_right = (
        same if same.ndim == 1 else same.all(axis=1)
        for same in (served == expected, served == labels, expected == labels)
    )
    count, tests = len(agree), int(is_test.sum())
    accuracy, model_accuracy = (
        float(each[is_test].mean()) if tests else 0.0 for each in (right, model_right)
    )
    changed, lost = int((~agree).sum()), round((model_accuracy - accuracy) * tests)
    problems = list(result.problems)
    accuracies = (
        f"Accuracy on {tests} test {result.noun}s is {accuracy:.3f}, that of the model {model_accuracy:.3f}"
    )
    # Of few examples one is more than the bound: a single one may always go.
    if is_integer and lost > max(1, int(round(LARGEST_ACCURACY_LOSS * tests, 6))):
        problems.append(
            f"{accuracies}: {100 * (model_accuracy - accuracy):.1f} points are lost, at most "
            f"{100 * LARGEST_ACCURACY_LOSS:.0f} may be."
        )
    if is_integer and changed > max(1, int(round((1 - SMALLEST_AGREEMENT) * count, 6))):
        problems.append(
            f"{changed} of {count} {result.noun}s are called otherwise than the model calls them; at least "
            f"{SMALLEST_AGREEMENT:.0%} must agree. {accuracies}."
        )
    return replace(
        result,
        problems=tuple(problems),
        label_agreement=float(agree.mean()),
        accuracy=accuracy,
        model_accuracy=model_accuracy,
        test_count=tests,
    )


def wrong_labels(
    served: Mapping[str, np.ndarray], expected: np.ndarray, serving: Serving, tolerance: float
) -> str:
    """Compare what stands beside probabilities with them: names, scores, labels, and what is accepted.

    Args:
        served: outputs of a signature, by name.
        expected: probabilities float [n, k] of the model in memory.
        serving: how the model is to be served.
        tolerance: by which served probabilities may differ.

    Returns:
        What is wrong; nothing where all agrees.
    """
    if missing := [name for name in ("classes", "scores", "label", "label_index") if name not in served]:
        return f"{', '.join(missing)} not answered."
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
            f"{len(wrong)} of {len(expected)} labels are wrong; {serving.modality.noun} {first} was called "
            f"{str(served['label'][first])!r} (column {int(indices[first])}), expected "
            f"{serving.class_names[int(expected[first].argmax())]!r}."
        )
    wrong_of_task = serving.task.wrong_answers(served, expected, serving.class_names, tolerance)
    return wrong_of_task or _wrong_acceptance(served, best, serving, tolerance)


def _wrong_acceptance(
    served: Mapping[str, np.ndarray], best: np.ndarray, serving: Serving, tolerance: float
) -> str:
    threshold = serving.threshold
    if (threshold is None) != ("accepted" not in served):
        return (
            f"the threshold is {threshold}, but 'accepted' is {'' if threshold is None else 'not '}answered."
        )
    if threshold is None:
        return ""
    clear = np.abs(best - threshold) > tolerance
    wrong = int((served["accepted"] != (best >= threshold))[clear].sum())
    return f"'accepted' is wrong for {wrong} of {len(best)} {serving.modality.noun}s." if wrong else ""
