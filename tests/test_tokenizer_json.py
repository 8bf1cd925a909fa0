"""Vocabularies from `tokenizer.json`: the pieces and the case of BERT's kind, and all else refused by its name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kerastl
from kerastl.errors import UserError
from kerastl.modality.text import Text, vocabulary_at
from kerastl.modality.text.beside_weights import vocabulary_keys
from kerastl.modality.text.text_keys import TextData
from kerastl.modality.text.tokenizer_json import read_tokenizer
from kerastl.modality.text.vocabulary import read_vocabulary

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "film", "##s", "é"]
# As `tokenizers` 0.22 writes it for BERT; only the vocabulary is shorter.
WRITTEN: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": number, "content": piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number, piece in enumerate(PIECES[:4])
    ],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": None,
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {piece: number for number, piece in reversed([*enumerate(PIECES)])},
    },
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    """The file with some keys, such as `model__type`, changed; those that are given as `...` are left out."""
    values = copy.deepcopy(WRITTEN)
    for key, value in changes.items():
        *tables, name = key.split("__")
        table = values
        for each in tables:
            table = table[each]
        table[name] = value
        if value is ...:
            del table[name]
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return path


def test_pieces_stand_in_the_order_of_their_ids(tmp_path: Path) -> None:
    vocabulary, lowercase = read_tokenizer(written(tmp_path))
    assert vocabulary.pieces == tuple(PIECES) and lowercase is True
    assert read_tokenizer(written(tmp_path, normalizer__lowercase=False))[1] is False
    assert vocabulary_at(str(tmp_path / "tokenizer.json")).digest == vocabulary.digest


def test_pieces_that_were_added_later_have_their_ids(tmp_path: Path) -> None:
    more = [*WRITTEN["added_tokens"], {"id": len(PIECES), "content": "[MASK]"}]
    assert read_tokenizer(written(tmp_path, added_tokens=more))[0].pieces == (*PIECES, "[MASK]")


def test_a_run_keeps_the_vocabulary_as_lines(tmp_path: Path) -> None:
    text = Text(vocabulary_at(str(written(tmp_path))))
    (tmp_path / "vocab.txt").write_bytes(text.own_contents()["vocab.txt"])
    assert read_vocabulary(tmp_path / "vocab.txt").digest == text.settings()["vocabulary"]


def test_what_tokenizers_writes_is_read_and_cut_alike(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from kerastl.modality.read import decode_each

    made = tokenizers.BertWordPieceTokenizer(
        {piece: number for number, piece in enumerate(PIECES)}, lowercase=True
    )
    made.save(str(tmp_path / "tokenizer.json"))
    vocabulary, lowercase = read_tokenizer(tmp_path / "tokenizer.json")
    assert vocabulary.pieces == tuple(PIECES)
    said = "Good FILMS, filmé"
    ids = decode_each(Text(vocabulary, lowercase, 12), [said.encode()])
    assert ids["pieces"][0, : ids["length"][0]].tolist() == made.encode(said).ids


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Unigram": ({"model__type": "Unigram"}, "model.type = 'Unigram', expected 'WordPiece'"),
    "no model": ({"model": ...}, "model.type = None, expected 'WordPiece'"),
    "another prefix": ({"model__continuing_subword_prefix": "@@"}, "model.continuing_subword_prefix = '@@', expected '##'"),
    "another unknown": ({"model__unk_token": "<unk>"}, "model.unk_token = '<unk>', expected '[UNK]'"),
    "longer words": ({"model__max_input_chars_per_word": 200}, "model.max_input_chars_per_word = 200, expected 100"),
    "several normalizers": ({"normalizer__type": "Sequence"}, "normalizer.type = 'Sequence', expected 'BertNormalizer'"),
    "no normalizer": ({"normalizer": None}, "normalizer.type = None, expected 'BertNormalizer'"),
    "no cleaning": ({"normalizer__clean_text": False}, "normalizer.clean_text = False, expected True"),
    "Chinese in words": ({"normalizer__handle_chinese_chars": False}, "normalizer.handle_chinese_chars = False"),
    "no case": ({"normalizer__lowercase": ...}, "normalizer.lowercase = None, expected true or false"),
    "accents": ({"normalizer__strip_accents": False}, "normalizer.strip_accents = False, expected what normalizer.lowercase is"),
    "another splitting": ({"pre_tokenizer__type": "Metaspace"}, "pre_tokenizer.type = 'Metaspace', expected 'BertPreTokenizer'"),
    "a list of pieces": ({"model__vocab": [["a", -1.5]]}, "model.vocab is no table of pieces and their ids"),
    "a gap": ({"model__vocab": {**WRITTEN["model"]["vocab"], "more": 99}}, "have 9 pieces, whose ids are not 0 to 8"),
    "an id twice": ({"model__vocab": {**WRITTEN["model"]["vocab"], "more": 7}}, "have 9 pieces, whose ids are not 0 to 8"),
    "a line end": ({"model__vocab": {**WRITTEN["model"]["vocab"], "a\nb": 8}}, "the piece 'a\\nb' ends in white space or breaks a line"),
    "no special pieces": ({"model__vocab": {"a": 0}, "added_tokens": []}, "it lacks [UNK], [CLS], [SEP], [PAD]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_cut_otherwise_is_refused_by_its_name(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        read_tokenizer(written(tmp_path, **changes))
    assert message in str(error.value) and str(tmp_path / "tokenizer.json") in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '"text"'])
def test_a_file_that_holds_none_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json.*Expected the tokenizer\.json of a BERT model"):
        read_tokenizer(path)


def spec_of(count: int, case: str) -> Any:
    import dataclasses

    spec = kerastl.get_backbone("bert_tiny")
    return dataclasses.replace(
        spec, arguments={**dict(spec.arguments), "vocabulary": count}.items(), preprocessing=case
    )  # type: ignore[arg-type]


def with_lines(folder: Path) -> None:
    (folder / "vocab.txt").write_text(
        "".join(f"{piece}\n" for piece in [*PIECES[:5], "other", *PIECES[6:]]), encoding="utf-8"
    )


def with_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def with_general_class(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


@pytest.mark.parametrize(
    ("beside", "case", "file", "lowercase"),
    [
        ((), "other", "tokenizer.json", False),
        ((with_config,), "other", "tokenizer.json", True),
        ((with_general_class,), "other", "tokenizer.json", False),
        ((with_lines,), "uncased", "vocab.txt", True),
        ((with_lines, with_config), "cased", "vocab.txt", True),
    ],
)
def test_lines_come_before_the_tokenizer_and_its_case_before_the_registry(
    beside: tuple[Callable[[Path], None], ...], case: str, file: str, lowercase: bool, tmp_path: Path
) -> None:
    written(tmp_path, normalizer__lowercase=False)
    for each in beside:
        each(tmp_path)
    found = vocabulary_keys(TextData(), tmp_path, spec_of(len(PIECES), case))
    assert found == {"vocabulary": str(tmp_path / file), "lowercase": lowercase}


def test_a_tokenizer_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no vocab\.txt and no tokenizer\.json in"):
        vocabulary_keys(TextData(), tmp_path, spec_of(len(PIECES), "uncased"))
    path = written(tmp_path)
    with pytest.raises(
        UserError,
        match=r"tokenizer\.json has 8 pieces, and the backbone 'bert_tiny' an embedding for each of 9",
    ):
        vocabulary_keys(TextData(vocabulary=str(path)), None, spec_of(9, "uncased"))
