"""Whether a converted model answers as the model it was made from, asked by its own runtime in a fresh process."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.export.formats import Format, read_info, write_info
from kerastl.export.parity import FLOAT32_TOLERANCE, ParityResult
from kerastl.export.runtime_process import BATCH_SIZE, SINGLES
from kerastl.export.runtimes import Answers, start_runtime
from kerastl.export.serving import LABELS_FILE, Serving

FLOAT_TOLERANCE = 1e-4
"""Of a probability. Another runtime adds up in another order: MobileNetV2 with real weights differed by up to 1.1e-5 over
1,064 images, see docs/formats.md. A wrong channel order or a missing preprocessing moves them by far more."""
LARGEST_ACCURACY_LOSS = 0.02
SMALLEST_AGREEMENT = 0.8
"""For integers of eight bits, of the test images: how much of the accuracy may be lost, and the share of labels that
has to stay. On a weak model a broken conversion loses little accuracy, and is found by the labels: it changes half of
them and more, where a sound one was seen to change a tenth."""
INTEGER_STEP = 1 / 256
"""What LiteRT gives a probability of eight bits, for softmax and sigmoid alike."""
_SINGLE_STEPS = 2
"""Of an image asked alone and in a batch. The sums are of integers and the same; none was seen to differ at all."""
_PROCESS_SECONDS = 3600


@dataclass(frozen=True)
class CheckImages:
    """Images on which a converted model is compared with the model in memory.

    Attributes:
        pixels: uint8 [n, s, s, 3], RGB: as training decodes them.
        probabilities: float [n, k]: what the model in memory says of them.
        labels: int [n], or 0 and 1, [n, k]: what they are.
        is_test: bool [n]: whether an image is of the test split; accuracy is measured on those.
    """

    pixels: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FormatResult(ParityResult):
    """What the comparison found.

    Attributes:
        label_agreement: share of all images that are called as the model calls them.
        accuracy: on the test images.
        model_accuracy: of the model in memory on the same.
        test_count: number of test images.
    """

    label_agreement: float
    accuracy: float
    model_accuracy: float
    test_count: int


def check_format(
    folder: Path, format: Format, images: CheckImages, serving: Serving, tolerance: float = FLOAT_TOLERANCE
) -> FormatResult:
    """Compare a converted model's answers with those of the model it was made from, and note the result.

    Args:
        folder: what `write_format` wrote; the result becomes part of its `model.json`.
        format: of the model.
        images: what to ask, and what is expected.
        serving: how the model is to be served.
        tolerance: largest difference of a probability that passes; not for integers, which are held to labels and
            accuracy instead.

    Raises:
        ExportError: if the converted model cannot be loaded or asked at all.
    """
    with tempfile.TemporaryDirectory(prefix="kerastl-check-") as scratch:
        pixels = Path(scratch) / "pixels.npy"
        np.save(pixels, images.pixels)
        with start_runtime(format.runtime, folder / format.file, pixels) as process:
            answers = process.answers(_PROCESS_SECONDS)
    result = compare(answers, format, images, serving, tolerance, _written_labels(folder))
    problems = (*_wrong_description(read_info(folder), answers.facts, format), *result.problems)
    result = FormatResult(**{**asdict(result), "problems": problems})
    checked = {
        "images": result.count,
        "test_images": result.test_count,
        "largest_difference": result.largest_difference if np.isfinite(result.largest_difference) else None,
        "label_agreement": result.label_agreement,
        "accuracy": result.accuracy,
        "model_accuracy": result.model_accuracy,
    }
    info = read_info(folder)
    if "quantization" in answers.facts["output"] and format.is_integer:
        info["output"]["scale"], info["output"]["zero_point"] = answers.facts["output"]["quantization"]
    write_info(folder, {**info, "check": checked})
    return result


def compare(
    answers: Answers,
    format: Format,
    images: CheckImages,
    serving: Serving,
    tolerance: float,
    written_labels: tuple[str, ...],
) -> FormatResult:
    """What differs between a runtime's answers and those of the model in memory."""
    expected, given = images.probabilities, answers.probabilities
    count, tests = len(expected), int(images.is_test.sum())
    agreement, accuracy, largest, deterministic = 0.0, 0.0, float("inf"), False
    model_accuracy = _share_right(expected, images, serving)
    problems = _wrong_shapes(answers, expected)
    if not problems:
        largest = float(np.abs(given.astype(np.float64) - expected).max())
        repeat = float(np.abs(answers.again - given[: len(answers.again)]).max())
        # as in parity: threads may add up in another order the second time; a step of an integer is far more
        deterministic = repeat <= tolerance / 10
        if not deterministic:
            problems.append(f"The same images got answers that differ by {repeat:.2g} when asked twice.")
        changed = _labels_of(given, serving) != _labels_of(expected, serving)
        changed = changed if changed.ndim == 1 else changed.any(axis=1)
        agreement, accuracy = float(1 - changed.mean()), _share_right(given, images, serving)
        if format.is_integer:
            problems += _changed_alone(answers)
            problems += _too_much_lost(changed, accuracy, model_accuracy, images)
        else:
            problems += _too_far(answers, expected, tolerance)
            # between two classes whose probabilities differ by less than the tolerance either may win
            clear = _margin(expected, serving) > 2 * tolerance
            if (changed & clear).any():
                problems.append(f"{int((changed & clear).sum())} of {count} labels differ.")
    if written_labels != serving.class_names:
        problems.append(
            f"{LABELS_FILE} says {', '.join(written_labels[:5])}…, expected {', '.join(serving.class_names[:5])}…."
        )
    return FormatResult(
        largest_difference=largest,
        labels_agree=written_labels == serving.class_names and agreement == 1.0,
        count=count,
        deterministic=deterministic,
        tolerance=tolerance,
        signatures=(),
        problems=tuple(problems),
        label_agreement=agreement,
        accuracy=accuracy,
        model_accuracy=model_accuracy,
        test_count=tests,
    )


