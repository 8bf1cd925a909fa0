"""`kerastl cache`: what is kept of earlier runs, and how to be rid of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kerastl.cli.helping import Group
from kerastl.cli.options import Number, debug_option, json_option
from kerastl.cli.terminal import print_json, table
from kerastl.progress import size_text
from kerastl.recipe.schema import CacheRecipe

if TYPE_CHECKING:
    from kerastl.store.store_folder import Folder, Stored

# So that a row of a usual network fits 80 columns.
ORIGIN_COLUMNS = 16
OLD = "of an earlier version of kerastl, which this one does not read"

directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The store, where a recipe's cache.directory names another one than $KERASTL_CACHE_DIR or the user's cache folder.",
)


@click.group(cls=Group)
@debug_option
def cache() -> None:
    """Show or remove what is kept of examples and of the frozen parts of networks."""


@cache.command("list")
@directory_option
@json_option
@debug_option
def list_(directory: Path | None, as_json: bool) -> None:
    """List what is kept, the most recently used first; with --json each array by itself."""
    store = _store(directory)
    arrays = store.arrays()
    if as_json:
        print_json(arrays)
        return
    if arrays:
        click.echo(table(("kind", "size", "used", "belongs to", "state"), _grouped(arrays)))
    total = sum(array.bytes for array in arrays)
    click.echo(f"{store.root}: {len(arrays)} arrays, {size_text(total)}")


@cache.command()
@directory_option
@json_option
@debug_option
def clear(directory: Path | None, as_json: bool) -> None:
    """Remove everything that no process is using."""
    store = _store(directory)
    _remove(store, store.arrays(), as_json)


@cache.command()
@directory_option
@click.option(
    "--max-gigabytes",
    type=Number(min=0),
    metavar="X",
    help="Remove the least recently used until this is left.",
)
@click.option(
    "--older-than-days", type=Number(min=0), metavar="X", help="Remove what was not used for this long."
)
@json_option
@debug_option
def prune(
    directory: Path | None, max_gigabytes: float | None, older_than_days: float | None, as_json: bool
) -> None:
    """Remove what an earlier version kept in another format, and what is too old or too much."""
    store = _store(directory)
    arrays = store.arrays()
    doomed = {array.name for array in arrays if not array.complete}
    if older_than_days is not None:
        doomed |= {array.name for array in arrays if array.used < time.time() - older_than_days * 86_400}
    if max_gigabytes is not None:
        left = 0
        for array in arrays:
            if array.name in doomed:
                continue
            left += array.bytes
            if left > max_gigabytes * 1e9:
                doomed.add(array.name)
    _remove(store, [array for array in arrays if array.name in doomed], as_json)


def _store(directory: Path | None) -> Folder:
    from kerastl.features.cache import cache_directory
    from kerastl.store.store_folder import Folder

    recipe = CacheRecipe(directory=str(directory) if directory else None)
    return Folder(cache_directory(recipe), int(recipe.max_gigabytes * 1e9))


def _remove(store: Folder, arrays: list[Stored], as_json: bool) -> None:
    removed = [array for array in arrays if store.remove(array.name)]
    if as_json:
        stay = [array for array in arrays if array not in removed]
        print_json({"folder": store.root, "removed": removed, "not_removed": stay})
        return
    kept = len(arrays) - len(removed)
    in_use = f"; {kept} stay, in use or not yours to remove" if kept else ""
    click.echo(f"removed {len(removed)} arrays, {size_text(sum(array.bytes for array in removed))}{in_use}")


def _grouped(arrays: list[Stored]) -> list[tuple[str, str, str, str, str]]:
    """A row for each output of each network."""
    groups: dict[tuple[str, str, str], list[Stored]] = {}
    for array in arrays:
        state = "in use" if array.in_use else "kept" if array.complete else "old"
        groups.setdefault((array.kind, _belongs_to(array), state), []).append(array)
    return [
        (
            kind,
            size_text(sum(array.bytes for array in members)),
            _age(max(array.used for array in members)),
            belongs_to,
            state,
        )
        for (kind, belongs_to, state), members in groups.items()
    ]


def _belongs_to(array: Stored) -> str:
    if not array.complete:
        return OLD
    facts, about = array.facts, array.about
    network = [str(facts[name]) for name in ("backbone", "unfreeze_point") if name in facts]
    size = [f"{facts['image_size']} px"] if "image_size" in facts else []
    # Rows of other data with the same network lie beside those of the first.
    return ", ".join(filter(None, [" ".join([*network, *size]), _shortened(str(about.get("data", "")))]))


def _shortened(text: str) -> str:
    """The end of a long path, the beginning of any other long text; --json has all of it."""
    if len(text) <= ORIGIN_COLUMNS:
        return text
    return "…" + text[1 - ORIGIN_COLUMNS :] if "/" in text else text[: ORIGIN_COLUMNS - 1].rstrip() + "…"


def _age(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
