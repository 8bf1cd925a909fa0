"""What a published version says of itself: a model card for people, and the same as JSON for programs.

The card follows the sections of Mitchell et al. 2019 (Model Cards for Model Reporting, arXiv:1810.03993) as far as
a program can fill them. What it cannot know, such as the licence of a weights file, it says that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kerastl.backbones import get_backbone
from kerastl.encoded import NOT_SERVED, SERVED_WORDS
from kerastl.export.compare import CheckResult
from kerastl.export.versions import CARD_FILE, FACTS_FILE
from kerastl.run import environment
from kerastl.task import task_named
from kerastl.wording import counted, escape, interval, share, table

FORMAT = 1
_FEW_IMAGES = 20
_MOST_CLASSES = 50


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a trained model before it is exported, as plain values.

    Attributes:
        run: name of the run's folder.
        recipe: name of the recipe.
        backbone: name of the pretrained network.
        weights: what the recipe asked for: `pretrained`, `imagenet`, `none` or the name of a file.
        weights_origin: where they came from: `bundled`, `imagenet`, `file` or `none`; empty where it is not known.
        image_size: side of the network's input in pixels.
        resize: `stretch`, `crop` or `pad`.
        class_names: in the order of the probabilities.
        task: name of the task; see `kerastl.task.TASKS`.
        data_source: as the recipe names it, of a path the last part: the rest may tell who made the model, and where.
        fingerprint: of the data.
        counts: split → number of examples.
        unreadable_count: images that were left out.
        test: metrics of the test split as `Metrics.to_dict` gives them; None if the model was never tested.
        validation: the same of the validation split.
        warnings: what the reader of the figures should know.
        trust: temperatures, calibration error and threshold, under the keys of report.json; None if not measured.
    """

    run: str
    recipe: str
    backbone: str
    weights: str
    weights_origin: str
    image_size: int
    resize: str
    class_names: tuple[str, ...]
    task: str
    data_source: str
    fingerprint: str
    counts: Mapping[str, int]
    unreadable_count: int
    test: Mapping[str, Any] | None
    validation: Mapping[str, Any] | None
    warnings: tuple[str, ...] = ()
    trust: Mapping[str, Any] | None = None


def describe_version(facts: ModelFacts, name: str, parity: CheckResult, warmup_count: int) -> dict[str, str]:
    """The files that tell what a version is.

    The version's number stands in neither: it is known when its folder gets its name.

    Args:
        facts: of the trained model.
        name: under which it is published.
        parity: what the check of the exported model found.
        warmup_count: how many requests with images of the data the version carries.

    Returns:
        File name in `assets.extra/` → content.
    """
    exported = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {"python": environment()["python"], **environment()["versions"]}
    record = {
        "format": FORMAT,
        "name": name,
        "exported": exported,
        "run": facts.run,
        "recipe": facts.recipe,
        "backbone": facts.backbone,
        "weights": {"origin": facts.weights_origin, "licence": weights_licence(facts)},
        "image_size": facts.image_size,
        "resize": facts.resize,
        "task": facts.task,
        "classes": list(facts.class_names),
        "data": {
            "source": facts.data_source,
            "fingerprint": facts.fingerprint,
            "counts": dict(facts.counts),
            "unreadable_count": facts.unreadable_count,
        },
        "test": _figures(facts.test),
        "validation": _figures(facts.validation),
        "trust": facts.trust,
        "warnings": list(facts.warnings),
        "parity": {
            "largest_difference": parity.largest_difference,
            "tolerance": parity.tolerance,
            "image_count": parity.count,
            "signatures": list(parity.signatures),
        },
        "warmup_request_count": warmup_count,
        "versions": versions,
    }
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return {FACTS_FILE: text, CARD_FILE: _card(facts, record)}


def weights_licence(facts: ModelFacts) -> str:
    """The licence of the pretrained weights, or that it is unknown and where to look."""
    if facts.weights_origin == "none":
        return "no pretrained weights were used"
    if facts.weights_origin == "bundled":
        return "Apache-2.0, with kerastl (kerastl/weights/README.md says what they were trained on)"
    if facts.weights_origin == "imagenet":
        published = get_backbone(facts.backbone).published
        where = f" at {published[0].url}" if published else ""
        return f"unknown to kerastl: check it with their publisher before you pass the model on. Keras has them{where}"
    return f"unknown to kerastl: check it with whoever made `{facts.weights}` before you pass the model on"


