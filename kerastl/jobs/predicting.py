"""`predict`: a folder is asked in this process, an address over the network, and only the former needs TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kerastl.client.access import Access, read_access
from kerastl.client.address import is_address
from kerastl.client.asking import Patience, ask
from kerastl.prediction import Prediction
from kerastl.progress import Progress

__all__ = ["Access", "Patience", "Prediction", "predict", "read_access"]


def predict(
    model: Path | str,
    images: Sequence[str],
    *,
    top: int = 5,
    patience: Patience | None = None,
    access: Access | None = None,
    progress: Progress = Progress(),
) -> list[Prediction]:
    """Classify images.

    Args:
        model: a run's folder, an exported model (`saved_models/NAME` or one of its versions), or the address of
            a served one (`http://HOST:8501/v1/models/NAME`, `grpc://HOST:8500/NAME`).
        images: files, folders (searched with all their subfolders) and glob patterns.
        top: how many classes to name for each image; a served model names five at most.
        patience: how long to wait for a server.
        access: what lets a client in at a server; see `read_access`. Without it a token of the environment (KERASTL_TOKEN).
        progress: listens.

    Returns:
        A prediction for each image, in the order found; unreadable images carry their error.

    Raises:
        UserError: the model cannot be used, or no image was found.
        ServingError: the server gave no answer.

    Example:
        >>> predict("http://localhost:8501/v1/models/flowers", ["photos"])[0].label
        'daisy'
    """
    if is_address(model):
        return ask(str(model), images, top=top, patience=patience, access=access, progress=progress)
    from kerastl.jobs.use import predict_with_folder

    return predict_with_folder(Path(model), images, top=top, progress=progress)
