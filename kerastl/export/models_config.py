"""`models.config`: all models of a folder in one file, for a TensorFlow Serving that serves them together.

A name in it without a version on the disk would keep the server from answering for any model
(https://github.com/tensorflow/serving/issues/2189), so the file is written anew with every new model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from kerastl.errors import UserError
from kerastl.export.versions import model_names
from kerastl.writing import explain_write_errors, write_text_atomic

CONFIG_FILE = "models.config"
SERVER_FOLDER = "/models"
"""The folder of models as the container sees it, in `tools/serve.sh` and `tools/compose.yaml`."""

_PIECE = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}<>]|\w+""")
_MADE = "# Written by kerastl; `kerastl models config` writes it anew. Without this line it is left alone."


def models_config(names: Sequence[str], server_folder: str = SERVER_FOLDER) -> str:
    """The text of a `ModelServerConfig` for models that lie side by side.

    Args:
        names: of the models; `check_model_name` lets nothing through that text protobuf would have to escape.
        server_folder: the folder of models as the server sees it.
    """
    return f"{_MADE}\nmodel_config_list {{\n{''.join(_entry(name, server_folder) for name in names)}}}\n"


def write_models_config(models_dir: Path | str) -> Path | None:
    """Name all models that lie in a folder in its `models.config`.

    Returns:
        The file; None where one stands there that kerastl did not write, which then stays as it is.

    Raises:
        UserError: if the folder is missing, or holds no model.
        WriteError: if it cannot be written.
    """
    folder = Path(models_dir)
    if not model_names(folder):
        raise UserError(
            f"{folder} holds no exported model. Expected NAME/VERSION folders, as `kerastl fit` and `kerastl export` "
            "make them."
        )
    path = folder / CONFIG_FILE
    with explain_write_errors(path):
        while True:
            text = models_config(model_names(folder))
            current = _read(path)
            if current is not None and not current.startswith(_MADE):
                return None
            if current != text:
                write_text_atomic(path, text)
            # Whoever writes last looks once more: of two writers, each with a new model, none leaves out the other's.
            if text == models_config(model_names(folder)):
                return path


def not_listed(models_dir: Path | str, name: str, version: int) -> str:
    """Reason for which servers that read a folder's `models.config` do not serve a version, and how to mend it.

    Version policies, labels and canaries need a file of the user's own, which kerastl leaves alone.

    Returns:
        A message; empty where the file is kerastl's, or is not there, or lets the version be served.
    """
    path = Path(models_dir) / CONFIG_FILE
    text = _read(path)
    if text is None or text.startswith(_MADE):
        return ""
    configs = _configs(text)
    own = f"{path} is not kerastl's and was left alone, and a server that reads it"
    serving = [
        config
        for config in configs
        # under a name of its own it may be served as well
        if name in (*config.get("name", []), *map(_last_part, config.get("base_path", [])))
    ]
    if not serving:
        bases = [base for config in configs for base in config.get("base_path", [])]
        above = os.path.dirname(bases[0].rstrip("/")) if bases else SERVER_FOLDER
        return f"{own} will not serve '{name}'. Add to its model_config_list:\n{_entry(name, above)}".rstrip()
    if all("versions" in config and str(version) not in config["versions"] for config in serving):
        return (
            f"{own} serves certain versions of '{name}' alone. Version {version} is served once its model_version_policy says "
            f"`specific {{ versions: {version} }}`, beside others or in their place."
        )
    return ""


def _entry(name: str, server_folder: str) -> str:
    return (
        f'  config {{\n    name: "{name}"\n    base_path: "{server_folder.rstrip("/")}/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n'
    )


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _last_part(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def _configs(text: str) -> list[dict[str, list[str]]]:
    """The `config` messages of a protobuf in its text form: values by the names of fields, inner ones among them.

    Braces may be angles, a list may stand in brackets, and comments anywhere but in strings; fields of one name, as `versions`,
    have several values.
    """
    found: list[dict[str, list[str]]] = []
    above: list[str] = []
    field = ""
    for piece in _PIECE.findall(text):
        if piece in "{<":
            above.append(field)
            found += [{}] * (field == "config")
        elif piece in "}>":
            field = above.pop() if above else ""
        elif piece[0] in "\"'" or piece[0].isdigit():
            if "config" in above:
                found[-1].setdefault(field, []).append(piece.strip("\"'"))
        elif piece[0] != "#":
            field = piece
    return found
