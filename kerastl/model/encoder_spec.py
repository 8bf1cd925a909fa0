"""Backbones whose weights are a folder: building them from what the registry says, and finding and loading that folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from kerastl.backbones import BUNDLED_WEIGHTS_FOLDER, ENCODER, STATIC, BackboneSpec, spec_from_dict
from kerastl.errors import UserError, WeightsError
from kerastl.modality import InputSpec
from kerastl.model.encoder_config import CONFIG_FILE, EncoderConfig, encoder_config, read_json
from kerastl.model.encoder_weights import WEIGHTS_FILE, load_folder
from kerastl.model.encoders import LENGTH, PIECES, build_encoder
from kerastl.model.graph import trained_parameters, unfreeze_points
from kerastl.model.static_embeddings import (
    MODEL_TYPE,
    StaticConfig,
    build_static,
    load_static,
    read_static_config,
)

BUILDERS = (ENCODER, STATIC)


def build_of_folder(spec: BackboneSpec, inputs: Mapping[str, InputSpec]) -> keras.Model:
    """An encoder, or static embeddings, with random weights, under the current dtype policy.

    Args:
        spec: Which one; its builder is one of `BUILDERS`.
        inputs: Its named inputs with their shapes, as the modality decodes them.

    Raises:
        UserError: They are others, or more steps than the network has positions for.
    """
    if {*inputs} != {PIECES, LENGTH}:
        raise UserError(
            f"Backbone '{spec.name}' takes {PIECES} and {LENGTH}, not {' and '.join(inputs)}: it is for another kind of example. "
            f"Expected data whose kind is {spec.modality}."
        )
    most, steps = dict(spec.arguments).get("positions"), inputs[PIECES].shape[0]
    if isinstance(most, int) and steps > most:
        raise UserError(
            f"{steps} pieces an example are too many for backbone '{spec.name}', which has {most} positions. Expected {most} at most."
        )
    values: dict[str, Any] = dict(spec.arguments)
    if spec.builder == STATIC:
        return build_static(StaticConfig(**values), spec.name)
    return build_encoder(EncoderConfig(**values), spec.name)


def load_from_folder(backbone: keras.Model, spec: BackboneSpec, folder: Path) -> Path:
    """Give a backbone the weights of a Hugging Face folder; see `load_folder` and `load_static`.

    Returns:
        Path of the file that was read.
    """
    values: dict[str, Any] = dict(spec.arguments)
    if spec.builder == STATIC:
        return load_static(backbone, StaticConfig(**values), folder)
    return load_folder(backbone, EncoderConfig(**values), folder)


def find_folder(spec: BackboneSpec, weights: str, weights_dir: str | None) -> Path:
    """The folder that `backbone.weights` means.

    Args:
        spec: Which backbone.
        weights: `pretrained`, or the path of a folder.
        weights_dir: A folder of such folders, each under the backbone's name or the one that it was published under; not
            looked into where the weights ship with kerastl.

    Raises:
        WeightsError: There is none; the message says where it can be had.
    """
    if weights == "pretrained" and spec.bundled_weights:
        return BUNDLED_WEIGHTS_FOLDER / spec.bundled_weights
    page = spec.published[0].url if spec.published else ""
    if weights not in ("pretrained", "imagenet"):
        folder = Path(weights).expanduser()
        if folder.is_dir():
            return folder
        raise WeightsError(
            f"backbone.weights = '{weights}' is no folder. Expected pretrained, none, or a Hugging Face folder with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE} for backbone '{spec.name}'."
        )
    if weights == "imagenet":
        raise WeightsError(
            f"backbone.weights = 'imagenet': there are none for '{spec.name}'. Expected pretrained, none or a folder."
        )
    names = list(dict.fromkeys([spec.name, page.rsplit("/", 1)[-1]]))
    folders = [Path(weights_dir).expanduser() / name for name in names] if weights_dir else []
    for folder in folders:
        if folder.is_dir():
            return folder
    where = f" in '{weights_dir}'" if weights_dir else ""
    raise WeightsError(
        f"There are no weights of backbone '{spec.name}' at hand{where}. Fetch the folder {page} (with `hf download` or in a browser: "
        f"{CONFIG_FILE}, {WEIGHTS_FILE} and its vocabulary) and pass it as backbone.weights, or put it as '{names[0]}' into the folder "
        "that backbone.weights_dir or the environment variable KERASTL_WEIGHTS_DIR names."
    )


def measured(spec: BackboneSpec) -> dict[str, Any]:
    """The fields of a spec that are found on the network itself: its size, and where it can be unfrozen from."""
    backbone = build_of_folder(spec, {PIECES: InputSpec((1,), "int32"), LENGTH: InputSpec((), "int32")})
    points = unfreeze_points(backbone)
    return {
        "parameters": backbone.count_params(),
        "feature_channels": int(backbone.outputs[0].shape[-1]),
        "unfreeze_points": points,
        "trained_parameters": trained_parameters(backbone, points),
    }


def draft_of(name: str, config: EncoderConfig | StaticConfig, **named: Any) -> BackboneSpec:
    """A spec of such a backbone before it is measured.

    Args:
        name: Of the backbone.
        config: Its sizes.
        named: Other fields of the spec.
    """
    values = {
        "name": name,
        "builder": STATIC if isinstance(config, StaticConfig) else ENCODER,
        "parameters": 0,
        "feature_channels": 0,
        "unfreeze_points": (),
        "trained_parameters": (),
        "arguments": asdict(config).items(),
        "length": LENGTH,
    }
    return spec_from_dict(values | named)


def read_folder(folder: Path) -> EncoderConfig | StaticConfig:
    """The sizes of the encoder, or of the static embeddings, in a Hugging Face folder.

    Raises:
        UserError: It is neither, or holds another network.
    """
    values = read_json(folder / CONFIG_FILE)
    if values.get("model_type") == MODEL_TYPE:
        return read_static_config(folder)
    return encoder_config(values, f"'{folder / CONFIG_FILE}'")
