"""Answers to texts whose words have tags: their figures, and text by text which entities were found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerastl.data.examples import Split
from kerastl.data.step_labels import StepLabels, answered_groups
from kerastl.evaluation.answers import LabelledAnswer, answers_of
from kerastl.evaluation.entity_metrics import evaluate_tags
from kerastl.evaluation.intervals import group_numbers, grouped_interval
from kerastl.evaluation.metrics import Metrics, evaluate_logits
from kerastl.task import Task
from kerastl.task.tags import code_spans, types_in

SEPARATOR = " | "


def evaluate_words(
    logits: np.ndarray, labels: StepLabels, groups: np.ndarray, class_names: Sequence[str], task: Task
) -> Metrics:
    """Measure logits of words: entities as wholes, and the words one by one.

    Args:
        logits: float [words, tags], of the labelled words of all rows.
        labels: of n rows.
        groups: object [n] of str, equal for rows that are alike, such as those of one author; '' for none.
        class_names: names of the tags.
        task: what the logits answer.

    Returns:
        Metrics whose `entities` are there; classes and confusion are those of the types, counted in entities, and the log-loss is
        that of a word.
    """
    codes, types = labels.codes, types_in(class_names)
    words = evaluate_logits(logits, codes, class_names, task)
    named = answered_groups(labels, groups)
    first = np.cumsum(labels.words) - labels.words
    decided = task.decide(np.asarray(logits))
    numbers = group_numbers(named)
    # A document without a word is in no group and adds nothing.
    of_documents = numbers[np.minimum(first, len(numbers) - 1)]
    found = evaluate_tags(decided, codes, labels.words, types, of_documents)
    interval, count = words.accuracy_interval, int(numbers.max()) + 1
    if 1 < count < len(codes):
        interval = grouped_interval(task.is_right(decided, codes), numbers)
    return Metrics(
        count=len(labels.words),
        task=task.name,
        accuracy=words.accuracy,
        accuracy_interval=interval,
        log_loss=words.log_loss,
        macro_f1=found.macro_f1,
        classes=found.types,
        confusion=found.confusion,
        groups=count,
        entities=found,
    )


def entity_answers(
    split: Split, labels: StepLabels, logits: np.ndarray, class_names: Sequence[str], task: Task
) -> list[LabelledAnswer]:
    """The entities of each text and those that were found, the texts with the largest loss first.

    Args:
        split: of rows whose words are labelled.
        labels: of these rows.
        logits: float [words, tags].
        class_names: names of the tags.
        task: what the logits answer.

    Returns:
        A row for each text: true and found entities as `PER: John Smith (0-10)`, with their places; the least probability of a word's
        tag, and the sum of the words' log-losses.
    """
    examples, ids = split.examples, split.ids
    assert examples.annotated is not None and examples.words is not None
    annotated, words = examples.annotated[split.indices], examples.words[split.indices]
    codes, types = labels.codes, types_in(class_names)
    exact = np.asarray(logits, np.float64)
    decided = task.decide(exact)
    sure, losses = task.answer_probabilities(exact, decided), task.log_losses(exact.copy(), codes)
    places = np.concatenate([np.zeros((0, 2), np.int64), *words])
    ends = np.cumsum(labels.words)
    first_rows = np.flatnonzero(np.diff(labels.documents, prepend=labels.documents[:1] - 1))

    def named(spans: np.ndarray, text: str) -> str:
        return SEPARATOR.join(
            _named(types[kind], text, places[start, 0], places[stop - 1, 1]) for start, stop, kind in spans
        )

    spans = [code_spans(each, labels.words) for each in (codes, decided)]
    found = []
    for row, stop, count in zip(first_rows, ends, labels.words, strict=True):
        part = slice(stop - count, stop)
        of_text = [
            each[np.searchsorted(each[:, 0], stop - count) : np.searchsorted(each[:, 0], stop)]
            for each in spans
        ]
        true, answered = (named(each, annotated[row].text) for each in of_text)
        found.append(
            LabelledAnswer(
                split.name,
                str(ids[row]),
                true,
                answered,
                round(float(sure[part].min(initial=1.0)), 6),
                round(float(losses[part].sum()), 6),
            )
        )
    return sorted(found, key=lambda answer: -answer.loss)


def answers_to(
    split: Split, logits: np.ndarray, class_names: Sequence[str], task: Task
) -> list[LabelledAnswer]:
    """The answers to a split's examples, those with the largest loss first; of words text by text.

    Args:
        split: with its labels, in the numbering of `class_names`.
        logits: float [n, classes], of the examples, or of their labelled words.
        class_names: in the order of the logits.
        task: what the logits answer.
    """
    labels = split.labels
    if not isinstance(labels, StepLabels):
        return answers_of(split.name, split.ids, logits, labels, class_names, task)
    return entity_answers(split, labels, logits, class_names, task)


def label_names(split: Split, class_names: Sequence[str]) -> list[str]:
    """The labels of a split's examples in words; of a text its entities."""
    labels = split.labels
    if not isinstance(labels, StepLabels):
        return split.examples.task.names(labels, class_names)
    annotated = split.examples.annotated
    assert annotated is not None
    return [
        SEPARATOR.join(_named(span.label, each.text, span.start, span.end) for span in each.spans)
        for each in annotated[split.indices]
    ]


def _named(label: str, text: str, start: int, end: int) -> str:
    """An entity with its place, as the same words may stand in a text twice."""
    return f"{label}: {text[start:end]} ({start}-{end})"
