"""What a unit says of itself, with a checksum: a wrong number there would do as much harm as a wrong row."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST, JOURNAL = "manifest.json", "journal.jsonl"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of all that it says."""
    return {**content, "seal": _seal(content)}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest of a unit says; None where there is none, or where it is damaged or of another format."""
    try:
        return _unsealed((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of a unit's journal: what it is, and its shards; up to the first that is damaged or cut off."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError), (folder / JOURNAL).open(encoding="utf-8") as file:
        for line in file:
            lines.append(_unsealed(line))
    return lines


def _unsealed(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("seal", None) != _seal(content):
        raise ValueError("damaged, or of another format")
    return content


def _seal(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
