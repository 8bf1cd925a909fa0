"""Signatures of a served model, in words that need no TensorFlow.

As TensorFlow Serving and its clients see them (n examples, k classes, d features):

| signature                    | inputs                      |                                                             |
|------------------------------|-----------------------------|-------------------------------------------------------------|
| `serving_default`            | `Modality.request`          | string [n]: raw examples, all that training reads           |
| `Modality.decoded_signature` | the names of `Modality.spec` | examples as `Modality.decode` returns them, as the network's own inputs take them |
| `serving_embedding`          | `Modality.request`          | as above                                                    |

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
| `embedding`     | float32 [n, d]: pooled outputs of the backbone that the head reads; of `serving_embedding` alone |

Of a model that finds entities (m in the text with the most of them, w words in the longest; in a text with fewer, zeros and empty
strings stand behind its own):

| signature                    | outputs                                                                                        |
|------------------------------|------------------------------------------------------------------------------------------------|
| `serving_default`            | `count` int32 [n]: entities of each text; `entities` string [n, m]: what stands there; `types` string [n, m]; |
|                              | `starts`, `ends` int32 [n, m]: first character and the place behind the last; `scores` float32 [n, m]: the least of the |
|                              | probabilities of its words' tags                                                               |
| `serving_words`              | `count` int32 [n]: words of each text; `starts`, `ends` int32 [n, w]; `probabilities` float32 [n, w, k] of the tags |
| `serving_embedding`          | `count` int32 [n]; `embedding` float32 [n, w, d]: what the head reads of each word             |
| `Modality.decoded_signature` | `probabilities` float32 [n, steps, k] of each piece; those of a word are its first one's       |

Characters are Unicode code points of the text as it was sent; bytes that are no UTF-8 count as many as Python's
`bytes.decode("utf-8", "replace")` puts in their place.

The REST API of TensorFlow Serving treats tensors whose names end in `_bytes` as base64 (`{"b64": …}`), hence the end of the
names of requests that are no text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kerastl.modality import Modality
from kerastl.task import Task, task_named

SERVING_RAW = "serving_default"
SERVING_EMBEDDING = "serving_embedding"
SERVING_WORDS = "serving_words"
LABELS_FILE = "labels.txt"
TOP_CLASSES = 5


@dataclass(frozen=True)
class Serving:
    """Properties of a served model beside its network.

    Attributes:
        class_names: in the order of the logits.
        modality: what its examples are, and how they are decoded, as in training.
        task: what the logits answer.
        threshold: lowest probability of the best class that counts as an answer, 0..1; None serves no `accepted`.
    """

    class_names: tuple[str, ...]
    modality: Modality
    task: Task = field(default_factory=lambda: task_named("classification"))
    threshold: float | None = None

    @property
    def top(self) -> int:
        """Number of classes that are named for each example."""
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
