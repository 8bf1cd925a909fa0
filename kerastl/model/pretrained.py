"""Loads the backbone that a recipe names, with its pretrained weights."""

from __future__ import annotations

import keras

from kerastl.backbones import get_backbone
from kerastl.model.build import build_backbone
from kerastl.model.weights import LoadedWeights, load_weights
from kerastl.progress import Progress
from kerastl.recipe import Settings


def load_backbone(recipe: Settings, progress: Progress = Progress()) -> tuple[keras.Model, LoadedWeights]:
    """The recipe's backbone with its pretrained weights.

    Raises:
        WeightsError: the weights cannot be found, or do not fit the backbone.
    """
    spec = get_backbone(recipe.backbone.name)
    backbone = build_backbone(spec, recipe.backbone.image_size)
    loaded = load_weights(backbone, spec, recipe.backbone.weights, recipe.backbone.weights_dir)
    progress.note(f"Backbone {spec.name}, weights: {loaded.origin}")
    if spec.file and spec.preprocessing == "identity":
        progress.warn(
            f"{spec.file} takes pixels as they are, 0..255: it holds no Rescaling or Normalization layer. If it was trained on "
            "other values, save it with a keras.layers.Rescaling in front"
        )
    return backbone, loaded
