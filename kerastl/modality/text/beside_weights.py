"""The files of a tokenizer that lie beside an encoder's weights: its vocabulary, and whether it is one of lower case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerastl.errors import UserError
from kerastl.modality.text import VOCABULARY_FILE, vocabulary_at
from kerastl.modality.text.text_keys import CASES, TextData
from kerastl.modality.text.tokenizer_json import TOKENIZER_FILE, read_tokenizer

if TYPE_CHECKING:
    from kerastl.backbones import BackboneSpec

CONFIG_FILE = "tokenizer_config.json"
# In a Hugging Face folder, in a KerasHub preset, whose own tokenizer.json holds no pieces, and in a folder of model2vec.
_PLACES = (VOCABULARY_FILE, "assets/tokenizer/vocabulary.txt", TOKENIZER_FILE)

# Tokenizers that cut texts alike; MPNet's, BERT's of Japanese and those of other families do not.
_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
# One that leaves all to tokenizer.json, which is checked when it is read.
_GENERAL_CLASS = "PreTrainedTokenizerFast"


def vocabulary_keys(data: TextData, folder: Path | None, spec: BackboneSpec) -> dict[str, Any]:
    """Values for `data.vocabulary` and `data.lowercase`.

    Args:
        data: what is set of them stays.
        folder: of the backbone's weights; None where there is none.
        spec: the backbone, which has an embedding for each piece.

    Raises:
        UserError: there is no vocabulary, it is another backbone's, neither folder nor registry tells the case, or the folder's
            tokenizer cuts texts in another way; names file and key.
    """
    path = data.vocabulary
    if path is None:
        if folder is None:
            raise UserError(
                f"There is no vocabulary for the backbone '{spec.name}': its weights lie in no folder. Set data.vocabulary to the "
                f"path of its {VOCABULARY_FILE}."
            )
        path = next((str(folder / each) for each in _PLACES if (folder / each).is_file()), None)
        if path is None:
            raise UserError(
                f"There is no {VOCABULARY_FILE} and no {TOKENIZER_FILE} in {folder}, the folder of the weights of '{spec.name}'. Fetch it from where the weights "
                "come from, or name another with data.vocabulary."
            )
    count, wanted = len(vocabulary_at(path)), dict(spec.arguments).get("vocabulary")
    if wanted is not None and count != wanted:
        raise UserError(
            f"The vocabulary {path} has {count:,} pieces, and the backbone '{spec.name}' an embedding for each of {wanted:,}: it is "
            f"another network's. Expected the {VOCABULARY_FILE} that was published with the weights."
        )
    return {"vocabulary": path, "lowercase": _lowercase(data, folder, Path(path).expanduser(), spec)}


def _lowercase(data: TextData, folder: Path | None, vocabulary: Path, spec: BackboneSpec) -> bool:
    if data.lowercase is not None and data.vocabulary is not None:
        return data.lowercase  # all is said, whatever lies there
    config = {} if folder is None else _config(folder / CONFIG_FILE)
    known = config.get("do_lower_case") if data.lowercase is None else data.lowercase
    if known is None and vocabulary.suffix == ".json":
        known = read_tokenizer(vocabulary)[1]
    if known is None:
        known = CASES.get(spec.preprocessing)
    if known is None:
        where = f"{folder / CONFIG_FILE} does not say" if folder else "it lies in no folder that says"
        raise UserError(
            f"The backbone '{spec.name}' may be cased or uncased: {where} (do_lower_case). Set data.lowercase to true for an uncased "
            "one, to false for a cased one."
        )
    if folder is not None:
        _check_cut(folder / CONFIG_FILE, config, known, vocabulary)
    return known


def _config(path: Path) -> dict[str, Any]:
    """Settings of the tokenizer, as the file has them; none where it is not there."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    values = values if isinstance(values, dict) else {}
    said = values.get("do_lower_case")
    if said is not None and not isinstance(said, bool):
        raise UserError(f"{path}: do_lower_case = {said!r}. Expected true or false.")
    return values


def _check_cut(path: Path, config: dict[str, Any], lowercase: bool, vocabulary: Path) -> None:
    """Refuse a tokenizer that cuts texts into other pieces than `kerastl.modality.text.wordpiece` does."""
    of_json = (_GENERAL_CLASS,) if vocabulary.suffix == ".json" else ()
    allowed: dict[str, tuple[Any, ...]] = {
        "tokenizer_class": (*_CLASSES, *(f"{name}Fast" for name in _CLASSES), *of_json),
        "tokenize_chinese_chars": (True,),
        "strip_accents": (lowercase,),
    }
    wrong = [
        f"{key} = {json.dumps(config[key])}, expected {json.dumps(values[0])}"
        for key, values in allowed.items()
        if config.get(key) is not None and config[key] not in values
    ]
    if wrong:
        raise UserError(
            f"{path}: {'; '.join(wrong)}: the embeddings were trained with other pieces than a BERT tokenizer makes, which is the one "
            "that kerastl has. Choose another backbone, or set data.vocabulary and data.lowercase where the pieces are BERT's all the same."
        )
