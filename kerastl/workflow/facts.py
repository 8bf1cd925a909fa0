"""What a model card tells, from a run that goes on or from the folder of one that has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kerastl.export.card import ModelFacts
from kerastl.recipe import Recipe
from kerastl.run import Run


def model_facts(recipe: Recipe, run: Run, class_names: Sequence[str], found: Mapping[str, Any]) -> ModelFacts:
    """The facts of a trained model.

    Args:
        recipe: resolved.
        run: in which it was trained.
        class_names: in the order of its logits.
        found: what was measured, under the keys of report.json; what is not there is not known.
    """
    assert recipe.backbone.name and recipe.backbone.image_size
    return ModelFacts(
        run=run.name,
        recipe=recipe.name or "recipe.toml",
        backbone=recipe.backbone.name,
        weights=recipe.backbone.weights,
        weights_origin=found.get("weights_origin", ""),
        image_size=recipe.backbone.image_size,
        resize=recipe.data.resize,
        class_names=tuple(class_names),
        multi_label=recipe.data.multi_label,
        data_source=recipe.data.source,
        fingerprint=found.get("fingerprint", ""),
        counts=found.get("counts", {}),
        unreadable_count=found.get("unreadable_count", 0),
        test=found.get("metrics"),
        validation=found.get("validation_metrics"),
        warnings=tuple(found.get("warnings", ())),
        trust=found.get("trust"),
    )


def measured(run: Run) -> Mapping[str, Any]:
    """What a run's report says; of one that was stopped, and never tested, what is known of its data."""
    if run.report_json.is_file():
        report: Mapping[str, Any] = json.loads(run.report_json.read_text(encoding="utf-8"))
        return report
    data = json.loads(run.data_json.read_text(encoding="utf-8"))
    known = {key: data[key] for key in ("fingerprint", "counts", "warnings") if key in data}
    return {**known, "unreadable_count": len(data.get("unreadable", ()))}
