"""`check`: whether this machine is ready. No TensorFlow at import."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kerastl.modality import MODALITIES, modality_named
from kerastl.progress import Progress


@dataclass(frozen=True)
class CheckLine:
    """One thing that `check` looked at."""

    name: str
    ok: bool
    detail: str


def check(progress: Progress = Progress()) -> list[CheckLine]:
    """Look at all that a fit on this machine needs, from Python to the bundled weights."""
    return [
        _line("Python", _python),
        _line("TensorFlow", _tensorflow),
        _line("Keras", _keras),
        _line("devices", _devices),
        _line("bundled weights", _bundled_weights),
        *(_line(f"{name} decoding", modality_named(name).self_test) for name in MODALITIES),
        _line("temporary folder", _temporary_folder),
        _line("weights folder", _weights_folder),
    ]


def _line(name: str, look: Callable[[], str]) -> CheckLine:
    try:
        return CheckLine(name, True, look())
    except Exception as error:
        return CheckLine(name, False, f"{type(error).__name__}: {error}")


def _python() -> str:
    return sys.version.split()[0]


def _tensorflow() -> str:
    import tensorflow as tf

    return str(tf.__version__)


def _keras() -> str:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"its backend is {keras.backend.backend()}; unset KERAS_BACKEND, or set it to tensorflow"
        )
    return f"{keras.__version__} on {keras.backend.backend()}"


def _devices() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU, {os.cpu_count()} CPU cores" if gpus else f"{os.cpu_count()} CPU cores, no GPU"


def _bundled_weights() -> str:
    import keras

    from kerastl.backbones import get_backbone
    from kerastl.model.applications import build_application
    from kerastl.model.weights import load_weights

    spec = get_backbone("mobilenet_025")
    shape = (spec.image_size, spec.image_size, 3)
    backbone = build_application(spec, shape)
    loaded = load_weights(backbone, spec, "pretrained", None)
    answer = backbone(keras.ops.zeros((1, *shape)), training=False)
    if not keras.ops.all(keras.ops.isfinite(answer)):
        raise RuntimeError("the network's answer is not a number")
    return f"{loaded.origin}, SHA-256 {str(loaded.sha256)[:12]}…"


def _temporary_folder() -> str:
    with tempfile.TemporaryFile() as file:
        file.write(b"0" * 1024)
    return tempfile.gettempdir()


def _weights_folder() -> str:
    named = os.environ.get("KERASTL_WEIGHTS_DIR")
    if not named:
        return "KERASTL_WEIGHTS_DIR is not set; published weights come from Keras' own cache or download"
    if not Path(named).is_dir():
        raise FileNotFoundError(f"KERASTL_WEIGHTS_DIR is {named}, which is not a folder")
    return named
