"""Making a version visible to servers: all of it at once, and only after it passed its check.

TensorFlow Serving polls `saved_models/<name>/` and serves the largest folder whose name is a number.
A version is therefore built and checked in a folder of another name, and renamed at the very end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kerastl.errors import ExportError, UserError
from kerastl.export.compare import CheckResult
from kerastl.export.folders import is_model_name, published_versions, remove_leftovers, show, workspace
from kerastl.export.models_config import not_listed, write_models_config
from kerastl.export.versions import EXTRA_FOLDER, check_keep, prune_versions
from kerastl.wording import safe_name
from kerastl.writing import explain_write_errors


@dataclass(frozen=True)
class ExportedModel:
    """A version that servers can see.

    Attributes:
        path: its folder, `<models_dir>/<name>/<version>`.
        name: of the model.
        version: its number.
        signatures: names of its signatures.
        largest_difference: of a probability between this version, reloaded, and the model in memory.
        example_count: number of examples on which the two were compared.
        not_listed: why a `models.config` of the user's own keeps servers from it, and how to mend it; empty where none does.
    """

    path: Path
    name: str
    version: int
    signatures: tuple[str, ...]
    largest_difference: float
    example_count: int
    not_listed: str = ""


def publish(
    build: Callable[[Path], None],
    check: Callable[[Path], CheckResult],
    models_dir: Path | str,
    name: str,
    extra_files: Mapping[str, str | bytes] | None = None,
    describe: Callable[[CheckResult], Mapping[str, str]] | None = None,
    keep: int | None = None,
    served: bool = True,
) -> ExportedModel:
    """Build a version, check it, and make it visible by one rename.

    Several processes may publish the same name at once: each gets a number of its own.

    Args:
        build: writes the SavedModel into the folder that it is given, which does not exist yet.
        check: compares what was written with the model in memory.
        models_dir: folder that TensorFlow Serving watches; made where it is missing.
        name: of the model: letters, digits, `_`, `-` and `.`.
        extra_files: file name → content, written to `assets.extra/`, which servers leave alone.
        describe: from the check's result to more such files.
        keep: how many versions stay, see `prune_versions`; all of them without it.
        served: whether TensorFlow Serving watches the folder: then its models.config names the model.

    Raises:
        UserError: if the name is not one that TensorFlow Serving takes.
        ExportError: if the check did not pass; says what differed.
        WriteError: if the folder cannot be written, or the disk is full.
        Whatever else happens before the rename, a Ctrl-C included: nothing is visible and the temporary folder is
        gone. After it the version stays, also where an older one cannot be removed.
    """
    check_model_name(name)
    check_keep(keep)
    base = Path(models_dir) / name
    with explain_write_errors(base):
        remove_leftovers(base)
        with workspace(base) as temporary:
            build(temporary)
            _write_extra_files(temporary, extra_files or {})
            result = check(temporary)
            if not result.passed:
                raise ExportError(_failure(name, base, result))
            _write_extra_files(temporary, describe(result) if describe else {})
            version = show(temporary, base)
        if keep is not None:
            prune_versions(base, keep)
        if served:
            write_models_config(models_dir)
    return ExportedModel(
        path=base / str(version),
        name=name,
        version=version,
        signatures=result.signatures,
        largest_difference=result.largest_difference,
        example_count=result.count,
        not_listed=not_listed(models_dir, name, version) if served else "",
    )


def check_model_name(name: str) -> None:
    """Raise UserError unless `name` can be a model's name in TensorFlow Serving's URLs and on the disk."""
    if not is_model_name(name):
        raise UserError(
            f"A model cannot be named {name!r}: expected letters, digits, '_', '-' and '.', not beginning with '-' "
            f"or '.'. For example {safe_name(name, otherwise='model')!r}."
        )


def _write_extra_files(temporary: Path, extra_files: Mapping[str, str | bytes]) -> None:
    for name, content in extra_files.items():
        target = temporary / EXTRA_FOLDER / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def _failure(name: str, base: Path, result: CheckResult) -> str:
    versions = published_versions(base)
    stays = f"version {versions[-1]} stays the latest" if versions else "there is no version yet"
    lines = "\n".join(f"  - {problem}" for problem in result.problems)
    return (
        f"The exported model '{name}' does not answer as the model it was made from, over {result.count} {result.noun}s. "
        f"Nothing was published; {stays}.\n{lines}"
    )
