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


def vocabulary_keys(data: TextData, folder: Path | None, spec: BackboneSpec) -> dict[str, Any]:
    """Values for `data.vocabulary` and `data.lowercase`.

    Args:
        data: what is set of them stays.
        folder: of the backbone's weights; None where there is none.
        spec: the backbone, which has an embedding for each piece.

    Raises:
        UserError: there is no vocabulary, it is another backbone's, or neither folder nor registry tells the case.
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
    if data.lowercase is not None:
        return data.lowercase
    said = _said(folder / CONFIG_FILE) if folder is not None else None
    if said is None and vocabulary.suffix == ".json":
        said = read_tokenizer(vocabulary)[1]
    known = CASES.get(spec.preprocessing) if said is None else said
    if known is None:
        where = f"{folder / CONFIG_FILE} does not say" if folder else "it lies in no folder that says"
        raise UserError(
            f"The backbone '{spec.name}' may be cased or uncased: {where} (do_lower_case). Set data.lowercase to true for an uncased "
            "one, to false for a cased one."
        )
    return known


def _said(path: Path) -> bool | None:
    """The value of `do_lower_case`; None where the file or the key is not there."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    said = values.get("do_lower_case") if isinstance(values, dict) else None
    if said is not None and not isinstance(said, bool):
        raise UserError(f"{path}: do_lower_case = {said!r}. Expected true or false.")
    return said
