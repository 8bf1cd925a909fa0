"""Facts for a model card, from a run that goes on or from the folder of one that has ended."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kerastl.backbones import PRESET_PREFIX, is_own
from kerastl.export.card import weights_licence
from kerastl.modality import modality_of
from kerastl.recipe import Settings, recipe_to_toml
from kerastl.run import Run

# Keys that hold a path, or may.
_PATHS = (
    ("data", "source"), ("data", "data_dir"), ("data", "vocabulary"), ("backbone", "name"), ("backbone", "weights"), ("backbone", "weights_dir"), ("head", "layers"), ("cache", "directory")
)  # fmt: skip


def model_facts(
    recipe: Settings, run: Run, class_names: Sequence[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts of a trained model before it is exported, under the keys of a version's `model.json`.

    Args:
        recipe: resolved.
        run: in which it was trained.
        class_names: in the order of its logits.
        found: what was measured, under the keys of report.json; what is not there is not known.

    Returns:
        Plain values, in which no folder stands: a path may tell who made the model, and where. `test` and `validation` are
        metrics as `Metrics.to_dict` gives them, None where they were not measured; `trust` is that of report.json.
    """
    backbone, weights = recipe.backbone.name, recipe.backbone.weights
    if is_own(backbone) and weights == "pretrained":
        weights = backbone  # they lie in the same file
    modality = modality_of(recipe)
    backbone, origin = without_folders(backbone), found.get("weights_origin", "")
    return {
        "run": run.name,
        "recipe": recipe.name,
        "backbone": backbone,
        "weights": {"origin": origin, "licence": weights_licence(origin, backbone, without_folders(weights))},
        "embedding": _embedding(recipe),
        "modality": modality.name,
        **modality.settings(),
        "task": recipe.task.name,
        "classes": list(class_names),
        "data": {
            "source": without_folders(recipe.data.source),
            "fingerprint": found.get("fingerprint", ""),
            "counts": dict(found.get("counts", {})),
            "unreadable_count": found.get("unreadable_count", 0),
        },
        "test": found.get("metrics"),
        "validation": found.get("validation_metrics"),
        "trust": found.get("trust"),
        "warnings": [_without_places(text, recipe) for text in found.get("warnings", ())],
    }


def measured(run: Run) -> Mapping[str, Any]:
    """Content of a run's report; of one that was stopped, and never tested, facts of its data."""
    if run.report_json.is_file():
        report: Mapping[str, Any] = json.loads(run.report_json.read_text(encoding="utf-8"))
        return report
    data = json.loads(run.data_json.read_text(encoding="utf-8"))
    known = {key: data[key] for key in ("fingerprint", "counts", "warnings") if key in data}
    return {**known, "unreadable_count": len(data.get("unreadable", ()))}


def published_recipe(recipe: Settings) -> str:
    """The recipe as TOML for whoever gets the model: of paths, which tell users and machines, the last parts alone."""
    changes: dict[str, dict[str, str]] = {"data": {}, "backbone": {}, "head": {}, "cache": {}}
    for part, name in _PATHS:
        if value := getattr(getattr(recipe, part), name):
            changes[part][name] = without_folders(value)
    parts = {part: dataclasses.replace(getattr(recipe, part), **values) for part, values in changes.items()}
    heading = "Of paths the last part alone; recipe.toml in the folder of the run has them whole."
    return recipe_to_toml(dataclasses.replace(recipe, **parts), heading)


def without_folders(place: str) -> str:
    """The last part of a path, also of a preset's; whatever is none (`digits`, `tfds:NAME`, `pretrained`) as it is."""
    if place.startswith(PRESET_PREFIX):
        return PRESET_PREFIX + without_folders(place.removeprefix(PRESET_PREFIX))
    if ":" in place.split("/", 1)[0] and place[1:3] != ":\\":
        return place
    return place.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or place


def _embedding(recipe: Settings) -> dict[str, Any]:
    """The outputs of the backbone that the head reads, and their pooling."""
    head = recipe.head
    # A run writes down what it chose; one of an earlier version, which had nothing to choose, reads the last output.
    outputs = ["backbone"] if head.features in ("auto", "last") else head.features.split(",")
    pooling = "none" if recipe.task.per_step else "avg" if head.pooling == "auto" else head.pooling
    return {"outputs": outputs, "pooling": pooling}


def _without_places(text: str, recipe: Settings) -> str:
    """A warning without the folders that lead to what it names."""
    values = [getattr(getattr(recipe, part), name) for part, name in _PATHS]
    known = [value.removeprefix(PRESET_PREFIX) for value in values if value]
    places = [place for path in known for place in (os.path.abspath(os.path.expanduser(path)), path)]
    for place in sorted(filter(lambda place: "/" in place, places), key=len, reverse=True):
        text = text.replace(place, without_folders(place))
    return re.sub(r"(?<![\w:/.~])[~/][^\s'\"`,;:]*/", "", text)  # other absolute paths, not URLs
