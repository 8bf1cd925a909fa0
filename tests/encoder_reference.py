"""Encoders in NumPy and float64, written against the papers, and Hugging Face folders of random ones, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf

Tensors = dict[str, np.ndarray]
_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "uint16": "BF16",
    "int64": "I64",
    "int8": "I8",
}
BERT_CONFIG: dict[str, Any] = {
    "model_type": "bert", "vocab_size": 40, "max_position_embeddings": 16, "hidden_size": 12, "num_hidden_layers": 3,
    "num_attention_heads": 3, "intermediate_size": 20, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "type_vocab_size": 2,
    "position_embedding_type": "absolute", "pad_token_id": 0,
}  # fmt: skip
DISTILBERT_CONFIG: dict[str, Any] = {
    "model_type": "distilbert", "vocab_size": 40, "max_position_embeddings": 16, "dim": 12, "n_layers": 2, "n_heads": 2,
    "hidden_dim": 20, "activation": "gelu",
}  # fmt: skip
ELECTRA_CONFIG = BERT_CONFIG | {"model_type": "electra", "embedding_size": 6, "num_hidden_layers": 2}
CONFIGS = {"bert": BERT_CONFIG, "distilbert": DISTILBERT_CONFIG, "electra": ELECTRA_CONFIG}
_BERT = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "norm_1": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
    "norm_2": "output.LayerNorm",
}  # fmt: skip
_DISTILBERT = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "out": "attention.out_lin",
    "norm_1": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "norm_2": "output_layer_norm",
}  # fmt: skip


def _layer_names(config: dict[str, Any], number: int) -> dict[str, str]:
    distil = config["model_type"] == "distilbert"
    start = f"transformer.layer.{number}." if distil else f"encoder.layer.{number}."
    return {part: start + name for part, name in (_DISTILBERT if distil else _BERT).items()}


def random_tensors(config: dict[str, Any], seed: int = 0) -> Tensors:
    """float32 tensors of an encoder under the names that Hugging Face gives them, large enough to tell everything apart."""
    generator = np.random.default_rng(seed)
    width = config.get("hidden_size", config.get("dim"))
    inner = config.get("intermediate_size", config.get("hidden_dim"))
    embedding = config.get("embedding_size", width)
    found: Tensors = {}

    def table(name: str, *shape: int) -> None:
        found[name] = generator.normal(0, 0.5, shape).astype(np.float32)

    def dense(name: str, outputs: int, inputs: int) -> None:
        found[f"{name}.weight"] = generator.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)).astype(
            np.float32
        )
        table(f"{name}.bias", outputs)

    def norm(name: str, size: int) -> None:
        found[f"{name}.weight"] = generator.uniform(0.5, 1.5, size).astype(np.float32)
        table(f"{name}.bias", size)

    table("embeddings.word_embeddings.weight", config["vocab_size"], embedding)
    table("embeddings.position_embeddings.weight", config["max_position_embeddings"], embedding)
    if "type_vocab_size" in config:
        table("embeddings.token_type_embeddings.weight", config["type_vocab_size"], embedding)
    norm("embeddings.LayerNorm", embedding)
    if embedding != width:
        dense("embeddings_project", width, embedding)
    for number in range(config.get("num_hidden_layers", config.get("n_layers"))):
        names = _layer_names(config, number)
        for part in ("query", "key", "value", "out"):
            dense(names[part], width, width)
        norm(names["norm_1"], width)
        dense(names["up"], inner, width)
        dense(names["down"], width, inner)
        norm(names["norm_2"], width)
    return found


def safetensors_bytes(tensors: Tensors, metadata: bool = True) -> bytes:
    """A `.safetensors` file; uint16 stands for bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    body = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def write_folder(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    """A Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def encode(config: dict[str, Any], tensors: Tensors, pieces: np.ndarray) -> list[np.ndarray]:
    """The hidden states of one example: embeddings, then those after each layer, each float64 [pieces, width].

    Args:
        config: as in `config.json`.
        tensors: by their names, without a prefix.
        pieces: int [pieces], real ones alone: there is no padding here.
    """
    exact = {name: array.astype(np.float64) for name, array in tensors.items()}
    heads = config.get("num_attention_heads", config.get("n_heads"))

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ exact[f"{name}.weight"].T + exact[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.get("layer_norm_eps", 1e-12))
        return scaled * exact[f"{name}.weight"] + exact[f"{name}.bias"]

    def active(x: np.ndarray) -> np.ndarray:
        kind = config.get("hidden_act", config.get("activation"))
        if kind == "gelu":
            return x * (1 + erf(x / np.sqrt(2))) / 2
        if kind == "relu":
            return np.maximum(x, 0)
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

    x = exact["embeddings.word_embeddings.weight"][pieces]
    x = x + exact["embeddings.position_embeddings.weight"][: len(pieces)]
    if "embeddings.token_type_embeddings.weight" in exact:
        x = x + exact["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    if "embeddings_project.weight" in exact:
        x = dense(x, "embeddings_project")
    states = [x]
    for number in range(config.get("num_hidden_layers", config.get("n_layers"))):
        names = _layer_names(config, number)
        query, key, value = (
            dense(x, names[part]).reshape(len(x), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1]))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        x = norm(x + dense(mixed.swapaxes(0, 1).reshape(len(x), -1), names["out"]), names["norm_1"])
        x = norm(x + dense(active(dense(x, names["up"])), names["down"]), names["norm_2"])
        states.append(x)
    return states
