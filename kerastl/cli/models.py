"""`kerastl models`: what was exported, going back to an earlier version, and removing old ones."""

from __future__ import annotations

from pathlib import Path

import click

from kerastl.cli import completion
from kerastl.cli.helping import Group
from kerastl.cli.options import debug_option, json_option, models_option
from kerastl.cli.terminal import print_json, table
from kerastl.errors import KerastlError
from kerastl.export.models_config import CONFIG_FILE, not_listed, write_models_config
from kerastl.export.versions import ModelVersion, list_models, model_names, prune_versions, roll_back
from kerastl.progress import size_text

DAY = len("2026-01-02")


@click.group(cls=Group)
@debug_option
def models() -> None:
    """Show exported models, go back to an earlier version, or remove old ones."""


@models.command("list")
@click.argument("name", required=False, shell_complete=completion.models)
@models_option
@json_option
@debug_option
def list_(name: str | None, models_dir: Path, as_json: bool) -> None:
    """List all versions of all models, or of NAME."""
    versions = list_models(models_dir, name)
    if as_json:
        print_json(versions)
    elif not versions:
        click.echo(f"no model in {models_dir}")
    else:
        header = ("name", "version", "accuracy", "tested", "exported", "backbone", "size", "")
        click.echo(table(header, [_row(version) for version in versions]))


@models.command()
@click.argument("name", shell_complete=completion.models)
@click.option(
    "--to",
    type=int,
    metavar="N",
    help="The version to go back to; without it the newest before what is served that was not withdrawn.",
)
@models_option
@json_option
@debug_option
def rollback(name: str, to: int | None, models_dir: Path, as_json: bool) -> None:
    """Publish an earlier version of NAME again under the next number, which servers then serve."""
    version = roll_back(models_dir, name, to)
    if as_json:
        print_json(version)
    else:
        click.echo(f"{version.path}  {_note(version)}")
    if problem := not_listed(models_dir, name, version.version):
        click.echo(f"warning: {problem}", err=True)


@models.command()
@click.argument("name", shell_complete=completion.models)
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", required=True, help="How many of the newest stay."
)
@models_option
@json_option
@debug_option
def prune(name: str, keep: int, models_dir: Path, as_json: bool) -> None:
    """Remove old versions of NAME; never what is served, nor the version that it is a roll back of."""
    list_models(models_dir, name)  # says what there is, if not this one
    removed = prune_versions(models_dir / name, keep)
    if as_json:
        print_json({"name": name, "removed": removed, "kept": list_models(models_dir, name)})
    else:
        click.echo(f"removed {', '.join(map(str, removed)) or 'nothing'}")


@models.command()
@models_option
@json_option
@debug_option
def config(models_dir: Path, as_json: bool) -> None:
    """Write models.config, with which TensorFlow Serving serves all models together."""
    path = write_models_config(models_dir)
    if path is None:
        missing = [
            not_listed(models_dir, name, list_models(models_dir, name)[-1].version)
            for name in model_names(models_dir)
        ]
        raise KerastlError(
            "\n".join(
                [
                    f"{models_dir / CONFIG_FILE} was not written by kerastl and is left alone. Move it away to have it written.",
                    *filter(None, missing),
                ]
            )
        )
    if as_json:
        print_json({"path": path, "models": model_names(models_dir)})
    else:
        click.echo(path)


def _row(version: ModelVersion) -> tuple[str | int, ...]:
    return (
        version.name,
        version.version,
        "-" if version.accuracy is None else f"{version.accuracy:.3f}",
        "-" if version.test_count is None else f"{version.test_count:,}",
        (version.exported or "-")[:DAY],
        version.backbone or "-",
        size_text(version.bytes),
        _note(version),
    )


def _note(version: ModelVersion) -> str:
    words = ["" if version.whole else "no saved_model.pb", "served" if version.served else ""]
    words.append("withdrawn" if version.withdrawn else "")
    words.append("" if version.rollback_of is None else f"roll back of {version.rollback_of}")
    return ", ".join(word for word in words if word)
