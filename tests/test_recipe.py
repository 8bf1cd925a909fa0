"""Recipes: every wrong value is named in one message, every right one survives the way through TOML."""

from __future__ import annotations

import dataclasses
import random
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kerastl.backbones import get_backbone
from kerastl.errors import RecipeError, UserError
from kerastl.modality.recipe import foreign_keys
from kerastl.recipe import (
    Recipe,
    load_recipe,
    recipe_from_dict,
    recipe_keys,
    recipe_to_dict,
    recipe_to_toml,
    resolve,
    shipped_recipes,
)
from kerastl.task.classification import CLASSIFICATION
from kerastl.wording import safe_name


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


WRONG = {
    "unknown key with a near one": ("[head]\ndropot = 0.1", ["Unknown key 'head.dropot'", "Did you mean 'head.dropout'?", "features, pooling, start, hidden"]),
    "unknown top-level key": ("sed = 1", ["Unknown key 'sed'", "Did you mean 'seed'?", "Top-level keys and tables"]),
    "key in the wrong table": ("image_size = 64", ["Unknown key 'image_size'", "Did you mean 'backbone.image_size'?"]),
    "unknown table": ("[hed]\ndropout = 0.1", ["Unknown key 'hed'", "Did you mean 'head'?"]),
    "key that is like no other": ("zzzzqqq = 1", ["Unknown key 'zzzzqqq'.", "Top-level keys"]),
    "value in a table's place": ("head = 3", ["head = 3", "expected a table with the keys of [head]"]),
    "table in a value's place": ("[seed]\nx = 1", ["seed = {'x': 1}", "expected a whole number"]),
    "text for a whole number": ("seed = '1'", ["seed = '1'", "expected a whole number at least 0"]),
    "bool for a whole number": ("seed = true", ["seed = True", "expected a whole number"]),
    "bool for a number": ("[head]\ndropout = false", ["head.dropout = False", "expected a number"]),
    "fraction for a whole number": ("seed = 1.5", ["seed = 1.5", "expected a whole number"]),
    "whole number for a bool": ("deterministic = 1", ["deterministic = 1", "expected true or false"]),
    "text for a bool": ("deterministic = 'yes'", ["deterministic = 'yes'", "expected true or false"]),
    "number for a text": ("name = 3", ["name = 3", "expected a text in quotes"]),
    "empty text": ("name = ''", ["name = ''", "expected a text in quotes"]),
    "number for a choice": ("precision = 16", ["precision = 16", "auto, float32, mixed_bfloat16"]),
    "choice with a near one": ("[head]\npooling = 'average'", ["head.pooling = 'average'", "auto, avg, max, avgmax, gem", "Did you mean"]),
    "the first step where there is none": (
        "[backbone]\nname = 'vgg16'\n[head]\npooling = 'first'",
        ["head.pooling = 'first': the backbone 'vgg16' gives no steps, as transformers of texts do, and ViT. Expected auto, avg, max, avgmax or gem"],
    ),
    "below the bound": ("seed = -1", ["seed = -1", "at least 0"]),
    "above the bound": ("seed = 2147483648", ["seed = 2147483648", "at most 2147483647"]),
    "on an excluded lower bound": ("[data]\ntest_fraction = 0", ["data.test_fraction = 0", "above 0"]),
    "on an excluded upper bound": ("[head]\ndropout = 1", ["head.dropout = 1", "below 1"]),
    "infinity": ("[head_phase]\nlearning_rate = inf", ["head_phase.learning_rate = inf", "above 0"]),
    "infinity for a whole number": ("seed = inf", ["seed = inf", "expected a whole number"]),
    "not a number": ("[head]\nl2 = nan", ["head.l2 = nan", "expected a number"]),
    "not a number for a whole number": ("seed = nan", ["seed = nan", "expected a whole number"]),
    "a number that no float holds": ("[head]\nl2 = 1" + "0" * 400, ["head.l2 = 1000", "expected a number"]),
    "number for a list": ("[head]\nhidden = 256", ["head.hidden = 256", "expected a list of whole numbers"]),
    "text in a list": ("[head]\nhidden = ['a']", ["head.hidden = ['a']", "expected a whole number at least 1"]),
    "auto where nothing decides": ("seed = 'auto'", ["seed = 'auto'", "expected a whole number"]),
    "name with a blank": ("name = 'my flowers'", ["name = 'my flowers'", "For example 'my-flowers'"]),
    "name with an accent": ("name = 'blümchen'", ["name = 'blümchen'", "For example 'blumchen'"]),
    "name that looks like an option": ("name = '-x'", ["name = '-x'", "beginning with a letter or digit"]),
    "name with a folder": ("name = 'a/b'", ["name = 'a/b'", "For example 'a-b'"]),
    "name that no folder can have": (f"name = '{'x' * 201}'", ["expected at most 200 letters"]),
    "unknown backbone": ("[backbone]\nname = 'resnet5O'", ["backbone.name = 'resnet5O'", "Did you mean 'resnet50'?", "kerastl backbones"]),
    "image below the network's minimum": ("[backbone]\nname = 'inception_v3'\nimage_size = 32", ["backbone.image_size = 32", "'inception_v3'", "at least 75"]),
    "unknown unfreeze point": (
        "[backbone]\nname = 'resnet50'\n[finetune_phase]\nunfreeze_from = 'conv4'",
        ["finetune_phase.unfreeze_from = 'conv4'", "'resnet50'", "Did you mean 'conv4_block6_out'?", "Expected one of: input, pool1_pool"],
    ),
    "weights that are not there": ("[backbone]\nweights = 'nowhere.h5'", ["backbone.weights = 'nowhere.h5'", "no such file", "pretrained, imagenet, none"]),
    "balanced weights of several labels": (
        "[data]\nmulti_label = true\n[head_phase]\nclass_weights = 'balanced'",
        ["head_phase.class_weights = 'balanced'", "data.task = 'multi_label'"],
    ),
    "two ways to abstain": (
        "[calibration]\nabstain_precision = 0.9\nabstain_coverage = 0.5",
        ["calibration.abstain_precision and calibration.abstain_coverage", "expected one of them"],
    ),
    "abstaining from several labels": (
        "[data]\nmulti_label = true\n[calibration]\nabstain_coverage = 0.5",
        ["calibration.abstain_coverage = 0.5", "data.task = 'multi_label'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "fragments"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_one_problem_that_says_what_is_expected(
    tmp_path: Path, text: str, fragments: list[str]
) -> None:
    path = file_of(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)
    for fragment in fragments:
        assert fragment in caught.value.problems[0]


def test_all_problems_are_in_one_message(tmp_path: Path) -> None:
    path = file_of(tmp_path, "sed = 1\n[head]\ndropout = 2\npooling = 'sum'\n[backbone]\nname = 'vgg61'")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, sets=["seed", "augment.level=loud"], flags={"head_phase.epochs": "many"})
    named = ("--set seed", "sed", "dropout", "pooling", "vgg61", "augment.level", "head_phase.epochs")
    assert len(caught.value.problems) == len(named)
    for name in named:
        assert any(name in problem for problem in caught.value.problems)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("missing.toml", ["No recipe", "missing.toml", "Expected a TOML file"]),
        ("digts", ["Did you mean 'digits'?"]),
        ("twice.toml", ["twice.toml is not valid TOML", "line 2"]),
        ("latin.toml", ["Cannot read the recipe", "UTF-8"]),
        ("folder", ["is a folder", "--data"]),
        ("run", ["Did you mean", "recipe.toml"]),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, fragments: list[str]) -> None:
    (tmp_path / "twice.toml").write_text("seed = 1\nseed = 2\n")
    (tmp_path / "latin.toml").write_bytes("name = 'Zürich'".encode("latin-1"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    if name == "digts" and "digits" not in shipped_recipes():
        pytest.skip("no shipped recipes yet")
    with pytest.raises(UserError) as caught:
        load_recipe(name if name == "digts" else tmp_path / name)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_folder_hides_no_shipped_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's own `kerastl fit photos --data photos`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    cases: list[dict[str, Any]] = [
        {"flags": {"data.source": "photos"}}, {"sets": ["data.source=photos"]},
    ]  # fmt: skip
    for named in cases:
        assert load_recipe("photos", **named) == load_recipe(shipped_recipes()["photos"], **named)
    with pytest.raises(UserError, match="named by --data photos"):
        load_recipe("photos", flags={"data.source": None})


def test_flags_win_over_sets_and_sets_over_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, "seed = 1\n[head]\ndropout = 0.1\nl2 = 0.5\n[data]\nsource = 'pets'")
    recipe = load_recipe(
        path,
        sets=["seed=2", "head.dropout=0.2", "data.resize=crop"],
        flags={"seed": 3, "data.source": None},
    )
    assert (recipe.seed, recipe.head.dropout, recipe.head.l2) == (3, 0.2, 0.5)
    assert (recipe.data.source, recipe.data.resize) == ("pets", "crop")


