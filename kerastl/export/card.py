"""Description of a published version: a model card for people, and the same as JSON for programs.

The card follows the sections of Mitchell et al. 2019 (Model Cards for Model Reporting, arXiv:1810.03993) as far as
a program can fill them; its words stand in `card.md.j2`. What it cannot know, such as the licence of a weights file, it says
that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kerastl.backbones import get_backbone
from kerastl.export.compare import CheckResult
from kerastl.export.versions import CARD_FILE, FACTS_FILE
from kerastl.markdown import render
from kerastl.modality import modality_named
from kerastl.run import environment
from kerastl.task import task_named
from kerastl.wording import interval

FORMAT = 1
_FEW_EXAMPLES = 20
_MOST_CLASSES = 50


def describe_version(
    known: Mapping[str, Any], name: str, result: CheckResult, warmup_count: int
) -> dict[str, str]:
    """The files that describe a version.

    The version's number stands in neither: it is known when its folder gets its name.

    Args:
        known: of the trained model, see `kerastl.export.facts.model_facts`.
        name: under which it is published.
        result: of the check of the exported model.
        warmup_count: number of requests with examples of the data that the version carries.

    Returns:
        File name in `assets.extra/` → content.
    """
    record = {
        "format": FORMAT,
        "name": name,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        **known,
        "parity": {
            "largest_difference": result.largest_difference,
            "tolerance": result.tolerance,
            "example_count": result.count,
            "signatures": list(result.signatures),
        },
        "warmup_request_count": warmup_count,
        "versions": {"python": environment()["python"], **environment()["versions"]},
    }
    # the figures of the classes stand in the run's report
    short = {split: _without_classes(record[split]) for split in ("test", "validation")}
    text = json.dumps({**record, **short}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return {FACTS_FILE: text, CARD_FILE: _card(record)}


def weights_licence(origin: str, backbone: str, weights: str) -> str:
    """The licence of pretrained weights, or that it is unknown and where to look, as Markdown.

    Args:
        origin: `bundled`, `imagenet`, `file` or `none`; empty where it is not known.
        backbone: name of the network.
        weights: what the recipe asked for, of a path the last part.
    """
    if origin == "none":
        return "no pretrained weights were used"
    if origin == "bundled":
        return "Apache-2.0, with kerastl (kerastl/weights/README.md says what they were trained on)"
    if origin == "imagenet":
        published = get_backbone(backbone).published
        where = f" at {published[0].url}" if published else ""
        return f"unknown to kerastl: check it with their publisher before you pass the model on. Keras has them{where}"
    return f"unknown to kerastl: check it with the publisher of `{weights}` before you pass the model on"


def _without_classes(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return (
        None
        if metrics is None
        else {key: value for key, value in metrics.items() if key not in ("classes", "confusion", "entities")}
    )


def _entity_f1(test: Mapping[str, Any] | None) -> str:
    """The strict F1 of entities with its interval; empty where there is none."""
    found = test and test.get("entities")
    if not found or found["f1"] is None:
        return ""
    between = found["f1_interval"]
    return f"**{found['f1']:.3f}**" + (
        f" ({interval(between[0], between[1], found['groups'])})" if between else ""
    )


def _card(record: Mapping[str, Any]) -> str:
    test, task, kind = record["test"], task_named(record["task"]), modality_named(record["modality"])
    classes = test["classes"] if test else []
    low, high = test["accuracy_interval"] if test else (0.0, 1.0)
    # of many classes those first of which something is known
    known_first = (
        sorted(classes, key=lambda row: row["support"] == 0) if len(classes) > _MOST_CLASSES else classes
    )
    return render(
        Path(__file__).with_name("card.md.j2"),
        **record,
        exclusive=task.exclusive,
        per_step=task.per_step,
        entity_f1=_entity_f1(test),
        accuracy_title=task.accuracy_title.capitalize(),
        interval=interval(low, high, test.get("groups")) if test else "",
        shown=known_first[:_MOST_CLASSES],
        scarce=[row["name"] for row in classes if row["support"] < _FEW_EXAMPLES],
        few_examples=_FEW_EXAMPLES,
        kind=kind,
        settings=kind.at(record),
    )
