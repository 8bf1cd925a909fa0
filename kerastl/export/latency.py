"""Latency of models in several formats, each in a process of its own, which take turns."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.export.formats import SAVED_MODEL
from kerastl.export.process import ModelProcess, start_model
from kerastl.progress import Progress

BATCH_SIZES = (1, 32)
# Calls of a format before the next one has its turn, by batch size.
CALLS = {1: 10, 32: 2}
ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Time of one call.

    Attributes:
        batch_size: examples in the call.
        median_milliseconds: median over the rounds, of the median in each.
        lowest_milliseconds: of the rounds' medians.
        highest_milliseconds: of the rounds' medians.
    """

    batch_size: int
    median_milliseconds: float
    lowest_milliseconds: float
    highest_milliseconds: float


@dataclass(frozen=True)
class WrittenModel:
    """A model in one format: its file or folder, and what runs it."""

    runtime: str
    path: Path


def ask_in_turns(
    models: Mapping[str, WrittenModel],
    inputs: Mapping[str, Path],
    count: int,
    batch_size: int,
    threads: int,
    signature: str,
    progress: Progress,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[Latency, ...]]]:
    """Ask each model about the same inputs, then measure all of them in turns of some calls, over and over.

    Whatever else the machine does meets all of them alike.

    Args:
        models: name of a format -> the model.
        inputs: name of an input -> .npy file of its decoded values.
        count: of the examples.
        batch_size: in which the answers are asked for.
        threads: that each runtime may use.
        signature: of a SavedModel, that takes decoded inputs.
        progress: listens.

    Returns:
        By name, the answers [n, k] and the latencies for each of `BATCH_SIZES`.

    Raises:
        ExportError: a model does not answer.
    """
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                start_model(
                    model.runtime,
                    model.path,
                    inputs,
                    [(batch_size, count)],
                    signatures=[signature] if model.runtime == SAVED_MODEL else None,
                    threads=threads,
                )
            )
            for name, model in models.items()
        }
        latencies = _take_turns(processes, progress)
        return {name: process.answers().passes[0].main for name, process in processes.items()}, latencies


def _take_turns(processes: dict[str, ModelProcess], progress: Progress) -> dict[str, tuple[Latency, ...]]:
    medians: dict[tuple[str, int], list[float]] = {
        (name, batch_size): [] for name in processes for batch_size in BATCH_SIZES
    }
    progress.note(f"Asking {', '.join(processes)}")
    for process in processes.values():
        process.times(1, 1)  # from here on all have answered the examples and wait
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
