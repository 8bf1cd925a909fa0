"""The one model: raw pixels in, logits out, all of Keras' own layers.

Preprocessing is part of the graph and the backbone is one nested layer, so that the saved file needs
nothing but Keras to be loaded, and nothing about the network has to be remembered beside it.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass

import keras
import numpy as np

from kerastl.backbones import BackboneSpec
from kerastl.errors import UserError
from kerastl.model.graph import alone, inputs_like
from kerastl.model.heads import Head, make_head
from kerastl.model.own import load_own
from kerastl.recipe.schema import HeadRecipe

# keras.applications.efficientnet divides by these roots only under `weights="imagenet"`, because the
# weights were trained with that slip (tensorflow#49930). Without the layer the published weights see
# inputs of the wrong scale.
EFFICIENTNET_MODULE = "efficientnet"
EFFICIENTNET_RESCALING = tuple(1.0 / math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Network:
    """A whole model and its parts, which share all their weights.

    Attributes:
        spec: Which backbone.
        model: Named inputs, of images float32 [batch, side, side, 3] RGB 0..255 -> float32 [batch, classes] logits.
        backbone: Preprocessed inputs, in the same order -> last activation; one nested layer of `model`.
        pooling: Last activation -> float32 [batch, features], a layer-like functional model.
        head: float32 [batch, features] pooled features -> logits.
        normalization: The head's first layer, which standardises pooled features; never trained.
        logits: The head's last layer.
    """

    spec: BackboneSpec
    model: keras.Model
    backbone: keras.Model
    pooling: keras.Model
    head: keras.Model
    normalization: keras.layers.Normalization
    logits: keras.layers.Dense

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return int(self.model.inputs[0].shape[1])

    @property
    def feature_count(self) -> int:
        """Length of the pooled feature vector."""
        return int(self.head.inputs[0].shape[1])


def build_backbone(spec: BackboneSpec, image_size: int) -> keras.Model:
    """The network without its classifier, with random weights, under the current dtype policy.

    Args:
        spec: Which network.
        image_size: Side of its input in pixels.

    Returns:
        Functional model named after the spec, with the weights of its file if it is one of one's own: preprocessed [batch, side, side, 3] -> activation
        [batch, height, width, `spec.feature_channels`].

    Raises:
        UserError: The size is below what the network allows.
    """
    if image_size < spec.min_image_size:
        raise UserError(
            f"backbone.image_size = {image_size} is too small for backbone '{spec.name}': "
            f"expected at least {spec.min_image_size} pixels (its default is {spec.image_size})."
        )
    if spec.file:
        return load_own(spec.file, image_size)
    builder = getattr(keras.applications, spec.builder)
    shape = (image_size, image_size, 3)
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


def preprocess(spec: BackboneSpec, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """What the backbone expects, from RGB pixels 0..255: float32 of the same shape.

    Keras' own function for the network, traced into the graph (FACTS: bit-equal, and it reloads).
    """
    if spec.file:
        return pixels  # its graph begins with whatever it needs
    module = importlib.import_module(f"keras.applications.{spec.module}")
    return module.preprocess_input(pixels, data_format="channels_last")


def build_model(
    backbone: keras.Model,
    spec: BackboneSpec,
    head: HeadRecipe,
    class_count: int,
    feature_mean: np.ndarray | None = None,
    feature_variance: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    seed: int = 0,
    adjustable: bool = False,
) -> Network:
    """Preprocessing, backbone and a new head as one model.

    Args:
        backbone: From `build_backbone`, of the same spec.
        spec: Which backbone it is.
        head: What stands on it.
        class_count: Number of logits.
        feature_mean: Mean of each pooled feature over the training images, float [features]; together
            with `feature_variance` it standardises them. Both absent: passed on as they are.
        feature_variance: Variance of each pooled feature, float [features].
        bias: Logits that the head begins with, float [classes]; zeros without it.
        seed: Source of the hidden layers' initial weights and of dropout; the last layer's kernel begins at zero.
        adjustable: Whether `kerastl.model.heads.renew_head` may change the head's dropout; see `make_head`.

    Returns:
        The network and its parts; nothing is frozen yet, see `kerastl.model.freezing`.
    """
    # A network of one's own names its inputs; those of keras.applications are numbered by the process.
    inputs = inputs_like(backbone.inputs, None if spec.file else "pixels")
    features = backbone(alone([preprocess(spec, each) for each in inputs]))
    parts: Head = make_head(
        head,
        tuple(features.shape[1:]),
        features.dtype,
        class_count,
        feature_mean,
        feature_variance,
        bias,
        seed,
        adjustable,
    )
    logits = parts.apply(parts.pooling(features))
    return Network(
        spec=spec,
        model=keras.Model(alone(inputs), logits, name=f"{spec.name}_classifier"),
        backbone=backbone,
        pooling=parts.pooling,
        head=parts.model,
        normalization=parts.normalization,
        logits=parts.logits,
    )
