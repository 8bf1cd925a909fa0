"""Texts from a table to a served model: a random encoder in a folder, both phases, predictions, exports, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_reference import BERT_CONFIG, random_tensors, write_folder

import kerastl
from kerastl.errors import DataError, RecipeError, UserError, WeightsError
from kerastl.export.formats import FORMATS, missing_packages
from kerastl.export.versions import facts_of
from kerastl.modality.text import Text, vocabulary_at
from kerastl.modality.text.beside_weights import vocabulary_keys
from kerastl.modality.text.text_keys import TextData

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD, BAD = ["good", "lovely", "great", "fine", "moving"], ["poor", "dull", "awful", "boring", "bad"]
OTHERS = ["the", "film", "was", "and", "plot", "music", "it", ".", ",", "!", "héros", "hero", "##s", "##ing"]
# The sizes of `bert_tiny` in the registry.
TINY = {
    **BERT_CONFIG, "vocab_size": 30522, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 512, "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip
SMALL = {
    "data.max_pieces": 16, "finetune_phase.epochs": 1, "finetune_phase.unfreeze_from": "layer_1", "seed": 1,
}  # fmt: skip


def vocabulary(count: int = 30522) -> list[str]:
    pieces = [*SPECIAL, *GOOD, *BAD, *OTHERS]
    return [*pieces, *(f"[unused{at}]" for at in range(count - len(pieces)))]


def reviews(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    random = np.random.default_rng(seed)
    labels = ["pos" if at % 2 else "neg" for at in range(count)]
    texts = [
        " ".join(
            random.choice([*(GOOD if label == "pos" else BAD), "the", "film", "was"], random.integers(2, 14))
        )
        + f" {GOOD[0] if label == 'pos' else BAD[0]} {at}"
        for at, label in enumerate(labels)
    ]
    return texts, labels


def tiny_folder(path: Path, pieces: list[str]) -> Path:
    """The Hugging Face folder of a tiny encoder with random weights, its vocabulary beside them."""
    write_folder(path, TINY, random_tensors(TINY))
    (path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("weights") / "tiny", vocabulary())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*reviews(120), strict=True)])
    return path


@pytest.fixture(scope="module")
def fitted(folder: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> kerastl.Fitted:
    """A fit whose weights are gone afterwards, and whose run has moved."""
    here, gone = tmp_path_factory.mktemp("fit"), tmp_path_factory.mktemp("gone") / "tiny"
    shutil.copytree(folder, gone)
    made = kerastl.fit(
        "bert_tiny", str(table), weights=str(gone), runs_dir=here / "runs", models_dir=here / "models", export_model=True,
        **SMALL,
    )  # fmt: skip
    shutil.rmtree(gone)
    moved = here / "elsewhere"
    shutil.move(made.run, moved)
    again = kerastl.load(moved)
    again.exported = made.exported
    return again


Served = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def served(fitted: kerastl.Fitted) -> Served:
    """Asks the exported model, which is loaded once: texts, and a signature -> its answers by name."""
    import tensorflow as tf

    assert fitted.exported is not None
    model = tf.saved_model.load(str(fitted.exported.path))

    def ask(texts: list[Any], signature: str = "serving_default") -> dict[str, np.ndarray]:
        answers = model.signatures[signature](text=tf.constant(texts, tf.string))
        return {name: value.numpy() for name, value in answers.items()}

    return ask


def test_the_words_tell_the_classes_and_the_report_speaks_of_texts(fitted: kerastl.Fitted) -> None:
    assert fitted.report.metrics.accuracy > 0.9
    written = [
        (fitted.run / name).read_text(encoding="utf-8") for name in ("report.md", "log.txt", "plan.txt")
    ]
    assert "24 texts" in written[0] or " texts" in written[0]
    for text in (*written, str(fitted)):
        assert "image" not in text.lower() and "picture" not in text.lower()


def test_a_run_keeps_its_vocabulary_and_is_asked_where_it_lies_now(fitted: kerastl.Fitted) -> None:
    assert (fitted.run / "vocab.txt").is_file()
    assert fitted.recipe.data.vocabulary == str(fitted.run / "vocab.txt")
    record = facts_of(fitted.exported.path)  # type: ignore[union-attr]
    assert record["modality"] == "text" and record["lowercase"] is True and record["max_pieces"] == 16
    assert record["vocabulary"] == vocabulary_at(str(fitted.run / "vocab.txt")).digest
    assert [each.label for each in fitted.predict(["good lovely film", "BAD, dull!"])] == ["pos", "neg"]
    assert fitted.predict("good lovely film").label == "pos"
    assert fitted.evaluate(*reviews(20, seed=3)).accuracy > 0.9


def test_the_served_model_takes_strings_and_answers_as_the_run_does(
    fitted: kerastl.Fitted, served: Served
) -> None:
    texts = ["The film was GOOD.", "bad", "héros", "x" * 300, "good " * 5000]
    answers = served(texts)
    ours = [dict(each.top)["pos"] for each in fitted.predict(texts)]
    at = fitted.class_names.index("pos")
    np.testing.assert_allclose(answers["probabilities"][:, at], ours, atol=1e-5)
    assert served(texts, "serving_embedding")["embedding"].shape[0] == len(texts)
    nothing = served(["", "\U0001f600", b"\xff\xfe good", "a\0b"])
    assert np.isfinite(nothing["probabilities"]).all()
    assert served([])["probabilities"].shape == (0, 2)


def test_a_text_is_answered_alike_whatever_its_neighbours_are(served: Served) -> None:
    alone = served(["the film was good"])["probabilities"][0]
    among = served(["bad " * 100, "the film was good", "dull"])["probabilities"][1]
    np.testing.assert_allclose(alone, among, atol=1e-5)


def test_the_check_of_an_export_finds_other_pieces(fitted: kerastl.Fitted) -> None:
    """Negative control: the model passed when it was published, and is refused where the one in memory knows no capitals."""
    import dataclasses

    from kerastl.export.check import FLOAT32_TOLERANCE, check_export, expected_answers

    assert fitted.exported is not None and fitted.exported.largest_difference <= FLOAT32_TOLERANCE
    raw = [each.encode() for each in ["GOOD film", "Dull. BAD", "good film"]]
    serving = fitted.serving
    other = dataclasses.replace(serving, modality=dataclasses.replace(serving.modality, lowercase=False))  # type: ignore[type-var]
    expected = expected_answers(fitted.model, raw, other)
    problems = check_export(fitted.exported.path, expected, serving).problems
    assert any(line.startswith("serving_default") for line in problems)
    assert not any(line.startswith("serving_pieces") for line in problems), "pieces are answered as ever"


def test_texts_are_named_in_words_files_and_lines(
    fitted: kerastl.Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    (tmp_path / "a.txt").write_text("lovely great film", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("dull, bad plot".encode("utf-16"))
    (tmp_path / "c.txt").write_bytes("schön".encode("latin-1"))
    found = kerastl.predict(fitted.run, [str(tmp_path), "good great film", ""])
    assert [(Path(each.path).name, each.label) for each in found[:2]] == [("a.txt", "pos"), ("b.txt", "neg")]
    assert "byte 0xf6 is not UTF-8" in found[2].error
    assert (found[3].path, found[3].label) == ("good great film", "pos") and found[4].error == "empty text"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"good lovely film\n\nbad dull plot\r\n")))
    lines = kerastl.predict(fitted.exported.path, ["-"])  # type: ignore[union-attr]
    assert [(each.path, each.label) for each in lines] == [("line 1", "pos"), ("line 3", "neg")]
    given = fitted.predict(["good great film", " ", "bad"])
    assert [each.label for each in given] == ["pos", "", "neg"] and given[1].error == "empty text"
    assert fitted.predict("").error == "empty text"
    with pytest.raises(UserError, match=r"No text .a\.txt."):
        kerastl.predict(fitted.run, ["a.txt"])


def test_a_server_is_asked_with_texts(fitted: kerastl.Fitted, here: Any) -> None:
    from served import stand_in

    assert fitted.exported is not None
    with stand_in({"reviews": Path(fitted.exported.path).parent}) as running:
        asked = here("predict", "--url", running.url("reviews"), "good great film", "dull, bad")
    assert asked.returncode == 0, asked.stderr
    rows = [line.split() for line in asked.stdout.splitlines()]
    assert rows[0] == ["text", "label", "probability"]
    assert [row[-2] for row in rows[1:] if row[-1][0] in "01"] == ["pos", "neg"]


def test_from_texts_gives_the_same_model_and_can_be_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERASTL_WEIGHTS_DIR", str(folder.parent))
    (folder.parent / "bert_tiny").symlink_to(folder)
    data = kerastl.from_texts(*reviews(80))
    made = kerastl.fit("bert_tiny", data, **{**SMALL, "finetune_phase.epochs": 0})
    assert made.predict(["good great", "bad awful"])[1].label == "neg"
    assert made.evaluate().accuracy == made.report.metrics.accuracy
    assert "version" in repr(made.export("saved_models/t")) and (tmp_path / "saved_models/t/1").is_dir()


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "broken"
    target.mkdir()
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        shutil.copyfile(folder / name, target / name)
    (target / "model.safetensors").symlink_to(folder / "model.safetensors")
    return target


def _without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _vocabulary(count: int) -> Any:
    return lambda folder: (folder / "vocab.txt").write_text("\n".join(vocabulary(count)))


BAD_FOLDERS = {
    "no vocabulary": (_without("vocab.txt"), {}, "There is no vocab.txt and no tokenizer.json in"),
    "another vocabulary": (_vocabulary(30521), {}, "has 30,521 pieces, and the backbone 'bert_tiny' an embedding for each of 30,522"),
    "no weights": (_without("model.safetensors"), {}, "model.safetensors"),
    "case": (lambda folder: (folder / "tokenizer_config.json").write_text('{"do_lower_case": 1}'), {}, "Expected true or false"),
    "too long": (lambda folder: None, {"data.max_pieces": 513}, "'bert_tiny' has 512 positions. Expected 512 at most"),
    "too short": (lambda folder: None, {"data.max_pieces": 2}, "data.max_pieces = 2: expected a whole number at least 3"),
    "augmented": (lambda folder: None, {"augment.level": "light"}, "augment.level = 'light': expected none"),
    "blended": (lambda folder: None, {"finetune_phase.mixup_alpha": 0.2}, "finetune_phase.mixup_alpha = 0.2: expected 0, as texts"),
    "views": (lambda folder: None, {"augment.views": 3}, "augment.views = 3: expected 1"),
    "a key of images": (lambda folder: None, {"data.resize": "crop"}, "data.resize = 'crop': expected none, as the backbone 'bert_tiny' takes texts"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_what_does_not_fit_is_refused_with_a_way_out(
    case: str, broken: Path, table: Path, tmp_path: Path
) -> None:
    spoil, options, message = BAD_FOLDERS[case]
    spoil(broken)
    with pytest.raises(UserError) as error:
        kerastl.fit(
            "bert_tiny", str(table), weights=str(broken), runs_dir=tmp_path / "runs", **{**SMALL, **options}
        )
    assert message in str(error.value)


def test_kinds_that_do_not_go_together_are_refused(folder: Path, table: Path, solid_colours: Path) -> None:
    with pytest.raises(DataError, match="are texts, and the backbone 'resnet50' takes images"):
        kerastl.fit("resnet50", str(table))
    with pytest.raises(DataError, match="are images, and the backbone 'bert_tiny' takes texts"):
        kerastl.fit("bert_tiny", str(solid_colours), weights=str(folder))
    with pytest.raises(RecipeError, match=r"data\.modality = 'text': the backbone 'resnet50' takes images"):
        kerastl.load_recipe(flags={"backbone.name": "resnet50", "data.modality": "text"})
    with pytest.raises(
        RecipeError, match=r"data\.max_pieces = 64: expected none, as the backbone 'vgg16' takes images"
    ):
        kerastl.load_recipe(flags={"backbone.name": "vgg16", "data.max_pieces": 64})
    with pytest.raises(RecipeError, match=r"backbone.weights = '/no/such': no such folder"):
        kerastl.load_recipe(flags={"backbone.name": "bert_tiny", "backbone.weights": "/no/such"})


def test_texts_without_a_named_backbone_get_one_of_texts(
    table: Path, solid_colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERASTL_WEIGHTS_DIR", raising=False)
    with pytest.raises(WeightsError, match="no weights of backbone 'minilm_l6' at hand"):
        kerastl.fit(None, str(table), max_pieces=64)
    with pytest.raises(
        RecipeError, match=r"data\.max_pieces = 64: expected none, as the backbone 'resnet50'"
    ):
        kerastl.fit(None, str(solid_colours), max_pieces=64)
    with pytest.raises(WeightsError, match="no weights of backbone 'minilm_l6' at hand"):
        kerastl.fit(None, kerastl.from_texts(*reviews(40)))


def test_the_case_follows_from_the_folder_then_from_the_registry(broken: Path) -> None:
    spec = kerastl.get_backbone("bert_tiny")
    assert vocabulary_keys(TextData(), broken, spec)["lowercase"] is True
    (broken / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert vocabulary_keys(TextData(), broken, spec)["lowercase"] is False
    assert vocabulary_keys(TextData(lowercase=True), broken, spec)["lowercase"] is True
    (broken / "tokenizer_config.json").unlink()
    assert vocabulary_keys(TextData(), broken, spec)["lowercase"] is True
    with pytest.raises(UserError, match=r"Set data\.vocabulary"):
        vocabulary_keys(TextData(), None, spec)


OTHER_TOKENIZERS = {
    "accents kept": ({"do_lower_case": True, "strip_accents": False}, "strip_accents = false, expected true"),
    "accents stripped": ({"do_lower_case": False, "strip_accents": True}, "strip_accents = true, expected false"),
    "Chinese whole": ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars = false, expected true"),
    "Japanese": ({"tokenizer_class": "BertJapaneseTokenizer"}, 'tokenizer_class = "BertJapaneseTokenizer", expected "BertTokenizer"'),
    "MPNet": ({"tokenizer_class": "MPNetTokenizer"}, 'tokenizer_class = "MPNetTokenizer"'),
    "general": ({"tokenizer_class": "PreTrainedTokenizerFast"}, 'tokenizer_class = "PreTrainedTokenizerFast"'),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_TOKENIZERS)
def test_a_tokenizer_that_cuts_texts_otherwise_is_refused_by_its_key(case: str, broken: Path) -> None:
    config, message = OTHER_TOKENIZERS[case]
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        vocabulary_keys(TextData(), broken, kerastl.get_backbone("bert_tiny"))
    assert f"{broken / 'tokenizer_config.json'}: {message}" in str(error.value)
    own = TextData(vocabulary=str(broken / "vocab.txt"), lowercase=True)
    assert vocabulary_keys(own, broken, kerastl.get_backbone("bert_tiny"))["lowercase"], "the way out"


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": None},
        {"tokenizer_class": "DistilBertTokenizerFast", "strip_accents": True},
        {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False, "strip_accents": False},
        {"tokenizer_class": None, "tokenize_chinese_chars": True},
    ],
)
def test_tokenizers_of_the_family_of_bert_are_taken(config: dict[str, Any], broken: Path) -> None:
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    found = vocabulary_keys(TextData(), broken, kerastl.get_backbone("bert_tiny"))
    assert found["lowercase"] is config.get("do_lower_case", True)


def test_shown_texts_are_what_the_network_sees(broken: Path) -> None:
    from kerastl.modality.read import decode_each

    text = Text(vocabulary_at(str(broken / "vocab.txt")), max_pieces=6)
    assert list(text.shown(decode_each(text, [b"Heros, good lovely fine film"]))) == ["heros , good"]
    assert Text.self_test() == "version 2"


@pytest.mark.skipif(
    bool(missing_packages(FORMATS["onnx"])), reason="ONNX Runtime or tf2onnx is not installed"
)
def test_a_run_becomes_onnx_of_pieces_with_its_vocabulary(fitted: kerastl.Fitted, tmp_path: Path) -> None:
    import onnxruntime

    from kerastl.modality.read import decode_each
    from kerastl.progress import Progress

    notes: list[str] = []
    progress = Progress()
    progress.note = notes.append  # type: ignore[method-assign]
    made = kerastl.convert(fitted.run, "onnx", exported_dir=tmp_path, progress=progress)
    assert made.test_count > 10 and made.label_agreement == 1.0 and made.accuracy == made.model_accuracy
    assert "model.onnx takes pieces and length: to make these of texts as format.json says" in notes[-1]
    path = made.path / "vocab.txt"
    assert path.read_bytes() == (fitted.run / "vocab.txt").read_bytes()
    raw = [b"good lovely film", b"dull, bad"]
    inputs = decode_each(Text(vocabulary_at(str(path)), max_pieces=16), raw)
    session = onnxruntime.InferenceSession(str(made.path / "model.onnx"))
    (answers,) = session.run(None, dict(inputs))
    at = fitted.class_names.index("pos")
    ours = [dict(each.top)["pos"] for each in fitted.predict([each.decode() for each in raw])]
    np.testing.assert_allclose(answers[:, at], ours, atol=1e-4)


def test_a_run_of_texts_becomes_no_integers(fitted: kerastl.Fitted, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'litert-int8' takes inputs of eight bits, and pieces and length"):
        kerastl.convert(fitted.run, "litert-int8", exported_dir=tmp_path)
    assert not list(tmp_path.iterdir())
