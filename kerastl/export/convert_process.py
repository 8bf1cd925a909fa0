"""Converts a SavedModel in a process of its own: converters write to stderr at will, and one that aborts takes
only this process with it.

A script with TensorFlow, NumPy and the converter alone; `kerastl.export.formats` starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.modules["kerastl"] = None  # type: ignore[assignment]

import numpy as np
import tensorflow as tf

# The first with the operators of all supported networks as one node each, and read by every runtime since 2023.
ONNX_OPSET = 18


def main(kind: str, saved_model: str, target: str, representative: str) -> None:
    """Write `target` from a SavedModel.

    Args:
        kind: `litert`, `litert-int8` or `onnx`.
        saved_model: folder with one signature `serving_default`, float32 `pixels` -> `probabilities`.
        target: the file to write.
        representative: an .npy, uint8 [n, s, s, 3], for `litert-int8`.
    """
    if kind == "onnx":
        write_onnx(saved_model, target)
    else:
        images = np.load(representative, mmap_mode="r") if kind == "litert-int8" else None
        Path(target).write_bytes(litert(saved_model, images))


def litert(saved_model: str, images: np.ndarray | None) -> bytes:
    """A LiteRT model; with images, one whose every number is an integer of eight bits."""
    # From a SavedModel: from concrete functions (TensorFlow 2.21) variables stay resource variables, and the
    # calibration ends in "read_variable.cc:67 variable != nullptr was not true".
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if images is not None:

        def batches() -> Iterator[list[np.ndarray]]:
            for image in images:
                yield [image[None].astype(np.float32)]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = batches
        # Without it an operation that has no integer kernel would silently stay in float.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()


def write_onnx(saved_model: str, target: str) -> None:
    """An ONNX model; its input and output keep their names."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model)  # its signatures hold only weak references to it
    signature = loaded.signatures["serving_default"]
    # Frozen here: tf2onnx (1.17) makes inputs of the variables of a loaded signature.
    frozen = convert_variables_to_constants_v2(signature)
    (given,), (made,) = frozen.inputs, frozen.outputs
    (output_name,) = signature.structured_outputs
    tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[given.name],
        output_names=[made.name],
        tensors_to_rename={given.name: "pixels", made.name: output_name},
        opset=ONNX_OPSET,
        output_path=target,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
