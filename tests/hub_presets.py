"""Small presets of KerasHub with random weights, for tests; importing this needs no KerasHub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SIDE, WIDTH, POSITIONS = 32, 16, 24
SCALE, OFFSET = [0.02, 0.01, 0.03], [-1.0, 0.5, 0.25]
needs_keras_hub = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None, reason="KerasHub is not installed (kerastl[kerashub])"
)
_IMAGES = {"image_shape": (SIDE, SIDE, 3)}
_BLOCKS = {"num_layers": 2, "num_heads": 2, "hidden_dim": WIDTH}
_TEXTS = {**_BLOCKS, "intermediate_dim": 32, "max_sequence_length": POSITIONS}


def _hub() -> Any:
    import keras_hub

    return keras_hub.models


def _siglip() -> Any:
    sizes = {**_BLOCKS, "intermediate_dim": 32}
    images = _hub().SigLIPVisionEncoder(patch_size=8, **_IMAGES, **sizes, name="vision")
    texts = _hub().SigLIPTextEncoder(
        vocabulary_size=20, embedding_dim=WIDTH, max_sequence_length=8, **sizes, name="texts"
    )
    return _hub().SigLIPBackbone(images, texts)


# Name -> KerasHub's network.
OF_IMAGES: dict[str, Callable[[], Any]] = {
    "vit": lambda: _hub().ViTBackbone(patch_size=8, mlp_dim=32, **_BLOCKS, **_IMAGES),
    "dinov2": lambda: _hub().DINOV2Backbone(patch_size=8, intermediate_dim=32, **_BLOCKS, **_IMAGES),
    "siglip": _siglip,
    "mit": lambda: _hub().MiTBackbone(
        layerwise_depths=[2, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[8, WIDTH],
        **_IMAGES,
    ),
    "resnet": lambda: _hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    ),
}
OF_TEXTS: dict[str, Callable[[int], Any]] = {
    "bert": lambda count: _hub().BertBackbone(vocabulary_size=count, **_TEXTS),
    "distilbert": lambda count: _hub().DistilBertBackbone(vocabulary_size=count, **_TEXTS),
}


def network(name: str, vocabulary: int = 40) -> Any:
    """KerasHub's network of that name with random weights."""
    return OF_IMAGES[name]() if name in OF_IMAGES else OF_TEXTS[name](vocabulary)


def save_images(own: Any, folder: Path, converter: bool = True) -> Path:
    """Write a preset of images."""
    own.save_to_preset(str(folder))
    if converter:
        values = {"image_size": [SIDE, SIDE], "scale": SCALE, "offset": OFFSET}
        write_json(folder / "image_converter.json", {"class_name": "ImageConverter", "config": values})
    return folder


def save_texts(own: Any, folder: Path, pieces: Sequence[str], lowercase: bool | None = True) -> Path:
    """Write a preset of texts with WordPiece."""
    own.save_to_preset(str(folder))
    return write_tokenizer(folder, pieces, lowercase)


def write_tokenizer(folder: Path, pieces: Sequence[str], lowercase: bool | None = True) -> Path:
    """Write the files of a WordPiece tokenizer as KerasHub lays them."""
    (folder / "assets/tokenizer").mkdir(parents=True)
    (folder / "assets/tokenizer/vocabulary.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    values = {} if lowercase is None else {"lowercase": lowercase}
    write_json(folder / "tokenizer.json", {"class_name": "BertTokenizer", "config": values})
    return folder


def write_json(path: Path, values: Any) -> Path:
    """Write values into a file."""
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
