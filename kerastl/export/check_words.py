"""Check of an exported model that answers words: its answers in a fresh process against those of the model in memory.

Entities are compared with what `kerastl.task.tags` reads from the expected probabilities, which shares no code with the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastl.export.check import FLOAT32_TOLERANCE, LARGEST_BATCH
from kerastl.export.compare import CheckExamples, CheckResult
from kerastl.export.process import Answers, Pass, start_model
from kerastl.export.signature import (
    LABELS_FILE,
    SERVING_EMBEDDING,
    SERVING_RAW,
    SERVING_WORDS,
    Serving,
    read_labels,
)
from kerastl.task import ENTITY_OUTPUTS
from kerastl.task.tags import code_spans, types_in

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class WordExamples(CheckExamples):
    """Examples on which an exported model is compared with the model in memory.

    The last one is all others in one, so that it takes more than one row of the network.

    Attributes:
        inputs: the first row of each, as training decodes them, [n, …].
        probabilities: float [n, steps, k] of those rows, 0 behind their real steps.
        embeddings: None.
        raw: their original bytes.
        starts: int [n, w], first characters of words, filled up with zeros.
        ends: int [n, w], the places behind their last ones.
        counts: int [n], words of each.
        of_words: float [n, w, k], their probabilities.
        states: float32 [n, w, d], what the head reads of them.
    """

    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    of_words: np.ndarray
    states: np.ndarray


def expected_words(model: keras.Model, raw: Sequence[bytes], serving: Serving) -> WordExamples:
    """Answers of the model in memory to each word, through the rows that training uses; on the processor, as `expected_answers`."""
    import tensorflow as tf

    from kerastl.export.saved_model import network_inputs
    from kerastl.modality.read import decode_each
    from kerastl.modality.words import worded
    from kerastl.model.graph import alone
    from kerastl.model.heads import embedding_model

    raw = (*raw, b" ".join(raw))
    answer, embed = (
        tf.function(functools.partial(each, training=False), reduce_retracing=True)
        for each in (model, embedding_model(model))
    )

    def rows_of(inputs: Mapping[str, Any], network: Any, softmax: bool) -> np.ndarray:
        found = []
        for start in range(0, len(next(iter(inputs.values()))), LARGEST_BATCH):
            part = {name: values[start : start + LARGEST_BATCH] for name, values in inputs.items()}
            states = tf.cast(network(alone(network_inputs(model, part))), tf.float64)
            found.append((tf.nn.softmax(states) if softmax else states).numpy().astype(np.float32))
        return np.concatenate(found)

    with tf.device("CPU"):
        inputs = decode_each(serving.modality, raw)
        steps = rows_of(inputs, answer, True)
        modality = worded(serving.modality)
        windows = modality.windows(tf.constant(list(raw), tf.string))
        rows = serving.modality.trimmed(modality.windowed(windows))
        at = windows.rows.numpy(), windows.columns.numpy()
        probabilities, states = rows_of(rows, answer, True)[at], rows_of(rows, embed, False)[at]
    counts = np.diff(windows.words.numpy())
    real = np.arange(steps.shape[1]) < inputs[_length(inputs)][:, None]
    return WordExamples(
        inputs,
        np.where(real[:, :, None], steps, 0),
        None,
        raw,
        starts=_filled(windows.starts.numpy(), counts),
        ends=_filled(windows.ends.numpy(), counts),
        counts=counts,
        of_words=_filled(probabilities, counts),
        states=_filled(states, counts),
    )


def check_words(
    folder: Path | str,
    examples: WordExamples,
    serving: Serving,
    tolerance: float = FLOAT32_TOLERANCE,
) -> CheckResult:
    """Compare an exported model's answers with those of the model it was made from; see `kerastl.export.check.check_export`.

    Args:
        folder: what `write_saved_model` wrote.
        examples: from `expected_words`.
        serving: how the model is to be served.
        tolerance: largest difference of a probability that passes; what the head reads may differ by as much of its largest value.

    Raises:
        ExportError: the exported model cannot be loaded or asked at all.
    """
    folder = Path(folder)
    problems = []
    if read_labels(folder / "assets" / LABELS_FILE) != serving.class_names:
        problems.append(f"assets/{LABELS_FILE} does not hold the names of the tags in their order.")
    return compare_words(answers_of_words(folder, examples, serving), examples, serving, tolerance, problems)


def answers_of_words(folder: Path, examples: WordExamples, serving: Serving) -> Answers:
    """Answers of an exported model in a fresh process that cannot import kerastl: in batches of two sizes, and twice to the same one."""
    count = len(examples.raw)
    batch = min(count, LARGEST_BATCH)
    # The last example, which takes several rows, is asked about in the first pass.
    passes = [(batch, count), *[(max(1, batch // 3), batch)] * 2, (batch, batch)]
    raw = {serving.modality.request: examples.raw}
    with start_model("saved_model", folder, examples.inputs, passes, raw) as process:
        return process.answers()


def compare_words(
    answers: Answers,
    examples: WordExamples,
    serving: Serving,
    tolerance: float = FLOAT32_TOLERANCE,
    problems: Sequence[str] = (),
) -> CheckResult:
    """Compare all passes with what is expected, and passes of the same kind with each other.

    Args:
        answers: from `answers_of_words`.
        examples: what was asked, and what is expected.
        serving: how the model is to be served.
        tolerance: see `check_words`.
        problems: what is wrong beside the answers.
    """
    given = answers.facts["signatures"]
    names = (SERVING_RAW, SERVING_WORDS, SERVING_EMBEDDING, serving.modality.decoded_signature)
    wrong = [*problems, *(f"There is no signature {name!r}." for name in names if name not in given)]
    largest = 0.0
    first: dict[tuple[str, int], Mapping[str, np.ndarray]] = {}
    for each in answers.passes:
        problem, difference = _compared(each, examples, serving, tolerance)
        largest = max(largest, difference)
        before = first.setdefault((each.signature, each.batch_size), each.outputs)
        problem = problem or _repeated(each.outputs, before, tolerance)
        if problem:
            wrong.append(f"{each.signature} in batches of {each.batch_size}: {problem}")
    if random := answers.facts.get("random_operations"):
        wrong.append(f"The graph holds random operations: {', '.join(random)}.")
    return CheckResult(
        largest_difference=largest,
        count=len(examples.raw),
        tolerance=tolerance,
        signatures=tuple(given),
        problems=tuple(dict.fromkeys(wrong)),
        noun=serving.modality.noun,
    )


def expected_entities(
    examples: WordExamples, row: int, class_names: Sequence[str], tolerance: float
) -> list[tuple[str, str, int, int, float]] | None:
    """The entities of one example as `kerastl.task.tags` reads them: text, type, start, end and score.

    None where two tags of a word are so near to each other that either may be the answer.
    """
    count = int(examples.counts[row])
    probabilities = examples.of_words[row, :count]
    best = np.sort(probabilities, axis=1)[:, -2:]
    if count and float((best[:, 1] - best[:, 0]).min()) <= 2 * tolerance:
        return None
    text = examples.raw[row].decode("utf-8", "replace")
    types, found = types_in(class_names), []
    for first, stop, kind in code_spans(probabilities.argmax(axis=1)).tolist():
        start, end = int(examples.starts[row, first]), int(examples.ends[row, stop - 1])
        score = float(best[first:stop, 1].min())
        found.append((text[start:end], types[kind], start, end, score))
    return found


def _compared(each: Pass, examples: WordExamples, serving: Serving, tolerance: float) -> tuple[str, float]:
    """Faults of the answers of one signature, and the largest difference of a probability."""
    outputs, part = each.outputs, slice(each.count)
    if each.signature == SERVING_RAW:
        return _wrong_entities(outputs, examples, serving, each.count, tolerance), 0.0
    if each.signature == serving.modality.decoded_signature:
        expected, allowed = examples.probabilities[part], tolerance
        real = np.arange(expected.shape[1]) < examples.inputs[_length(examples.inputs)][part][:, None]
        found = outputs["probabilities"]
        found = np.where(real[:, :, None], found, 0) if found.shape == expected.shape else found
    elif each.signature in (SERVING_WORDS, SERVING_EMBEDDING):
        if not np.array_equal(outputs["count"], examples.counts[part]):
            return "'count' is wrong.", float("inf")
        for name, places in (("starts", examples.starts), ("ends", examples.ends)):
            if name in outputs and not np.array_equal(outputs[name], _cut(places[part], outputs[name])):
                return f"'{name}' are wrong.", float("inf")
        is_words = each.signature == SERVING_WORDS
        found = outputs["probabilities" if is_words else "embedding"]
        expected = _cut((examples.of_words if is_words else examples.states)[part], found)
        allowed = tolerance if is_words else tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
    else:
        return "", 0.0
    if found.shape != expected.shape or not np.isfinite(found).all():
        return f"answers {list(found.shape)}, expected {list(expected.shape)} finite numbers.", float("inf")
    most = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
    problem = f"differs by up to {most:.2g}, at most {allowed:.2g} may be." if most > allowed else ""
    return problem, 0.0 if each.signature == SERVING_EMBEDDING else most


def _wrong_entities(
    outputs: Mapping[str, np.ndarray], examples: WordExamples, serving: Serving, count: int, tolerance: float
) -> str:
    if missing := [name for name in ("count", *ENTITY_OUTPUTS) if name not in outputs]:
        return f"{', '.join(missing)} not answered."
    wrong = []
    for row in range(count):
        expected = expected_entities(examples, row, serving.class_names, tolerance)
        if expected is None:
            continue
        columns = [outputs[name][row, : int(outputs["count"][row])].tolist() for name in ENTITY_OUTPUTS]
        found = list(zip(*columns, strict=True))
        # The process that asks keeps strings without the zero bytes that they end with.
        same = [(*each[:4],) for each in found] == [(each[0].rstrip("\0"), *each[1:4]) for each in expected]
        near = same and all(
            abs(one[4] - other[4]) <= tolerance for one, other in zip(found, expected, strict=True)
        )
        if not near:
            wrong.append((row, found[:3], expected[:3]))
    if not wrong:
        return ""
    row, found, expected = wrong[0]
    return f"{len(wrong)} of {count} {serving.modality.noun}s have wrong entities; {serving.modality.noun} {row} has {found}, expected {expected}."


def _repeated(outputs: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], tolerance: float) -> str:
    """Empty where numbers are those of the same request before."""
    for name, values in outputs.items():
        other = before[name]
        if values.dtype.kind != "f" or values.shape != other.shape:
            continue
        if np.abs(values - other).max(initial=0.0) > tolerance / 10:
            return f"'{name}' differ when the same request is sent twice."
    return ""


def _length(inputs: Mapping[str, np.ndarray]) -> str:
    """Name of the input that says how many steps are real."""
    return next(name for name, values in inputs.items() if values.ndim == 1)


def _filled(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rows of words, one behind another, as one array [n, w, ...], zeros behind each."""
    found = np.zeros((len(counts), max(1, int(counts.max(initial=0))), *values.shape[1:]), values.dtype)
    found[np.arange(found.shape[1]) < counts[:, None]] = values
    return found


def _cut(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Expected values as far as the found ones are filled up; more than zeros is never left out, as numbers of words agree."""
    return expected[:, : found.shape[1]]
