"""Answers with a published model in this process; its graph decodes the examples itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.client.replies import entities_of
from kerastl.errors import DataError, UserError, nearest
from kerastl.export.folders import published_versions
from kerastl.export.signature import LABELS_FILE, SERVING_RAW, read_labels
from kerastl.export.versions import facts_of
from kerastl.modality import FIRST, modality_named
from kerastl.prediction import Entity
from kerastl.task import ENTITY_OUTPUTS, LABELS, Task
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL
from kerastl.task.tagging import ENTITIES

_BATCH_SIZE = 32


class ExportedReader:
    """A loaded SavedModel. Made by `load_exported`.

    Attributes:
        path: folder of the version.
        class_names: names of the classes, in the order of the probabilities.
        task: what it answers.
        modality: what its examples are.
    """

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.path = path
        self.modality = modality_named(facts_of(path).get("modality", FIRST))
        self._loaded = tf.saved_model.load(str(path))  # its signatures hold only weak references to it
        signature = self._loaded.signatures.get(SERVING_RAW)
        inputs = list(signature.structured_input_signature[1]) if signature else []
        try:
            self.class_names = read_labels(path / "assets" / LABELS_FILE)
        except OSError:
            self.class_names = ()
        if (
            inputs != [self.modality.request]
            or not {"probabilities", *ENTITY_OUTPUTS} & set(signature.structured_outputs)
            or not self.class_names
        ):
            raise UserError(
                f"{path} is not a model that kerastl exported: expected a signature {SERVING_RAW!r} with the input "
                f"{self.modality.request!r} and the output 'probabilities', and assets/labels.txt. Its signatures: "
                f"{', '.join(self._loaded.signatures) or 'none'}."
            )
        self._answer = signature
        self.task: Task = (
            ENTITIES if "count" in signature.structured_outputs
            else MULTI_LABEL if LABELS in signature.structured_outputs
            else CLASSIFICATION
        )  # fmt: skip

    def entities(self, raw: Sequence[bytes]) -> list[tuple[Entity, ...]]:
        """The entities of raw examples, of a model that finds them."""
        import tensorflow as tf

        found: list[tuple[Entity, ...]] = []
        for start in range(0, len(raw), _BATCH_SIZE):
            part = list(raw[start : start + _BATCH_SIZE])
            answer = self._answer(**{self.modality.request: tf.constant(part, tf.string)})
            outputs = plain_outputs(answer)
            found += [entities_of(outputs, row) for row in range(len(part))]
        return found

    def predict_bytes(self, raw: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of raw examples, and whether they are accepted.

        Args:
            raw: their bytes, in the formats that the modality decodes.

        Returns:
            float32 [n, k], columns in the order of `class_names`; and bool [n], all true for a model without a
            threshold.

        Raises:
            DataError: if an example cannot be read; says which and why.
        """
        if not raw:
            return np.zeros((0, len(self.class_names)), np.float32), np.zeros(0, bool)
        parts = [self._predict(raw, start) for start in range(0, len(raw), _BATCH_SIZE)]
        return _joined(parts)

    def _predict(
        self, raw: Sequence[bytes], start: int, count: int = _BATCH_SIZE
    ) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        part = list(raw[start : start + count])
        try:
            answer = self._answer(**{self.modality.request: tf.constant(part, tf.string)})
        except tf.errors.InvalidArgumentError as error:
            if len(part) > 1:  # which one it was, the graph does not always say
                return _joined([self._predict(raw, start + i, 1) for i in range(len(part))])
            reason = str(error.message).strip().splitlines()[0]
            raise DataError(
                f"{self.modality.noun.capitalize()} {start} of {len(raw)} cannot be read ({len(part[0])} bytes): {reason}. "
                f"Expected {self.modality.takes}."
            ) from error
        accepted = answer["accepted"].numpy() if "accepted" in answer else np.ones(len(part), bool)
        return answer["probabilities"].numpy(), accepted


def plain_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of a graph as nested lists, strings as str."""
    found = {}
    for name, value in outputs.items():
        array = value.numpy()
        found[name] = (
            np.char.decode(array.astype(np.bytes_), "utf-8") if array.dtype == object else array
        ).tolist()
    return found


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    probabilities, accepted = zip(*parts, strict=True)
    return np.concatenate(probabilities), np.concatenate(accepted)


def load_exported(path: Path | str) -> ExportedReader:
    """Load a published model.

    Args:
        path: a model's folder (`saved_models/<name>`: its largest version) or the folder of one version.

    Raises:
        UserError: if there is no such model, or it is not one of kerastl's.
    """
    folder = Path(path)
    if not folder.is_dir():
        siblings = (
            [child.name for child in folder.parent.iterdir() if child.is_dir()]
            if folder.parent.is_dir()
            else []
        )
        raise UserError(
            f"There is no exported model at {folder}.{nearest(folder.name, siblings)} Expected a model's folder, such "
            "as saved_models/flowers, or one of its versions, such as saved_models/flowers/1."
        )
    if not _is_saved_model(folder):
        versions = [
            version for version in published_versions(folder) if _is_saved_model(folder / str(version))
        ]
        if not versions:
            # the folder of all models or of all runs, where the name of one was forgotten
            inner = [
                str(child)
                for child in sorted(folder.iterdir())
                if child.is_dir() and (published_versions(child) or (child / "model.keras").is_file())
            ]
            raise UserError(
                f"{folder} holds no exported model: expected version folders (1, 2, …) with a saved_model.pb."
                + (f" Or is one of these meant: {', '.join(inner[-5:])}?" if inner else "")
            )
        folder = folder / str(versions[-1])
    return ExportedReader(folder)


def _is_saved_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").is_file()
