"""Whether an exported model answers as the model it was made from, asked in a process without kerastl.

A SavedModel can differ from the model in memory in ways that no exception shows: preprocessing left out or
done twice, augmentation still in, channels or labels in another order, another resize. All of them change
the answers to real images, so the answers are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerastl.errors import ExportError

if TYPE_CHECKING:
    import keras

FLOAT32_TOLERANCE = 1e-5
MIXED_PRECISION_TOLERANCE = 0.02
"""bfloat16 has 8 bits of mantissa and an optimised graph may round at other places than the layers did one by
one: a logit of 4 moves by up to 2^-6, its probability by a fourth of that for each place. A wrong channel
order or a missing preprocessing moves probabilities by far more."""

_PROCESS_SECONDS = 1800
_LARGEST_BATCH = 32


@dataclass(frozen=True)
class ParityResult:
    """What the comparison found.

    Attributes:
        largest_difference: between any served and expected probability, over all signatures and batch sizes;
            infinite if an answer was not a number.
        labels_agree: every served label is the best class, by its name, and the labels file says the same.
        count: number of images.
        deterministic: the same request got the same answer twice, and no operation of the graph is random.
        tolerance: largest difference that passes.
        signatures: names of the signatures that were found.
        problems: what is wrong, a line each; empty if all agrees.
    """

    largest_difference: float
    labels_agree: bool
    count: int
    deterministic: bool
    tolerance: float
    signatures: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the exported model may be published."""
        return not self.problems


def tolerance_for(precision: str) -> float:
    """The difference that may remain, by the recipe's precision (`float32` or a mixed one)."""
    return FLOAT32_TOLERANCE if precision == "float32" else MIXED_PRECISION_TOLERANCE


