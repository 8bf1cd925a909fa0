"""Tasks of Label Studio's JSON and JSON_MIN exports, as objects with a text and its spans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastl.data.examples import listed

# Keys of the spans of a text: one's own and Prodigy's, Doccano's, that of its older versions, spaCy's and that of its newer ones.
SPAN_KEYS = ("spans", "label", "labels", "entities")


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
    if "annotations" not in task and "completions" not in task:
        return _smaller_task(task)
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


def _smaller_task(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """A task of JSON_MIN, or of one's own list: its spans have the name of the control that marked them, such as `label` or `ner`."""
    marked = [key for key, value in task.items() if _is_marked(value)]
    if len(marked) > 1:
        raise ValueError(
            f"spans in {listed(marked)}; expected one key with spans. Export the controls one by one."
        )
    if (
        marked
        and marked[0] not in SPAN_KEYS
        and not any(isinstance(task.get(key), list) for key in SPAN_KEYS)
    ):
        others = {key: value for key, value in task.items() if key not in (marked[0], *SPAN_KEYS)}
        return {**others, "spans": task[marked[0]]}
    return None if "text" in task and not any(task.get(key) is not None for key in SPAN_KEYS) else dict(task)


def _is_marked(value: Any) -> bool:
    """True for a list of regions with labels."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and {"start", "labels"} <= set(each) for each in value)
    )


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
