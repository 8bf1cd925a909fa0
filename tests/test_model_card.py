"""What stands beside a version: its card, its description for programs, and its warm-up requests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerastl.errors import ExportError
from kerastl.evaluation.metrics import evaluate_logits
from kerastl.export.card import describe_version, weights_licence
from kerastl.export.compare import CheckResult
from kerastl.task.classification import MULTI_LABEL

PARITY = CheckResult(
    largest_difference=3.2e-7, count=32, tolerance=1e-5, signatures=("serving_default", "serving_pixels")
)


def facts(**changes: Any) -> dict[str, Any]:
    """Of a trained model; changes may name the origin of its weights and their file."""
    logits = np.eye(3, dtype=np.float32)[[0] * 30 + [1] * 25 + [0, 2, 2]]
    labels = np.array([0] * 30 + [1] * 25 + [2] * 3)
    test = evaluate_logits(logits, labels, ["blue|green", "red", "rare"]).to_dict()
    origin, weights = changes.pop("weights_origin", "imagenet"), changes.pop("weights", "pretrained")
    data = {
        "source": "photos",
        "fingerprint": "abc123",
        "counts": {"train": 1200, "test": 58},
        "unreadable_count": 4,
    }
    data |= {key: changes.pop(key) for key in ("source", "counts") if key in changes}
    backbone = changes.get("backbone", "resnet50")
    return {
        "run": "20260102-030405-flowers", "recipe": "flowers", "backbone": backbone,
        "weights": {"origin": origin, "licence": weights_licence(origin, backbone, weights)},
        "embedding": {"outputs": ["conv5_block2_out", "backbone"], "pooling": "avg"},
        "modality": "image", "image_size": 224, "resize": "crop", "task": "classification", "classes": ["blue|green", "red", "rare"],
        "data": data, "test": test, "validation": None, "trust": None, "warnings": ["40 images appear twice"], **changes,
    }  # fmt: skip


def card_of(**changes: Any) -> str:
    return describe_version(facts(**changes), "flowers", PARITY, 3)["model_card.md"]


def test_the_card_tells_data_figures_limits_and_checks_with_their_counts() -> None:
    card = card_of()
    for fragment in (
        "# flowers\n", "3 classes (blue\\|green, red, rare)", "`resnet50` at 224 pixels (`crop`)",
        "- `embedding` holds, pooled by `avg` and one after the other, the outputs of the backbone at `conv5_block2_out`, `backbone`",
        "Source: `photos`", "train 1,200, test 58; 4 unreadable", "`abc123`",
        "Accuracy on 58 images that were used for nothing else: **0.983** (95 % interval 0.909 to 0.997).",
        "| blue\\|green | 30 | 0.968 | 1.000 | 0.984 |", "Fewer than 20 test images stand behind the figures of rare:",
        "- 40 images appear twice", "probabilities on 32 images; largest difference 3.2e-07, 1e-05 allowed",
        "3 requests with images of the data", "tensorflow 2.", "run `20260102-030405-flowers`",
    ):  # fmt: skip
        assert fragment in card
    assert "warmup" not in describe_version(facts(), "flowers", PARITY, 0)["model_card.md"]


def test_the_card_tells_how_far_probabilities_can_be_trusted() -> None:
    accepted = {"count": 58, "accepted": 50, "precision": 0.98, "precision_interval": [0.9, 1.0]}
    trust = {
        "calibration": {"kind": "temperature", "temperatures": [1.6] * 3, "count": 40},
        "reliability": {"count": 58, "error_before": 0.071, "error_after": 0.021},
        "threshold": 0.61,
        "test_accepted": accepted,
    }
    card = card_of(trust=trust)
    assert (
        "calibration error on test: 0.021, 0.071 before its probabilities were calibrated on validation."
        in card
    )
    assert (
        "from a probability of 0.6100 on: 50 of 58 test images, of which 0.980 (0.900 to 1.000) are right"
        in card
    )
    plain = card_of(trust={**trust, "calibration": {"kind": "none"}, "test_accepted": None})
    assert "calibration error on test: 0.021.\n" in plain and "accepted" not in plain
    assert "calibration error" not in card_of()


def test_the_same_stands_in_json_for_programs() -> None:
    record = json.loads(describe_version(facts(), "flowers", PARITY, 3)["model.json"])
    assert (record["name"], record["backbone"], record["recipe"]) == ("flowers", "resnet50", "flowers")
    assert record["test"]["accuracy"] == 57 / 58 and record["test"]["count"] == 58
    assert record["data"]["fingerprint"] == "abc123" and record["parity"]["example_count"] == 32
    assert record["validation"] is None and "classes" not in record["test"]


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({}, "unknown to kerastl: check it with their publisher"),
        ({"weights_origin": "file", "weights": "mine.h5"}, "unknown to kerastl: check it with the publisher of `mine.h5`"),
        ({"weights_origin": ""}, "unknown to kerastl"),
        ({"weights_origin": "bundled", "backbone": "mobilenet_025"}, "Apache-2.0"),
        ({"weights_origin": "none"}, "no pretrained weights were used"),
    ],
)  # fmt: skip
def test_a_licence_is_named_only_where_it_is_known(changes: dict, fragment: str) -> None:
    (line,) = [line for line in card_of(**changes).splitlines() if "Their licence:" in line]
    assert fragment in line
    assert ("Apache" in line) == (changes.get("weights_origin") == "bundled")


def test_a_model_that_was_never_tested_says_so() -> None:
    card = card_of(test=None)
    assert "It was never tested" in card and "Accuracy" not in card
    assert json.loads(describe_version(facts(test=None), "m", PARITY, 0)["model.json"])["test"] is None


def test_a_multi_label_card_speaks_of_labels() -> None:
    logits, labels = np.array([[3.0, -2.0], [-1.0, 2.0]]), np.array([[1, 0], [0, 1]])
    test = evaluate_logits(logits, labels, ["a", "b"], MULTI_LABEL).to_dict()
    card = card_of(test=test, task="multi_label", classes=["a", "b"])
    assert "Labels images: 2 labels (a, b)" in card and "All labels right on 2 images" in card
    assert "one of its classes for every image" not in card


def test_of_a_run_that_was_stopped_the_data_are_known_and_the_rest_is_not(tmp_path: Path) -> None:
    from kerastl.export.facts import measured
    from kerastl.run import Run

    data = {
        "fingerprint": "f",
        "counts": {"train": 3},
        "unreadable": {"a.jpg": "cut off"},
        "warnings": ["few"],
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    known = measured(Run(tmp_path))
    assert known == {"fingerprint": "f", "counts": {"train": 3}, "unreadable_count": 1, "warnings": ["few"]}
    (tmp_path / "report.json").write_text('{"winner": "head_phase"}')
    assert measured(Run(tmp_path)) == {"winner": "head_phase"}


# Warm-up: a tiny SavedModel with the signature of an exported one.


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    made = []
    for side in (40, 20, 30):
        buffer = io.BytesIO()
        Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(buffer, "PNG")
        made.append(buffer.getvalue() + b" " * side)
    return made


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    import tensorflow as tf

    class Sizes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def answer(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"length": tf.strings.length(image_bytes)}

    module = Sizes()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.answer})
    return tmp_path / "model"


def requests_of(saved_model: Path) -> list:
    import tensorflow as tf

    api = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="tensorflow-serving-api is not installed"
    )
    file = saved_model / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        api.PredictionLog.FromString(each) for each in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    ]
    assert all(log.WhichOneof("log_type") == "predict_log" for log in logs)
    return [log.predict_log.request for log in logs]


def test_tensorflow_servings_own_messages_read_the_warmup_requests(
    saved_model: Path, images: list[bytes]
) -> None:
    import tensorflow as tf

    from kerastl.export.warmup import write_warmup

    assert write_warmup(saved_model, "flowers", images, "image_bytes") == 2
    requests = requests_of(saved_model)
    answer = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    batches = []
    for request in requests:
        assert (request.model_spec.name, request.model_spec.signature_name) == ("flowers", "serving_default")
        assert list(request.inputs) == ["image_bytes"]
        batch = tf.make_ndarray(request.inputs["image_bytes"])
        assert answer(image_bytes=tf.constant(batch))["length"].numpy().tolist() == [
            len(each) for each in batch
        ]
        batches.append(batch.tolist())
    smallest, middle, largest = sorted(images, key=len)
    assert batches[0] == [smallest]
    assert len(batches[1]) == 8 and set(batches[1]) == {smallest, middle, largest}


def test_a_request_that_the_model_would_refuse_is_not_published(
    saved_model: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.export import warmup

    with pytest.raises(ExportError, match="has the inputs"):
        warmup.write_warmup(saved_model, "flowers", images, "images")
    with (
        monkeypatch.context() as patch,
        pytest.raises(ExportError, match="asks the signature 'predict'; there are"),
    ):
        patch.setattr(warmup, "SERVING_RAW", "predict")
        warmup.write_warmup(saved_model, "flowers", images, "image_bytes")
    assert warmup.write_warmup(saved_model, "flowers", [], "image_bytes") == 0


def test_warmup_batches_fit_the_servers_batches() -> None:
    from kerastl.export.warmup import BATCH_SIZES

    text = (Path(__file__).parents[1] / "tools" / "batching.config").read_text()
    (size,) = [line for line in text.splitlines() if line.startswith("max_batch_size")]
    assert max(BATCH_SIZES) <= int(size.split()[-2]) and len(BATCH_SIZES) <= 1000


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/anna/my photos/", "my photos"), ("photos", "photos"), ("../anna/x.csv", "x.csv"), ("~/p", "p"),
        ("tfds:cats_vs_dogs", "tfds:cats_vs_dogs"), ("tfds:ns/name:1.0.0", "tfds:ns/name:1.0.0"), ("digits", "digits"),
        ("C:\\Users\\anna\\photos", "photos"), ("pretrained", "pretrained"), ("a:b/c", "a:b/c"), ("/", "/"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_part_is_told(place: str, shown: str) -> None:
    from kerastl.export.facts import without_folders

    assert without_folders(place) == shown


def test_nothing_published_tells_where_data_weights_and_cache_lie(tmp_path: Path) -> None:
    from kerastl.export.facts import model_facts, published_recipe
    from kerastl.recipe import load_recipe, resolve
    from kerastl.run import Run

    home = tmp_path / "anna b"
    home.mkdir()
    (home / "w.weights.h5").touch()
    flags = {
        "data.source": f"{home}/photos", "data.data_dir": f"{home}/tfds", "backbone.weights": f"{home}/w.weights.h5",
        "backbone.weights_dir": f"{home}/weights", "cache.directory": f"{home}/cache", "backbone.image_size": 64,
    }  # fmt: skip
    recipe = resolve(load_recipe(flags=flags), 1000, 2)
    warnings = (
        f"2 images of {home}/photos appear twice", "see https://a.b/c/d and 1/2 of it",
        "left out '/data/anna/x.jpg': cut off", "Read (/data/anna/y.jpg)",
    )  # fmt: skip
    found = {"weights_origin": "file", "warnings": warnings}
    known = model_facts(recipe, Run(tmp_path / "run"), ("a", "b"), found)
    files = describe_version(known, "m", PARITY, 3)
    text = "\n".join([*files.values(), published_recipe(recipe)])
    assert "anna" not in text and str(tmp_path) not in text
    assert "`photos`" in text and "`w.weights.h5`" in text and 'directory = "cache"' in text
    assert "see https://a.b/c/d and 1/2 of it" in text and "left out 'x.jpg': cut off" in text
    assert "anna" in "\n".join([str(recipe), *warnings]), "else this proves nothing"
