"""Fresh processes that cannot import kerastl: models that answer there, and conversions."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from kerastl.errors import ExportError

ANSWER_SECONDS = 3600
CONVERT_SECONDS = 3600

# On the processor: this process may hold all memory of the graphics card.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Pass:
    """Answers of one signature to the first examples of a request.

    Attributes:
        signature: its name; of LiteRT, ONNX and Keras that of the runtime.
        batch_size: examples in a call; the last may have had fewer.
        count: examples that were asked about.
        outputs: by name, [count, …] each.
    """

    signature: str
    batch_size: int
    count: int
    outputs: Mapping[str, np.ndarray]

    @property
    def main(self) -> np.ndarray:
        """Probabilities, embeddings or logits: the output that is no label."""
        return next(
            self.outputs[key] for key in ("probabilities", "embedding", "logits") if key in self.outputs
        )


@dataclass(frozen=True)
class Answers:
    """Answers of a model in another process.

    Attributes:
        passes: in the order in which they were asked.
        facts: `signatures`, names of all; `random_operations` of a SavedModel; of LiteRT and ONNX `inputs`, a list, and `output`:
            name, dtype, shape (-1 where any size goes) and, of LiteRT, `quantization` [scale, zero point].
    """

    passes: tuple[Pass, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


class ModelProcess:
    """A model in a process that answers a request and then waits to be timed. Made by `start_model`."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, model: Path) -> None:
        self._process, self._folder, self._model = process, folder, model

    def answers(self, seconds: float = ANSWER_SECONDS) -> Answers:
        """All answers to the request. Ends the process.

        Raises:
            ExportError: it could not load or ask the model, or took longer than `seconds`.
        """
        file = self._folder / "answers.npz"
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{self._model} did not answer within {seconds} seconds.") from error
        if self._process.returncode != 0 or not file.exists():
            raise self._failure()
        with np.load(file) as found:
            arrays = {name: found[name] for name in found.files}
        facts = json.loads(str(arrays.pop("facts")))
        passes = []
        for number, each in enumerate(facts.pop("passes")):
            prefix = f"pass{number}_"
            outputs = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            passes.append(Pass(**each, outputs=outputs))
        return Answers(tuple(passes), facts)

    def times(self, batch_size: int, calls: int) -> list[float]:
        """Seconds of each of some calls with a batch of decoded examples; the first, which is not counted, warms up.

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
        last = "\n".join(_stderr(self._folder)[-5:]) or f"exit code {self._process.returncode}"
        return ExportError(f"A fresh process could not load and ask {self._model}:\n{last}")


@contextlib.contextmanager
def start_model(
    runtime: str,
    model: Path,
    inputs: Mapping[str, np.ndarray | Path],
    passes: Sequence[tuple[int, int]],
    raw: Mapping[str, Sequence[bytes]] = MappingProxyType({}),
    signatures: Sequence[str] | None = None,
    threads: int = 0,
) -> Iterator[ModelProcess]:
    """Begin to answer examples in a fresh process.

    Args:
        runtime: `litert`, `onnx`, `saved_model` or `keras`.
        model: its file or folder.
        inputs: decoded examples by the name of the input, [n, …], or an .npy of that.
        passes: pairs of a batch size and the number of examples, the first ones, to ask about.
        raw: the bytes of the same examples by the name of the request, for signatures that take such.
        signatures: to ask, in this order; all of them without it.
        threads: that the runtime may use; 0 for all processors.

    Yields:
        The process; it is ended with the context.
    """
    with tempfile.TemporaryDirectory(prefix="kerastl-ask-") as scratch:
        folder = Path(scratch)
        for name, values in inputs.items():
            file = folder / f"{name}.npy"
            if isinstance(values, Path):
                file.symlink_to(values.absolute())
            else:
                np.save(file, values)
        for name, rows in raw.items():
            (folder / name).mkdir()
            for number, each in enumerate(rows):
                (folder / name / f"{number:06}.bytes").write_bytes(each)
        (folder / "request.json").write_text(json.dumps({"passes": passes, "signatures": signatures}))
        with _script(folder, runtime, str(model.absolute()), scratch, str(threads)) as process:
            yield ModelProcess(process, folder, model)


def convert_in_process(format: str, saved_model: Path, target: Path, representative: Path) -> None:
    """Write a SavedModel in another format; see `ask_process.convert`.

    Raises:
        ExportError: it cannot be converted, with the converter's last words, or took longer than `CONVERT_SECONDS`.
    """
    with tempfile.TemporaryDirectory(prefix="kerastl-convert-") as folder:
        words = [str(path.absolute()) for path in (saved_model, target, representative)]
        with _script(Path(folder), "convert", format, *words) as process:
            try:
                process.communicate(timeout=CONVERT_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise ExportError(
                    f"The conversion to {format} took more than {CONVERT_SECONDS} seconds."
                ) from error
        if process.returncode != 0:
            # The last lines name the error; before them the converters print whole graphs.
            lines = [line[:300] for line in _stderr(Path(folder)) if line.strip()]
            last = (
                [line for line in lines if "rror" in line][-3:]
                or lines[-3:]
                or [f"exit code {process.returncode}"]
            )
            raise ExportError(
                f"The model cannot be converted to {format}. The converter said:\n"
                + "\n".join(f"  {line}" for line in last)
            )


@contextlib.contextmanager
def _script(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`ask_process.py` at work in a folder, into whose `stderr.txt` it writes; ended with the context."""
    # -P: the script's own folder must not shadow packages
    command = [sys.executable, "-P", str(Path(__file__).with_name("ask_process.py")), *words]
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            # A process that ended early leaves what was written to it, and closing flushes that: click
            # would take the BrokenPipeError for a reader of ours that went away, and end without a word.
            with contextlib.suppress(BrokenPipeError):
                assert pipe
                pipe.close()


def _stderr(folder: Path) -> list[str]:
    return (folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
