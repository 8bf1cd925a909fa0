"""Pretrained weights: where they come from, and whole or not at all.

A file is read and compared with the network tensor by tensor before the first weight is touched. Keras'
own loaders are not used for it: they ignore tensors that only the file has, and stop half-way at the first
that does not fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kerastl.backbones import (
    BUNDLED_WEIGHTS_FOLDER,
    BackboneSpec,
    PublishedWeights,
    backbone_names,
    get_backbone,
    is_preset,
)
from kerastl.errors import WeightsError, nearest
from kerastl.model.encoder_spec import find_folder, load_from_folder
from kerastl.model.encoder_weights import WEIGHTS_FILE
from kerastl.model.graph import walk_layers
from kerastl.model.weights_file import StoredTensor, best_part, network_variables, open_weights
from kerastl.presets import preset_folder, read_preset
from kerastl.recipe.schema import BackboneRecipe

WEIGHTS_DIR_VARIABLE = "KERASTL_WEIGHTS_DIR"
DOWNLOAD_STALL_SECONDS = 10.0
KEYWORDS = ("pretrained", "imagenet", "none")


@dataclass(frozen=True)
class LoadedWeights:
    """The weights that a backbone was loaded with.

    Attributes:
        origin: `none` (random), `bundled`, `imagenet` or `file`.
        sha256: Of the file, in hex; None for random weights.
        path: Of the file; None for random weights.
    """

    origin: str
    sha256: str | None
    path: str | None


def load_weights(
    backbone: keras.Model, spec: BackboneSpec, weights: str, weights_dir: str | None = None
) -> LoadedWeights:
    """Give a backbone its pretrained weights.

    Args:
        backbone: From `build_backbone`, of the same spec. After an error its weights are what they were.
        spec: Which network it is.
        weights: `pretrained` (what ships with kerastl, else ImageNet), `imagenet` (Keras' published file),
            `none` (random ones; a file's or preset's `Normalization` layers keep what they were adapted to), or the path of a `.weights.h5`, a legacy `.h5` or a `.keras` file. In a file of a whole
            model the part with the same layers is found. Of an encoder the path of a Hugging Face folder, or `pretrained` where
            it lies in `weights_dir`.
        weights_dir: Folder with Keras' published files, used instead of a download; the environment
            variable KERASTL_WEIGHTS_DIR without it.

    Raises:
        WeightsError: There is no such file, it cannot be had or read, or it does not fit.
    """
    if weights == "none":
        if spec.file:
            _draw_anew(backbone)
        return LoadedWeights("none", None, None)
    if spec.in_folder:
        folder = find_folder(spec, weights, _dir_of(weights_dir))
        path = load_from_folder(backbone, spec, folder)
        origin = "bundled" if weights == "pretrained" and spec.bundled_weights else "file"
        return LoadedWeights(origin, sha256_of(path), str(path))
    if spec.file and weights == "pretrained":  # it was built with them
        own = read_preset(spec.file).weights if is_preset(spec.file) else Path(spec.file).expanduser()
        return LoadedWeights("file", sha256_of(own), str(own))
    if spec.file and weights == "imagenet":
        raise WeightsError(
            f"backbone.weights = 'imagenet': Keras publishes none for '{spec.file}'. Expected pretrained (those in it), none or a file."
        )
    if weights == "pretrained" and spec.bundled_weights:
        origin, path = "bundled", BUNDLED_WEIGHTS_FOLDER / spec.bundled_weights
    elif weights in KEYWORDS:
        origin, path = "imagenet", _imagenet_file(backbone, spec, weights_dir)
    else:
        origin, path = "file", Path(weights).expanduser()
    _check_is_file(path, weights)
    load_file(backbone, spec, path)
    return LoadedWeights(origin, sha256_of(path), str(path))


def _draw_anew(backbone: keras.Model) -> None:
    """Give a network the weights of a new one, but for `Normalization`: what it was adapted to is preprocessing."""
    kept = {
        id(variable)
        for layer in walk_layers(backbone)
        if isinstance(layer, keras.layers.Normalization)
        for variable in layer.weights
    }
    drawn = type(backbone).from_config(backbone.get_config())
    for variable, value in zip(backbone.weights, drawn.weights, strict=True):
        if id(variable) not in kept:
            variable.assign(value)


def load_file(backbone: keras.Model, spec: BackboneSpec, path: Path) -> None:
    """Load a backbone's weights from a file, or raise and leave them as they are.

    Kernels may be stored in 16 bits; they become what the network computes with.

    Raises:
        WeightsError: The file cannot be read or does not fit; the message names the first
            tensor that differs.
    """
    with open_weights(path) as stored:
        wanted = network_variables(backbone, stored.legacy)
        found, by_order = best_part(stored, wanted)
        problem = _difference(found, wanted, by_order)
        if problem:
            raise WeightsError(
                f"Weights file '{path}' does not fit backbone '{spec.name}': {problem}.{_guess(found, spec)} "
                f"Nothing was loaded. Expected the {spec.parameters:,} weights of {spec.builder or spec.name} without its "
                "classifier (include_top=False)."
            )
        tensors = list(found.values()) if by_order else [found[name] for name in wanted]
        arrays = [tensor.read() for tensor in tensors]
    for tensor, array in zip(tensors, arrays, strict=True):
        if not np.all(np.isfinite(array)):
            raise WeightsError(
                f"Weights file '{path}' holds values that are not finite, in tensor '{tensor.name}'. "
                "Nothing was loaded; take an undamaged file."
            )
    for variable, array in zip(wanted.values(), arrays, strict=True):
        variable.assign(array.astype(variable.dtype))
    for layer in walk_layers(backbone):
        # Normalization keeps what it computes with beside its weights.
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _difference(
    found: dict[str, StoredTensor], wanted: dict[str, keras.Variable], by_order: bool
) -> str | None:
    pairs = (
        list(zip(found.items(), wanted.items(), strict=False))
        if by_order
        else [((name, found[name]), (name, variable)) for name, variable in wanted.items() if name in found]
    )
    missing = list(wanted)[len(found) :] if by_order else [name for name in wanted if name not in found]
    extra = list(found)[len(wanted) :] if by_order else [name for name in found if name not in wanted]
    for (name, tensor), (_, variable) in pairs:
        if tensor.shape != tuple(variable.shape):
            return (
                f"tensor '{name}' has shape {tensor.shape} in the file, {tuple(variable.shape)} in the "
                f"network ({variable.path})"
            )
    if missing:
        return f"{len(missing)} tensors of the network are not in the file, first '{wanted[missing[0]].path}'"
    if extra:
        return f"{len(extra)} tensors of the file are not in the network, first '{found[extra[0]].name}'"
    return None


def _guess(found: dict[str, StoredTensor], spec: BackboneSpec) -> str:
    parameters = sum(math.prod(tensor.shape) for tensor in found.values())
    names = [name for name in backbone_names() if get_backbone(name).parameters == parameters]
    if spec.name in names or not names:
        return f" The file holds {parameters:,} weights."
    return f" By its {parameters:,} weights it is a file of {' or '.join(names)}."


def weights_at_hand(spec: BackboneSpec, side: int, weights: str, weights_dir: str | None = None) -> bool:
    """True if `load_weights` would find a file without a download; it is not compared with the network."""
    if weights == "none" or (weights == "pretrained" and (spec.bundled_weights or spec.file)):
        return True
    if spec.in_folder:
        try:
            return (find_folder(spec, weights, _dir_of(weights_dir)) / WEIGHTS_FILE).is_file()
        except WeightsError:
            return False
    if weights not in KEYWORDS:
        return Path(weights).expanduser().is_file()
    published = _published(spec, side)
    folder = _dir_of(weights_dir)
    if folder:
        return any((Path(folder).expanduser() / name).is_file() for name in _names(spec, published))
    # Where keras.utils.get_file keeps what it downloaded.
    keras_home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    return (keras_home / "models" / published.file).is_file()


def weights_folder(spec: BackboneSpec, asked: BackboneRecipe) -> Path | None:
    """The folder with a backbone's weights and what lies beside them, or with all of a preset; None where they are another file, or none are asked for and none ship.

    Raises:
        WeightsError: there is none; the message says where it can be had.
    """
    if spec.file:
        return preset_folder(spec.file) if is_preset(spec.file) else Path(spec.file).expanduser().parent
    if not spec.in_folder or (asked.weights == "none" and not spec.bundled_weights):
        return None
    weights = "pretrained" if asked.weights == "none" else asked.weights
    return find_folder(spec, weights, _dir_of(asked.weights_dir))


def _dir_of(weights_dir: str | None) -> str | None:
    return weights_dir or os.environ.get(WEIGHTS_DIR_VARIABLE)


def _published(spec: BackboneSpec, side: int) -> PublishedWeights:
    return next((file for file in spec.published if file.image_size == side), spec.published[0])


def _names(spec: BackboneSpec, published: PublishedWeights) -> list[str]:
    """File names to look for in a folder, the best first."""
    names = [*_file_names(published), *_file_names(spec.published[0])]
    return list(dict.fromkeys([*names, f"{spec.name}_notop.weights.h5", f"{spec.name}.weights.h5"]))


def _imagenet_file(backbone: keras.Model, spec: BackboneSpec, weights_dir: str | None) -> Path:
    published = _published(spec, int(backbone.inputs[0].shape[1]))
    folder = _dir_of(weights_dir)
    if not folder:
        return _download(spec, published)
    names = _names(spec, published)
    for name in names:
        path = Path(folder).expanduser() / name
        if path.is_file():
            return path
    raise WeightsError(
        f"No ImageNet weights for backbone '{spec.name}' in '{folder}' (backbone.weights_dir or "
        f"{WEIGHTS_DIR_VARIABLE}). Expected one of these files: {', '.join(names)}. "
        f"Keras publishes them at {published.url}"
    )


def _file_names(published: PublishedWeights) -> tuple[str, str]:
    return published.file, published.url.rsplit("/", 1)[-1]


def _download(spec: BackboneSpec, published: PublishedWeights) -> Path:
    # Without a limit a firewall that drops packets makes this wait for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            path = keras.utils.get_file(
                published.file, published.url, cache_subdir="models", file_hash=published.md5 or None
            )
    except Exception as error:
        raise WeightsError(
            f"The ImageNet weights of backbone '{spec.name}' could not be downloaded: {published.url} "
            f"({error}). Without a network, fetch the file '{published.file}' elsewhere and pass it with "
            "--weights FILE, or put it into a folder named by --weights-dir or the environment variable "
            f"{WEIGHTS_DIR_VARIABLE}; --weights none starts from random weights."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return Path(path)


def _check_is_file(path: Path, weights: str) -> None:
    if path.is_dir():
        raise WeightsError(
            f"backbone.weights = '{weights}' is a folder. Expected a file; a folder with Keras' published "
            "files is passed as backbone.weights_dir."
        )
    if not path.is_file():
        raise WeightsError(
            f"There is no weights file '{path}'.{nearest(weights, KEYWORDS)} Expected pretrained, imagenet, "
            "none, or the path of a .weights.h5, .h5 or .keras file."
        )


def sha256_of(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
