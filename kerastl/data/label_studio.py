"""Tasks of Label Studio's JSON and JSON_MIN exports, as objects with a text and its spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastl.data.examples import listed


def task_of(task: Any) -> dict[str, Any] | None:
    """The text of a task, and its spans; None where it is not annotated.

    Regions of other kinds, such as relations or choices for the whole text, are no entities and passed over. Of several annotations
    the one that is marked as ground truth counts (https://labelstud.io/guide/export, "Label Studio JSON format").

    Args:
        task: an item of the exported list.

    Returns:
        `text` and `spans`, each with `start`, `end`, `labels` and, where it is there, `text`.

    Raises:
        ValueError: it is none, or says two things; the text says what is expected.

    Example:
        >>> task_of({"data": {"text": "Rome"}, "annotations": []}) is None
        True
    """
    if not isinstance(task, Mapping):
        raise ValueError("an object is expected, with 'data' and 'annotations'.")
    if "annotations" not in task and "completions" not in task:  # JSON_MIN, or one's own list
        spans = next((task[key] for key in ("label", "labels", "spans", "entities") if key in task), None)
        return None if spans is None and "text" in task else dict(task)
    data = task.get("data")
    text = _text_of(data if isinstance(data, Mapping) else {})
    annotations = [
        each
        for each in task.get("annotations", task.get("completions")) or ()
        if isinstance(each, Mapping) and not each.get("was_cancelled")
    ]
    annotations = [each for each in annotations if each.get("ground_truth")] or annotations
    regions = [_regions(each.get("result") or ()) for each in annotations]
    if not regions:
        return None
    if any(_sorted(each) != _sorted(regions[0]) for each in regions):
        raise ValueError(
            f"{len(regions)} annotations that differ. Expected one, or one that is marked as ground truth."
        )
    return {"text": text, "spans": regions[0]}


def _text_of(data: Mapping[str, Any]) -> str:
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    key = "text" if "text" in texts else min(texts) if len(texts) == 1 else None
    if key is None:
        raise ValueError(f"no 'text' in its 'data', but {listed(sorted(map(str, data)), 8) or 'nothing'}.")
    return texts[key]


def _regions(result: Any) -> list[dict[str, Any]]:
    values = [
        each["value"]
        for each in result
        if isinstance(each, Mapping) and isinstance(each.get("value"), Mapping)
    ]
    return [
        {key: value[key] for key in ("start", "end", "labels", "text") if key in value}
        for value in values
        if "labels" in value and "start" in value
    ]


def _sorted(regions: list[dict[str, Any]]) -> list[str]:
    return sorted(f"{each.get('start')} {each.get('end')} {each.get('labels')}" for each in regions)
