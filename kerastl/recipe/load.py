"""From a TOML file, `--set key=value` and flags to one checked Recipe, and back to TOML.

Everything that is wrong is reported in one message, each line with the key, what was found, what is
expected, and the nearest valid word.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.errors import RecipeError, UserError, nearest
from kerastl.modality.recipe import foreign_keys
from kerastl.recipe.keys import check_value, keys_of
from kerastl.recipe.settings import Recipe, Settings

SHIPPED = Path(__file__).parent / "shipped"


def load_recipe(
    path: Path | str | None = None, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Recipe:
    """Make the recipe of a run.

    Args:
        path: a TOML file, the name of a shipped recipe, or None for the defaults.
        sets: `key=value` strings such as `head.dropout=0.2`; they win over the file. The value is read
            as TOML, and as a plain string where it is none.
        flags: dotted keys with Python values; they win over `sets`. Values of None are not set.

    Returns:
        The checked recipe; keys that were left out are None where a rule decides later.

    Raises:
        RecipeError: with all problems, each naming its key.
        UserError: where the file cannot be read or is not TOML.
    """
    # A folder without data named beside it stands for the data in it.
    names_data = any(item.startswith("data.source=") for item in sets) or (flags or {}).get("data.source")
    shipped = {} if path is not None and Path(path).is_dir() and not names_data else shipped_recipes()
    origin, values = ("recipe", {}) if path is None else read_toml(path, shipped)
    problems: list[str] = []
    for item in sets:
        name, separator, text = item.partition("=")
        if not separator:
            problems.append(f"--set {item}: expected key=value, such as head.dropout=0.2")
        else:
            _put(values, name.strip(), _toml_value(text.strip()))
    for name, value in (flags or {}).items():
        if value is not None:
            _put(values, name, value)
    return recipe_from_dict(values, origin=origin, problems=problems)


def recipe_from_dict(
    values: Mapping[str, Any], *, origin: str = "recipe", problems: Sequence[str] = ()
) -> Recipe:
    """Check nested plain values whole and make a Recipe of them.

    Raises:
        RecipeError: with every problem found, not only the first.
    """
    found = list(problems)
    recipe = None
    try:
        recipe = _make(Recipe, _with_task(values, found), "", found)
    except RecipeError as error:
        found += error.problems
    if found or recipe is None:
        raise RecipeError(found, origin)
    return recipe


def settings_from_dict(values: Mapping[str, Any], *, origin: str = "recipe") -> Settings:
    """Make settings of nested plain values that leave no key open, such as those of a run.

    The files that they name may be gone: a trained model needs neither the weights nor the network that it began with.

    Raises:
        RecipeError: a value is none that its key takes.
        ValueError: a key is open.
    """
    problems: list[str] = []
    settings: Settings = _make(Settings, _with_task(values, problems), "", problems)
    if problems:
        raise RecipeError(problems, origin)
    return settings


def _with_task(values: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    """The values with `data.task` for `data.multi_label`, which recipes had before there were tasks."""
    data = values.get("data")
    if not isinstance(data, Mapping) or "multi_label" not in data:
        return values
    kept = {name: value for name, value in data.items() if name != "multi_label"}
    named = {True: "multi_label", False: "classification"}.get(data["multi_label"])
    if named is None:
        problems.append(f"data.multi_label = {data['multi_label']!r}: expected true or false")
    elif kept.setdefault("task", named) != named:
        problems.append(
            f"data.multi_label = {str(data['multi_label']).lower()} and data.task = '{kept['task']}': expected data.task alone"
        )
    return {**values, "data": kept}


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values of a recipe; keys that are None are left out, and those of other kinds of examples."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            pairs = ((f.name, plain(getattr(value, f.name))) for f in dataclasses.fields(value))
            return {name: inner for name, inner in pairs if inner is not None}
        return list(value) if isinstance(value, tuple) else value

    values = plain(recipe)
    for dotted in foreign_keys(recipe.modality) if isinstance(recipe, Recipe) else ():
        table, name = dotted.split(".")
        values[table].pop(name, None)
    return values


def recipe_to_toml(recipe: Recipe, heading: str = "") -> str:
    """The recipe as TOML text that `load_recipe` reads back without loss; `heading` becomes comments."""
    import tomli_w

    comments = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    return comments + tomli_w.dumps(recipe_to_dict(recipe))


def recipe_keys() -> tuple[tuple[str, dataclasses.Field[Any], Any], ...]:
    """All keys in their order: dotted name, dataclass field (with its metadata), and type."""
    return keys_of(Recipe)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with kerastl: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def read_toml(
    path: Path | str, shipped: Mapping[str, Path], what: str = "recipe"
) -> tuple[str, dict[str, Any]]:
    """A TOML file, or a shipped one by its name: where it lies, and what it holds.

    Args:
        path: file or name; a file wins, a folder does not: many keep their data in one named photos.
        shipped: name -> file of those that come with kerastl.
        what: it is, for messages.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    file = Path(path).expanduser()
    if str(path) in shipped and (file.is_dir() or not file.exists()):
        file = shipped[str(path)]
    try:
        return str(file), tomllib.loads(file.read_text(encoding="utf-8"))
    except IsADirectoryError:
        hint = f" Did you mean '{file / 'recipe.toml'}'?" if (file / "recipe.toml").is_file() else ""
        raise UserError(
            f"'{path}' is a folder; expected a TOML file.{hint} A folder of data is named by --data {path}."
        ) from None
    except FileNotFoundError:
        names = sorted(shipped)
        hint = nearest(str(path), [*names, *(str(p) for p in file.parent.glob("*.toml"))])
        raise UserError(
            f"No {what} '{path}'.{hint} Expected a TOML file or one of: {', '.join(names)}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Cannot read the {what} '{file}': {error}. Expected a TOML file in UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not valid TOML: {error}.") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return  # the file put a plain value in a table's place, which is reported when it is checked
        values = inner
    values[last] = value


def _make(cls: type, values: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """An instance of `cls`, or of its defaults where a value is wrong (the problem is noted)."""
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        if name not in fields:
            problems.append(_unknown_key(dotted, list(fields), prefix))
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(value, Mapping):
                chosen[name] = _make(typing.cast(type, hints[name]), value, f"{dotted}.", problems)
            else:
                problems.append(f"{dotted} = {value!r}: expected a table with the keys of [{dotted}]")
        else:
            try:
                chosen[name] = check_value(value, hints[name], fields[name].metadata)
            except ValueError as error:
                problems.append(f"{dotted} = {value!r}: {error}")
    return cls(**chosen)


def _unknown_key(dotted: str, siblings: list[str], prefix: str) -> str:
    every = [name for name, _, _ in recipe_keys()]
    last = dotted.rsplit(".", 1)[-1]
    hint = nearest(last, siblings)
    if hint:
        hint = hint.replace("'", f"'{prefix}", 1)
    else:
        elsewhere = [name for name in every if name.rsplit(".", 1)[-1] == last]
        hint = f" Did you mean '{elsewhere[0]}'?" if elsewhere else nearest(dotted, every)
    place = f"Keys of [{prefix[:-1]}]" if prefix else "Top-level keys and tables"
    return f"Unknown key '{dotted}'.{hint} {place}: {', '.join(siblings)}"
