"""The one model: decoded inputs in, logits out, all of Keras' own layers.

Preprocessing is part of the graph and the backbone is one nested layer, so that the saved file needs
nothing but Keras to be loaded, and nothing about the network has to be remembered beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kerastl.backbones import BackboneSpec
from kerastl.modality import InputSpec, only
from kerastl.model.applications import INPUT_NAME, build_application, check_size, preprocess
from kerastl.model.encoder_spec import BUILDERS, build_of_folder
from kerastl.model.graph import alone, cut_points, inputs_like
from kerastl.model.head_input import LAST, HeadInput, head_input, joined
from kerastl.model.heads import Head, make_head
from kerastl.model.kerashub import PresetBackbone
from kerastl.model.own import load_own
from kerastl.recipe.schema import HeadRecipe


@dataclass(frozen=True, eq=False)
class Network:
    """A whole model and its parts, which share all their weights.

    Attributes:
        spec: Which backbone.
        model: Named inputs, decoded and cast to float32 -> float32 [batch, classes] logits; of a head that answers each step
            [batch, steps, classes].
        backbone: Preprocessed inputs, in the same order -> last activation; one nested layer of `model`.
        reads: Which pooled outputs of the backbone the head stands on.
        head: float32 [batch, features] pooled features -> logits.
        normalization: The head's first layer, which standardises pooled features; never trained.
        logits: The head's last layer.
    """

    spec: BackboneSpec
    model: keras.Model
    backbone: keras.Model
    reads: HeadInput
    head: keras.Model
    normalization: keras.layers.Normalization
    logits: keras.layers.Dense

    @property
    def feature_count(self) -> int:
        """Length of the pooled feature vector."""
        return int(self.head.inputs[0].shape[1])

    def apply_head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Logits of pooled features [batch, features], or of those of each step [batch, steps, features]."""
        if len(features.shape) == 2:
            return self.head(features)
        for layer in self.head.layers[1:]:  # the model itself takes one step an example
            features = layer(features)
        return features


def build_backbone(spec: BackboneSpec, inputs: Mapping[str, InputSpec]) -> keras.Model:
    """The network without its classifier, with random weights, under the current dtype policy.

    Args:
        spec: Which network.
        inputs: Its named inputs with their shapes, as the modality decodes them; a network of `keras.applications` or of one's own
            takes them as float32.

    Returns:
        Functional model named after the spec, with the weights of its file if it is one of one's own: preprocessed inputs -> last
        activation [batch, ..., `spec.feature_channels`].

    Raises:
        UserError: They are smaller or larger than the network allows, or others than it takes, or a file cannot be loaded.
    """
    if spec.builder in BUILDERS:
        return build_of_folder(spec, inputs)
    if spec.length is None:
        check_size(spec, only(inputs).shape)
    return load_own(spec.file, inputs) if spec.file else build_application(spec, only(inputs).shape)


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
    reads: HeadInput | None = None,
) -> Network:
    """Preprocessing, backbone and a new head as one model.

    Args:
        backbone: From `build_backbone`, of the same spec.
        spec: Which backbone it is.
        head: What stands on it.
        class_count: Number of logits.
        feature_mean: Mean of each pooled feature over the training examples, float [features]; together
            with `feature_variance` it standardises them. Both absent: passed on as they are.
        feature_variance: Variance of each pooled feature, float [features].
        bias: Logits that the head begins with, float [classes]; zeros without it.
        seed: Source of the hidden layers' initial weights and of dropout; the last layer's kernel begins at zero.
        adjustable: Whether `kerastl.model.heads.renew_head` may change the head's dropout; see `make_head`.
        reads: What the head stands on, where it was chosen on the features; as the recipe says without it.

    Returns:
        The network and its parts; nothing is frozen yet, see `kerastl.model.freezing`.
    """
    # Those of keras.applications are numbered by the process, all others are named.
    inputs = inputs_like(backbone.inputs, INPUT_NAME if spec.module else None)
    reads = head_input(head, spec, backbone) if reads is None else reads
    preprocessed = alone([preprocess(spec, each) for each in inputs])
    activations = dict(zip(reads.names, with_joins(backbone, reads)(preprocessed), strict=True))
    features = joined(reads.pool(activations, length_of(spec, inputs)))
    parts: Head = make_head(
        head, int(features.shape[-1]), class_count, feature_mean, feature_variance, bias, seed, adjustable
    )
    logits = parts.apply(features)
    return Network(
        spec=spec,
        model=keras.Model(alone(inputs), logits, name=f"{spec.name}_classifier"),
        backbone=backbone,
        reads=reads,
        head=parts.model,
        normalization=parts.normalization,
        logits=parts.logits,
    )


def length_of(spec: BackboneSpec, inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor | None:
    """The one of a network's inputs that says how many steps are real; None where all are."""
    return next((each for each in inputs if spec.length and each.name == spec.length), None)


def with_joins(backbone: keras.Model, reads: HeadInput) -> Callable[[Any], list[keras.KerasTensor]]:
    """A backbone as one layer that gives what a head reads: preprocessed inputs -> activations, in the order of `reads.names`."""
    if reads.names == (LAST,):
        return lambda inputs: [backbone(inputs)]
    if isinstance(backbone, PresetBackbone):
        return backbone.giving(reads.names)
    points = cut_points(backbone)
    tensors = [backbone.outputs[0] if name == LAST else points[name].tensor for name in reads.names]
    return keras.Model(alone(backbone.inputs), tensors, name=backbone.name)
