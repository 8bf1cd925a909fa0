"""From a TOML file, `--set key=value` and flags to one checked Recipe, and back to TOML.

Everything that is wrong is reported in one message, each line with the key, what was found, what is
expected, and the nearest valid word.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerastl.backbones import BackboneSpec, backbone_names, get_backbone
from kerastl.errors import RecipeError, UserError, nearest
from kerastl.recipe.checks import abstain_checks, group_checks, task_checks
from kerastl.recipe.schema import Recipe
from kerastl.wording import LONGEST_NAME, is_name, safe_name

SHIPPED = Path(__file__).parent / "shipped"
# TOML knows inf, and integers that no float holds.
LARGEST_NUMBER = 1e300


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
    # Who names a folder and no data means the folder's images.
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
    recipe = _make(Recipe, _with_task(values, found), "", found)
    if recipe is not None and recipe.backbone.name is None:
        default = "mobilenet_025" if recipe.data.source == "digits" else "resnet50"
        recipe = dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, name=default))
    if recipe is not None:
        found += _cross_checks(recipe)
    if found or recipe is None:
        raise RecipeError(found, origin)
    return recipe


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
    """Nested plain values of a recipe; keys that are None are left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            pairs = ((f.name, plain(getattr(value, f.name))) for f in dataclasses.fields(value))
            return {name: inner for name, inner in pairs if inner is not None}
        return list(value) if isinstance(value, tuple) else value

    return plain(recipe)


def recipe_to_toml(recipe: Recipe, heading: str = "") -> str:
    """The recipe as TOML text that `load_recipe` reads back without loss; `heading` becomes comments."""
    import tomli_w

    comments = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    return comments + tomli_w.dumps(recipe_to_dict(recipe))


def recipe_keys() -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """All keys in their order: dotted name, dataclass field (with its metadata), and type."""
    return _keys_of(Recipe, "")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with kerastl: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def _keys_of(cls: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _keys_of(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, item, hints[item.name]


def read_toml(
    path: Path | str, shipped: Mapping[str, Path], what: str = "recipe"
) -> tuple[str, dict[str, Any]]:
    """A TOML file, or a shipped one by its name: where it lies, and what it holds.

    Args:
        path: file or name; a file wins, a folder does not: many keep their images in one named photos.
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
            f"'{path}' is a folder; expected a TOML file.{hint} A folder of images is named by --data {path}."
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
                chosen[name] = _check_value(value, hints[name], fields[name].metadata)
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


def _check_value(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """The value in the type of its key; ValueError says what is expected."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in kinds and (value is None or value == "auto"):
        return None
    kind = next(k for k in kinds if k is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError("expected a list of whole numbers, such as [256]")
        return tuple(_check_number(item, int, metadata) for item in value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if kind is str:
        choices = metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(
                f"expected one of {', '.join(choices)}.{nearest(str(value), choices)}".rstrip(".")
            )
        if not isinstance(value, str) or not value:
            raise ValueError("expected a text in quotes")
        return value
    return _check_number(value, kind, metadata)


def _check_number(value: Any, kind: type, metadata: Mapping[str, Any]) -> int | float:
    name = "a whole number" if kind is int else "a number"
    low, high, above, below = (metadata.get(k) for k in ("low", "high", "above", "below"))
    bounds = [f"at least {low}" if low is not None else f"above {above}" if above is not None else ""]
    bounds.append(f"at most {high}" if high is not None else f"below {below}" if below is not None else "")
    expected = " ".join([name, " and ".join(b for b in bounds if b)]).strip()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"expected {expected}")
    if value != value or (kind is int and value != int(value)):
        raise ValueError(f"expected {expected}")
    inside = (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(f"expected {expected}")
    return kind(value)


def _cross_checks(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.name is not None and not is_name(recipe.name):
        problems.append(
            f"name = {recipe.name!r}: expected at most {LONGEST_NAME} letters a to z, digits, '_', '-' and '.', beginning "
            f"with a letter or digit, as paths and servers take them. For example {safe_name(recipe.name)!r}"
        )
    try:
        spec = get_backbone(typing.cast(str, recipe.backbone.name))
    except UserError:
        name = typing.cast(str, recipe.backbone.name)
        problems.append(
            f"backbone.name = '{name}': unknown backbone.{nearest(name, backbone_names())}"
            " `kerastl backbones` lists them all"
        )
    else:
        problems += _backbone_checks(recipe, spec)
    weights = recipe.backbone.weights
    if weights not in ("pretrained", "imagenet", "none") and not Path(weights).expanduser().is_file():
        problems.append(
            f"backbone.weights = '{weights}': no such file. "
            "Expected pretrained, imagenet, none or the path of a .weights.h5, .h5 or .keras file"
        )
    return problems + task_checks(recipe) + group_checks(recipe) + abstain_checks(recipe)


def _backbone_checks(recipe: Recipe, spec: BackboneSpec) -> list[str]:
    problems = []
    size = recipe.backbone.image_size
    if size is not None and size < spec.min_image_size:
        problems.append(
            f"backbone.image_size = {size}: '{spec.name}' takes images of at least {spec.min_image_size} pixels"
        )
    point = recipe.finetune_phase.unfreeze_from
    from_input = spec.unfreeze_points[::-1]
    if point is not None and point not in from_input:
        problems.append(
            f"finetune_phase.unfreeze_from = '{point}': unknown unfreeze point for backbone '{spec.name}'."
            f"{nearest(point, from_input)} Expected one of: {', '.join(from_input)}"
        )
    return problems
