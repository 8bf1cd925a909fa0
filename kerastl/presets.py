"""KerasHub presets: folders with a network, its weights and what its examples have to become, as `save_to_preset` writes them.

    config.json             the network's class and sizes
    model.weights.h5        its weights
    image_converter.json    of images: size, scale and offset; may be absent
    tokenizer.json          of texts: the tokenizer's class and case, with its vocabulary in assets/tokenizer

These files are read without KerasHub, so that a recipe is checked before TensorFlow is there; only a preset's name needs it, and a
network (`kerastl.model.kerashub`).
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerastl.backbones import IMAGE, PRESET_PREFIX, TEXT
from kerastl.errors import UserError, nearest

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.weights.h5"
CONVERTER_FILE, TOKENIZER_FILE = "image_converter.json", "tokenizer.json"
TOKENIZER_FOLDER, VOCABULARY_FILE = Path("assets/tokenizer"), "vocabulary.txt"
KAGGLE = "kaggle://"
# Of a network of images and texts: the part that takes images.
TOWER = "vision_encoder"
# Keys of a network's sizes.
_SHAPES, _VOCABULARIES = ("image_shape", "input_shape"), ("vocabulary_size", "vocab_size")
_POSITIONS = "max_sequence_length"
_MEND = (
    f"Expected {PRESET_PREFIX} and a folder that KerasHub's save_to_preset wrote ({CONFIG_FILE}, {WEIGHTS_FILE}), or the name of a "
    "preset that KerasHub lists"
)


@dataclass(frozen=True)
class Preset:
    """A preset by its files.

    Attributes:
        name: as recipes have it, `kerashub:` before a folder or a name.
        folder: with its files.
        modality: name of the kind of examples that its network takes.
        whole: class and sizes of the network in it, as Keras writes objects down.
        tower: attribute of that network which is the backbone; None where it is all of it.
    """

    name: str
    folder: Path
    modality: str
    whole: Mapping[str, Any]
    tower: str | None = None

    @property
    def is_text(self) -> bool:
        """True if its network takes pieces."""
        return self.modality == TEXT

    @property
    def network(self) -> Mapping[str, Any]:
        """Class and sizes of the backbone."""
        return self.whole["config"][self.tower] if self.tower else self.whole

    @property
    def sizes(self) -> Mapping[str, Any]:
        """The arguments that the network's class is made with."""
        return self.network["config"]

    @property
    def vocabulary(self) -> int | None:
        """Pieces that have an embedding, of a network of texts."""
        return next((self.sizes[key] for key in _VOCABULARIES if key in self.sizes), None)

    @property
    def positions(self) -> int | None:
        """The most pieces that a text may have; None where there is no limit."""
        return self.sizes.get(_POSITIONS)

    @property
    def weights(self) -> Path:
        """The file of its weights.

        Raises:
            UserError: there is none, or there are several.
        """
        path = self.folder / WEIGHTS_FILE
        if not path.is_file():
            others = sorted(each.name for each in self.folder.glob("model*.weights.*"))
            found = f"they lie in {len(others)} files" if others else "there is no such file"
            raise UserError(f"backbone.name = '{self.name}': {found}. Expected its weights in {path}")
        return path


@dataclass(frozen=True)
class Scaling:
    """Scale and offset of RGB pixels, 0..255, as a preset has it: `pixels * scale + offset`, each one number or one for each channel.

    Attributes:
        scale: factor.
        offset: is added.
        size: side of the square that the network was published for; None where the preset does not say.
    """

    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    size: int | None = None


def require_keras_hub() -> None:
    """Raise UserError, with the command that installs it, unless KerasHub can be imported."""
    if importlib.util.find_spec("keras_hub") is None:
        raise UserError(
            f'{PRESET_PREFIX} names a preset of KerasHub, which is not installed: pip install "kerastl[kerashub]"'
        )


def check_preset(name: str) -> None:
    """Find what is wrong with a preset before TensorFlow is imported.

    Raises:
        UserError: KerasHub is not installed; there is no such preset, it is for other examples, or exported models could not cut
            its texts; or its weights are not there.
    """
    require_keras_hub()
    preset = read_preset(name)
    assert preset.weights
    if preset.is_text:
        lowercase_of(preset)
    else:
        scaling_of(preset)


