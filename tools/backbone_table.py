"""Write `kerastl/backbones.json`: what each network of keras.applications and each backbone of texts is, measured on the network itself.

    python tools/backbone_table.py            # all (about five minutes, 4 GB)
    python tools/backbone_table.py resnet50   # these entries alone, the others stay

Only names, builders and published sizes are written by hand here; those of encoders are what the `config.json` of the folder that
they were published in says. Parameters, channels, smallest sizes,
unfreeze points and the addresses of the published weights come from Keras.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from typing import Any

import keras
from keras.src.utils import file_utils

from kerastl.backbones import BUNDLED_WEIGHTS_FOLDER, REGISTRY_FILE, TEXT, BackboneSpec, spec_from_dict
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone
from kerastl.model.encoder_config import encoder_config
from kerastl.model.encoder_spec import draft_of, measured, read_folder
from kerastl.model.encoder_weights import WEIGHTS_FILE
from kerastl.model.graph import trained_parameters, unfreeze_points


def _bert(width: int, layers: int, heads: int, vocabulary: int = 30522) -> dict[str, Any]:
    return {
        "model_type": "bert", "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 4 * width, "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
    }  # fmt: skip


def _distilbert(vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "distilbert", "vocab_size": vocabulary, "dim": 768, "n_layers": 6, "n_heads": 12,
        "hidden_dim": 3072, "max_position_embeddings": 512,
    }  # fmt: skip


Row = tuple[str, str, str, str, int]
# Name, builder, module, preprocessing, published side in pixels; the order is that of the listing.
ROWS: tuple[Row, ...] = (
    ("mobilenet_025", "MobileNet", "mobilenet", "tf", 64),
    ("resnet50", "ResNet50", "resnet50", "caffe", 224),
    ("vgg16", "VGG16", "vgg16", "caffe", 224),
    ("inception_v3", "InceptionV3", "inception_v3", "tf", 299),
    ("mobilenet_v2", "MobileNetV2", "mobilenet_v2", "tf", 224),
    ("mobilenet", "MobileNet", "mobilenet", "tf", 224),
    ("mobilenet_v3_small", "MobileNetV3Small", "mobilenet_v3", "identity", 224),
    ("mobilenet_v3_large", "MobileNetV3Large", "mobilenet_v3", "identity", 224),
    ("resnet101", "ResNet101", "resnet", "caffe", 224),
    ("resnet152", "ResNet152", "resnet", "caffe", 224),
    ("resnet50_v2", "ResNet50V2", "resnet_v2", "tf", 224),
    ("resnet101_v2", "ResNet101V2", "resnet_v2", "tf", 224),
    ("resnet152_v2", "ResNet152V2", "resnet_v2", "tf", 224),
    ("vgg19", "VGG19", "vgg19", "caffe", 224),
    ("inception_resnet_v2", "InceptionResNetV2", "inception_resnet_v2", "tf", 299),
    ("xception", "Xception", "xception", "tf", 299),
    ("densenet121", "DenseNet121", "densenet", "torch", 224),
    ("densenet169", "DenseNet169", "densenet", "torch", 224),
    ("densenet201", "DenseNet201", "densenet", "torch", 224),
    ("nasnet_mobile", "NASNetMobile", "nasnet", "tf", 224),
    ("nasnet_large", "NASNetLarge", "nasnet", "tf", 331),
    ("efficientnet_b0", "EfficientNetB0", "efficientnet", "identity", 224),
    ("efficientnet_b1", "EfficientNetB1", "efficientnet", "identity", 240),
    ("efficientnet_b2", "EfficientNetB2", "efficientnet", "identity", 260),
    ("efficientnet_b3", "EfficientNetB3", "efficientnet", "identity", 300),
    ("efficientnet_b4", "EfficientNetB4", "efficientnet", "identity", 380),
    ("efficientnet_b5", "EfficientNetB5", "efficientnet", "identity", 456),
    ("efficientnet_b6", "EfficientNetB6", "efficientnet", "identity", 528),
    ("efficientnet_b7", "EfficientNetB7", "efficientnet", "identity", 600),
    ("efficientnet_v2_b0", "EfficientNetV2B0", "efficientnet_v2", "identity", 224),
    ("efficientnet_v2_b1", "EfficientNetV2B1", "efficientnet_v2", "identity", 240),
    ("efficientnet_v2_b2", "EfficientNetV2B2", "efficientnet_v2", "identity", 260),
    ("efficientnet_v2_b3", "EfficientNetV2B3", "efficientnet_v2", "identity", 300),
    ("efficientnet_v2_s", "EfficientNetV2S", "efficientnet_v2", "identity", 384),
    ("efficientnet_v2_m", "EfficientNetV2M", "efficientnet_v2", "identity", 480),
    ("efficientnet_v2_l", "EfficientNetV2L", "efficientnet_v2", "identity", 480),
    ("convnext_tiny", "ConvNeXtTiny", "convnext", "identity", 224),
    ("convnext_small", "ConvNeXtSmall", "convnext", "identity", 224),
    ("convnext_base", "ConvNeXtBase", "convnext", "identity", 224),
    ("convnext_large", "ConvNeXtLarge", "convnext", "identity", 224),
    ("convnext_xlarge", "ConvNeXtXLarge", "convnext", "identity", 224),
)
ARGUMENTS: dict[str, dict[str, Any]] = {"mobilenet_025": {"alpha": 0.25}}
BUNDLED = {"mobilenet_025": "mobilenet_025_fashion_mnist.weights.h5"}
# MobileNet and MobileNetV2 were published for several sizes; Keras picks the file by the input's side.
PUBLISHED_SIZES = {"MobileNet": (224, 192, 160, 128), "MobileNetV2": (224, 192, 160, 128, 96)}
# Name and preprocessing of backbones of texts whose folder ships with kerastl.
BUNDLED_FOLDERS = (("minilm_static", "uncased"),)
# Name, preprocessing, page of the published folder, and what its `config.json` says.
ENCODERS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("minilm_l6", "uncased", "sentence-transformers/all-MiniLM-L6-v2", _bert(384, 6, 12)),
    ("minilm_l12", "uncased", "sentence-transformers/all-MiniLM-L12-v2", _bert(384, 12, 12)),
    ("bge_small_en", "uncased", "BAAI/bge-small-en-v1.5", _bert(384, 12, 12)),
    ("bert_tiny", "uncased", "google/bert_uncased_L-2_H-128_A-2", _bert(128, 2, 2)),
    ("bert_base_uncased", "uncased", "google-bert/bert-base-uncased", _bert(768, 12, 12)),
    ("bert_base_cased", "cased", "google-bert/bert-base-cased", _bert(768, 12, 12, 28996)),
    ("bert_base_multilingual_cased", "cased", "google-bert/bert-base-multilingual-cased", _bert(768, 12, 12, 119547)),
    ("distilbert_base_uncased", "uncased", "distilbert/distilbert-base-uncased", _distilbert(30522)),
    ("distilbert_base_cased", "cased", "distilbert/distilbert-base-cased", _distilbert(28996)),
    ("electra_small", "uncased", "google/electra-small-discriminator", _bert(256, 12, 4) | {"model_type": "electra", "embedding_size": 128}),
    ("electra_base", "uncased", "google/electra-base-discriminator", _bert(768, 12, 12) | {"model_type": "electra", "embedding_size": 768}),
)  # fmt: skip


class _Asked(Exception):
    """Carries what a builder wanted to download."""


def measure(row: Row) -> dict[str, Any]:
    """One entry of the registry."""
    name, builder, module, preprocessing, image_size = row
    arguments = tuple(ARGUMENTS.get(name, {}).items())
    smallest = _min_image_size(builder)
    draft = BackboneSpec(
        name, builder, module, preprocessing, image_size, smallest, 0, 0, (), (), arguments, BUNDLED.get(name)
    )
    backbone = build_backbone(draft, Image(smallest).spec)
    points = unfreeze_points(backbone)
    return {
        "name": name,
        "builder": builder,
        "module": module,
        "preprocessing": preprocessing,
        "image_size": image_size,
        "min_image_size": smallest,
        "parameters": backbone.count_params(),
        "feature_channels": int(backbone.outputs[0].shape[-1]),
        "unfreeze_points": list(points),
        "trained_parameters": list(trained_parameters(backbone, points)),
        "arguments": [list(pair) for pair in arguments],
        "bundled_weights": BUNDLED.get(name),
        "published": _published(draft),
    }


def measure_encoder(name: str, preprocessing: str, page: str, config: dict[str, Any]) -> dict[str, Any]:
    """One entry of the registry, of an encoder."""
    draft = draft_of(name, encoder_config(config), preprocessing=preprocessing, modality=TEXT)
    url = f"https://huggingface.co/{page}"
    return _text_entry(draft) | {"published": [{"image_size": 0, "file": WEIGHTS_FILE, "url": url}]}


def measure_bundled(name: str, preprocessing: str) -> dict[str, Any]:
    """One entry of the registry, of a backbone of texts whose folder ships with kerastl."""
    config = read_folder(BUNDLED_WEIGHTS_FOLDER / name)
    draft = draft_of(name, config, preprocessing=preprocessing, modality=TEXT)
    return _text_entry(draft) | {"bundled_weights": name}


def _text_entry(draft: BackboneSpec) -> dict[str, Any]:
    return {
        "name": draft.name,
        "modality": TEXT,
        "builder": draft.builder,
        "preprocessing": draft.preprocessing,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in measured(draft).items()},
        "arguments": [list(pair) for pair in draft.arguments],
        "length": draft.length,
    }


def _min_image_size(builder: str) -> int:
    try:
        getattr(keras.applications, builder)(include_top=False, weights=None, input_shape=(8, 8, 3))
    except ValueError as error:
        match = re.search(r"at least (\d+)", str(error))
        assert match, str(error)
        return int(match.group(1))
    raise AssertionError(f"{builder} took 8 pixels")


def _published(spec: BackboneSpec) -> list[dict[str, Any]]:
    files = []
    for size in PUBLISHED_SIZES.get(spec.builder, (0,)):
        asked = _asked(spec, size or spec.image_size)
        file, url = asked["fname"], asked["origin"]
        files.append({"image_size": size, "file": file, "url": url, "md5": asked.get("file_hash") or ""})
    return files


def _asked(spec: BackboneSpec, size: int) -> dict[str, Any]:
    def ask(fname: str, origin: str, **rest: Any) -> str:
        raise _Asked({"fname": fname, "origin": origin, **rest})

    genuine = file_utils.get_file
    file_utils.get_file = ask
    try:
        builder = getattr(keras.applications, spec.builder)
        shape = (size, size, 3)
        builder(include_top=False, weights="imagenet", input_shape=shape, **dict(spec.arguments))
    except _Asked as asked:
        return asked.args[0]
    finally:
        file_utils.get_file = genuine
    raise AssertionError(f"{spec.name} did not ask for weights")


def main(names: list[str]) -> None:
    known = json.loads(REGISTRY_FILE.read_text()) if REGISTRY_FILE.exists() and names else []
    entries = {entry["name"]: entry for entry in known}
    makers = {row[0]: functools.partial(measure, row) for row in ROWS}
    makers |= {row[0]: functools.partial(measure_bundled, *row) for row in BUNDLED_FOLDERS}
    makers |= {row[0]: functools.partial(measure_encoder, *row) for row in ENCODERS}
    for name, make in makers.items():
        if names and name not in names:
            continue
        start = time.perf_counter()
        entries[name] = entry = make()
        spec_from_dict(entry)
        keras.backend.clear_session()
        points = len(entry["unfreeze_points"])
        sys.stderr.write(f"{name}: {points} points, {time.perf_counter() - start:.1f} s\n")
        ordered = [entries[each] for each in makers if each in entries]
        REGISTRY_FILE.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
