"""Answers of a server, and the errors that stand for five reasons why there are none."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kerastl.prediction import Entity
from kerastl.task import ENTITY_OUTPUTS

SIGNATURE = "serving_default"
OUTPUTS = ("classes", "scores")
ACCEPTED = "accepted"
UNKNOWN_LABEL = "Unrecognized servable version label"
"""TensorFlow Serving's words for one, with the code for what a client sent wrong (server_core.cc)."""
LABELS = "labels"
COUNT = "count"
READ = frozenset([*OUTPUTS, ACCEPTED, LABELS, COUNT, *ENTITY_OUTPUTS])
"""Names of all outputs that are read."""


@dataclass(frozen=True)
class Answer:
    """Answer of a served model to one example.

    Attributes:
        top: classes with their scores, in falling order; as many as the model serves.
        accepted: False where the model abstains.
        labels: those whose probability is above one half; None for a model of one label an example.
        entities: of a model that finds them, which names no class; None for others.
    """

    top: tuple[tuple[str, float], ...]
    accepted: bool = True
    labels: tuple[str, ...] | None = None
    entities: tuple[Entity, ...] | None = None


class NoAnswer(Exception):
    """Root of the reasons; the text is the server's own, or that of the connection."""


class Refused(NoAnswer):
    """The server refuses the request for what it holds: an unreadable example, or too many bytes. Asking again is idle."""


class Unavailable(NoAnswer):
    """The server is not there or has no time now; the same request may succeed later."""


class TimedOut(NoAnswer):
    """The server is there and has not answered in time. Asking again would only add to its load."""


class NotFound(NoAnswer):
    """The server has no model of that name, or not that version of it."""


class NotServed(NotFound):
    """TensorFlow Serving itself says so: it may not have loaded the model yet."""


class NotOurs(NoAnswer):
    """The answer is not that of a model of kerastl's; the text says what came instead."""


@dataclass(frozen=True)
class VersionState:
    """State of one version of a model on a server.

    Attributes:
        version: its number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        problem: why it ended; empty where nothing is wrong.
    """

    version: int
    state: str
    problem: str = ""


class Connection(Protocol):
    """A server that can be asked; `rest` and `grpc_client` each have one."""

    def answers(self, raw: Sequence[bytes]) -> list[Answer]:
        """Ask once about raw examples.

        Raises:
            NoAnswer: there is none, for the reason that its class tells.
            KerastlError: there is none for a reason that no class tells.
        """

    def signature(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """Names of the inputs and outputs of `serving_default`.

        Returns:
            Two empty sets where the model has no such signature; None where the server does not tell.
        """

    def states(self) -> list[VersionState] | None:
        """States of the model's versions; None where the server knows none, or does not tell."""

    def close(self) -> None:
        """Let go of the server."""


def read_answers(outputs: Any, count: int, noun: str = "example") -> list[Answer]:
    """The answers in a server's outputs.

    Args:
        outputs: by name, nested lists as they come from JSON; a row for each example.
        count: examples that were asked about.
        noun: one of them in words.

    Raises:
        NotOurs: the outputs are not those of a model that kerastl exported.
    """
    if isinstance(outputs, Mapping) and is_ours(outputs) and not set(OUTPUTS) <= set(outputs):
        try:
            return [Answer((), entities=entities_of(outputs, row)) for row in range(count)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NotOurs(f"its entities do not fit {count} {noun}s: {error}") from error
    if not isinstance(outputs, Mapping) or not is_ours(outputs):
        raise NotOurs(f"it answered with {named(outputs) if isinstance(outputs, Mapping) else 'one output'}")
    classes, scores = (outputs[name] for name in OUTPUTS)
    accepted = outputs.get(ACCEPTED, [True] * count)
    labels = outputs.get(LABELS, [None] * count)
    if not all(isinstance(rows, list) and len(rows) == count for rows in (classes, scores, accepted, labels)):
        raise NotOurs(f"it did not answer with a row for each of {count} {noun}s")
    answers = []
    for names, values, accepts, lines in zip(classes, scores, accepted, labels, strict=True):
        if not (_are(names, str) and _are(values, (int, float)) and len(names) == len(values) > 0):
            raise NotOurs("its 'classes' and 'scores' are not lists of as many names as numbers")
        if not all(math.isfinite(value) for value in values):
            raise NotOurs(
                "its 'scores' are no numbers between 0 and 1, as those of a model whose weights are broken"
            )
        pairs = tuple((name, float(value)) for name, value in zip(names, values, strict=True))
        present = tuple(filter(None, lines.split("\n"))) if isinstance(lines, str) else None
        answers.append(Answer(pairs, bool(accepts), present))
    return answers


def is_ours(outputs: Collection[str]) -> bool:
    """True for names of outputs as models of kerastl have them."""
    return set(OUTPUTS) <= set(outputs) or {COUNT, *ENTITY_OUTPUTS} <= set(outputs)


def entities_of(outputs: Mapping[str, Any], row: int) -> tuple[Entity, ...]:
    """The entities of one text in a model's outputs, nested lists by name; `kerastl.export.signature` lists them.

    Raises:
        TypeError, ValueError, IndexError: these are no such outputs.
    """
    columns = [outputs[name][row][: int(outputs[COUNT][row])] for name in ENTITY_OUTPUTS]
    return tuple(
        Entity(str(text), str(kind), int(start), int(end), float(score))
        for text, kind, start, end, score in zip(*columns, strict=True)
    )


def named(names: Iterable[str]) -> str:
    """Names in a sentence: `'label', 'score'`, or `nothing`."""
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def _are(values: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