def read_preset(name: str) -> Preset:
    """The preset that a recipe names.

    Args:
        name: `kerashub:FOLDER` or `kerashub:NAME`; the latter is looked for in Kaggle's cache, and fetched where it is not there.

    Raises:
        UserError: there is none, or it is for neither images nor texts; the message says what to do instead.
    """
    folder = preset_folder(name)
    config = _object(folder / CONFIG_FILE, name)
    sizes = config.get("config")
    if not isinstance(sizes, dict) or "registered_name" not in config:
        hint = ""
        if "model_type" in config or "architectures" in config:
            hint = " It is a folder of Hugging Face: pass it by --weights to the backbone that it belongs to."
        raise UserError(f"backbone.name = '{name}': {folder / CONFIG_FILE} is not KerasHub's.{hint} {_MEND}.")
    tower = sizes.get(TOWER)
    if isinstance(tower, dict) and any(key in tower.get("config", {}) for key in _SHAPES):
        return Preset(name, folder, IMAGE, config, TOWER)
    kinds = [
        kind for kind, keys in ((IMAGE, _SHAPES), (TEXT, _VOCABULARIES)) if any(key in sizes for key in keys)
    ]
    if len(kinds) != 1:
        raise UserError(
            f"backbone.name = '{name}': {config.get('class_name')} is a network of neither images nor texts alone, by its {CONFIG_FILE}. "
            "Expected a preset of an image classifier (ViT, DINOv2, MiT, ResNet, …) or of a text encoder with WordPiece "
            "(BERT, DistilBERT, ELECTRA)."
        )
    return Preset(name, folder, kinds[0], config)


def preset_folder(name: str) -> Path:
    """The folder of a preset; see `read_preset`."""
    wanted = name.removeprefix(PRESET_PREFIX)
    path = Path(wanted).expanduser()
    if wanted and path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise UserError(f"backbone.name = '{name}': there is no {CONFIG_FILE} in {path}. {_MEND}.")
        return path
    if not wanted or wanted.startswith(("/", "~", ".")):
        raise UserError(f"backbone.name = '{name}': no such folder. {_MEND}.")
    return _fetched(wanted)


@functools.lru_cache(maxsize=8)
def _fetched(wanted: str) -> Path:
    """The folder of a preset of that name in Kaggle's cache, filled where it is not there."""
    require_keras_hub()
    import keras_hub

    known: Mapping[str, Mapping[str, Any]] = keras_hub.models.Backbone.presets
    handle = wanted if wanted.startswith(KAGGLE) else known.get(wanted, {}).get("kaggle_handle")
    if handle is None:
        raise UserError(
            f"backbone.name = '{PRESET_PREFIX}{wanted}': there is no such folder, and KerasHub {keras_hub.__version__} has no preset of "
            f"that name.{nearest(wanted, known)} {_MEND}."
        )
    import kagglehub

    try:
        return Path(kagglehub.model_download(handle.removeprefix(KAGGLE)))
    except (
        Exception
    ) as error:  # whatever a network that is not there, or a server, makes requests and kagglehub raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"backbone.name = '{PRESET_PREFIX}{wanted}': it could not be fetched from Kaggle ({reason}). Without a network, fetch the "
            f"folder elsewhere (kagglehub.model_download('{handle.removeprefix(KAGGLE)}')) and name it: {PRESET_PREFIX}FOLDER."
        ) from error


def label_of(name: str) -> str:
    """Name of a preset, or of its folder, in a word; the number of a version on Kaggle is none."""
    place = Path(name.removeprefix(PRESET_PREFIX)).expanduser()
    parts = [part for part in place.parts if part.strip("/.") and not part.isdigit()]
    return parts[-1] if parts and parts[-1] != place.anchor else place.resolve().name or "preset"


def scaling_of(preset: Preset) -> Scaling | None:
    """Scaling of a preset of images; None where it does not say.

    Raises:
        UserError: its converter cannot be read.
    """
    path = preset.folder / CONVERTER_FILE
    if not path.is_file():
        return None
    values = _object(path, preset.name).get("config", {})
    side = values.get("image_size")
    return Scaling(
        _numbers(values.get("scale"), 1.0, path, "scale"),
        _numbers(values.get("offset"), 0.0, path, "offset"),
        int(side[0]) if isinstance(side, list) and side[0] else None,
    )


def lowercase_of(preset: Preset) -> bool | None:
    """True if a preset of texts lowers letters; None where it does not say.

    Raises:
        UserError: its pieces are not those of WordPiece, which alone is a part of exported models, or it has no tokenizer.
    """
    path = preset.folder / TOKENIZER_FILE
    if not (preset.folder / TOKENIZER_FOLDER / VOCABULARY_FILE).is_file():
        kind = _object(path, preset.name).get("class_name") if path.is_file() else None
        said = f"its {kind} cuts texts with tensorflow-text or another library, which no exported model could load"
        raise UserError(
            f"backbone.name = '{preset.name}': {said if kind else f'there is no {TOKENIZER_FILE}'}. Expected a preset with WordPiece, whose "
            f"{TOKENIZER_FOLDER / VOCABULARY_FILE} is read here (BERT, DistilBERT, ELECTRA); of others, take an encoder that `kerastl "
            "backbones` lists."
        )
    said_case = _object(path, preset.name).get("config", {}).get("lowercase") if path.is_file() else None
    return said_case if isinstance(said_case, bool) else None


def _numbers(value: Any, otherwise: float, path: Path, key: str) -> float | tuple[float, ...]:
    if value is None:
        return otherwise
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, (int, float)) for each in value):
        return tuple(float(each) for each in value)
    raise UserError(f"{path}: {key} = {value!r}. Expected a number, or one for each of three channels.")


def _object(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"backbone.name = '{name}': {path} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"backbone.name = '{name}': {path} holds no JSON object. {_MEND}.")
    return found
