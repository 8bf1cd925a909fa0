"""Answer of a model to one example, wherever the model stands: in this process or behind a server."""

from __future__ import annotations

from dataclasses import dataclass


class Predictions(list["Prediction"]):
    """Predictions in the order of their examples.

    Args:
        noun: one example, for the heading of a listing.
    """

    def __init__(self, noun: str) -> None:
        super().__init__()
        self.noun = noun


@dataclass(frozen=True)
class Entity:
    """An entity in a text.

    Attributes:
        text: what stands there.
        type: of it, such as `PER`.
        start: its first character, in Unicode code points of the text.
        end: the place behind its last one.
        score: the least of the probabilities of its words' tags, 0..1.
    """

    text: str
    type: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """Answer of a model to one example.

    Attributes:
        path: the example.
        label: the most probable class; empty where the example cannot be read, and of a model that finds entities.
        probability: of that class, 0..1; 0 where there is none.
        top: the most probable classes with their probabilities, in falling order.
        error: why the example cannot be read; empty where it can.
        accepted: False where there is no answer to go by: the example cannot be read, or the probability lies below the
            threshold that was chosen for the model.
        labels: of a model that gives several labels, those whose probability is above one half, in the model's order;
            None for a model of one label an example, for an unreadable example, and where a server does not tell.
        entities: of a model that finds them, in the order of the text; None for others, and for an unreadable example.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    accepted: bool = True
    labels: tuple[str, ...] | None = None
    entities: tuple[Entity, ...] | None = None


def unreadable(path: str, reason: str) -> Prediction:
    """Prediction of an example that cannot be read."""
    return Prediction(path, "", 0.0, (), reason, accepted=False)
