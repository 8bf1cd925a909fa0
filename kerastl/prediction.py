"""What a model says of an image, wherever the model stands: in this process or behind a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: the image.
        label: the most probable class; empty where the image cannot be read.
        probability: of that class, 0..1.
        top: the most probable classes with their probabilities, in falling order.
        error: why the image cannot be read; empty where it can.
        accepted: False where the model abstains: the probability lies below the threshold that was chosen for it.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    accepted: bool = True


def unreadable(path: str, reason: str) -> Prediction:
    """The prediction of an image that cannot be read."""
    return Prediction(path, "", 0.0, (), reason)
