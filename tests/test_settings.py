"""The recipe with nothing left open, and what each of its keys affects."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kerastl.declare import Affects, key
from kerastl.errors import RecipeError
from kerastl.jobs.trained import recipe_of
from kerastl.recipe import (
    BackboneRecipe,
    DataRecipe,
    HeadPhaseRecipe,
    HeadRecipe,
    Recipe,
    Settings,
    load_recipe,
    recipe_keys,
    recipe_to_toml,
    resolve,
)
from kerastl.recipe.keys import affecting, keys_of, value_at
from kerastl.recipe.schema import FinetunePhaseRecipe
from kerastl.run import Run

EVERY: tuple[Affects, ...] = ("run", "data", "features", "head", "step", "value")


def test_settings_have_no_open_key() -> None:
    settings = resolve(Recipe(), 1000, 10)
    assert isinstance(settings, Settings)
    open_in_recipe = [
        name for name, item, _ in recipe_keys() if item.metadata["auto"] and value_at(Recipe(), name) is None
    ]
    assert "head_phase.epochs" in open_in_recipe and "augment.views" in open_in_recipe
    assert [name for name in open_in_recipe if value_at(settings, name) is None] == []


def test_settings_with_an_open_key_are_refused() -> None:
    settings = resolve(Recipe(), 1000, 10)
    with pytest.raises(ValueError, match=r"head_phase\.epochs"):
        dataclasses.replace(settings, head_phase=HeadPhaseRecipe())
    with pytest.raises(ValueError, match=r"open keys in settings: name, "):
        Settings()


def test_what_is_asked_for_is_kept_and_settings_resolve_to_themselves() -> None:
    asked = Recipe(name="mine", head_phase=HeadPhaseRecipe(epochs=7))
    settings = resolve(asked, 1000, 10)
    assert settings.name == "mine" and settings.head_phase.epochs == 7
    assert resolve(settings, 5, 2) == settings


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"seed": -1}, ["seed = -1: expected a whole number at least 0"]),
        ({"name": "a b"}, ["name = 'a b'", "'a-b'"]),
        (
            {"head": HeadRecipe(pooling="maxavg")},
            ["head.pooling = 'maxavg'", "expected one of auto, avg, max, avgmax, gem"],
        ),
        ({"data": DataRecipe(group_pattern="(")}, ["data.group_pattern = '('", "regular expression"]),
        (
            {"seed": -1, "data": DataRecipe(task="tags"), "head": HeadRecipe(dropout=1.0)},
            ["3 problems", "seed = -1", "data.task = 'tags'", "head.dropout = 1.0"],
        ),
        (
            {"finetune_phase": FinetunePhaseRecipe(unfreeze_from="conv9")},
            ["finetune_phase.unfreeze_from = 'conv9'"],
        ),
    ],
)
def test_a_recipe_made_in_python_is_checked_like_one_from_a_file(
    values: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**values)
    for message in messages:
        assert message in str(caught.value)


def test_every_key_says_what_it_affects() -> None:
    names = [name for name, _, _ in recipe_keys()]
    by_kind = {kind: affecting(Recipe, kind) for kind in EVERY}
    assert sorted(names) == sorted(name for found in by_kind.values() for name in found)
    assert {"data.resize", "backbone.image_size", "augment.views"} <= set(by_kind["features"])
    assert {"cache.mode", "calibration.kind", "seed"} <= set(by_kind["run"])
    assert affecting(HeadPhaseRecipe, "step") == (
        "optimizer", "weight_decay", "label_smoothing", "gradient_clip_norm",
    )  # fmt: skip


def test_a_key_that_does_not_say_what_it_affects_is_found() -> None:
    @dataclass(frozen=True)
    class Table:
        rate: float = key(0.0, "a rate")

    with pytest.raises(AttributeError, match="AFFECTS"):
        affecting(Table, "value")


def test_keys_are_found_by_their_dotted_names_in_order() -> None:
    names = [name for name, _, _ in keys_of(Recipe)]
    assert names[:5] == ["name", "seed", "precision", "deterministic", "data.source"]
    assert value_at(Recipe(), "head_phase.optimizer") == "adamw"


def test_a_runs_settings_are_read_without_the_weights_that_it_began_with(tmp_path: Path) -> None:
    weights = tmp_path / "mine.weights.h5"
    weights.touch()
    settings = resolve(Recipe(backbone=BackboneRecipe(name="resnet50", weights=str(weights))), 1000, 10)
    run = Run(tmp_path)
    run.recipe_toml.write_text(recipe_to_toml(settings))
    run.data_json.write_text(json.dumps({"counts": {"train": 1000}, "classes": list("abcdefghij")}))
    weights.unlink()
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(run.recipe_toml)
    assert recipe_of(run) == settings


def test_keys_that_an_earlier_version_did_not_know_are_chosen_for_its_runs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.recipe_toml.write_text("[data]\nmulti_label = false\n[head_phase]\nepochs = 3\n")
    run.data_json.write_text(json.dumps({"counts": {"train": 1000}, "classes": ["a", "b"]}))
    found = recipe_of(run)
    assert found.head_phase.epochs == 3 and found == resolve(
        Recipe(head_phase=HeadPhaseRecipe(epochs=3)), 1000, 2
    )
