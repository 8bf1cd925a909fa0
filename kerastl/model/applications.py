"""Networks of `keras.applications`: their builders, their preprocessing, and one slip that their weights were trained with."""

from __future__ import annotations

import importlib
import math

import keras

from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError
from kerastl.modality.image import PIXELS

INPUT_NAME = PIXELS
# keras.applications.efficientnet divides by these roots only under `weights="imagenet"`, because the
# weights were trained with that slip (tensorflow#49930). Without the layer the published weights see
# inputs of the wrong scale.
EFFICIENTNET_MODULE = "efficientnet"
EFFICIENTNET_RESCALING = tuple(1.0 / math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225))


def check_size(spec: BackboneSpec, shape: tuple[int, ...]) -> None:
    """UserError if the input (side, side, 3) is smaller than the network allows."""
    if shape[0] < spec.min_image_size:
        raise UserError(
            f"backbone.image_size = {shape[0]} is too small for backbone '{spec.name}': "
            f"expected at least {spec.min_image_size} pixels (its default is {spec.image_size})."
        )


def build_application(spec: BackboneSpec, shape: tuple[int, ...]) -> keras.Model:
    """The network without its classifier, with random weights, under the current dtype policy.

    Args:
        spec: which one.
        shape: of its input, (side, side, 3).
    """
    builder = getattr(keras.applications, spec.builder)
    backbone = builder(include_top=False, weights=None, input_shape=shape, **dict(spec.arguments))
    if spec.module == EFFICIENTNET_MODULE:
        backbone = _with_published_scale(backbone)
    # Some builders look their blocks up by the name they are passed, so it is given afterwards.
    return keras.Model(backbone.inputs[0], backbone.outputs[0], name=spec.name)


def _with_published_scale(backbone: keras.Model) -> keras.Model:
    def call(layer: keras.Layer, *args: object, **kwargs: object) -> object:
        output = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            output = keras.layers.Rescaling(list(EFFICIENTNET_RESCALING), name="published_scale")(output)
        return output

    return keras.models.clone_model(backbone, call_function=call)


def preprocess(spec: BackboneSpec, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Returns what the backbone expects, of keras.applications from RGB pixels 0..255: float32 of the same shape.

    Keras' own function for the network, traced into the graph: equal to the bit, and it reloads.
    """
    if not spec.module:
        return inputs  # its graph begins with whatever it needs
    module = importlib.import_module(f"keras.applications.{spec.module}")
    return module.preprocess_input(inputs, data_format="channels_last")
