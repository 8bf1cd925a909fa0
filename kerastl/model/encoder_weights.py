"""Weights of an encoder from a Hugging Face folder: which tensor becomes which variable, and all or none of them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kerastl.errors import WeightsError
from kerastl.model.encoder_config import BERT, DISTILBERT, ELECTRA, EncoderConfig, differences, read_config
from kerastl.model.encoders import EMBEDDINGS, layer_name
from kerastl.model.safetensors import TensorEntry, read_header

WEIGHTS_FILE = "model.safetensors"
# A model with a head of its own holds the encoder under the name of its architecture.
PREFIXES = ("", "bert.", "distilbert.", "electra.")
# What stands on an encoder, and numbers that are no weights.
OF_HEADS = re.compile(
    r"(pooler|cls|lm_head|classifier|pre_classifier|qa_outputs|vocab_(transform|layer_norm|projector)|"
    r"(discriminator|generator)_predictions|generator_lm_head)\.|.*embeddings\.position_ids$"
)
# As files of TensorFlow's first BERT name what all others call weight and bias.
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
SEGMENTS = "embeddings.token_type_embeddings.weight"

_BERT_LAYER = {
    "query": "encoder.layer.{}.attention.self.query",
    "key": "encoder.layer.{}.attention.self.key",
    "value": "encoder.layer.{}.attention.self.value",
    "output": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "inner": "encoder.layer.{}.intermediate.dense",
    "outer": "encoder.layer.{}.output.dense",
    "norm": "encoder.layer.{}.output.LayerNorm",
}
_DISTILBERT_LAYER = {
    "query": "transformer.layer.{}.attention.q_lin",
    "key": "transformer.layer.{}.attention.k_lin",
    "value": "transformer.layer.{}.attention.v_lin",
    "output": "transformer.layer.{}.attention.out_lin",
    "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "inner": "transformer.layer.{}.ffn.lin1",
    "outer": "transformer.layer.{}.ffn.lin2",
    "norm": "transformer.layer.{}.output_layer_norm",
}
LAYERS = {BERT: _BERT_LAYER, DISTILBERT: _DISTILBERT_LAYER, ELECTRA: _BERT_LAYER}


@dataclass(frozen=True, eq=False)
class Target:
    """A variable and the tensor that it is loaded from.

    Attributes:
        variable: Of the network.
        shape: Of the tensor in files: (outputs, inputs) for kernels, which PyTorch keeps the other way round.
        kernel: Whether it is one.
    """

    variable: keras.Variable
    shape: tuple[int, ...]
    kernel: bool = False

    def of(self, stored: np.ndarray) -> np.ndarray:
        """The variable's values, in its own shape and dtype."""
        turned = stored.T if self.kernel else stored
        return turned.reshape(self.variable.shape).astype(self.variable.dtype)


def load_folder(encoder: keras.Model, config: EncoderConfig, folder: Path) -> Path:
    """Give an encoder the weights of a Hugging Face folder.

    BERT and ELECTRA tell first from second sentences by an embedding of their kind. There is one text an example here: the
    first row is added to every position's embedding, which changes no sum but for its last digit, and the others are left out.

    Args:
        encoder: From `build_encoder`; after an error its weights are what they were.
        config: Its sizes.
        folder: With `config.json` and `model.safetensors` in 16 or 32 bits.

    Returns:
        Path of the file that was read.

    Raises:
        WeightsError: Something is absent, damaged or not finite, or does not fit: the message lists every tensor.
        UserError: `config.json` is that of another network.
    """
    others = differences(read_config(folder), config)
    if others:
        raise WeightsError(f"'{folder}' does not fit backbone '{encoder.name}': {'; '.join(others)}.")
    path = weights_file(folder)
    stored = _of_encoder(read_header(path))
    wanted = dict(targets(encoder, config))
    segments = config.kind != DISTILBERT
    problems = _problems(stored, {name: each.shape for name, each in wanted.items()}, segments)
    if segments and SEGMENTS in stored and not _has_rows(stored[SEGMENTS], config.embedding_width):
        problems.append(
            f"'{SEGMENTS}' has shape {stored[SEGMENTS].shape}, not (1 or more, {config.embedding_width})"
        )
    check_fit(path, encoder.name, problems)
    arrays = {name: read_finite(stored[name]) for name in wanted}
    if segments:
        first = read_finite(stored[SEGMENTS])[0].astype(np.float32)
        places = "embeddings.position_embeddings.weight"
        arrays[places] = arrays[places].astype(np.float32) + first
    for name, target in wanted.items():
        target.variable.assign(target.of(arrays[name]))
    return path