def _figures(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The figures of the whole split; those of the classes stand in the run's report."""
    if metrics is None:
        return None
    return {key: value for key, value in metrics.items() if key not in ("classes", "confusion")}


def _card(facts: ModelFacts, record: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{split} {count:,}" for split, count in facts.counts.items()) or "not recorded"
    task = task_named(facts.task)
    parity, versions = record["parity"], record["versions"]
    parts = [
        f"# {record['name']}",
        "",
        "## What it is",
        "",
        f"- {'Classifies' if task.exclusive else 'Labels'} images: {len(facts.class_names):,} "
        f"{'classes' if task.exclusive else 'labels'} ({_some(facts.class_names)}), in the order of "
        "`assets/labels.txt`",
        f"- Network: `{facts.backbone}` at {facts.image_size} pixels (`{facts.resize}`), transferred with recipe "
        f"`{facts.recipe}`, which `recipe.toml` holds; run `{facts.run}`",
        f"- Exported: {record['exported']}",
        f"- Takes {SERVED_WORDS} files, of an animation the first frame; {NOT_SERVED}",
        f"- Signatures: {', '.join(f'`{name}`' for name in parity['signatures'])}",
        "",
        "## Data",
        "",
        f"- Source: `{facts.data_source}`; their licence is not recorded",
        f"- Images: {counts}; {facts.unreadable_count:,} unreadable and left out",
        f"- Fingerprint: `{facts.fingerprint}`",
        "",
        "## How well it does",
        "",
        *_result(facts),
        *_trust(facts),
        "",
        "## Limits",
        "",
        *_limits(facts),
        "",
        "## Weights",
        "",
        f"- Pretrained weights: {facts.weights_origin or 'origin not recorded'}",
        f"- Their licence: {record['weights']['licence']}",
        "",
        "## Checks and versions",
        "",
        f"- Reloaded in a process without kerastl, it gave the trained model's probabilities on {counted(parity['image_count'], 'image')}; "
        f"largest difference {parity['largest_difference']:.2g}, {parity['tolerance']:.2g} allowed",
    ]
    if record["warmup_request_count"]:
        parts.append(
            f"- `tf_serving_warmup_requests` holds {record['warmup_request_count']} requests with images of the data as they "
            "are; delete it before you pass on a model whose images are private"
        )
    parts.append(
        "- Exported with " + ", ".join(f"{name} {given}" for name, given in versions.items() if given)
    )
    return "\n".join(parts) + "\n"


def _result(facts: ModelFacts) -> list[str]:
    if facts.test is None:
        return ["It was never tested: the run was stopped, and nothing is known of its accuracy."]
    low, high = facts.test["accuracy_interval"]
    between = interval(low, high, facts.test.get("groups"))
    what = task_named(facts.task).accuracy_title.capitalize()
    lines = [
        f"{what} on {counted(facts.test['count'], 'image')} that were used for nothing else: **{facts.test['accuracy']:.3f}** "
        f"({between})."
    ]
    for key, title in (("macro_f1", "Macro F1"), ("log_loss", "log-loss")):
        if facts.test.get(key) is not None:
            lines[0] += f" {title} {facts.test[key]:.3f}."
    if facts.validation:
        lines[0] += (
            f" On {facts.validation['count']:,} validation images, which chose the epochs: {facts.validation['accuracy']:.3f}."
        )
    classes = facts.test["classes"]
    # Of many classes those first of which something is known.
    rows = (
        sorted(classes, key=lambda row: row["support"] == 0)[:_MOST_CLASSES]
        if len(classes) > _MOST_CLASSES
        else classes
    )
    cells = [
        [
            escape(row["name"]),
            f"{row['support']:,}",
            *(share(row[key]) for key in ("precision", "recall", "f1")),
        ]
        for row in rows
    ]
    lines += ["", *table(["class", "test images", "precision", "recall", "F1"], cells, left=(0,))]
    if len(facts.test["classes"]) > len(rows):
        lines += [
            "",
            f"The other {len(facts.test['classes']) - len(rows):,} classes stand in the run's report.",
        ]
    return lines


def _trust(facts: ModelFacts) -> list[str]:
    if facts.trust is None:
        return []
    found, accepted = facts.trust["reliability"], facts.trust["test_accepted"]
    text = f"Expected calibration error on test: {found['error_after']:.3f}"
    if facts.trust["calibration"]["kind"] != "none":
        text += f", {found['error_before']:.3f} before its probabilities were calibrated on validation"
    lines = ["", f"{text}."]
    if accepted:
        low, high = accepted["precision_interval"] or (0.0, 0.0)
        right = (
            "none"
            if accepted["precision"] is None
            else f"{accepted['precision']:.3f} ({low:.3f} to {high:.3f})"
        )
        lines[1] += (
            f" Answers are `accepted` from a probability of {facts.trust['threshold']:.4f} on: {accepted['accepted']:,} of "
            f"{accepted['count']:,} test images, of which {right} are right."
        )
    return lines


def _limits(facts: ModelFacts) -> list[str]:
    lines = [
        "- The figures hold for images like those of the source. Another camera, place or time may do worse."
    ]
    if task_named(facts.task).exclusive:
        lines.append("- It names one of its classes for every image, also where none of them is shown.")
    if facts.test:
        scarce = [row["name"] for row in facts.test["classes"] if row["support"] < _FEW_IMAGES]
        if scarce:
            lines.append(
                f"- Fewer than {_FEW_IMAGES} test images stand behind the figures of {_some(scarce)}: read them with care."
            )
    return lines + [f"- {warning}" for warning in facts.warnings]


def _some(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(escape(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
