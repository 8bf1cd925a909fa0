"""`kerastl cache`: what is kept of earlier runs, and how to be rid of it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kerastl.cli.helping import Group
from kerastl.cli.options import Number, debug_option, json_option
from kerastl.cli.terminal import print_json, table
from kerastl.features.cache import cache_directory
from kerastl.features.store import FeatureStore, Stored
from kerastl.progress import size_text
from kerastl.recipe.schema import CacheRecipe

# So that a row of a usual network fits 80 columns.
ORIGIN_COLUMNS = 16

directory_option = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The store, where a recipe's cache.directory names another one than $KERASTL_CACHE_DIR or the user's cache folder.",
)


@click.group(cls=Group)
@debug_option
def cache() -> None:
    """Show or remove what is kept of images and of the frozen parts of networks."""


@cache.command("list")
@directory_option
@json_option
@debug_option
def list_(directory: Path | None, as_json: bool) -> None:
    """List what is kept, the most recently used first; with --json each unit by itself."""
    store = _store(directory)
    units = store.units()
    if as_json:
        print_json(units)
        return
    if units:
        click.echo(table(("kind", "size", "used", "belongs to (× views)", "state"), _grouped(units)))
    total = sum(unit.bytes for unit in units)
    click.echo(f"{store.root}: {len(units)} units, {size_text(total)}")


@cache.command()
@directory_option
@json_option
@debug_option
def clear(directory: Path | None, as_json: bool) -> None:
    """Remove everything that no process is using."""
    store = _store(directory)
    _remove(store, store.units(), as_json)


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
    """Remove interrupted builds, and what is too old or too much."""
    store = _store(directory)
    units = store.units()
    doomed = {unit.name for unit in units if not unit.complete}
    if older_than_days is not None:
        doomed |= {unit.name for unit in units if unit.used < time.time() - older_than_days * 86_400}
    if max_gigabytes is not None:
        left = 0
        for unit in units:
            if unit.name in doomed:
                continue
            left += unit.bytes
            if left > max_gigabytes * 1e9:
                doomed.add(unit.name)
    _remove(store, [unit for unit in units if unit.name in doomed], as_json)


def _store(directory: Path | None) -> FeatureStore:
    recipe = CacheRecipe(directory=str(directory) if directory else None)
    return FeatureStore(cache_directory(recipe), int(recipe.max_gigabytes * 1e9))


def _remove(store: FeatureStore, units: list[Stored], as_json: bool) -> None:
    removed = [unit for unit in units if store.remove(unit.name)]
    if as_json:
        stay = [unit for unit in units if unit not in removed]
        print_json({"folder": store.root, "removed": removed, "not_removed": stay})
        return
    kept = len(units) - len(removed)
    in_use = f"; {kept} stay, in use or not yours to remove" if kept else ""
    click.echo(f"removed {len(removed)} units, {size_text(sum(unit.bytes for unit in removed))}{in_use}")


def _grouped(units: list[Stored]) -> list[tuple[str, str, str, str, str]]:
    """A row for each split and network: its views together."""
    groups: dict[tuple[str, str, str], list[Stored]] = {}
    for unit in units:
        state = "in use" if unit.in_use else "kept" if unit.complete else "partial"
        groups.setdefault((unit.kind, _belongs_to(unit), state), []).append(unit)
    return [
        (
            kind,
            size_text(sum(unit.bytes for unit in members)),
            _age(max(unit.used for unit in members)),
            belongs_to + _views(members),
            state,
        )
        for (kind, belongs_to, state), members in groups.items()
    ]


def _belongs_to(unit: Stored) -> str:
    facts, about = unit.facts, unit.about
    network = [str(facts[name]) for name in ("backbone", "unfreeze_point") if name in facts]
    where = " ".join([*network, f"{facts.get('image_size', '?')} px"])
    return f"{_shortened(str(about.get('data', 'unknown data')))}, {about.get('split', '?')}, {where}"


def _shortened(text: str) -> str:
    """The end of a long path, the beginning of any other long text; --json has all of it."""
    if len(text) <= ORIGIN_COLUMNS:
        return text
    return "…" + text[1 - ORIGIN_COLUMNS :] if "/" in text else text[: ORIGIN_COLUMNS - 1].rstrip() + "…"


def _views(units: list[Stored]) -> str:
    count = len({unit.about["view"] for unit in units if "view" in unit.about})
    return f" × {count}" if count > 1 else ""


def _age(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
