"""Writes `kerastl/weights/minilm_static`: static embeddings of pieces that stand for a sentence encoder, small enough to ship.

    apt-get install wordnet-base
    hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir minilm_l6
    python tools/distil_static.py --weights minilm_l6 --wordnet /usr/share/wordnet

The teacher is MiniLM-L6 (Apache-2.0), whose vector of a text is the mean of its last layer's states. The student is a table with a
row for each piece, whose vector of a text is the mean of its pieces' rows. The table is solved for, not trained: a ridge regression of
the teacher's vectors of WordNet's definitions on the shares of pieces in them, towards what the teacher says of each piece by itself
(as model2vec does, https://github.com/MinishLab/model2vec), which is all that is known of pieces that stand in none. Vectors are
the teacher's first principal components. How strong the penalty is, a tenth of the definitions decides. The definitions that ship as
the demo's data are not among them, and no label is read.

Rows are stored in 8 bits, each with a factor, in the layout of model2vec. `--vectors FILE` keeps the teacher's vectors, which take
nearly all of the time, for the next call.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import scipy.sparse as sparse
from wordnet_definitions import others

from kerastl.backbones import get_backbone
from kerastl.modality.text import Text, vocabulary_at
from kerastl.modality.text.vocabulary import CONTINUES, SPECIAL, Vocabulary
from kerastl.model.build import build_backbone
from kerastl.model.weights import load_weights, sha256_of

OUTPUT = Path("kerastl/weights/minilm_static")
TEACHER = "minilm_l6"
MAX_PIECES = 64
BATCH = 256
PENALTIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
TOLERANCE, MOST_STEPS = 1e-3, 200
HELD_OUT_SHARE = 0.1
LARGEST = 127


def pieces_kept(vocabulary: Vocabulary, count: int) -> list[str]:
    """Special pieces, all ASCII characters, and then the teacher's pieces in its order, which is about that of their frequency."""
    plain = [
        piece
        for piece in vocabulary.pieces
        if piece.isascii() and not (piece.startswith("[") and piece.endswith("]"))
    ]
    single = [piece for piece in plain if len(piece.removeprefix(CONTINUES)) == 1]
    longer = [piece for piece in plain if len(piece.removeprefix(CONTINUES)) > 1]
    return [*sorted(SPECIAL, key=["[PAD]", "[UNK]", "[CLS]", "[SEP]"].index), *single, *longer][:count]


