"""`predict`: a folder is asked in this process, an address over the network, and only the former needs TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerastl.client.access import Access
from kerastl.client.address import is_address
from kerastl.client.asking import Patience, ask
from kerastl.data.encode import contents_of
from kerastl.modality import Modality
from kerastl.prediction import Prediction, Predictions, unreadable
from kerastl.progress import Progress

if TYPE_CHECKING:
    from kerastl.jobs.trained import Reader

READ_BATCH = 64


def predict(
    model: Path | str,
    paths: Sequence[str],
    *,
    top: int = 5,
    patience: Patience | None = None,
    access: Access | None = None,
    progress: Progress = Progress(),
) -> Predictions:
    """Classify examples.

    Args:
        model: a run's folder, an exported model (`saved_models/NAME` or one of its versions), or the address of
            a served one (`http://HOST:8501/v1/models/NAME`, `grpc://HOST:8500/NAME`).
        paths: files, folders (searched with all their subfolders) and glob patterns; of a model of texts also texts themselves, and
            `-` for the lines of the standard input.
        top: how many classes to name for each example; a served model names five at most.
        patience: how long to wait for a server.
        access: what lets a client in at a server, from `kerastl.client.access.read_access`; without it, what the environment
            holds for that.
        progress: listens.

    Returns:
        A prediction for each example, in the order found; unreadable examples carry their error.

    Raises:
        UserError: the model cannot be used, or no example was found.
        ServingError: the server gave no answer.

    Example:
        >>> predict("http://localhost:8501/v1/models/flowers", ["photos"])[0].label
        'daisy'
    """
    if is_address(model):
        return ask(str(model), paths, top=top, patience=patience, access=access, progress=progress)
    from kerastl.jobs.trained import open_reader

    reader = open_reader(Path(model))
    found = reader.modality.find(paths, progress)
    return predictions(reader, map(contents_of, found), len(found), top, progress)


def predictions(
    reader: Reader, examples: Iterable[tuple[str, bytes | str]], count: int, top: int, progress: Progress
) -> Predictions:
    """Classify examples.

    Args:
        reader: of the model.
        examples: name and bytes of each; a text in their place is why they cannot be read.
        count: how many there are.
        top: how many classes to name for each.
        progress: listens.
    """
    from kerastl.features.decoded import reading_warnings

    found = Predictions(reader.modality.noun)
    converted: Counter[str] = Counter()
    remaining = iter(examples)
    with progress.track("predict", count, f"{reader.modality.noun}s") as tracker:
        while part := list(itertools.islice(remaining, READ_BATCH)):
            served = [_servable(data, reader.modality, converted) for _, data in part]
            readable = [data for data, error in served if not error]
            answers = _answers(reader, readable, top)
            for (name, _), (_, error) in zip(part, served, strict=True):
                if error:
                    found.append(unreadable(name, error))
                else:
                    found.append(dataclasses.replace(next(answers), path=name))
            tracker.advance(len(part))
    for warning in reading_warnings((), converted, reader.modality):
        progress.warn(warning)
    return found


def _answers(reader: Reader, raw: Sequence[bytes], top: int) -> Iterator[Prediction]:
    """Predictions of examples, without their names."""
    if not raw:
        return
    if reader.entities is not None:
        for found in reader.entities(raw):
            yield Prediction("", "", 0.0, (), entities=found)
        return
    for probabilities, accepted in zip(*reader.answer(raw), strict=True):
        yield _prediction("", probabilities, bool(accepted), reader, top)


def _servable(data: bytes | str, modality: type[Modality], converted: Counter[str]) -> tuple[bytes, str]:
    """Returns bytes that the model takes, or the reason why there are none; counts converted formats."""
    if isinstance(data, str):
        return b"", data
    try:
        served, kind = modality.servable(data)
    except ValueError as error:
        return b"", str(error)
    converted.update([kind] if kind else [])
    return served, ""


def _prediction(name: str, probabilities: np.ndarray, accepted: bool, reader: Reader, top: int) -> Prediction:
    class_names = reader.class_names
    order = np.argsort(-probabilities, kind="stable")[:top]
    best = tuple((class_names[index], float(probabilities[index])) for index in order)
    labels = None
    if not reader.task.exclusive:
        labels = tuple(each for each, p in zip(class_names, probabilities, strict=True) if p > 0.5)
    return Prediction(name, best[0][0], best[0][1], best, accepted=accepted, labels=labels)