def float_tolerance(model_tolerance: float) -> float:
    """What may differ: more than for a SavedModel in float32, as much in mixed precision (written as float32)."""
    return FLOAT_TOLERANCE if model_tolerance <= FLOAT32_TOLERANCE else model_tolerance


def _wrong_shapes(answers: Answers, expected: np.ndarray) -> list[str]:
    """What of the answers is no number, or not there for each image that was asked about."""
    count, classes = expected.shape
    problems = []
    for what, given, rows in (
        ("The answers", answers.probabilities, count),
        ("The answers to single images", answers.singles, min(SINGLES, count)),
        ("The answers to the first batch, asked again,", answers.again, min(BATCH_SIZE, count)),
    ):
        finite = bool(np.isfinite(given).all())
        if given.shape != (rows, classes) or not finite:
            problems.append(
                f"{what} are {list(given.shape)} and {'finite' if finite else 'not all finite'}, expected "
                f"{[rows, classes]} finite numbers."
            )
    return problems


def _too_far(answers: Answers, expected: np.ndarray, tolerance: float) -> list[str]:
    given, singles = answers.probabilities, answers.singles
    differences = np.abs(given.astype(np.float64) - expected).max(axis=1)
    alone = np.abs(singles - expected[: len(singles)]).max()
    largest, worst = float(max(differences.max(), alone)), int(differences.argmax())
    if largest <= tolerance:
        return []
    return [
        f"Probabilities differ by up to {largest:.2g}, at most {tolerance:.2g} may be. Worst in image {worst}: "
        f"{np.round(given[worst], 4).tolist()[:5]}, expected {np.round(expected[worst], 4).tolist()[:5]}."
    ]


def _changed_alone(answers: Answers) -> list[str]:
    """Where integers answer otherwise for an image alone than in a batch; the model in memory is too far from both."""
    in_batch = answers.probabilities[: len(answers.singles)]
    alone = float(np.abs(answers.singles - in_batch).max())
    if alone <= (_SINGLE_STEPS + 0.5) * INTEGER_STEP:
        return []
    return [
        f"Images asked alone get probabilities that differ by up to {alone:.2g} from those in a batch, at most "
        f"{_SINGLE_STEPS * INTEGER_STEP:.2g} may be."
    ]


def _too_much_lost(
    changed: np.ndarray, accuracy: float, model_accuracy: float, images: CheckImages
) -> list[str]:
    problems = []
    tests, count = int(images.is_test.sum()), len(changed)
    lost = round((model_accuracy - accuracy) * tests)
    # Of few images one is more than the bound: a single one may always go.
    if lost > max(1, int(round(LARGEST_ACCURACY_LOSS * tests, 6))):
        problems.append(
            f"Accuracy on {tests} test images is {accuracy:.3f}, that of the model {model_accuracy:.3f}: "
            f"{100 * (model_accuracy - accuracy):.1f} points are lost, at most {100 * LARGEST_ACCURACY_LOSS:.0f} may be."
        )
    if changed.sum() > max(1, int(round((1 - SMALLEST_AGREEMENT) * count, 6))):
        problems.append(
            f"{int(changed.sum())} of {count} images are called otherwise than the model calls them; at least "
            f"{SMALLEST_AGREEMENT:.0%} must agree. Accuracy on {tests} test images is {accuracy:.3f}, that of the model "
            f"{model_accuracy:.3f}."
        )
    return problems


def _labels_of(probabilities: np.ndarray, serving: Serving) -> np.ndarray:
    """The best class [n], or for several labels which of them hold [n, k]."""
    return probabilities.argmax(axis=1) if serving.task.exclusive else probabilities >= 0.5


def _share_right(probabilities: np.ndarray, images: CheckImages, serving: Serving) -> float:
    right = _labels_of(probabilities[images.is_test], serving) == images.labels[images.is_test]
    return float((right if right.ndim == 1 else right.all(axis=1)).mean()) if len(right) else 0.0


def _margin(probabilities: np.ndarray, serving: Serving) -> np.ndarray:
    """By how much each image's label is decided."""
    if not serving.task.exclusive:
        return 2 * np.abs(probabilities - 0.5).min(axis=1)
    best = np.sort(probabilities, axis=1)
    return best[:, -1] - best[:, -2]


def _written_labels(folder: Path) -> tuple[str, ...]:
    text = (folder / LABELS_FILE).read_bytes().decode("utf-8")
    return tuple(text.removesuffix("\n").split("\n"))


def _wrong_description(info: dict[str, Any], facts: dict[str, Any], format: Format) -> list[str]:
    """What `model.json` says that the runtime contradicts."""
    problems = [
        f"{side}.{key} is {facts[side][key]!r} in the model, and {info[side][key]!r} in model.json."
        for side in ("input", "output")
        for key in ("name", "dtype", "shape")
        if facts[side][key] != info[side][key]
    ]
    if format.is_integer and facts["input"]["quantization"] != [1.0, 0]:
        scale, zero_point = facts["input"]["quantization"]
        problems.append(
            f"A pixel's value is not the input itself: scale {scale:.4g}, zero point {zero_point}; expected 1 and 0."
        )
    return problems
