"""Other runtimes in processes of their own: what they answer, and how long they take."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerastl.errors import ExportError

_TENSORFLOW_VARIABLES = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Answers:
    """What a runtime says of some images.

    Attributes:
        probabilities: float32 [n, k]; the runtime `keras` gives logits.
        singles: the same of the first `SINGLES` images, asked one at a time.
        again: the same of the first batch, asked a second time.
        facts: `input` and `output`: name, dtype, shape (-1 where any size goes) and, of LiteRT, `quantization`
            [scale, zero point]; empty for TensorFlow and Keras.
    """

    probabilities: np.ndarray
    singles: np.ndarray
    again: np.ndarray
    facts: dict[str, Any]


class RuntimeProcess:
    """A model in a process that answers and then waits to be timed. Made by `start_runtime`."""

    def __init__(self, process: subprocess.Popen[str], answers: Path, errors: Path, model: Path) -> None:
        self._process, self._answers, self._errors, self._model = process, answers, errors, model

    def answers(self, seconds: float | None = None) -> Answers:
        """What it said of all images. Ends the process.

        Raises:
            ExportError: it could not load or ask the model.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{self._model} did not answer within {seconds} s.") from error
        if code != 0 or not self._answers.exists():
            raise self._failure()
        with np.load(self._answers) as file:
            facts = json.loads(str(file["facts"]))
            return Answers(file["probabilities"], file["singles"], file["again"], facts)

    def times(self, batch_size: int, calls: int) -> list[float]:
        """Seconds of each of some calls with a batch; the first, which is not counted, warms up.

        Raises:
            ExportError: the process ended.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"batch_size": batch_size, "calls": calls}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> ExportError:
        said = "\n".join(self._errors.read_text(errors="replace").strip().splitlines()[-5:])
        return ExportError(
            f"A fresh process could not load and ask {self._model}:\n"
            f"{said or f'exit code {self._process.returncode}'}"
        )


@contextlib.contextmanager
def start_runtime(
    runtime: str, model: Path, pixels: Path, threads: int | None = None
) -> Iterator[RuntimeProcess]:
    """Begin to answer images in a fresh process.

    Args:
        runtime: `litert`, `onnx`, `saved_model` or `keras`.
        model: its file or folder.
        pixels: an .npy with uint8 [n, s, s, 3], RGB 0..255.
        threads: that it may use; all processors without it.

    Yields:
        The process; it is ended with the context.
    """
    with tempfile.TemporaryDirectory(prefix="kerastl-runtime-") as folder:
        answers, errors = Path(folder) / "answers.npz", Path(folder) / "stderr.txt"
        script = Path(__file__).with_name("runtime_process.py")
        # -P: the script's own folder must not shadow packages
        command = [sys.executable, "-P", str(script), runtime, str(model.absolute())]
        command += [str(threads or os.cpu_count() or 1), str(pixels.absolute()), str(answers)]
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **_TENSORFLOW_VARIABLES},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            yield RuntimeProcess(process, answers, errors, model)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                # A process that ended early leaves what was written to it, and closing flushes that: click
                # would take the BrokenPipeError for a reader of ours that went away, and end without a word.
                with contextlib.suppress(BrokenPipeError):
                    assert pipe
                    pipe.close()
