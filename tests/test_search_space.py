"""The space of a search: what it may hold, and what is wrong with one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from searches import space_of

from kerastl.backbones import backbone_names
from kerastl.errors import RecipeError
from kerastl.recipe import load_recipe, resolve, shipped_recipes
from kerastl.search.hyperparameters import UNFREEZE_POINT, with_values
from kerastl.search.space import load_space, shipped_spaces


@pytest.mark.parametrize("recipe", sorted(shipped_recipes()))
@pytest.mark.parametrize("space", [None, *sorted(shipped_spaces())])
def test_shipped_spaces_fit_shipped_recipes(space: str | None, recipe: str) -> None:
    loaded = load_recipe(recipe)
    if recipe == "texts" and space in ("augment", "wide"):
        with pytest.raises(RecipeError, match="texts are not changed at random"):
            load_space(space, loaded, resolve(loaded, 1000, 10))
        return
    assert load_space(space, loaded, resolve(loaded, 1000, 10)).hyperparameters


def test_the_spaces_lie_at_the_top_level_too() -> None:
    names = {path.stem for path in (Path(__file__).parents[1] / "tuning" / "spaces").glob("*.toml")}
    assert names == set(shipped_spaces()) and "default" in names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[head]\ndropot = [0.1, 0.2]", "Unknown key 'head.dropot'. Did you mean 'head.dropout'?"),
        ("[hed]\nl2 = {low = 1, high = 2}", "Unknown key 'hed'. Did you mean 'head'?"),
        ("[head]\ndropout = {low = 0.1, high = 2.0}", "head.dropout = 2.0: expected a number at least 0 and below 1"),
        ("[head]\npooling = ['avg', 'maxx']", "Did you mean 'max'?"),
        ("[head]\npooling = ['avg', 'first']", "the backbone 'resnet50' gives no steps"),
        ("[head]\ndropout = [0.1]", "expected a list of at least two values"),
        ("[head]\ndropout = [0.1, 0.1]", "expected values that differ"),
        ("[head]\ndropout = {low = 0.2, hihg = 0.3}", "unknown 'hihg'. Did you mean 'high'?"),
        ("[head]\ndropout = {low = 0.3, high = 0.2}", "expected low below high"),
        ("[head]\nl2 = {low = 0.0, high = 0.2, scale = 'log'}", "expected low above 0 on a logarithmic scale"),
        ("[head]\nl2 = {low = 0.1, high = 0.2, scale = 'lgo'}", "expected scale = log or linear. Did you mean 'log'?"),
        ("[head]\nl2 = {around = 10}", "around needs a recipe that says a number above 0; it says 0.0"),
        ("[head_phase]\nlearning_rate = {around = 0.5}", "expected around = a factor above 1"),
        ("[finetune_phase]\nunfreeze_from = ['conv4', 'input']", "unknown unfreeze point 'conv4' for backbone 'resnet50'"),
        ("[finetune_phase]\nunfreeze_from = {joins = 1}", 'expected joins = "all" or a whole number of at least 2'),
        ("seed = [1, 2]", "seed: cannot be searched"),
        ("[data]\nvalidation_fraction = [0.1, 0.2]", "data.validation_fraction: cannot be searched"),
        ("[backbone]\nname = ['resnet50', 'vgg16']\n[finetune_phase]\nunfreeze_from = {joins = 3}", "expected one of them"),
        ("", "expected at least one recipe key"),
    ],
)  # fmt: skip
def test_a_wrong_space_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        space_of(text, tmp_path)
    assert message in str(caught.value)


def test_the_first_step_of_texts_is_searched(tmp_path: Path) -> None:
    texts = load_recipe(flags={"backbone.name": "bert_tiny", "backbone.weights": "none"})
    (found,) = space_of("[head]\npooling = ['avg', 'first']", tmp_path, texts).hyperparameters
    assert set(found.values) == {"auto", "avg", "first"}


def test_all_problems_of_a_space_come_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        space_of("seed = [1, 2]\n[head]\ndropot = [0.1, 0.2]\nl2 = 3", tmp_path)
    assert len(caught.value.problems) == 3


def test_keys_of_the_finetune_phase_need_something_thawed(tmp_path: Path) -> None:
    frozen = load_recipe("photos", flags={UNFREEZE_POINT: "backbone"})
    with pytest.raises(RecipeError, match="the recipe unfreezes nothing"):
        space_of("[finetune_phase]\nlearning_rate = {low = 1e-5, high = 1e-3}", tmp_path, frozen)
    default = load_space(None, frozen, resolve(frozen, 1000, 10))
    assert {axis.key for axis in default} == {"head.features", "head.dropout"}


def test_the_unfreeze_point_is_ordered_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    points = ["input", "backbone", "conv4_block6_out"]
    recipe = load_recipe("photos", flags={UNFREEZE_POINT: "input"})
    space = space_of(f"[finetune_phase]\nunfreeze_from = {points}", tmp_path, recipe)
    assert (
        space.hyperparameters[0].values == ("backbone", "conv4_block6_out", "input")
        and space.hyperparameters[0].ordered
    )


def test_a_step_makes_a_ladder_of_exact_values(tmp_path: Path) -> None:
    text = "[head_phase]\nlearning_rate = {low = 1e-4, high = 1e-2, scale = 'log', step = 10}\n"
    recipe = load_recipe("photos", flags={"head_phase.learning_rate": 1e-3})
    space = space_of(text + "[head]\ndropout = {low = 0.0, high = 0.3, step = 0.1}", tmp_path, recipe)
    assert space.hyperparameters[0].values == (1e-4, 1e-3, 1e-2) and space.hyperparameters[1].values == (
        0.0,
        0.1,
        0.2,
        0.3,
    )
    assert space.hyperparameters[0].encoded(1e-3) == 0.5


@pytest.mark.parametrize("name", [None, *sorted(shipped_spaces())])
def test_the_recipe_as_it_is_belongs_to_every_shipped_space(name: str | None) -> None:
    from kerastl.search.hyperparameters import first_values, values_of

    for backbone, count in itertools.product(backbone_names(), (200, 2000)):
        recipe = load_recipe("photos", flags={"backbone.name": backbone})
        resolved = resolve(recipe, count, 10)
        space = load_space(name, recipe, resolved)
        first = first_values(space, values_of(resolved, space))
        assert first is not None, f"{backbone}, {count} images"
        assert resolve(with_values(recipe, space.decoded(first)), count, 10) == resolved


OWN = {
    "a list of joins": ("[finetune_phase]\nunfreeze_from = ['backbone', 'input']", {UNFREEZE_POINT: "conv4_block6_out"},
                        ("backbone", "conv4_block6_out", "input")),
    "few joins": ("[finetune_phase]\nunfreeze_from = {joins = 2}", {UNFREEZE_POINT: "conv4_block6_out"},
                  ("backbone", "conv4_block6_out", "input")),
    "rising numbers": ("[finetune_phase]\nbatch_size = {ordered = [8, 32]}", {"finetune_phase.batch_size": 12}, (8, 12, 32)),
    "falling numbers": ("[head]\ndropout = {ordered = [0.4, 0.2]}", {"head.dropout": 0.3}, (0.4, 0.3, 0.2)),
    "lists": ("[head]\nhidden = {ordered = [[], [512]]}", {"head.hidden": [128]}, ((), (128,), (512,))),
    "words in their order": ("[augment]\nlevel = {ordered = ['none', 'strong']}", {"augment.level": "medium"},
                             ("none", "medium", "strong")),
    "words without one": ("[head]\npooling = ['gem', 'max', 'avgmax']", {}, ("gem", "max", "avgmax", "auto")),
    "a ladder": ("[head]\ndropout = {low = 0.1, high = 0.3, step = 0.1}", {"head.dropout": 0.5}, (0.1, 0.2, 0.3, 0.5)),
    "a rung is the recipe's own value, rounded": (
        "[head_phase]\nlearning_rate = {around = 10, step = 10}", {"head_phase.learning_rate": 0.00123456},
        (0.0001235, 0.00123456, 0.01235)),
    "a value next to a rung stands for it": (
        "[finetune_phase]\nlayer_decay = {low = 0.7, high = 1.0, step = 0.1}", {"finetune_phase.layer_decay": 0.9007},
        (0.7, 0.8, 0.9007, 1.0)),
    "no logarithm of zero": ("[head]\nl2 = {low = 1e-4, high = 1e-3, scale = 'log'}", {}, (0.0, 1e-4, 0.0003162, 1e-3)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "flags", "values"), OWN.values(), ids=OWN.keys())
def test_what_the_recipe_says_is_added_to_a_list_in_its_place(
    text: str, flags: dict[str, Any], values: tuple[Any, ...], tmp_path: Path
) -> None:
    recipe = load_recipe("photos", flags=flags)
    space = space_of(text, tmp_path, recipe)
    assert space.hyperparameters[0].values == values
    # what was added is said; a rung that stood there is not
    replaced = "around" in text or "layer_decay" in text
    assert [line.partition(" = ")[0] for line in space.added] == [space.hyperparameters[0].key] * (
        not replaced
    )


def test_a_range_reaches_to_what_the_recipe_says(tmp_path: Path) -> None:
    from kerastl.search.hyperparameters import combinations, first_values, values_of

    for flags, ends in (
        ({"finetune_phase.learning_rate": 3.14159e-3}, (1e-5, 3.14159e-3)),
        ({"finetune_phase.learning_rate": 3.14159e-4}, (1e-5, 1e-3)),
        ({"finetune_phase.learning_rate": 1e-7}, (1e-7, 1e-3)),
    ):
        recipe = load_recipe("photos", flags=flags)
        resolved = resolve(recipe, 1000, 10)
        text = "[finetune_phase]\nlearning_rate = {low = 1e-5, high = 1e-3, scale = 'log'}"
        space = space_of(text, tmp_path, recipe)
        assert (space.hyperparameters[0].low, space.hyperparameters[0].high) == ends
        assert bool(space.added) == (ends != (1e-5, 1e-3))
        first = first_values(space, values_of(resolved, space))
        # to the last digit, though other values of a range are rounded
        assert first is not None and space.decoded(first) == flags
        assert flags in [space.decoded(values) for values in combinations(space)]
        assert len(f"{space.hyperparameters[0].decoded(1.23456789e-4)}") == len("0.0001235")


def test_values_are_checked_as_the_recipes_own() -> None:
    with pytest.raises(RecipeError, match=r"head\.dropout"):
        with_values(load_recipe("digits"), {"head.dropout": 1.5})
