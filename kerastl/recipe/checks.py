"""Finds the problems of a recipe: values that no key takes, and values that do not go together. A line each, naming its key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kerastl.backbones import BackboneSpec, backbone_names, get_backbone, is_file_name, is_preset
from kerastl.errors import RecipeError, nearest
from kerastl.modality import modality_of
from kerastl.modality.recipe import modality_checks
from kerastl.modality.words import has_words
from kerastl.presets import check_preset
from kerastl.recipe.keys import check_value, keys_of, value_at
from kerastl.wording import LONGEST_NAME, is_name, safe_name

if TYPE_CHECKING:
    from kerastl.recipe.settings import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise RecipeError, with all problems in it, unless every value is one that its key takes and they go together."""
    problems = []
    for name, item, hint in keys_of(recipe.__class__):  # type: ignore[arg-type]
        value = value_at(recipe, name)
        try:
            check_value(value, hint, item.metadata)
        except ValueError as error:
            problems.append(f"{name} = {value!r}: {error}")
    # Values that are of the wrong kind cannot be compared with others.
    problems = problems or _cross_checks(recipe)
    if problems:
        raise RecipeError(problems)


def weights_checks(recipe: Recipe) -> list[str]:
    """Problems of the path of pretrained weights."""
    name, weights = recipe.backbone.name, recipe.backbone.weights
    if is_preset(name) and weights not in ("pretrained", "none"):
        return [
            f"backbone.weights = '{weights}': expected pretrained, those of the preset, or none, where backbone.name is a preset"
        ]
    in_folder = name in backbone_names(None) and get_backbone(name).in_folder
    path = Path(weights).expanduser()
    if weights in ("pretrained", "imagenet", "none") or (
        path.exists() if recipe.kind_is_open else path.is_dir() if in_folder else path.is_file()
    ):
        return []
    wanted = "folder with model.safetensors" if in_folder else ".weights.h5, .h5 or .keras file"
    return [
        f"backbone.weights = '{weights}': no such {'folder' if in_folder else 'file'}. "
        f"Expected pretrained, imagenet, none or the path of a {wanted}"
    ]


def head_checks(recipe: Recipe) -> list[str]:
    """Problems of a head of one's own layers."""
    head = recipe.head
    problems = []
    if head.start == "solved" and (head.hidden or head.layers):
        problems.append(
            "head.start = 'solved': expected zeros where the head has hidden layers or layers of its own; a linear head "
            "alone has a solution"
        )
    if head.pooling == "gem" and head.features not in ("auto", "last"):
        problems.append(
            f"head.pooling = 'gem': expected auto, avg, max or avgmax where head.features = '{head.features}'"
        )
    if head.layers is None:
        return problems
    if not Path(head.layers).expanduser().is_file():
        return [
            f"head.layers = '{head.layers}': no such file. Expected a .keras file with the layers of a head"
        ]
    others = [name for name in ("hidden", "dropout", "l2") if getattr(head, name)]
    return problems + [
        f"head.layers and head.{name}: expected one of them; the file holds all layers" for name in others
    ]


def task_checks(recipe: Recipe) -> list[str]:
    """Keys that the task does not take."""
    task = recipe.task
    problems = []
    if task.per_step:
        problems += step_checks(recipe)
    for phase in ("head_phase", "finetune_phase"):
        settings = getattr(recipe, phase)
        if settings.class_weights != "none" and not task.exclusive:
            problems.append(
                f"{phase}.class_weights = '{settings.class_weights}': expected none where data.task = '{task.name}'"
            )
        if settings.monitor not in (None, *task.monitors):
            problems.append(
                f"{phase}.monitor = '{settings.monitor}': expected one of {', '.join(task.monitors)} where data.task = "
                f"'{task.name}'"
            )
    return problems


