"""Which tensors a weights file holds, and which a network wants, in the same order and words.

Three layouts: Keras 3's `.weights.h5` (`layers/conv2d_3/vars/0`, counted by class), the same inside the zip
of a `.keras` file, and Keras' legacy `.h5` as published with the applications (by layer, in order). They are
told apart by their content. Nothing in a file is executed: a `.keras` file's configuration is not read.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from kerastl.errors import WeightsError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"
WEIGHTS_IN_KERAS_FILE = "model.weights.h5"
# State of random layers; not of interest to a network that is trained anew.
SEED_STATE = "/seed_generator/"


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: As the file calls it.
        dataset: Where its values are, while the file is open.
    """

    name: str
    dataset: h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(int(side) for side in self.dataset.shape)

    def read(self) -> np.ndarray:
        """Its values in the stored dtype."""
        return np.asarray(self.dataset[()])


@dataclass(frozen=True, eq=False)
class StoredTensors:
    """All tensors of an open file.

    Attributes:
        legacy: Whether by order (Keras' legacy layout) rather than by path.
        tensors: In the file's order, by name.
    """

    legacy: bool
    tensors: dict[str, StoredTensor]


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[StoredTensors]:
    """The tensors of a `.weights.h5`, legacy `.h5` or `.keras` file, readable inside the `with`.

    Raises:
        WeightsError: It is none of these, or damaged.
    """
    try:
        with contextlib.ExitStack() as stack:
            with path.open("rb") as start:
                magic = start.read(8)
            if magic.startswith(ZIP_MAGIC):
                archive = stack.enter_context(zipfile.ZipFile(path))
                # Whole, since seeking in a zip is slow and skips its checksum.
                file = h5py.File(io.BytesIO(archive.read(WEIGHTS_IN_KERAS_FILE)), "r")
            elif magic == HDF5_MAGIC:
                file = h5py.File(path, "r")
            else:
                reason = "neither HDF5 nor zip" if magic else "it is empty"
                raise WeightsError(
                    f"'{path}' is no weights file ({reason}). Expected a .weights.h5, .h5 or .keras file."
                )
            stack.enter_context(file)
            yield _tensors(file)
    except (OSError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"Weights file '{path}' cannot be read, it is damaged or incomplete ({error}). "
            "Nothing was loaded; fetch or save it again."
        ) from error


def network_variables(network: keras.Model, legacy: bool) -> dict[str, keras.Variable]:
    """The weights that a file for a network must hold.

    Args:
        network: A functional model.
        legacy: In the order and with the names of the legacy layout, by path otherwise.
    """
    if not legacy:
        return dict(_by_path(network, ""))
    return {
        variable.path: variable
        for layer in network.layers
        # The order that legacy files were written in (keras.src.legacy.saving.legacy_h5_format).
        for variable in (*layer.trainable_weights, *layer.non_trainable_weights)
    }


def best_part(stored: StoredTensors, wanted: dict[str, keras.Variable]) -> dict[str, StoredTensor]:
    """The tensors that belong to the network: all of the file, or one nested model in it.

    Returns:
        Tensors by the network's names where the layout has paths, otherwise in the file's order by the
        file's names. Whether they fit is for the caller to check.
    """
    if stored.legacy:
        return stored.tensors
    roots = {""} | {
        name[: match.start()] for name in stored.tensors for match in re.finditer("layers/", name)
    }
    parts = []
    for root in sorted(roots, key=len):
        part = {name[len(root) :]: tensor for name, tensor in stored.tensors.items() if name.startswith(root)}
        fitting = sum(
            name in part and part[name].shape == tuple(variable.shape) for name, variable in wanted.items()
        )
        parts.append((fitting, -len(part), part))
    return max(parts, key=lambda entry: entry[:2])[2]


def _tensors(file: h5py.File) -> StoredTensors:
    if "layer_names" not in file.attrs and "layer_names0" not in file.attrs and "model_weights" in file:
        file = file["model_weights"]
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return StoredTensors(True, dict(_legacy_tensors(file)))
    tensors: dict[str, StoredTensor] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and SEED_STATE not in name:
            # Keras 3.0 wrote `_layer_checkpoint_dependencies` where later versions write `layers`.
            name = name.replace("_layer_checkpoint_dependencies/", "layers/")
            tensors[name] = StoredTensor(name, item)

    file.visititems(visit)
    return StoredTensors(False, tensors)


def _legacy_tensors(group: h5py.Group) -> Iterator[tuple[str, StoredTensor]]:
    for layer in _names(group, "layer_names"):
        for weight in _names(group[layer], "weight_names"):
            name = weight if weight.startswith(f"{layer}/") else f"{layer}/{weight}"
            yield name, StoredTensor(name, group[layer][weight])


def _names(group: h5py.Group, attribute: str) -> list[str]:
    # Lists beyond HDF5's 64 KB for an attribute are split over attribute0, attribute1, ...
    if attribute in group.attrs:
        values = list(group.attrs[attribute])
    else:
        values = []
        while f"{attribute}{len(values)}" in group.attrs:
            values.append(group.attrs[f"{attribute}{len(values)}"])
        values = [value for chunk in values for value in chunk]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _by_path(layer: keras.Layer, path: str) -> Iterator[tuple[str, keras.Variable]]:
    own: dict[str, keras.Variable] = {}
    layer.save_own_variables(own)
    yield from ((f"{path}vars/{key}", variable) for key, variable in own.items())
    counts: Counter[str] = Counter()
    for inner in getattr(layer, "layers", ()):
        kind = _snake_case(type(inner).__name__)
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        yield from _by_path(inner, f"{path}layers/{name}/")


def _snake_case(name: str) -> str:
    # As Keras spells classes in weight files (keras.src.utils.naming.to_snake_case).
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