def test_the_last_set_of_a_key_wins() -> None:
    assert load_recipe(sets=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("name=tulips", "name", "tulips"),
        ("data.source='a = b'", "data.source", "a = b"),
        ("data.source=folder=with=signs", "data.source", "folder=with=signs"),
        ("head.hidden=[64, 32]", "head.hidden", (64, 32)),
        ("head.dropout = 0.25", "head.dropout", 0.25),
        ("head_phase.learning_rate=1e-5", "head_phase.learning_rate", 1e-5),
        ("deterministic=true", "deterministic", True),
        ("backbone.image_size=auto", "backbone.image_size", None),
        ("head_phase.epochs=3.0", "head_phase.epochs", 3),
        ("head.dropout=0", "head.dropout", 0.0),
    ],
)
def test_a_set_value_is_read_as_toml_and_otherwise_as_text(text: str, key: str, value: object) -> None:
    found: object = load_recipe(sets=[text])
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_the_backbone_follows_the_data_where_none_is_named() -> None:
    assert load_recipe().backbone.name == "mobilenet_025"
    assert load_recipe(flags={"data.source": "pets"}).backbone.name == "resnet50"
    texts = {"data.source": "pets.csv", "data.modality": "text"}
    assert load_recipe(flags=texts).backbone.name == "minilm_l6"
    assert load_recipe(flags=texts | {"backbone.name": "bert_tiny"}).backbone.name == "bert_tiny"


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_recipe().seed = 3  # type: ignore[misc]


