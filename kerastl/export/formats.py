"""LiteRT and ONNX: formats for devices and other runtimes, which take decoded examples and have no place for labels.

Raw examples cannot go in: neither LiteRT nor ONNX has the operations that decode them. So a client of such a model has to
decode as training did, and what that means stands in a small file beside it:

    exported/<format>/<name>/<version>/
        model.tflite or model.onnx    the network's inputs [n, …] -> probabilities [n, k]
        labels.txt                    a class a line, in the order of the probabilities
        format.json                   inputs and how they are decoded, output, labels, threshold, and the result of the check
        vocab.txt                     of texts: the pieces by their numbers

Not in `saved_models/`: TensorFlow Serving watches those folders, and a version there never changes once it is visible.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastl.errors import UserError
from kerastl.export.signature import LABELS_FILE, Serving, write_labels
from kerastl.modality import Batch, only

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SAVED_MODEL = "saved_model"
INFO_FILE = "format.json"


@dataclass(frozen=True)
class Format:
    """A format of an exported model.

    Attributes:
        name: as the command line takes it, and the name of its folder.
        file: name of the model's file.
        runtime: which runtime of `ask_process` answers with it.
        packages: modules that conversion and check import.
        extra: of kerastl, which installs them.
        dtype: of probabilities, and of inputs that are quantities: `float32`, or `uint8` where all arithmetic is in integers.
    """

    name: str
    file: str
    runtime: str
    packages: tuple[str, ...]
    extra: str
    dtype: str

    @property
    def is_integer(self) -> bool:
        """True if it computes in integers of eight bits, and so differs from the model by more than rounding."""
        return self.dtype == "uint8"


SERVED = Format(SAVED_MODEL, "saved_model.pb", SAVED_MODEL, (), "", "float32")
"""The SavedModel, which TensorFlow Serving loads."""

FORMATS = {
    each.name: each
    for each in (
        Format("litert", "model.tflite", "litert", ("ai_edge_litert",), "litert", "float32"),
        Format("litert-int8", "model.tflite", "litert", ("ai_edge_litert",), "litert", "uint8"),
        Format("onnx", "model.onnx", "onnx", ("onnxruntime", "onnx", "tf2onnx"), "onnx", "float32"),
    )
}


def missing_packages(format: Format) -> list[str]:
    """Names of its packages that are not installed."""
    return [package for package in format.packages if importlib.util.find_spec(package) is None]


def require_packages(format: Format) -> None:
    """Raise UserError, with the command that installs them, unless all packages of a format are there."""
    missing = missing_packages(format)
    if missing:
        raise UserError(
            f"The format '{format.name}' needs {', '.join(missing)}, which cannot be imported here. Install what it "
            f"needs with: pip install 'kerastl[{format.extra}]'"
        )


def refusal(format: Format, serving: Serving) -> str:
    """Message that a format cannot hold such a model, or take its inputs; '' where it can."""
    modality = serving.modality
    if serving.task.per_step:
        return (
            f"The model answers a {modality.noun} word by word, and other formats, which begin with {' and '.join(modality.spec)}, hold no "
            f"words. Expected a model with one answer a {modality.noun}; `kerastl export` without --format writes a SavedModel."
        )
    wide = [name for name, each in modality.spec.items() if each.dtype != format.dtype]
    if not format.is_integer or not wide:
        return ""
    others = " or ".join(name for name, each in FORMATS.items() if not each.is_integer)
    return (
        f"The format '{format.name}' takes inputs of eight bits, and {' and '.join(wide)} of a {modality.noun} are larger numbers. "
        f"Choose {others}."
    )


def describe(format: Format, serving: Serving, specs: Sequence[tf.TensorSpec]) -> dict[str, Any]:
    """Content of `format.json` before the check; `specs` are those of the inputs of the model in float32."""
    modality, count = serving.modality, len(serving.class_names)
    inputs = [
        {
            "name": each.name,
            "dtype": format.dtype if format.is_integer else each.dtype.name,
            "shape": [-1, *each.shape[1:]],
        }
        for each in specs
    ]
    return {
        "modality": modality.name,
        "format": format.name,
        "file": format.file,
        "precision": "int8" if format.is_integer else "float32",
        "input": {
            **(inputs[0] if len(inputs) == 1 else {"tensors": inputs}),
            **modality.layout,
            **modality.settings(),
        },
        "output": {
            "name": "probabilities",
            "dtype": format.dtype,
            "shape": [-1, count],
            "activation": serving.task.activation,
        },
        "labels": list(serving.class_names),
        "threshold": serving.threshold,
    }


def described_inputs(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, dtype and shape of each input, from the content of `format.json`."""
    return info["input"].get("tensors", [info["input"]])


def read_info(folder: Path) -> dict[str, Any]:
    """Content of `format.json`."""
    return json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `format.json`; only into a folder that is not visible yet."""
    text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / INFO_FILE).write_text(text, encoding="utf-8", newline="\n")


def write_format(
    model: keras.Model, serving: Serving, format: Format, folder: Path, representative: Batch
) -> None:
    """Write a model in another format, its labels, its description, and the files that its examples are decoded by.

    Args:
        model: see `kerastl.export.saved_model.write_saved_model`.
        serving: what has to be known beside it.
        format: to write.
        folder: to make; `publish` makes it visible.
        representative: decoded training examples, [m, …], from which the integer format learns how large activations become. Others do not look at it, and it may be empty.

    Raises:
        ExportError: the model cannot be converted; with the converter's last lines.
    """
    import numpy as np

    from kerastl.export.process import convert_in_process
    from kerastl.export.saved_model import check_serving, decoded_specs, write_decoded_only
    from kerastl.model.precision import in_float32

    check_serving(model, serving)
    model = in_float32(model)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kerastl-convert-") as scratch:
        saved, examples = Path(scratch) / "saved_model", Path(scratch) / "representative.npy"
        write_decoded_only(model, serving, saved, format.is_integer)
        if format.is_integer:
            np.save(examples, only(serving.modality.full_range(representative)))
        convert_in_process(format.name, saved, folder / format.file, examples)
    write_labels(folder / LABELS_FILE, serving.class_names)
    for name, content in serving.modality.own_contents().items():
        (folder / name).write_bytes(content)
    write_info(folder, describe(format, serving, decoded_specs(serving.modality, model)))