def weights_file(folder: Path) -> Path:
    """The file with the weights in a Hugging Face folder; WeightsError where there is none."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise WeightsError(
            f"There is no '{path}'. Expected the weights as {WEIGHTS_FILE}; files of other formats can execute code when they are "
            "read: save the model with save_pretrained(..., safe_serialization=True)."
        )
    return path


def targets(encoder: keras.Model, config: EncoderConfig) -> Iterator[tuple[str, Target]]:
    """Names of tensors without a prefix, as files have them, and what becomes of each."""
    below = encoder.get_layer(EMBEDDINGS)
    for name, called in (
        ("pieces_embedding", "word_embeddings"),
        ("positions_embedding", "position_embeddings"),
    ):
        table = below.get_layer(name).embeddings
        yield f"embeddings.{called}.weight", Target(table, tuple(table.shape))
    yield from _normalization(below.get_layer("embeddings_norm"), "embeddings.LayerNorm")
    if config.embedding_width != config.width:
        yield from _dense(below.get_layer("embeddings_project"), "embeddings_project")
    for number in range(config.layers):
        own = layer_name(number + 1)
        layer = encoder.get_layer(own)
        names = {part: name.format(number) for part, name in LAYERS[config.kind].items()}
        attention = layer.get_layer(f"{own}_attention")
        for part in ("query", "key", "value", "output"):
            yield from _dense(getattr(attention, f"{part}_dense"), names[part], inputs=config.width)
        yield from _normalization(layer.get_layer(f"{own}_attention_norm"), names["attention_norm"])
        yield from _dense(layer.get_layer(f"{own}_inner"), names["inner"])
        yield from _dense(layer.get_layer(f"{own}_outer"), names["outer"])
        yield from _normalization(layer.get_layer(f"{own}_norm"), names["norm"])


def _dense(layer: keras.Layer, name: str, inputs: int | None = None) -> Iterator[tuple[str, Target]]:
    """Of a layer whose kernel has the inputs in front, however many dimensions these and the outputs are spread over."""
    size = math.prod(layer.kernel.shape)
    inputs = int(layer.kernel.shape[0]) if inputs is None else inputs
    yield f"{name}.weight", Target(layer.kernel, (size // inputs, inputs), kernel=True)
    yield f"{name}.bias", Target(layer.bias, (math.prod(layer.bias.shape),))


def _normalization(layer: keras.Layer, name: str) -> Iterator[tuple[str, Target]]:
    yield f"{name}.weight", Target(layer.gamma, tuple(layer.gamma.shape))
    yield f"{name}.bias", Target(layer.beta, tuple(layer.beta.shape))


def _of_encoder(stored: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The tensors without those of heads, under the names that an encoder by itself has."""
    prefix = next((each for each in PREFIXES if f"{each}embeddings.word_embeddings.weight" in stored), "")
    found = {}
    for name, entry in stored.items():
        own = name.removeprefix(prefix)
        for old, new in OLD_NAMES.items():
            own = own[: -len(old)] + new if own.endswith(f"LayerNorm{old}") else own
        if not OF_HEADS.match(own):
            found[own] = entry
    return found


def _problems(
    stored: Mapping[str, TensorEntry], wanted: Mapping[str, tuple[int, ...]], segments: bool
) -> list[str]:
    names = [*wanted, *([SEGMENTS] if segments else [])]
    found = [f"'{name}' is missing" for name in names if name not in stored]
    found += [f"'{entry.name}' is not known" for name, entry in stored.items() if name not in names]
    return found + wrong_tensors({name: stored[name] for name in wanted if name in stored}, wanted)


def wrong_tensors(
    stored: Mapping[str, TensorEntry], wanted: Mapping[str, tuple[int, ...]], in_8_bits: Collection[str] = ()
) -> list[str]:
    """A problem for each tensor of another shape than wanted, or of whole numbers, but for those that may be in 8 bits."""
    found = [
        f"'{entry.name}' has shape {entry.shape}, not {wanted[name]}"
        for name, entry in stored.items()
        if entry.shape != wanted[name]
    ]
    return found + [
        f"'{entry.name}' has dtype {entry.dtype}, not F32, F16 or BF16"
        for name, entry in stored.items()
        if "F" not in entry.dtype and not (entry.dtype == "I8" and name in in_8_bits)
    ]


def check_fit(path: Path, backbone: str, problems: Iterable[str]) -> None:
    """WeightsError with all the problems of a file's tensors, if there are any."""
    lines = [f"\n  - {problem}" for problem in problems]
    if lines:
        count = "1 tensor" if len(lines) == 1 else f"{len(lines)} tensors"
        raise WeightsError(
            f"Weights file '{path}' does not fit backbone '{backbone}' in {count}. Nothing was loaded.{''.join(lines)}"
        )


def read_finite(entry: TensorEntry) -> np.ndarray:
    """The values of a tensor.

    Raises:
        WeightsError: Not all of them are finite.
    """
    values = entry.read()
    if not np.all(np.isfinite(values)):
        raise WeightsError(
            f"Weights file '{entry.path}' holds values that are not finite, in tensor '{entry.name}'. Nothing was loaded; take "
            "an undamaged file."
        )
    return values


def _has_rows(entry: TensorEntry, width: int) -> bool:
    return len(entry.shape) == 2 and entry.shape[0] > 0 and entry.shape[1] == width and "F" in entry.dtype
