"""Which TFDS sets lie prepared on this machine, told from their folders: listing must not take 5 s."""

from __future__ import annotations

import json
import os
from pathlib import Path

INFO_FILE = "dataset_info.json"


def tfds_folder(data_dir: str | None) -> Path:
    """The folder where TFDS looks: the given one, else $TFDS_DATA_DIR, else its own default."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared_datasets(data_dir: str | None = None) -> list[tuple[str, str]]:
    """Which TFDS sets are prepared on this machine; looks at folders alone, without TFDS or TensorFlow.

    Args:
        data_dir: where to look; TFDS_DATA_DIR or ~/tensorflow_datasets without it.

    Returns:
        (name, detail) sorted by name: ('emnist/balanced', '3.1.0: train 112,800, test 18,800'), a line
        for each version. Not each of them is one for image classification.
    """
    found = []
    root = tfds_folder(data_dir)
    for depth in ("*/*", "*/*/*"):
        for file in root.glob(f"{depth}/{INFO_FILE}"):
            version = file.parent.name
            if all(number.isdigit() for number in version.split(".")) and version.count(".") == 2:
                name = file.parent.parent.relative_to(root).as_posix()
                found.append((name, f"{version}: {_stored_splits(file)}"))
    return sorted(found)


def _stored_splits(info_file: Path) -> str:
    try:
        splits = json.loads(info_file.read_text(encoding="utf-8")).get("splits", [])
        sizes = [
            f"{split['name']} {sum(int(n) for n in split.get('shardLengths', [])):,}" for split in splits
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{INFO_FILE} cannot be read"
    return ", ".join(sizes) or "no splits"