def step_checks(recipe: Recipe) -> list[str]:
    """Keys that mean nothing where each word has an answer of its own."""
    where, noun = f"where data.task = '{recipe.task.name}'", modality_of(recipe).noun
    problems = []
    if not has_words(recipe.modality):
        problems.append(
            f"data.task = '{recipe.task.name}': the backbone '{recipe.backbone.name}' takes {noun}s, which have no words. Expected a backbone "
            "for texts"
        )
    if recipe.head.pooling != "auto":
        problems.append(
            f"head.pooling = '{recipe.head.pooling}': expected auto {where}: each word has an answer of its own"
        )
    if recipe.head.layers is not None:
        problems.append(f"head.layers: expected none {where}; head.hidden has hidden layers for each word")
    if has_words(recipe.modality) and recipe.data.truncation != "head":
        problems.append(
            f"data.truncation = '{recipe.data.truncation}': expected none {where}: a longer {noun} is read in parts that overlap"
        )
    return problems


def group_checks(recipe: Recipe) -> list[str]:
    """Problems of the keys that name groups."""
    pattern = recipe.data.group_pattern
    if pattern is None:
        return []
    try:
        re.compile(pattern)
    except re.error as error:
        return [
            f"data.group_pattern = '{pattern}': expected a regular expression such as '(patient[0-9]+)_': {error}"
        ]
    if recipe.data.group_subfolders:
        return [
            "data.group_pattern and data.group_subfolders: expected one of them; each names the groups alone"
        ]
    return []


def abstain_checks(recipe: Recipe) -> list[str]:
    """Problems of the keys that choose a threshold."""
    asked = {
        f"calibration.{name}": value
        for name in ("abstain_precision", "abstain_coverage")
        if (value := getattr(recipe.calibration, name)) is not None
    }
    problems = []
    if len(asked) == 2:
        problems.append(f"{' and '.join(asked)}: expected one of them; each chooses the threshold alone")
    if not recipe.task.exclusive or recipe.task.per_step:
        problems += [
            f"{name} = {value}: expected none where data.task = '{recipe.data.task}': no label stands for the whole {modality_of(recipe).noun}"
            for name, value in asked.items()
        ]
    return problems


def _cross_checks(recipe: Recipe) -> list[str]:
    problems: list[str] = []
    if recipe.name is not None and not is_name(recipe.name):
        problems.append(
            f"name = {recipe.name!r}: expected at most {LONGEST_NAME} letters a to z, digits, '_', '-' and '.', beginning "
            f"with a letter or digit, as paths and servers take them. For example {safe_name(recipe.name)!r}"
        )
    name = recipe.backbone.name
    if is_preset(name):
        check_preset(name)
    elif is_file_name(name):  # what it is like is known when TensorFlow has loaded it; see `resolve`
        if not Path(name).expanduser().is_file():
            problems.append(f"backbone.name = '{name}': no such file. Expected a network that Keras saved")
    elif name not in backbone_names(None):
        problems.append(
            f"backbone.name = '{name}': unknown backbone.{nearest(name, backbone_names(None))}"
            " `kerastl backbones` lists them all; a network of your own is a .keras file, a preset of KerasHub kerashub:FOLDER"
        )
    else:
        problems += backbone_checks(recipe, get_backbone(name))
    return (
        problems
        + weights_checks(recipe)
        + head_checks(recipe)
        + task_checks(recipe)
        + group_checks(recipe)
        + abstain_checks(recipe)
    )


def backbone_checks(recipe: Recipe, spec: BackboneSpec) -> list[str]:
    """Keys that do not fit the backbone."""
    problems = modality_checks(recipe, spec)
    if recipe.head.pooling == "first" and not spec.stepped and not recipe.kind_is_open:
        problems.append(
            f"head.pooling = 'first': the backbone '{spec.name}' gives no steps, as transformers of texts do, and ViT. Expected auto, avg, "
            "max, avgmax or gem"
        )
    point = recipe.finetune_phase.unfreeze_from
    from_input = spec.unfreeze_points[::-1]
    if point is not None and point not in from_input:
        problems.append(
            f"finetune_phase.unfreeze_from = '{point}': unknown unfreeze point for backbone '{spec.name}'."
            f"{nearest(point, from_input)} Expected one of: {', '.join(from_input)}"
        )
    return problems
