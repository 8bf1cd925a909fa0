"""From a trained model to a published one, which agreed with it on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kerastl.data.examples import Split
from kerastl.errors import ExportError
from kerastl.export.card import ModelFacts, describe_version
from kerastl.export.parity import Expected, check_parity, expected_answers, tolerance_for
from kerastl.export.publish import ExportedModel, publish
from kerastl.export.serving import Serving
from kerastl.export.signatures import write_saved_model
from kerastl.export.warmup import write_warmup
from kerastl.recipe import Recipe, recipe_to_toml

# Of the validation split, and as many of the test split: enough for every signature in seconds.
PARITY_IMAGES = 16
# Activations kept in sixteen bits move a probability by a thousandth or so; those of other weights by all of it.
FEATURE_TOLERANCE = {"float32": 0.05, "mixed_bfloat16": 0.2}


@dataclass(frozen=True)
class Trained:
    """What training knew of the images that an export is checked on.

    Attributes:
        pixels: uint8 [n, s, s, 3], as they were decoded for training.
        probabilities: [n, k], from the features that the model was trained on.
    """

    pixels: np.ndarray
    probabilities: np.ndarray


def serving_of(recipe: Recipe, class_names: Sequence[str], threshold: float | None) -> Serving:
    """How a recipe's model is served."""
    size = recipe.backbone.image_size
    assert size
    return Serving(tuple(class_names), size, recipe.data.resize, recipe.data.multi_label, threshold)


def export_network(
    model: keras.Model,
    recipe: Recipe,
    serving: Serving,
    images: Sequence[bytes],
    precision: str,
    models_dir: Path | str,
    name: str,
    trained: Trained | None = None,
    *,
    facts: ModelFacts,
    keep: int | None = None,
    warmup: bool = True,
) -> ExportedModel:
    """Publish a trained model after it agreed, in a fresh process, with itself in memory on real images.

    Args:
        model: the whole model.
        recipe: resolved.
        serving: how it is served.
        images: encoded images to compare on.
        precision: `float32` or `mixed_bfloat16`.
        models_dir: the folder that TensorFlow Serving watches.
        name: of the model.
        trained: what training knew of these images, if known.
        facts: what its model card tells.
        keep: how many versions of it stay; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside it, which hold some of the images.

    Raises:
        ExportError: the exported model, or what it was trained on, does not agree with the model.
    """
    expected = expected_answers(model, images, serving)
    if trained is not None:
        _check_trained(trained, expected, FEATURE_TOLERANCE[precision])
    warmup_count = 0

    def build(path: Path) -> None:
        nonlocal warmup_count
        write_saved_model(model, serving, path)
        warmup_count = write_warmup(path, name, images) if warmup else 0

    return publish(
        build,
        lambda path: check_parity(path, images, expected, serving, tolerance=tolerance_for(precision)),
        models_dir,
        name,
        extra_files={"recipe.toml": recipe_to_toml(recipe)},
        describe=lambda parity: describe_version(facts, name, parity, warmup_count),
        keep=keep,
    )


def _check_trained(trained: Trained, expected: Expected, tolerance: float) -> None:
    others = np.flatnonzero((trained.pixels != expected.pixels).any(axis=(1, 2, 3)))
    difference = float(np.abs(trained.probabilities - expected.probabilities).max(initial=0.0))
    if len(others):
        problem = f"{len(others)} of {len(expected.pixels)} images are decoded otherwise than they were for training"
    elif difference > tolerance:
        problem = (
            f"On {len(expected.pixels)} images the model's probabilities differ by up to {difference:.3f} from those of "
            f"the features that it was trained on; at most {tolerance} is allowed"
        )
    else:
        return
    raise ExportError(
        f"{problem}. Nothing was published. Remove what is kept with `kerastl cache clear` and fit again"
    )


def encoded_at(split: Split, positions: np.ndarray) -> list[bytes]:
    """The original bytes of some images."""
    return list(split.examples.encoded(split.indices[positions]).as_numpy_iterator())
