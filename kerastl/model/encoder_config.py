"""Sizes of an encoder, as the `config.json` of a Hugging Face folder says them, and what of such files is refused.

The architectures are BERT (Devlin et al., 2019, arXiv:1810.04805; MiniLM is one of fewer and narrower layers), DistilBERT
(Sanh et al., 2019, arXiv:1910.01108) and ELECTRA (Clark et al., 2020, arXiv:2003.10555), all with learned positions and
normalisation after each residual sum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kerastl.errors import UserError, WeightsError, nearest

CONFIG_FILE = "config.json"
BERT, DISTILBERT, ELECTRA = KINDS = ("bert", "distilbert", "electra")
GELU, TANH_GELU, RELU = "gelu", "gelu_tanh", "relu"
# As Hugging Face names them -> here; the first is exact, by the error function.
ACTIVATIONS = {
    "gelu": GELU,
    "gelu_new": TANH_GELU,
    "gelu_pytorch_tanh": TANH_GELU,
    "gelu_fast": TANH_GELU,
    "relu": RELU,
}


@dataclass(frozen=True)
class EncoderConfig:
    """All that the graph of an encoder follows from, as plain values.

    Attributes:
        kind: `bert`, `distilbert` or `electra`: how its tensors are called in files.
        vocabulary: Number of pieces that have an embedding.
        positions: The most pieces that an example may have.
        width: Of its hidden states.
        layers: How many.
        heads: Of attention in each layer; they share the width.
        inner: Width of the hidden layer after attention.
        embedding_width: Of the embeddings, which a dense layer makes as wide as the hidden states where it differs.
        activation: `gelu` (exact), `gelu_tanh` or `relu`.
        epsilon: Added to variances in normalisation.
    """

    kind: str
    vocabulary: int
    positions: int
    width: int
    layers: int
    heads: int
    inner: int
    embedding_width: int
    activation: str = GELU
    epsilon: float = 1e-12


# Field -> the key of `config.json`; those of DistilBERT have names of their own.
_KEYS = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
}
_DISTILBERT_KEYS = _KEYS | {"width": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim"}
# Keys with the values that the graph holds; where they are absent, they have one of these.
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
}


def read_config(folder: Path) -> EncoderConfig:
    """The sizes of the encoder in a Hugging Face folder.

    Args:
        folder: With a `config.json`.

    Raises:
        UserError: There is none, or it is that of another network: names every key, its value and what is expected.
    """
    path = folder / CONFIG_FILE
    return encoder_config(read_json(path), f"'{path}'")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a Hugging Face folder.

    Raises:
        WeightsError: It cannot be read, or holds no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"'{path}': {error.strerror}. Expected a Hugging Face folder: {CONFIG_FILE} and model.safetensors."
        ) from error
    except ValueError as error:
        raise WeightsError(f"'{path}' is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"'{path}' holds no JSON object.")
    return found


def encoder_config(values: Mapping[str, Any], origin: str = CONFIG_FILE) -> EncoderConfig:
    """The sizes of an encoder.

    Args:
        values: Of a `config.json`.
        origin: Of the values, for messages.

    Raises:
        UserError: They are those of another network; the message names all keys that are wrong.
    """
    kind = values.get("model_type")
    if kind not in KINDS:
        raise UserError(
            f"{origin}: model_type = {kind!r}.{nearest(str(kind), KINDS)} Expected one of {', '.join(KINDS)}: encoders with learned "
            "positions and normalisation after each sum. Others can be handed over as a functional keras.Model."
        )
    keys = _DISTILBERT_KEYS if kind == DISTILBERT else _KEYS
    sizes: dict[str, Any] = {field: values.get(key) for field, key in keys.items()}
    problems = [problem for field, key in keys.items() for problem in _no_size(key, sizes[field])]
    embedding = values.get("embedding_size", sizes["width"]) if kind == ELECTRA else sizes["width"]
    problems += (
        _no_size("embedding_size", embedding) if kind == ELECTRA and "embedding_size" in values else []
    )
    if not problems and sizes["width"] % sizes["heads"]:
        problems.append(
            f"{keys['heads']} = {sizes['heads']}: expected a divisor of {keys['width']} = {sizes['width']}"
        )
    key = "activation" if kind == DISTILBERT else "hidden_act"
    activation = values.get(key, "gelu")
    if str(activation) not in ACTIVATIONS:
        problems.append(f"{key} = {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    epsilon = values.get("layer_norm_eps", 1e-12)
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        problems.append(f"layer_norm_eps = {epsilon!r}: expected a number between 0 and 1")
    for name, allowed in _FIXED.items():
        if values.get(name, allowed[0]) not in allowed:
            problems.append(f"{name} = {values[name]!r}: expected {allowed[0]!r}")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise UserError(f"{origin} describes no encoder that can be built here:{listed}")
    return EncoderConfig(
        kind=kind,
        embedding_width=embedding,
        activation=ACTIVATIONS[activation],
        epsilon=epsilon,
        **sizes,
    )


def differences(found: EncoderConfig, wanted: EncoderConfig) -> list[str]:
    """The fields in which two encoders differ, each with both values."""
    return [
        f"{field.name} is {getattr(found, field.name)}, not {getattr(wanted, field.name)}"
        for field in fields(EncoderConfig)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]


def _no_size(key: str, value: Any) -> list[str]:
    good = type(value) is int and value > 0
    return [] if good else [f"{key} = {value!r}: expected a whole number above 0"]
