"""LiteRT and ONNX: formats for devices and other runtimes, which take pixels and have no place for labels.

Encoded images cannot go in: neither LiteRT nor ONNX has the operations that decode JPEG and PNG. So whoever asks
such a model has to decode and resize as training did, and what that means stands in a small file beside it:

    exported/<format>/<name>/<version>/
        model.tflite or model.onnx    pixels [n, s, s, 3] -> probabilities [n, k]
        labels.txt                    a class a line, in the order of the probabilities
        model.json                    input, output, size, resize, labels, threshold, and what the check found

Not in `saved_models/`: TensorFlow Serving watches those folders, and a version there never changes once it is visible.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.errors import UserError
from kerastl.export.serving import Serving

SAVED_MODEL = "saved_model"
INFO_FILE = "model.json"


@dataclass(frozen=True)
class Format:
    """A format beside the SavedModel.

    Attributes:
        name: as the command line takes it, and the name of its folder.
        file: name of the model's file.
        runtime: which of `runtime_process`'s runtimes answers with it.
        packages: modules that conversion and check import.
        extra: of kerastl, which installs them.
        input_dtype: `float32`, or `uint8` where all arithmetic is in integers; RGB 0..255 in either.
    """

    name: str
    file: str
    runtime: str
    packages: tuple[str, ...]
    extra: str
    input_dtype: str

    @property
    def is_integer(self) -> bool:
        """Whether it computes in integers of eight bits, and so differs from the model by more than rounding."""
        return self.input_dtype == "uint8"


FORMATS = {
    each.name: each
    for each in (
        Format("litert", "model.tflite", "litert", ("ai_edge_litert",), "litert", "float32"),
        Format("litert-int8", "model.tflite", "litert", ("ai_edge_litert",), "litert", "uint8"),
        Format("onnx", "model.onnx", "onnx", ("onnxruntime", "onnx", "tf2onnx"), "onnx", "float32"),
    )
}


def missing_packages(format: Format) -> list[str]:
    """Which of its packages are not installed."""
    return [package for package in format.packages if importlib.util.find_spec(package) is None]


def require_packages(format: Format) -> None:
    """Raise UserError, with the command that installs them, unless all packages of a format are there."""
    missing = missing_packages(format)
    if missing:
        raise UserError(
            f"The format '{format.name}' needs {', '.join(missing)}, which cannot be imported here. Install what it "
            f"needs with: pip install 'kerastl[{format.extra}]'"
        )


def describe(format: Format, serving: Serving) -> dict[str, Any]:
    """What `model.json` says before the check."""
    size, count = serving.image_size, len(serving.class_names)
    return {
        "format": format.name,
        "file": format.file,
        "precision": "int8" if format.is_integer else "float32",
        "input": {
            "name": "pixels",
            "dtype": format.input_dtype,
            "shape": [-1, size, size, 3],
            "channels": "RGB",
            "range": [0, 255],
            "image_size": size,
            "resize": serving.resize,
            "significant_bits": serving.significant_bits,
        },
        "output": {
            "name": "probabilities",
            "dtype": format.input_dtype,
            "shape": [-1, count],
            "activation": serving.task.activation,
        },
        "labels": list(serving.class_names),
        "threshold": serving.threshold,
    }


def read_info(folder: Path) -> dict[str, Any]:
    """What `model.json` says."""
    return json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `model.json`; only into a folder that nobody sees yet."""
    text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / INFO_FILE).write_text(text, encoding="utf-8", newline="\n")
