"""The start of a training: its frozen prefix, the features that it reads, and a network with a fresh head."""

from __future__ import annotations

import keras
import numpy as np

from kerastl.backbones import get_backbone
from kerastl.data.examples import label_counts
from kerastl.features.extract import Wanted
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features
from kerastl.model.build import Network, build_model
from kerastl.model.cut import ACTIVATION, POOLED, cut
from kerastl.recipe import Settings
from kerastl.training.two_phase import finetunes, unfreeze_point

STATISTICS_BATCH = 4096
Statistics = tuple[np.ndarray, np.ndarray]


def frozen_part(backbone: keras.Model, recipe: Settings, class_count: int) -> Frozen:
    """The frozen prefix: what lies below the recipe's unfreeze point, as a function of inputs."""
    # The head's standardisation is made of the features, so they come from a network without it.
    network = build_model(backbone, get_backbone(recipe.backbone.name), recipe.head, class_count)
    engine = recipe.backbone.engine
    # A clock chooses otherwise at another time.
    engine = "tensorflow" if engine == "auto" and recipe.deterministic else engine
    return Frozen(cut(network, unfreeze_point(recipe)), backbone, engine)


def wanted_features(recipe: Settings) -> Wanted:
    """Which features a recipe's phases train on."""
    return Wanted(
        pooling=recipe.head.pooling,
        outputs=(POOLED, ACTIVATION) if finetunes(recipe.finetune_phase) else (POOLED,),
        finetune_epochs=recipe.finetune_phase.epochs,
    )


def network_on(
    backbone: keras.Model, recipe: Settings, class_count: int, statistics: Statistics, bias: np.ndarray | None
) -> Network:
    """A backbone with a fresh head.

    Args:
        backbone: of the recipe, with its weights.
        recipe: resolved.
        class_count: number of logits.
        statistics: by which the head standardises features, from `feature_statistics`.
        bias: what the logits begin with, from `first_bias`.
    """
    spec = get_backbone(recipe.backbone.name)
    return build_model(backbone, spec, recipe.head, class_count, *statistics, bias, recipe.seed)


def first_bias(recipe: Settings, train: Features) -> np.ndarray | None:
    """The logits that the head begins with, those of the constant guess; None where classes are balanced.

    Features are standardised, so the last bias alone can hold how frequent classes are, and at the small rates of a head it
    hardly moves: of a class of one percent it would have to reach 4.6, and in the whole phase it moves by 0.14 with
    1,000 examples. Karpathy 2019 ("A recipe for training neural networks") and Lin et al. 2017 ("Focal loss") begin so, too.
    """
    if recipe.head_phase.class_weights == "balanced":
        return None
    views = train.views
    return recipe.task.first_bias(label_counts(views.classes, views.class_count), train.count)


def feature_statistics(features: Features) -> Statistics:
    """Mean and variance of each pooled feature over all training views, float32 [features].

    The mean variance is added to each: dividing a feature that hardly varies by its own deviation alone makes
    its noise as loud as the signal of others. On pooled ResNet50 features of 1,824 CIFAR-10 examples, logistic
    regression reached 0.846 on fully standardised features and 0.856 so.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for view in range(features.view_count):
        for start in range(0, features.count, STATISTICS_BATCH):
            positions = np.arange(start, min(start + STATISTICS_BATCH, features.count))
            rows = features.pooled_batch(positions, view).astype(np.float64)
            # Chan et al. 1979: batches are merged without losing digits, whatever their mean.
            difference = rows.mean(axis=0) - mean
            total = count + len(rows)
            squares = squares + rows.var(axis=0) * len(rows) + difference**2 * (count * len(rows) / total)
            mean = mean + difference * (len(rows) / total)
            count = total
    variance = squares / count
    return mean.astype(np.float32), (variance + variance.mean()).astype(np.float32)
