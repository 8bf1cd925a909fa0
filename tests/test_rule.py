"""The rule that fills in what a recipe leaves open."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kerastl.backbones import backbone_names, get_backbone
from kerastl.modality.recipe import LEVELS, foreign_keys
from kerastl.recipe import DataRecipe, Recipe, load_recipe, recipe_to_dict, resolve
from kerastl.recipe.keys import keys_of, value_at
from kerastl.recipe.rule import batch_size, default_name, resolve_augment
from kerastl.recipe.schema import AugmentRecipe
from kerastl.run import create_run

NOT_USED = {
    "data_dir", "significant_bits", "train_split", "validation_split", "test_split", "examples_per_class", "weights_dir", "directory",
    "abstain_precision", "abstain_coverage", "group_pattern", "min_images_per_class", "min_texts_per_class", "layers",
}  # fmt: skip


def resolved(train_count: int = 2000, **flags: object):
    names = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(load_recipe(flags={"data.source": "photos", **names}), train_count, class_count=10)


@pytest.mark.parametrize("name", backbone_names(None))
def test_nothing_stays_open_for_any_backbone(name: str) -> None:
    recipe = resolved(backbone__name=name)
    open_keys = {dotted for dotted, _, _ in keys_of(type(recipe)) if value_at(recipe, dotted) is None}
    foreign = foreign_keys(get_backbone(name).modality)
    # found beside the weights
    beside = {"data.vocabulary"} - foreign
    assert {dotted.rpartition(".")[2] for dotted in open_keys - foreign - beside} <= NOT_USED
    assert recipe.finetune_phase.unfreeze_from in get_backbone(name).unfreeze_points[1:]


def test_resolving_twice_changes_nothing() -> None:
    once = resolved()
    assert resolve(once, 50, 3) == once


def test_what_was_asked_for_stays() -> None:
    recipe = resolved(finetune_phase__epochs=3, head_phase__learning_rate=0.5, augment__views=9)
    assert (recipe.finetune_phase.epochs, recipe.head_phase.learning_rate, recipe.augment.views) == (
        3,
        0.5,
        9,
    )


@pytest.mark.parametrize(
    ("name", "few", "many"),
    [
        ("resnet50", "conv4_block6_out", "conv3_block4_out"),
        ("vgg16", "block4_pool", "block3_pool"),
        ("inception_v3", "mixed7", "mixed2"),
        ("mobilenet_025", "input", "input"),
    ],
)
def test_more_stages_are_thawed_where_there_are_more_images(name: str, few: str, many: str) -> None:
    assert resolved(999, backbone__name=name).finetune_phase.unfreeze_from == few
    assert resolved(1000, backbone__name=name).finetune_phase.unfreeze_from == many


def test_a_linear_head_is_solved_and_trains_where_the_recipe_says_how() -> None:
    found = resolved()
    assert (found.head.start, found.head_phase.epochs) == ("solved", 0)
    asked = (
        {"head_phase__learning_rate": 1e-3},
        {"head_phase__epochs": 3},
        {"head__dropout": 0.2},
        {"head__l2": 1e-4},
    )
    for sets in asked:
        found = resolved(**sets)
        assert (found.head.start, found.head_phase.epochs) == ("solved", sets.get("head_phase__epochs", 100))
    many = resolved(100_000)
    assert (many.head.start, many.head_phase.epochs) == ("solved", 100), "gradients see all of them"
    hidden = resolved(head__hidden=(8,))
    assert (hidden.head.start, hidden.head_phase.epochs) == ("zeros", 100)
    zeros = resolved(head__start="zeros")
    assert (zeros.head.start, zeros.head_phase.epochs) == ("zeros", 100)


def test_few_images_train_in_small_batches_with_more_views() -> None:
    assert [batch_size(count) for count in (1, 100, 300, 2000, 1_000_000)] == [8, 8, 16, 64, 64]
    light = [resolved(count, augment__level="light") for count in (100, 2000, 3000, 1_000_000)]
    assert [recipe.augment.views for recipe in light] == [6, 6, 4, 2]
    assert resolved(100, backbone__name="mobilenet_025").augment.views == 6


def test_few_images_are_finetuned_for_more_epochs() -> None:
    counts = (50, 250, 500, 1000, 2000, 1_000_000)
    assert [resolved(count).finetune_phase.epochs for count in counts] == [20, 16, 16, 8, 5, 5]
    assert resolved(2000, backbone__name="mobilenet_025").finetune_phase.epochs == 20
    assert resolved(500, finetune_phase__batch_size=4).finetune_phase.epochs == 5, "125 steps an epoch"


def test_more_images_are_never_finetuned_for_fewer_steps() -> None:
    most = 0
    for count in (*range(8, 6000, 7), *range(6000, 100_000, 997)):
        phase = resolved(count).finetune_phase
        assert phase.epochs and phase.batch_size
        steps = math.ceil(count / phase.batch_size) * phase.epochs
        # Epochs are whole numbers, so it varies a little; it once fell from 260 to 80.
        assert steps >= 0.85 * most, f"{count} images, {steps} steps after {most}"
        most = max(most, steps)


@pytest.mark.parametrize("name", backbone_names(None))
def test_the_lowest_thawed_block_trains_at_a_share_of_the_rate_that_no_depth_takes_away(name: str) -> None:
    spec = get_backbone(name)
    for place, point in enumerate(spec.unfreeze_points[1:], start=1):
        decay = resolved(backbone__name=name, finetune_phase__unfreeze_from=point).finetune_phase.layer_decay
        assert decay is not None and decay**place > 0.385
        assert decay == 0.9 or place > 8, "nothing changes where 0.9 a block was measured"


def augmented(augment: AugmentRecipe, backbone: str = "resnet50") -> AugmentRecipe:
    return resolve_augment(augment, 100, get_backbone(backbone))


def test_without_augmentation_there_is_one_view() -> None:
    assert augmented(AugmentRecipe("none")).views == 1
    assert augmented(AugmentRecipe("none", seed=3)).views == 1, "a seed alone changes no image"
    assert augmented(AugmentRecipe("none", rotation_degrees=5.0)).views == 6
    off = {"horizontal_flip": False, "crop_min_area": 1.0, "color": 0.0}
    assert augmented(AugmentRecipe("light", **off)).views == 1


def test_a_large_backbone_sees_images_as_they_are_unless_views_or_changes_are_asked_for() -> None:
    assert augmented(AugmentRecipe()) == augmented(AugmentRecipe("none"))
    assert augmented(AugmentRecipe(), "mobilenet_025") == augmented(AugmentRecipe("light"))
    assert augmented(AugmentRecipe(views=4)) == augmented(AugmentRecipe("light", views=4))
    flipped = augmented(AugmentRecipe(horizontal_flip=True))
    assert (flipped.level, flipped.views, flipped.color) == ("none", 6, 0.0)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_the_start_and_single_knobs_win(level: str) -> None:
    augment = augmented(AugmentRecipe(level, rotation_degrees=33.0))
    assert augment.rotation_degrees == 33.0
    for knob, value in LEVELS[level].items():
        if knob != "rotation_degrees":
            assert getattr(augment, knob) == value


def test_a_resolved_recipe_holds_plain_values_only() -> None:
    def walk(value: object) -> None:
        assert isinstance(value, (dict, list, str, int, float, bool))
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    walk(recipe_to_dict(resolved()))


SOURCES = {
    "Blümchen": "blumchen-resnet50",
    "Blu\u0308mchen/": "blumchen-resnet50",
    "/data/Straße": "strasse-resnet50",
    "Łódź.csv": "lodz-resnet50",
    "my photos": "my-photos-resnet50",
    "tfds:horses_or_humans": "horses_or_humans-resnet50",
    "2024": "2024-resnet50",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_is_named_for_its_data(source: str) -> None:
    assert default_name(load_recipe(flags={"data.source": source})) == SOURCES[source]


@pytest.mark.parametrize("source", [
    "写真", "写真.parquet", "Фото 2024", "😀", "-dash", "_", "...", ".", "..", "/", "a\nb", "%s{0}", "b" * 250, "写" * 80,
    "bad\udce9", "..hidden",
])  # fmt: skip
def test_every_folder_gives_a_name_that_a_run_can_have(source: str, tmp_path: Path) -> None:
    recipe = load_recipe(flags={"data.source": source})
    name = default_name(recipe)
    create_run(tmp_path, name)
    assert load_recipe(flags={"name": name}).name == resolve(recipe, 100, 2).name == name


def test_folders_whose_letters_are_lost_do_not_share_a_name() -> None:
    sources = ["写真", "动物", "Фото 2024", "Дом 2024", "😀", "🎉", "b" * 150, "b" * 160]
    names = {default_name(load_recipe(flags={"data.source": source})) for source in sources}
    assert len(names) == len(sources)


def test_heads_that_answer_words_are_trained_beyond_their_solution() -> None:
    epochs = [
        resolve(Recipe(data=DataRecipe(source="x", task=task, modality="text")), 1000, 5).head_phase.epochs
        for task in ("classification", "entities")
    ]
    assert epochs == [0, 100]