def random_recipe(generator: random.Random) -> Recipe:
    """A recipe with a right value in about half of its keys."""
    values: dict[str, Any] = {}
    for dotted, item, hint in recipe_keys():
        if generator.random() < 0.5 or dotted in (
            "backbone.name",
            "head.layers",
            "finetune_phase.unfreeze_from",
        ):
            continue
        *parents, last = dotted.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = random_value(generator, dotted, item.metadata, str(hint))
    backbone = get_backbone(generator.choice(["resnet50", "vgg16", "mobilenet_025", "minilm_l6"]))
    for table, last in (dotted.split(".") for dotted in foreign_keys(backbone.modality)):
        values.get(table, {}).pop(last, None)
    if "modality" in values.get("data", {}):
        values["data"]["modality"] = backbone.modality
    if backbone.modality == "text":
        values.setdefault("data", {})["max_pieces"] = generator.randint(3, 512)
        values.pop("augment", None)
        values.get("finetune_phase", {}).pop("mixup_alpha", None)
    values.setdefault("backbone", {}).update(name=backbone.name, weights="none")
    if generator.random() < 0.5:
        values.setdefault("finetune_phase", {})["unfreeze_from"] = generator.choice(backbone.unfreeze_points)
    data = values.setdefault("data", {})
    data["task"] = "classification"
    if "group_pattern" in data:
        data["group_pattern"] = re.escape(data["group_pattern"])
        data["group_subfolders"] = False
    for phase in ("head_phase", "finetune_phase"):
        if values.get(phase, {}).get("monitor") not in CLASSIFICATION.monitors:
            values.get(phase, {}).pop("monitor", None)
    values.get("calibration", {}).pop("abstain_coverage", None)  # either of the two
    head = values.get("head", {})
    if head.get("hidden"):
        head.pop("start", None)  # it has no solution
    if head.get("pooling") == "first" and backbone.modality != "text":
        head.pop("pooling")  # it has no steps
    if head.get("pooling") == "gem":
        head.pop("features", None)  # it is kept of the last output alone
    return recipe_from_dict(values)


def random_value(generator: random.Random, dotted: str, metadata: Any, hint: str) -> Any:
    if metadata["choices"]:
        return generator.choice(metadata["choices"])
    if "bool" in hint:
        return generator.random() < 0.5
    if "str" in hint:
        text = "".join(generator.choice("aZ09 '\"\\\n\t#=[]é日😀\x7f") for _ in range(9))
        return safe_name(text) if dotted == "name" else text
    low = next(bound for bound in (metadata["low"], metadata["above"], 0) if bound is not None)
    low = max(low, 80) if dotted == "backbone.image_size" else low
    high = next((bound for bound in (metadata["high"], metadata["below"]) if bound is not None), 1000)
    if "tuple" in hint:
        return [generator.randint(1, 999) for _ in range(generator.randint(0, 3))]
    if "int" in hint:
        return generator.randint(int(low), int(high))
    return generator.choice([1e-3, 1.0]) * generator.uniform(0.1, 0.8) * (high - low) + low


@pytest.mark.parametrize("seed", range(60))
def test_no_recipe_loses_anything_on_its_way_through_toml(tmp_path: Path, seed: int) -> None:
    recipe = random_recipe(random.Random(seed))
    text = recipe_to_toml(recipe, heading="a heading\nof two lines")
    assert text.startswith("# a heading\n# of two lines\n")
    assert load_recipe(file_of(tmp_path, text)) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    resolved = resolve(recipe, 500, 10)
    assert resolve(load_recipe(file_of(tmp_path, recipe_to_toml(resolved))), 1, 2) == resolved


@pytest.mark.parametrize("seed", range(40))
def test_any_value_in_any_place_makes_a_recipe_or_a_recipe_error(seed: int) -> None:
    generator = random.Random(seed)
    strange = [None, True, -1, 0, 3, 0.5, 1e309, 10**400, "", "auto", "x", [], [1], ["a"], {}, {"x": 1}, b"x"]
    for dotted, _, _ in recipe_keys():
        values: dict[str, Any] = {}
        inner = values
        *parents, last = dotted.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = generator.choice(strange)
        try:
            assert isinstance(recipe_from_dict(values), Recipe)
        except RecipeError as error:
            assert dotted in str(error)


def test_every_key_says_what_it_is_for() -> None:
    for dotted, item, _ in recipe_keys():
        assert item.metadata["help"], dotted
        assert not item.metadata["help"].endswith("."), dotted


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_headed_by_its_command_and_can_be_loaded(name: str) -> None:
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    assert f"kerastl fit {name}" in text.split("\n\n")[0]
    assert tomllib.loads(text)
    load_recipe(name)
