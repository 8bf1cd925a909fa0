"""Check of an exported model: its answers in a fresh process against those of the model in memory."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastl.export.compare import CheckExamples, CheckResult, compare
from kerastl.export.formats import INFO_FILE, SERVED, Format, described_inputs, read_info, write_info
from kerastl.export.process import start_model
from kerastl.export.signature import LABELS_FILE, SERVING_EMBEDDING, SERVING_RAW, Serving, read_labels
from kerastl.modality import count_of

if TYPE_CHECKING:
    import keras

FLOAT32_TOLERANCE = 1e-5
MIXED_PRECISION_TOLERANCE = 0.02
"""bfloat16 has 8 bits of mantissa and an optimised graph may round at other places than the layers did one by
one: a logit of 4 moves by up to 2^-6, its probability by a fourth of that for each place. A wrong channel
order or a missing preprocessing moves probabilities by far more."""
FORMAT_TOLERANCE = 1e-4
"""Of another runtime, which adds up in another order: MobileNetV2 with real weights differed by up to 1.1e-5 over
1,064 examples, see docs/formats.md."""

LARGEST_BATCH = 32
SINGLES = 4


def tolerance_for(precision: str, format: Format = SERVED) -> float:
    """Largest difference of a probability that may remain.

    Args:
        precision: the recipe's, `float32` or a mixed one; other formats are written in float32 in either case.
        format: of the exported model.
    """
    exact = FLOAT32_TOLERANCE if format is SERVED else FORMAT_TOLERANCE
    return exact if precision == "float32" else MIXED_PRECISION_TOLERANCE


def expected_answers(model: keras.Model, raw: Sequence[bytes], serving: Serving) -> CheckExamples:
    """Answers of the model in memory, through the decoding that training uses.

    Computed on the processor, as the fresh process does, and as one graph, as evaluation does: a graphics card rounds
    at other places, and so do the layers one by one (benchmarks/README.md, "Served answers").

    Args:
        model: returns logits.
        raw: original bytes of readable examples.
        serving: how it is served.
    """
    import tensorflow as tf

    from kerastl.export.saved_model import network_inputs
    from kerastl.modality.read import decode_each
    from kerastl.model.graph import alone
    from kerastl.model.heads import embedding_model

    networks = (model, embedding_model(model))
    answer, embed = (
        tf.function(functools.partial(each, training=False), reduce_retracing=True) for each in networks
    )
    to_probabilities = getattr(tf.nn, serving.task.activation)
    probabilities, embeddings = [], []
    with tf.device("CPU"):
        inputs = decode_each(serving.modality, raw)
        for start in range(0, len(raw), LARGEST_BATCH):
            part = {name: values[start : start + LARGEST_BATCH] for name, values in inputs.items()}
            some = alone(network_inputs(model, part))
            logits = tf.cast(answer(some), tf.float64)
            probabilities.append(to_probabilities(logits).numpy().astype(np.float32))
            embeddings.append(tf.cast(embed(some), tf.float32).numpy())
    return CheckExamples(inputs, np.concatenate(probabilities), np.concatenate(embeddings), tuple(raw))


def check_export(
    folder: Path | str,
    examples: CheckExamples,
    serving: Serving,
    tolerance: float = FLOAT32_TOLERANCE,
    format: Format = SERVED,
) -> CheckResult:
    """Compare an exported model's answers with those of the model it was made from.

    It answers in a fresh process that cannot import kerastl, to batches of two sizes, and twice to the same batch. A SavedModel
    is asked through all its signatures, twice in each batch size. Beside a model of another format stands its description,
    which is compared too, and into which the result is written.

    Args:
        folder: what `write_saved_model` or `write_format` wrote.
        examples: at least one, with what is expected; real ones, and of every class, find most. With their raw bytes and
            embeddings for a SavedModel, with labels for other formats.
        serving: how the model is to be served.
        tolerance: largest difference of a probability that passes, see `tolerance_for`; embeddings may differ by
            as much of their largest value, and integers are held to labels and accuracy instead.
        format: of the exported model.

    Raises:
        ExportError: if the exported model cannot be loaded or asked at all.
        ValueError: if probabilities and names do not fit each other.
    """
    folder, shape, count = Path(folder), examples.probabilities.shape, count_of(examples.inputs)
    if not count or shape != (count, len(serving.class_names)):
        raise ValueError(
            f"Expected at least one example and probabilities [{count}, {len(serving.class_names)}], got "
            f"{count} examples and {list(shape)}."
        )
    batch = min(count, LARGEST_BATCH)
    small = [(max(1, batch // 3), batch)] * 2 if format is SERVED else [(1, min(SINGLES, count))]
    passes = [(batch, count), *small, (batch, batch)]
    model = folder if format is SERVED else folder / format.file
    raw = {serving.modality.request: examples.raw} if format is SERVED else {}
    with start_model(format.runtime, model, examples.inputs, passes, raw) as process:
        answers = process.answers()
    problems = [_labels_problem(folder, serving, format)]
    if format is SERVED:
        wanted = (SERVING_RAW, serving.modality.decoded_signature, SERVING_EMBEDDING)
        given = answers.facts["signatures"]
        problems += [f"There is no signature {name!r}." for name in wanted if name not in given]
        return compare(answers, examples, serving, tolerance, problems=[*filter(None, problems)])
    info = read_info(folder)
    problems += _wrong_description(info, answers.facts, format)
    result = compare(answers, examples, serving, tolerance, format.is_integer, [*filter(None, problems)])
    if format.is_integer:
        info["output"]["scale"], info["output"]["zero_point"] = answers.facts["output"]["quantization"]
    checked = {
        "examples": result.count,
        "test_examples": result.test_count,
        "largest_difference": result.largest_difference if np.isfinite(result.largest_difference) else None,
        "label_agreement": result.label_agreement,
        "accuracy": result.accuracy,
        "model_accuracy": result.model_accuracy,
    }
    write_info(folder, {**info, "check": checked})
    return result


def _labels_problem(folder: Path, serving: Serving, format: Format) -> str:
    file = f"assets/{LABELS_FILE}" if format is SERVED else LABELS_FILE
    try:
        written = read_labels(folder / file)
    except OSError:
        return f"The labels file {file} is missing."
    if written == serving.class_names:
        return ""
    return f"{file} says {', '.join(written[:5])}…, expected {', '.join(serving.class_names[:5])}…."


def _wrong_description(info: Mapping[str, Any], facts: Mapping[str, Any], format: Format) -> list[str]:
    """Differences between a description and what the runtime reads from the model."""
    inputs = {each["name"]: each for each in facts["inputs"]}
    described = {each["name"]: each for each in described_inputs(info)}
    if set(inputs) != set(described):
        return [
            f"The model takes {' and '.join(sorted(inputs))}, and {INFO_FILE} says {' and '.join(sorted(described))}."
        ]
    pairs = {name if len(inputs) > 1 else "input": (inputs[name], described[name]) for name in inputs}
    pairs["output"] = facts["output"], info["output"]
    problems = [
        f"{side}.{key} is {found[key]!r} in the model, and {said[key]!r} in {INFO_FILE}."
        for side, (found, said) in pairs.items()
        for key in ("name", "dtype", "shape")
        if found[key] != said[key]
    ]
    if format.is_integer and facts["inputs"][0]["quantization"] != [1.0, 0]:
        scale, zero_point = facts["inputs"][0]["quantization"]
        problems.append(
            f"A value of the input is not the input itself: scale {scale:.4g}, zero point {zero_point}; expected 1 and 0."
        )
    return problems
