"""Which tensors a weights file holds, and which a network wants, in the same order and words.

Three layouts: Keras 3's `.weights.h5` (`layers/conv2d_3/vars/0`, counted by class), the same inside the zip
of a `.keras` file, and Keras' legacy `.h5` as published with the applications (by layer, in order). They are
told apart by their content. Nothing in a file is executed: of its configuration no more is read than names of layers.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        models: Of a whole model in the legacy layout: names of the layers of each model in it, at any depth.
    """

    legacy: bool
    tensors: dict[str, StoredTensor]
    models: tuple[frozenset[str], ...] = ()


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


def best_part(
    stored: StoredTensors, wanted: dict[str, keras.Variable]
) -> tuple[dict[str, StoredTensor], bool]:
    """The tensors that belong to the network: all of the file, or one nested model in it.

    Returns:
        The tensors, and whether they are told apart by their order alone, with the file's names. Else they have the
        network's names; what the network does not have keeps its own. Whether they fit is for the caller to check.
    """
    parts = _nested_parts(stored, wanted) if stored.legacy else _parts_by_path(stored)
    if not parts:
        return stored.tensors, True

    def fitting(part: dict[str, StoredTensor]) -> int:
        return sum(
            name in part and part[name].shape == tuple(variable.shape) for name, variable in wanted.items()
        )

    # Of parts that fit equally the smallest; of nested models that do not fit at all the largest: the backbone.
    sign = 1 if stored.legacy and not any(map(fitting, parts)) else -1
    return max(parts, key=lambda part: (fitting(part), sign * len(part))), False


def _parts_by_path(stored: StoredTensors) -> list[dict[str, StoredTensor]]:
    roots = {""} | {
        name[: match.start()] for name in stored.tensors for match in re.finditer("layers/", name)
    }
    return [
        {name[len(root) :]: tensor for name, tensor in stored.tensors.items() if name.startswith(root)}
        for root in sorted(roots, key=len)
    ]


def _nested_parts(stored: StoredTensors, wanted: dict[str, keras.Variable]) -> list[dict[str, StoredTensor]]:
    """The nested models of a legacy file, by the network's names; none where it holds no model in a model.

    The legacy layout keeps a nested model as one layer, first all that is trained and then all that is not: what was
    frozen when it was saved decides the order. The order within a layer does not change, so layers are paired by name.
    """
    names = {place: name for name, place in _places(wanted).items()}
    groups: dict[str, list[str]] = {}
    for name in stored.tensors:
        groups.setdefault(name.split("/", 1)[0], []).append(name)
    nested = [group for group in groups.values() if len({_layer_of(name) for name in group}) > 1]
    # A model two levels down shares its group with what lies around it.
    inner = [
        [name for name in group if _layer_of(name) in layers] for group in nested for layers in stored.models
    ]
    return [
        {names.get(place, name): stored.tensors[name] for name, place in _places(group).items()}
        for group in (*nested, *filter(None, inner))
    ]


def _places(names: Iterable[str]) -> dict[str, tuple[str, int, int]]:
    """Place of each tensor: its layer's name without the number that Keras gave it, which of these, which tensor.

    Numbers go on within a process (`conv2d_57` may be another's `conv2d_151`), but in the same order.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(_layer_of(name), []).append(name)
    places: dict[str, tuple[str, int, int]] = {}
    counts: Counter[str] = Counter()
    for kind, _, layer in sorted((*_kind_and_number(layer), layer) for layer in layers):
        places |= {name: (kind, counts[kind], index) for index, name in enumerate(layers[layer])}
        counts[kind] += 1
    return places


def _layer_of(name: str) -> str:
    return name.rpartition("/")[0].rpartition("/")[2]


def _kind_and_number(layer: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", layer, flags=re.DOTALL)
    assert found
    return found[1], int(found[2] or 0)


def _tensors(file: h5py.File) -> StoredTensors:
    models: tuple[frozenset[str], ...] = ()
    if "layer_names" not in file.attrs and "layer_names0" not in file.attrs and "model_weights" in file:
        with contextlib.suppress(KeyError, ValueError):  # then the names of the weights have to tell
            models = tuple(_models_in(json.loads(file.attrs["model_config"])))
        file = file["model_weights"]
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return StoredTensors(True, dict(_legacy_tensors(file)), models)
    tensors: dict[str, StoredTensor] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and SEED_STATE not in name:
            # Keras 3.0 wrote `_layer_checkpoint_dependencies` where later versions write `layers`.
            name = name.replace("_layer_checkpoint_dependencies/", "layers/")
            tensors[name] = StoredTensor(name, item)

    file.visititems(visit)
    return StoredTensors(False, tensors)


def _models_in(layer: Any) -> Iterator[frozenset[str]]:
    """Names of the layers of a model and of all models in it, from what Keras writes of it as JSON."""
    config = layer.get("config") if isinstance(layer, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else None
    if isinstance(layers, list):
        configs = [each["config"] for each in layers if isinstance(each, dict) and "config" in each]
        yield frozenset(str(each.get("name")) for each in configs if isinstance(each, dict))
        for each in layers:
            yield from _models_in(each)


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
