"""Compares the formats of a run's model: size, latency, accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.backbones import is_preset
from kerastl.data.examples import Examples
from kerastl.errors import DataError, ExportError, UserError
from kerastl.export.facts import without_folders
from kerastl.export.formats import FORMATS, SAVED_MODEL, refusal, require_packages, write_format
from kerastl.export.latency import ROUNDS, Latency, WrittenModel, ask_in_turns
from kerastl.export.saved_model import write_saved_model
from kerastl.features.inputs import Inputs
from kerastl.jobs.convert import CHECK_BATCH, REPRESENTATIVE_EXAMPLES, format_named, training_examples_needed
from kerastl.jobs.evaluate import decode_labelled, evaluation_split, labelled_inputs, some_of
from kerastl.jobs.trained import TrainedRun
from kerastl.modality import Batch, modality_of
from kerastl.pipeline import usable_cores
from kerastl.progress import Progress

KERAS = "keras"
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class BenchmarkRow:
    """One format.

    Attributes:
        format: `keras`, `saved_model`, `litert`, `litert-int8` or `onnx`.
        bytes: of all its files that answer: the model without labels and descriptions.
        latencies: for each batch size.
        accuracy: share of the examples whose best class, or whose every label, is right.
        points_lost: of the Keras model's accuracy, in percentage points; negative where it gained.
        labels_changed: number of examples that it calls otherwise than the Keras model does.
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
        example_count: number of examples behind accuracy, points lost and changed labels.
        threads: that each runtime might use.
        rounds: how often each format had its turn.
        rows: a format each, the Keras model first.
        left_out: format -> why it could not be measured.
        noun: one example.
    """

    run: Path
    example_count: int
    threads: int
    rounds: int
    rows: tuple[BenchmarkRow, ...]
    left_out: dict[str, str]
    noun: str = "example"


def benchmark(
    run: Path | str,
    data: str | Examples | None = None,
    *,
    formats: Sequence[str] = (),
    progress: Progress = Progress(),
) -> Benchmark:
    """Write a run's model in each format and measure it; nothing is published.

    Each format answers in a process of its own, and all processes are there at once: they have turns of some
    calls each, over and over, so that whatever else the machine does meets all of them alike. All take decoded
    inputs, so no time is decoding.

    Args:
        run: the run's folder.
        data: other labelled examples, see `evaluate`; without it, the run's own test split.
        formats: to measure beside the Keras model; without them, all whose packages are installed.
        progress: listens.

    Raises:
        UserError: run or data cannot be used, the run stands on a KerasHub preset, or a format that was asked for is unknown or not installed.
        ExportError: a model does not answer.
    """
    for name in formats:
        if name not in (KERAS, SAVED_MODEL):
            require_packages(format_named(name))
    chosen = [name for name in (SAVED_MODEL, *FORMATS) if not formats or name in formats]
    trained = TrainedRun(run)
    if is_preset(trained.recipe.backbone.name):
        raise UserError(
            f"{trained.folder.path} stands on {without_folders(trained.recipe.backbone.name)}: its Keras model, which others are compared with, "
            "cannot be loaded in a process without kerastl. `kerastl export` checks what is served."
        )
    serving = trained.serving
    refused = {name: refusal(each, serving) for name, each in FORMATS.items()}
    if all(refused.values()):
        raise UserError(f"{trained.folder.path}: {next(iter(refused.values()))}")
    split, modality = evaluation_split(trained, data), modality_of(trained.recipe)
    integers = [name for name in chosen if name in FORMATS and FORMATS[name].is_integer]
    left_out = {name: refused[name] for name in integers}
    if trained.is_handed:
        left_out = {
            name: reason or training_examples_needed(name, trained) for name, reason in left_out.items()
        }
    left_out = {name: reason for name, reason in left_out.items() if reason}
    if set(left_out) & set(formats):
        raise DataError("\n".join(left_out.values()))
    with tempfile.TemporaryDirectory(prefix="kerastl-benchmark-") as scratch:
        place = Path(scratch)
        kept, readable = decode_labelled(split, modality, trained.class_names, place, progress)
        labels = readable.labels
        assert isinstance(labels, np.ndarray), "one answer an example"
        files = _write_inputs(kept, place)
        representative: Batch = {}
        if set(integers) - set(left_out):
            train = some_of(trained.splits().train, REPRESENTATIVE_EXAMPLES)
            representative, _ = labelled_inputs(trained, train, progress)
        written = _write_all(
            trained,
            [each for each in chosen if each not in left_out],
            representative,
            place,
            left_out,
            progress,
        )
        threads = usable_cores()
        answers, latencies = ask_in_turns(
            written, files, len(labels), CHECK_BATCH, threads, modality.decoded_signature, progress
        )
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
    return Benchmark(trained.folder.path, len(labels), threads, ROUNDS, tuple(rows), left_out, modality.noun)


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
    trained: TrainedRun,
    names: Sequence[str],
    representative: Batch,
    place: Path,
    left_out: dict[str, str],
    progress: Progress,
) -> dict[str, WrittenModel]:
    """Write the model in each format, the Keras model first; why others are missing goes into `left_out`."""
    written = {KERAS: WrittenModel(KERAS, trained.folder.model_keras)}
    model, serving = trained.model, trained.serving
    for name in names:
        progress.note(f"Writing {name}")
        if name == SAVED_MODEL:
            write_saved_model(model, serving, place / name)
            written[name] = WrittenModel(name, place / name)
            continue
        format = FORMATS[name]
        try:
            require_packages(format)
            write_format(model, serving, format, place / name, representative)
        except (UserError, ExportError) as error:
            left_out[name] = str(error)
        else:
            written[name] = WrittenModel(format.runtime, place / name / format.file)
    return written


def _share_equal(called: np.ndarray, others: np.ndarray) -> float:
    equal = called == others
    return float((equal if equal.ndim == 1 else equal.all(axis=1)).mean())


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
