"""Loads the backbone that a recipe names, with its pretrained weights."""

from __future__ import annotations

import keras

from kerastl.backbones import get_backbone
from kerastl.modality import modality_of
from kerastl.model.build import build_backbone
from kerastl.model.weights import LoadedWeights, load_weights
from kerastl.progress import Progress
from kerastl.recipe import Settings


def load_backbone(recipe: Settings, progress: Progress = Progress()) -> tuple[keras.Model, LoadedWeights]:
    """The recipe's backbone with its pretrained weights.

    Raises:
        WeightsError: the weights cannot be found, or do not fit the backbone.
    """
    spec, modality = get_backbone(recipe.backbone.name), modality_of(recipe)
    backbone = build_backbone(spec, modality.spec)
    loaded = load_weights(backbone, spec, recipe.backbone.weights, recipe.backbone.weights_dir)
    progress.note(f"Backbone {spec.name}, weights: {loaded.origin}")
    if spec.file and spec.preprocessing == "identity":
        low, high = modality.layout["range"]
        progress.warn(
            f"{spec.file} takes {' and '.join(modality.spec)} as they are, {low}..{high}: it holds no Rescaling or Normalization layer. If it was trained on "
            "other values, save it with a keras.layers.Rescaling in front"
        )
    return backbone, loaded