def expected_answers(
    model: keras.Model, encoded_images: Sequence[bytes], image_size: int, resize: str, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What the model in memory says of images, through the decoding that training uses.

    Computed on the processor, where the fresh process computes too: a graphics card rounds differently.

    Args:
        model: returns logits.
        encoded_images: original bytes of readable images.
        image_size: side of the model's input in pixels.
        resize: `stretch`, `crop` or `pad`, as in training.
        multi_label: sigmoid for each label instead of softmax.

    Returns:
        Pixels uint8 [n, image_size, image_size, 3] and probabilities float32 [n, k]: what `check_parity` takes.
    """
    import tensorflow as tf

    from kerastl.image.decode import decode

    with tf.device("CPU"):
        pixels = np.stack([decode(tf.constant(each), image_size, resize).numpy() for each in encoded_images])
        logits = np.concatenate(
            [
                np.asarray(tf.cast(model(part.astype(np.float32), training=False), tf.float32))
                for part in np.split(pixels, range(_LARGEST_BATCH, len(pixels), _LARGEST_BATCH))
            ]
        ).astype(np.float64)
    if multi_label:
        return pixels, np.exp(-np.logaddexp(0.0, -logits)).astype(np.float32)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return pixels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def check_parity(
    saved_model_dir: Path | str,
    encoded_images: Sequence[bytes],
    expected_probabilities: np.ndarray,
    class_names: Sequence[str],
    expected_pixels: np.ndarray | None = None,
    tolerance: float = FLOAT32_TOLERANCE,
) -> ParityResult:
    """Compare a SavedModel's answers with those of the model it was made from.

    Each signature is asked in two batch sizes, each twice, in a fresh process that cannot import kerastl.

    Args:
        saved_model_dir: what `write_saved_model` wrote.
        encoded_images: the original bytes of at least one image; real ones, and of every class, find most.
        expected_probabilities: float [n, k] of the model in memory; `expected_answers` computes them.
        class_names: k names in the order of the probabilities.
        expected_pixels: [n, s, s, 3], RGB 0..255, as training decoded them; without them the signature on
            pixels is not asked.
        tolerance: largest difference of a probability that passes; see `tolerance_for`.

    Raises:
        ExportError: if the SavedModel cannot be loaded or asked at all.
        ValueError: if numbers of images, probabilities and names do not fit each other.
    """
    expected = np.asarray(expected_probabilities, np.float64)
    if not encoded_images or expected.shape != (len(encoded_images), len(class_names)):
        raise ValueError(
            f"Expected at least one image and probabilities [{len(encoded_images)}, {len(class_names)}], got "
            f"{len(encoded_images)} images and {list(expected.shape)}."
        )
    facts, answers = _ask_fresh_process(Path(saved_model_dir), encoded_images, expected_pixels)
    largest, repeats_differ = 0.0, 0.0
    problems: list[str] = []
    first_of: dict[str, np.ndarray] = {}
    labels_agree = True
    for number, each in enumerate(facts["passes"]):
        served = {
            key: answers[f"pass{number}_{key}"] for key in ("probabilities", "label_index", "label", "score")
        }
        where = f"{each['signature']} in batches of {each['batch_size']}"
        difference = _largest_difference(served["probabilities"], expected)
        largest = max(largest, difference)
        if difference > tolerance:
            problems.append(
                f"{where}: probabilities differ by up to {difference:.2g}, at most {tolerance:.2g} may be."
                + _worst_image(served["probabilities"], expected)
            )
        wrong = _wrong_labels(served, expected, class_names, tolerance)
        if wrong:
            labels_agree = False
            problems.append(f"{where}: {wrong}")
        first = first_of.setdefault(where, served["probabilities"])
        repeats_differ = max(repeats_differ, _largest_difference(served["probabilities"], first))
    labels_problem = _labels_file_problem(Path(saved_model_dir), class_names)
    if labels_problem:
        labels_agree = False
        problems.append(labels_problem)
    # threads may add up in another order the second time: that is no random answer
    deterministic = repeats_differ <= tolerance / 10 and not facts["random_operations"]
    if repeats_differ > tolerance / 10:
        problems.append(f"The same request got answers that differ by {repeats_differ:.2g} when sent twice.")
    if facts["random_operations"]:
        problems.append(f"The graph holds random operations: {', '.join(facts['random_operations'])}.")
    return ParityResult(
        largest_difference=largest,
        labels_agree=labels_agree,
        count=len(encoded_images),
        deterministic=deterministic,
        tolerance=tolerance,
        signatures=tuple(facts["signatures"]),
        problems=tuple(dict.fromkeys(problems)),
    )


def _ask_fresh_process(
    saved_model: Path, encoded_images: Sequence[bytes], pixels: np.ndarray | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    count = len(encoded_images)
    request: dict[str, np.ndarray] = {
        "blob": np.frombuffer(b"".join(encoded_images), np.uint8),
        "lengths": np.array([len(each) for each in encoded_images], np.int64),
        "batch_sizes": np.unique([min(count, _LARGEST_BATCH), max(1, min(count, _LARGEST_BATCH) // 3)]),
    }
    if pixels is not None:
        request["pixels"] = np.asarray(pixels, np.float32)
    # On the processor: this process may hold all memory of the graphics card.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory(prefix="kerastl-parity-") as folder:
        given, answer = Path(folder) / "request.npz", Path(folder) / "answer.npz"
        np.savez(given, **request)  # type: ignore[arg-type]
        script = Path(__file__).with_name("fresh_process.py")
        # -P: the script's own folder must not shadow packages
        command = [sys.executable, "-P", str(script), str(saved_model.absolute()), str(given), str(answer)]
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, timeout=_PROCESS_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"The exported model did not answer {count} images within {_PROCESS_SECONDS} seconds."
            ) from error
        if done.returncode != 0 or not answer.exists():
            said = "\n".join(done.stderr.strip().splitlines()[-5:]) or f"exit code {done.returncode}"
            raise ExportError(
                f"A fresh process could not load and ask the exported model {saved_model}:\n{said}"
            )
        with np.load(answer) as file:
            answers = {name: file[name] for name in file.files}
    return json.loads(str(answers.pop("facts"))), answers


def _largest_difference(served: np.ndarray, expected: np.ndarray) -> float:
    if served.shape != expected.shape or not np.isfinite(served).all():
        return float("inf")
    return float(np.abs(served.astype(np.float64) - expected).max())


def _worst_image(served: np.ndarray, expected: np.ndarray) -> str:
    if served.shape != expected.shape:
        return f" Their shape is {list(served.shape)}, expected {list(expected.shape)}."
    by_image = np.abs(served - expected).max(axis=1)
    worst = int(np.argmax(np.where(np.isnan(by_image), np.inf, by_image)))
    best = int(expected[worst].argmax())
    return f" Worst in image {worst}: {served[worst, best]:.4f} for its best class, expected {expected[worst, best]:.4f}."


def _wrong_labels(
    served: dict[str, np.ndarray], expected: np.ndarray, class_names: Sequence[str], tolerance: float
) -> str:
    indices = served["label_index"]
    if served["probabilities"].shape != expected.shape or indices.max() >= len(class_names):
        return "the labels do not fit the classes."
    rows = np.arange(len(expected))
    named_wrongly = served["label"] != np.array(class_names)[indices]
    scored_wrongly = served["score"] != served["probabilities"][rows, indices]
    # between two classes whose probabilities differ by less than the tolerance either may win
    not_best = expected[rows, indices] < expected.max(axis=1) - 2 * tolerance
    wrong = np.flatnonzero(named_wrongly | scored_wrongly | not_best)
    if len(wrong) == 0:
        return ""
    first = int(wrong[0])
    return (
        f"{len(wrong)} of {len(expected)} labels are wrong; image {first} was called {str(served['label'][first])!r} "
        f"(column {int(indices[first])}), expected {class_names[int(expected[first].argmax())]!r}."
    )


def _labels_file_problem(saved_model: Path, class_names: Sequence[str]) -> str:
    from kerastl.export.signatures import read_labels

    try:
        written = read_labels(saved_model)
    except OSError:
        return "The labels file assets/labels.txt is missing."
    if written == tuple(class_names):
        return ""
    return f"assets/labels.txt says {', '.join(written[:5])}…, expected {', '.join(list(class_names)[:5])}…."