def means(encoder: keras.Model, pieces: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The mean of the states of each row of pieces, float32 [n, width]; rows of like lengths are computed together."""
    found = np.zeros((len(pieces), encoder.output_shape[-1]), np.float32)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        longest = int(lengths[rows].max())
        given = [keras.ops.convert_to_tensor(each) for each in (pieces[rows, :longest], lengths[rows])]
        states = keras.ops.convert_to_numpy(encoder(given, training=False))
        real = np.arange(longest) < lengths[rows, None]
        found[rows] = (states * real[..., None]).sum(1) / lengths[rows, None]
        if start % (BATCH * 10) == 0:
            print(f"{start:,} of {len(order):,}", flush=True)
    return found


def teacher_vectors(folder: Path, names: list[str], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's vectors of pieces by themselves, and of texts."""
    modality, spec = Text(vocabulary_at(str(folder / "vocab.txt")), True, MAX_PIECES), get_backbone(TEACHER)
    encoder = build_backbone(spec, modality.spec)
    load_weights(encoder, spec, str(folder))
    ids = vocabulary_at(str(folder / "vocab.txt")).ids
    alone = np.array([[ids["[CLS]"], ids[name], ids["[SEP]"]] for name in names], np.int32)
    return means(encoder, alone, np.full(len(alone), 3, np.int32)), means(encoder, *encoded(modality, texts))


def encoded(modality: Text, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pieces int32 [n, MAX_PIECES] and lengths int32 [n] of texts."""
    import tensorflow as tf

    inputs = modality.decode_all(tf.constant([text.encode() for text in texts]))
    return inputs["pieces"].numpy(), inputs["length"].numpy()


def shares(pieces: np.ndarray, lengths: np.ndarray, count: int) -> sparse.csr_matrix:
    """The share of each piece among those of each text, special ones among them: [n, count]."""
    real = np.arange(pieces.shape[1]) < lengths[:, None]
    texts = np.nonzero(real)[0]
    return sparse.csr_matrix((1 / lengths[texts], (texts, pieces[real])), (len(pieces), count))


def solved(given: sparse.csr_matrix, wanted: np.ndarray, start: np.ndarray, penalty: float) -> np.ndarray:
    """The table near to `start` whose means are near to what is wanted: ridge regression by conjugate gradients, all columns at once.

    Args:
        given: shares of pieces, [n, pieces].
        wanted: means, [n, width].
        start: [pieces, width].
        penalty: factor of the squared distance from `start`, beside the sum of squared errors.

    Returns:
        [pieces, width].
    """
    across = given.T.tocsr()
    moved = np.zeros_like(start)
    rest = across @ (wanted - given @ start)
    aim = TOLERANCE * np.linalg.norm(rest)
    way, square = rest.copy(), np.square(rest).sum(0)
    for _ in range(MOST_STEPS):
        bent = across @ (given @ way) + penalty * way
        length = square / (way * bent).sum(0)
        moved += length * way
        rest -= length * bent
        before, square = square, np.square(rest).sum(0)
        if np.sqrt(square.sum()) < aim:
            break
        way = rest + square / before * way
    return start + moved


def stored(table: np.ndarray) -> dict[str, np.ndarray]:
    """The table in 8 bits, with a factor in 16 for each row."""
    factors = (np.abs(table).max(1) / LARGEST).astype(np.float16)
    divisors = np.where(factors == 0, 1, factors.astype(np.float32))
    rows = np.clip(np.rint(table / divisors[:, None]), -LARGEST, LARGEST).astype(np.int8)
    return {"embeddings": rows, "weights": factors}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A `.safetensors` file, without the package."""
    names = {"int8": "I8", "float16": "F16"}
    header, end = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": names[values.dtype.name], "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}  # fmt: skip
        end += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(each.tobytes() for each in tensors.values())
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="the teacher's Hugging Face folder")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun")
    parser.add_argument("--vectors", type=Path, help=".npz file that keeps the teacher's vectors")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--texts", type=int, default=12_000)
    parser.add_argument("--pieces", type=int, default=16_000)
    parser.add_argument("--width", type=int, default=64)
    asked = parser.parse_args()
    names = pieces_kept(vocabulary_at(str(asked.weights / "vocab.txt")), asked.pieces)
    texts = others(asked.wordnet)[: asked.texts]
    if asked.vectors and asked.vectors.is_file():
        kept = np.load(asked.vectors)
        alone, vectors = kept["alone"][: len(names)], kept["vectors"][: len(texts)]
    else:
        alone, vectors = teacher_vectors(asked.weights, names, texts)
        if asked.vectors:
            np.savez(asked.vectors, alone=alone, vectors=vectors)
    table = distilled(Vocabulary(tuple(names)), alone, vectors, texts, asked.width)
    asked.output.mkdir(parents=True, exist_ok=True)
    write_tensors(asked.output / "model.safetensors", stored(table))
    (asked.output / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    config = {"model_type": "model2vec", "hidden_dim": asked.width, "normalize": False}
    (asked.output / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (asked.output / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}) + "\n")
    for file in sorted(asked.output.iterdir()):
        print(f"{file}: {file.stat().st_size:,} bytes, SHA-256 {sha256_of(file)}")


def distilled(
    student: Vocabulary, alone: np.ndarray, vectors: np.ndarray, texts: list[str], width: int
) -> np.ndarray:
    """The table of the student's pieces, float32 [pieces, width].

    Args:
        student: its pieces.
        alone: the teacher's vector of each of them by itself.
        vectors: the teacher's of texts.
        texts: these.
        width: of the table.
    """
    given = shares(*encoded(Text(student, True, MAX_PIECES), texts), len(student))
    middle = vectors.mean(0)
    _, axes = np.linalg.eigh(np.cov(vectors, rowvar=False))
    axes = axes[:, ::-1][:, :width]
    wanted, start = (vectors - middle) @ axes, (alone - middle) @ axes
    start[: len(SPECIAL)] = 0
    # Pieces by themselves are farther from the middle than texts are.
    means = given @ start
    start *= (means * wanted).sum() / np.square(means).sum()
    held = np.arange(len(texts)) % round(1 / HELD_OUT_SHARE) == 0
    errors = {
        penalty: np.square(
            given[held] @ solved(given[~held], wanted[~held], start, penalty) - wanted[held]
        ).mean()
        / np.square(wanted[held]).mean()
        for penalty in PENALTIES
    }
    before = np.square(given[held] @ start - wanted[held]).mean() / np.square(wanted[held]).mean()
    print(
        f"share of variance that is missed, of definitions held out: {before:.3f} without the regression, then by penalty"
    )
    print(", ".join(f"{penalty:g}: {error:.3f}" for penalty, error in errors.items()))
    table = solved(given, wanted, start, min(errors, key=lambda penalty: errors[penalty]))
    table[: len(SPECIAL)] = 0
    return table.astype(np.float32)


if __name__ == "__main__":
    main()
