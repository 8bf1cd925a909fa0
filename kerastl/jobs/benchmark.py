"""What each format of a run's model costs and keeps: size, latency, accuracy."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import ExportError, UserError
from kerastl.export.formats import FORMATS, SAVED_MODEL, require_packages, write_format
from kerastl.export.process import ModelProcess, start_model
from kerastl.export.saved_model import write_saved_model
from kerastl.export.signature import Serving
from kerastl.features.inputs import Inputs
from kerastl.jobs.calibrate import read_threshold
from kerastl.jobs.convert import CHECK_BATCH, REPRESENTATIVE_IMAGES, format_named
from kerastl.jobs.evaluate import decode_labelled, evaluation_split, some_of
from kerastl.jobs.trained import class_names_of, model_of, recipe_of, serving_of
from kerastl.modality import Batch, Modality, modality_of
from kerastl.progress import Progress
from kerastl.run import Run, open_run

KERAS = "keras"
BATCH_SIZES = (1, 32)
# Calls of a format before the next one has its turn, by batch size.
CALLS = {1: 10, 32: 2}
ROUNDS = 5
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Latency:
    """Time of one call.

    Attributes:
        batch_size: images in the call.
        median_milliseconds: median over the rounds, of the median in each.
        lowest_milliseconds: of the rounds' medians.
        highest_milliseconds: of the rounds' medians.
    """

    batch_size: int
    median_milliseconds: float
    lowest_milliseconds: float
    highest_milliseconds: float


@dataclass(frozen=True)
class BenchmarkRow:
    """One format.

    Attributes:
        format: `keras`, `saved_model`, `litert`, `litert-int8` or `onnx`.
        bytes: of all its files that answer: the model without labels and descriptions.
        latencies: for each batch size.
        accuracy: share of the images whose best class, or whose every label, is right.
        points_lost: of the Keras model's accuracy, in percentage points; negative where it gained.
        labels_changed: number of images that it calls otherwise than the Keras model does.
    """

    format: str
    bytes: int
    latencies: tuple[Latency, ...]
    accuracy: float
    points_lost: float
    labels_changed: int


@dataclass(frozen=True)
class Benchmark:
    """All formats of one run, on one machine at one time.

    Attributes:
        run: the run's folder.
        image_count: number of images behind accuracy, points lost and changed labels.
        threads: that each runtime might use.
        rounds: how often each format had its turn.
        rows: a format each, the Keras model first.
        left_out: format -> why it could not be measured.
    """

    run: Path
    image_count: int
    threads: int
    rounds: int
    rows: tuple[BenchmarkRow, ...]
    left_out: dict[str, str]


def benchmark(
    run: Path | str,
    data: str | None = None,
    *,
    formats: Sequence[str] = (),
    progress: Progress = Progress(),
) -> Benchmark:
    """Write a run's model in each format and measure it; nothing is published.

    Each format answers in a process of its own, and all processes are there at once: they have turns of some
    calls each, over and over, so that whatever else the machine does meets all of them alike. All take decoded
    pixels, so no time is decoding.

    Args:
        run: the run's folder.
        data: other labelled images, see `evaluate`; without it, the run's own test split.
        formats: to measure beside the Keras model; without them, all whose packages are installed.
        progress: listens.

    Raises:
        UserError: run or data cannot be used, or a format that was asked for is unknown or not installed.
        ExportError: a model does not answer.
    """
    for name in formats:
        if name not in (KERAS, SAVED_MODEL):
            require_packages(format_named(name))
    chosen = [name for name in (SAVED_MODEL, *FORMATS) if not formats or name in formats]
    folder = open_run(run)
    recipe, class_names = recipe_of(folder), class_names_of(folder)
    serving = serving_of(recipe, class_names, read_threshold(folder))
    split, _ = evaluation_split(recipe, data)
    modality = modality_of(recipe)
    with tempfile.TemporaryDirectory(prefix="kerastl-benchmark-") as scratch:
        place = Path(scratch)
        kept, labels, _ = decode_labelled(split, modality, class_names, place, progress)
        files = _write_inputs(kept, place)
        representative: Batch = {}
        if any(FORMATS[name].is_integer for name in chosen if name in FORMATS):
            train = some_of(make_splits(open_examples(recipe.data), recipe.data).train, REPRESENTATIVE_IMAGES)
            images, known, _ = decode_labelled(train, modality, class_names, place, progress)
            representative = images[np.arange(len(known))]
        written, left_out = _write_all(folder, serving, chosen, representative, place, progress)
        threads = os.cpu_count() or 1
        with contextlib.ExitStack() as stack:
            processes = {
                name: stack.enter_context(_start(model, files, len(labels), threads, modality))
                for name, model in written.items()
            }
            latencies = _take_turns(processes, progress)
            answers = {name: process.answers().passes[0].main for name, process in processes.items()}
        bytes_of = {name: _size(model.path) for name, model in written.items()}
    if serving.task.exclusive:
        called = {name: given.argmax(axis=1) for name, given in answers.items()}
    else:  # the Keras model answers with logits
        called = {name: given >= (0.0 if name == KERAS else 0.5) for name, given in answers.items()}
    accuracy = {name: _share_equal(given, labels) for name, given in called.items()}
    rows = [
        BenchmarkRow(
            format=name,
            bytes=bytes_of[name],
            latencies=latencies[name],
            accuracy=accuracy[name],
            points_lost=100 * (accuracy[KERAS] - accuracy[name]),
            labels_changed=round((1 - _share_equal(called[name], called[KERAS])) * len(labels)),
        )
        for name in written
    ]
    return Benchmark(folder.path, len(labels), threads, ROUNDS, tuple(rows), left_out)


@dataclass(frozen=True)
class _Written:
    runtime: str
    path: Path


def _write_inputs(kept: Inputs, place: Path) -> dict[str, Path]:
    """Write each input into a file: a large test split may not fit into memory."""
    files = {name: place / f"{name}.npy" for name in kept.modality.spec}
    rows = {
        name: np.lib.format.open_memmap(files[name], "w+", np.dtype(each.dtype), (len(kept), *each.shape))
        for name, each in kept.modality.spec.items()
    }
    for start in range(0, len(kept), _ROWS_AT_ONCE):
        positions = np.arange(start, min(start + _ROWS_AT_ONCE, len(kept)))
        for name, values in kept[positions].items():
            rows[name][positions] = values
    for each in rows.values():
        each.flush()
    return files


def _write_all(
    run: Run,
    serving: Serving,
    names: Sequence[str],
    representative: Batch,
    place: Path,
    progress: Progress,
) -> tuple[dict[str, _Written], dict[str, str]]:
    """The model in each format, the Keras model first; and why others are missing."""
    written, left_out = {KERAS: _Written(KERAS, run.model_keras)}, {}
    model = model_of(run)
    for name in names:
        progress.note(f"Writing {name}")
        if name == SAVED_MODEL:
            write_saved_model(model, serving, place / name)
            written[name] = _Written(name, place / name)
            continue
        format = FORMATS[name]
        try:
            require_packages(format)
            write_format(model, serving, format, place / name, representative)
        except (UserError, ExportError) as error:
            left_out[name] = str(error)
        else:
            written[name] = _Written(format.runtime, place / name / format.file)
    return written, left_out


def _start(
    model: _Written, files: Mapping[str, Path], count: int, threads: int, modality: Modality
) -> AbstractContextManager[ModelProcess]:
    signatures = [modality.decoded_signature] if model.runtime == SAVED_MODEL else None
    passes = [(CHECK_BATCH, count)]
    return start_model(model.runtime, model.path, files, passes, signatures=signatures, threads=threads)


def _take_turns(processes: dict[str, ModelProcess], progress: Progress) -> dict[str, tuple[Latency, ...]]:
    medians: dict[tuple[str, int], list[float]] = {
        (name, batch_size): [] for name in processes for batch_size in BATCH_SIZES
    }
    progress.note(f"Asking {', '.join(processes)}")
    for process in processes.values():
        process.times(1, 1)  # from here on all have answered the images and wait
    with progress.track("time", ROUNDS * len(processes), unit="turns") as tracker:
        for _ in range(ROUNDS):
            for name, process in processes.items():
                for batch_size in BATCH_SIZES:
                    seconds = process.times(batch_size, CALLS[batch_size])
                    medians[name, batch_size].append(1000 * statistics.median(seconds))
                tracker.advance()
    return {
        name: tuple(
            Latency(size, statistics.median(found), min(found), max(found))
            for size in BATCH_SIZES
            for found in [medians[name, size]]
        )
        for name in processes
    }


def _share_equal(called: np.ndarray, others: np.ndarray) -> float:
    equal = called == others
    return float((equal if equal.ndim == 1 else equal.all(axis=1)).mean())


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
