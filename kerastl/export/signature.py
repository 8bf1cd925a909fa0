"""Signatures of a served model, in words that need no TensorFlow.

As TensorFlow Serving and its clients see them (n images, k classes, s the image size, d features):

| signature           | input         |                                                                         |
|---------------------|---------------|-------------------------------------------------------------------------|
| `serving_default`   | `image_bytes` | string [n]: encoded images of any size and format that training reads    |
| `serving_pixels`    | `pixels`      | float32 [n, s, s, 3]: RGB, 0..255, as `kerastl.modality.image.decode` returns them |
| `serving_embedding` | `image_bytes` | as above                                                                |

| output          |                                                                                                  |
|-----------------|--------------------------------------------------------------------------------------------------|
| `probabilities` | float32 [n, k]: softmax, or a sigmoid for each label; columns in the order of `assets/labels.txt` |
| `classes`       | string [n, t]: names of the t = min(5, k) most probable classes, the best first                   |
| `scores`        | float32 [n, t]: their probabilities                                                              |
| `label`         | string [n]: name of the best class                                                               |
| `label_index`   | int64 [n]: its column                                                                            |
| `labels`        | string [n]: names of the labels whose probability is above one half, a line each, in the order   |
|                 | of `assets/labels.txt`; only of a model that gives several labels                                |
| `accepted`      | bool [n]: whether its probability reaches the threshold; only where one was chosen               |
| `embedding`     | float32 [n, d]: the pooled features of the backbone; of `serving_embedding` alone                |

The REST API of TensorFlow Serving treats tensors whose names end in `_bytes` as base64
(`{"image_bytes": {"b64": …}}`), hence that name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kerastl.task import Task, task_named

SERVING_BYTES = "serving_default"
SERVING_PIXELS = "serving_pixels"
SERVING_EMBEDDING = "serving_embedding"
LABELS_FILE = "labels.txt"
TOP_CLASSES = 5


@dataclass(frozen=True)
class Serving:
    """Properties of a served model beside its network.

    Attributes:
        class_names: in the order of the logits.
        image_size: side of the model's input in pixels.
        resize: `stretch`, `crop` or `pad`, as in training.
        task: what the logits answer.
        threshold: lowest probability of the best class that counts as an answer, 0..1; None serves no `accepted`.
        significant_bits: of PNG files of 16 bits, as in training; see `kerastl.modality.image.decode.decode`.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: str = "stretch"
    task: Task = field(default_factory=lambda: task_named("classification"))
    threshold: float | None = None
    significant_bits: int = 16

    @property
    def top(self) -> int:
        """Number of classes that are named for each image."""
        return min(TOP_CLASSES, len(self.class_names))


def read_labels(file: Path) -> tuple[str, ...]:
    """The class names in a labels file, in the order of the probabilities.

    Raises:
        OSError: if there is none.
    """
    return tuple(file.read_bytes().decode("utf-8").removesuffix("\n").split("\n"))


def write_labels(file: Path, class_names: tuple[str, ...]) -> None:
    """Write class names, one a line; the same bytes on every system."""
    file.write_bytes("".join(f"{name}\n" for name in class_names).encode("utf-8"))
