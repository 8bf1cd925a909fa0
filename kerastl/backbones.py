"""The registry of pretrained networks: what each is called, costs and can be cut at.

Strings and numbers only, read from `backbones.json` beside this module, so that listing and
validating need no TensorFlow. `tools/backbone_table.py` writes that file from the networks
themselves, and a test over every backbone proves that it is true.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.errors import UserError, nearest

REGISTRY_FILE = Path(__file__).with_name("backbones.json")
BUNDLED_WEIGHTS_FOLDER = Path(__file__).with_name("weights")
OWN_SUFFIX = ".keras"
# Before the folder or the name of a KerasHub preset.
PRESET_PREFIX = "kerashub:"
# Kinds of examples, by the names of their modalities.
IMAGE, TEXT = "image", "text"
# Builders of networks for texts; those for images are functions of keras.applications.
ENCODER, STATIC = "encoder", "static"
# The backbone of a recipe that names none, and that of one which names data that ship with kerastl.
DEFAULT_BACKBONES = {IMAGE: "resnet50", TEXT: "minilm_l6"}
BUNDLED_DATA = {"digits": "mobilenet_025", "definitions": "minilm_static"}
_opener: Callable[[str], BackboneSpec] | None = None


@dataclass(frozen=True)
class PublishedWeights:
    """One of Keras' published ImageNet weight files, without the classifier, or a Hugging Face folder's.

    Attributes:
        image_size: Side of the images it was trained on, where Keras publishes several; 0 otherwise.
        file: Name under which Keras caches it, or in the folder.
        url: Where Keras downloads it from; its last part may differ from `file`. Of a folder, its page.
        md5: Checksum that Keras verifies; empty where Keras states none.
    """

    image_size: int
    file: str
    url: str
    md5: str = ""


@dataclass(frozen=True)
class BackboneSpec:
    """A network that features can be taken from.

    Attributes:
        name: What recipes call it, `resnet50`.
        builder: Function in `keras.applications`, `ResNet50`; `encoder` or `static` for texts.
        module: Its module, whose `preprocess_input` the network expects, `resnet50`; empty for those that have none.
        preprocessing: What that does to 0..255 RGB: `caffe` (BGR minus the ImageNet mean), `tf` (-1..1),
            `torch` (ImageNet mean and deviation) or `identity` (the network rescales by itself). Of texts: `uncased` (lower
            case, without accents) or `cased`.
        image_size: Side in pixels that it was published for; 0 for texts.
        min_image_size: Smallest side that the builder allows without its classifier; 0 for texts.
        parameters: Number of weights without the classifier.
        feature_channels: Channels of its last activation.
        unfreeze_points: `backbone` (nothing unfrozen), points from the output down to the input, `input` (all
            unfrozen); trainable parameters strictly grow along it.
        trained_parameters: For each of these points, the weights that train above it, BatchNorm's left out.
        arguments: What the builder is passed besides, as (keyword, value) pairs; of an encoder the fields of
            `kerastl.model.encoder_config.EncoderConfig`.
        bundled_weights: File or folder of pretrained weights in `kerastl/weights`, if any ships with kerastl.
        published: Keras' own ImageNet files; the first is for the default size.
        max_image_size: Largest side that it takes; None for any.
        file: Path of a network of one's own, or the name of a preset; None for those of the registry.
        length: Name of the input that says how many steps of an example are real, of a network of sequences that are filled up
            to one length; pooling leaves the others out. None where there is nothing to leave out.
        modality: Name of the kind of examples that it takes.
        stepped: Whether the outputs of all its joins are steps, [batch, steps, channels], so that the first can be read; they are
            wherever there is a `length`.
    """

    name: str
    builder: str
    module: str
    preprocessing: str
    image_size: int
    min_image_size: int
    parameters: int
    feature_channels: int
    unfreeze_points: tuple[str, ...]
    trained_parameters: tuple[int, ...]
    arguments: tuple[tuple[str, float | int | str | bool], ...] = ()
    bundled_weights: str | None = None
    published: tuple[PublishedWeights, ...] = ()
    max_image_size: int | None = None
    file: str | None = None
    length: str | None = None
    modality: str = IMAGE
    stepped: bool = False

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "stepped", True)

    @property
    def in_folder(self) -> bool:
        """True if its weights are a folder, with whatever else it needs beside them."""
        return self.builder in (ENCODER, STATIC)

    def point_of_share(self, share: float) -> str:
        """The unfreeze point above which about this share (0..1) of the network's weights trains.

        Of an encoder those of its layers: half of its weights lie in a table of pieces, and a step looks few of them up.
        """
        points = self.unfreeze_points
        # Below the lowest point of a network of texts lie its tables, whatever that point is called.
        whole = len(points) - (2 if self.modality == TEXT and len(points) > 2 else 1)
        wanted = share * self.trained_parameters[whole]
        nearest_index = min(
            range(1, len(self.unfreeze_points)),
            key=lambda index: abs(self.trained_parameters[index] - wanted),
        )
        return self.unfreeze_points[nearest_index]


@functools.cache
def _registry() -> dict[str, BackboneSpec]:
    entries = json.loads(REGISTRY_FILE.read_text(encoding="utf-8"))
    return {entry["name"]: spec_from_dict(entry) for entry in entries}


def spec_from_dict(entry: dict[str, Any]) -> BackboneSpec:
    """The spec that one entry of `backbones.json` describes."""
    values = {"module": "", "image_size": 0, "min_image_size": 0, **entry}
    values["unfreeze_points"] = tuple(values["unfreeze_points"])
    values["trained_parameters"] = tuple(values["trained_parameters"])
    values["arguments"] = tuple((key, value) for key, value in values.get("arguments", ()))
    values["published"] = tuple(PublishedWeights(**file) for file in values.get("published", ()))
    return BackboneSpec(**values)


def backbone_names(modality: str | None = IMAGE) -> tuple[str, ...]:
    """Names of all backbones that take such examples, or of those of every kind for None; the ones worth trying first in front."""
    return tuple(name for name, spec in _registry().items() if modality in (None, spec.modality))


def modality_of_backbone(name: str) -> str:
    """Name of the kind of examples that a backbone takes; one of one's own is not looked into before TensorFlow is there.

    Raises:
        UserError: There is no such backbone.
    """
    return IMAGE if is_own(name) and _opener is None else get_backbone(name).modality


def is_file_name(name: str) -> bool:
    """True if a backbone's name is the path of a file with a network of one's own."""
    return name.endswith(OWN_SUFFIX)


def is_preset(name: str) -> bool:
    """True if a backbone's name is that of a KerasHub preset; see `kerastl.presets`."""
    return name.startswith(PRESET_PREFIX)


def is_own(name: str) -> bool:
    """True if a backbone is none of the registry: a file with a network of one's own, or a preset."""
    return is_file_name(name) or is_preset(name)


def set_opener(opener: Callable[[str], BackboneSpec]) -> None:
    """Say what looks into a network of one's own, or a preset: `kerastl.model.own`, since it needs TensorFlow."""
    global _opener
    _opener = opener


def get_backbone(name: str) -> BackboneSpec:
    """The backbone called `name`, or the one in the `.keras` file or the preset of that name.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    if is_own(name) and _opener is not None:
        return _opener(name)
    registry = _registry()
    if name not in registry:
        raise UserError(
            f"Unknown backbone '{name}'.{nearest(name, registry)} Expected a .keras file, a preset (kerashub:FOLDER) or one of: {', '.join(registry)}."
        )
    return registry[name]
