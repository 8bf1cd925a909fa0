"""A head of one's own layers, from a `.keras` file: what stands between the pooled features and the logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError
from kerastl.model.own import reason_of, save_whole
from kerastl.recipe.schema import HeadRecipe


def feature_count(channels: int, pooling: str) -> int:
    """Length of the pooled feature vector of a last activation with so many channels."""
    return channels * 2 if pooling == "avgmax" else channels


def save_layers(own: Sequence[keras.Layer], spec: BackboneSpec, recipe: HeadRecipe, path: Path) -> str:
    """Write layers that are handed over in Python into a file; returns its path.

    Args:
        own: the layers in their order, new ones.
        spec: the backbone that they will stand on.
        recipe: of the head, for its pooling.
        path: of the file.

    Raises:
        UserError: they are no layers that take pooled features, or Keras cannot load them again.
    """
    if isinstance(own, keras.Layer) or not all(isinstance(layer, keras.Layer) for layer in own):
        raise UserError(f"head = {own!r}: expected a list of Keras layers")
    count = feature_count(spec.feature_channels, recipe.pooling)
    try:
        head = keras.Sequential([keras.Input((count,), dtype="float32"), *own], name="own_layers")
    except Exception as error:  # whatever layers that do not fit make Keras raise
        raise UserError(
            f"The layers of head do not take pooled features [batch, {count}]: {str(error).strip().splitlines()[0]}"
        ) from error
    save_whole(head, path, "The head")
    return str(path)


def load_layers(path: str, features: int, class_count: int) -> list[keras.Layer]:
    """The layers in a file, new in each call, up to one that gives a logit for each class.

    Args:
        path: of the file.
        features: length of the pooled feature vector.
        class_count: number of logits.

    Raises:
        UserError: they cannot be loaded, take other features, or end in probabilities.
    """
    try:
        head = keras.saving.load_model(Path(path).expanduser(), compile=False)
        takes, gives, found = head.input_shape, head.output_shape, list(head.layers)
    except Exception as error:  # whatever a file that is none makes Keras raise
        raise UserError(
            f"head.layers = '{path}': Keras cannot load it: {reason_of(error)} Expected what "
            "kerastl.build(head=[...]) writes; layers of one's own have to be registered and imported before"
        ) from error
    if not isinstance(head, keras.Sequential) or tuple(takes) != (None, features) or len(gives) != 2:
        raise UserError(
            f"head.layers = '{path}': layers from {takes} to {gives}. Expected a Sequential model from [batch, {features}], as this "
            "backbone and pooling give them, to [batch, any]"
        )
    last = found[-1]
    ends = getattr(last, "activation", None)
    if isinstance(last, layers.Softmax) or (gives[-1] == class_count and ends in _PROBABILITIES):
        raise UserError(
            f"head.layers: the last layer, '{last.name}', gives probabilities. Expected logits: leave out its activation, or the layer"
        )
    return found


def gives_logits(layer: keras.Layer, class_count: int) -> bool:
    """True for a layer like the one that is put last otherwise: Dense, as many units as classes, without activation."""
    return (
        isinstance(layer, layers.Dense)
        and layer.units == class_count
        and (layer.activation is keras.activations.linear and layer.compute_dtype == "float32")
    )


_PROBABILITIES = (keras.activations.softmax, keras.activations.sigmoid)
