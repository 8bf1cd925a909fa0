"""`models.config`: all models of a folder in one file, for a TensorFlow Serving that serves them together.

A name in it without a version on the disk would keep the server from answering for any model
(https://github.com/tensorflow/serving/issues/2189), so the file is written anew with every new model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kerastl.errors import UserError
from kerastl.export.versions import model_names
from kerastl.writing import explain_write_errors, write_text_atomic

CONFIG_FILE = "models.config"
SERVER_FOLDER = "/models"
"""Where the container sees the folder of models, in `tools/serve.sh` and `tools/compose.yaml`."""

_MADE = "# Written by kerastl; `kerastl models config` writes it anew. Without this line it is left alone."


def models_config(names: Sequence[str], server_folder: str = SERVER_FOLDER) -> str:
    """The text of a `ModelServerConfig` for models that lie side by side.

    Args:
        names: of the models; `check_model_name` lets nothing through that text protobuf would have to escape.
        server_folder: the folder of models as the server sees it.
    """
    entries = [
        f'  config {{\n    name: "{name}"\n    base_path: "{server_folder.rstrip("/")}/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n'
        for name in names
    ]
    return f"{_MADE}\nmodel_config_list {{\n{''.join(entries)}}}\n"


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
            current = path.read_text(encoding="utf-8") if path.exists() else None
            if current is not None and not current.startswith(_MADE):
                return None
            if current != text:
                write_text_atomic(path, text)
            # Whoever writes last looks once more: of two writers, each with a new model, none leaves out the other's.
            if text == models_config(model_names(folder)):
                return path
