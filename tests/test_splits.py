"""The division into splits: nothing moves, groups hold together, classes get their share, honesty of the rest."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from kerastl.data.examples import Examples, Splits, fingerprint, no_stamps, text_column, without
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.recipe.schema import DataRecipe

DATA = DataRecipe()


def never(indices: np.ndarray) -> None:
    raise AssertionError("splitting reads no image")


def examples_of(
    ids: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    groups: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> Examples:
    array = np.asarray(labels)
    array = array.astype(np.int32 if array.ndim == 1 else np.uint8)
    count = int(array.max()) + 1 if array.ndim == 1 else array.shape[1]
    names, given = text_column(ids), text_column(splits or [""] * len(ids))
    return Examples(
        ids=names,
        labels=array,
        class_names=tuple(f"class {code}" for code in range(count)),
        groups=text_column(groups or [""] * len(ids)),
        splits=given,
        raw=never,
        noun="image",
        origin="table in a test",
        place="nowhere",
        stamps=no_stamps(len(ids)),
        fingerprint=fingerprint((names, given), (array,)),
    )


def many(count: int, classes: int = 5, start: int = 0) -> Examples:
    rows = range(start, start + count)
    return examples_of([f"folder/{row}.png" for row in rows], [row % classes for row in rows])


def sides(splits: Splits) -> dict[str, str]:
    return {identity: split.name for split in splits for identity in split.ids}


def moved(before: dict[str, str], after: dict[str, str]) -> int:
    return sum(after[identity] != side for identity, side in before.items())


def shuffled_sides(examples: Examples) -> dict[str, str]:
    """The control: what a seeded shuffle does, as most libraries do it."""
    order = np.random.default_rng(0).permutation(len(examples))
    cuts = np.split(order, [int(0.2 * len(order)), int(0.28 * len(order))])
    names = ("test", "validation", "train")
    return {examples.ids[row]: name for name, rows in zip(names, cuts, strict=True) for row in rows}


def test_adding_examples_moves_none_of_the_old_ones() -> None:
    few, more = many(2_000), many(2_500)
    assert moved(sides(make_splits(few, DATA)), sides(make_splits(more, DATA))) == 0
    assert moved(shuffled_sides(few), shuffled_sides(more)) > 400, "the control"


def test_order_and_labels_do_not_matter() -> None:
    examples = many(2_000)
    before = sides(make_splits(examples, DATA))
    back = examples_of(list(examples.ids[::-1]), examples.labels[::-1])
    assert moved(before, sides(make_splits(back, DATA))) == 0
    relabelled = replace(examples, labels=np.roll(examples.labels, 1))
    assert moved(before, sides(make_splits(relabelled, DATA))) == 0


def test_splits_of_known_identities_stay_as_they_were_in_every_version() -> None:
    found = sides(make_splits(many(400), DATA))
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row in range(30):
        rows[found[f"folder/{row}.png"]].append(row)
    assert rows["validation"] == [2, 17, 20] and rows["test"] == [12, 13, 25, 26]


def test_every_example_is_in_exactly_one_split() -> None:
    splits = make_splits(many(3_000), DATA)
    rows = np.concatenate([split.indices for split in splits])
    assert len(rows) == 3_000 and len(set(rows.tolist())) == 3_000
    assert all((np.diff(split.indices) > 0).all() for split in splits)
    assert splits.counts() == {
        "train": splits.train.count,
        "validation": splits.validation.count,
        "test": splits.test.count,
    }


def outside(counts: np.ndarray, total: int, share: float, deviations: float = 4.0) -> bool:
    """Whether a count is further from its binomial expectation than chance would have it."""
    return bool((np.abs(counts - total * share) > deviations * np.sqrt(total * share * (1 - share))).any())


def test_each_class_has_its_share_within_binomial_bounds() -> None:
    splits = make_splits(many(5_000, classes=5), DATA)
    for split, share in zip(splits, (0.8 * 0.9, 0.8 * 0.1, 0.2), strict=True):
        assert not outside(np.bincount(split.labels, minlength=5), 1_000, share)
    assert outside(np.bincount(splits.test.labels, minlength=5), 1_000, 0.3), (
        "the control: another share is noticed"
    )


def test_groups_never_straddle_splits() -> None:
    count = 4_000
    groups = [f"patient {row // 8}" if row % 3 else "" for row in range(count)]
    ids, labels = [f"{row}.png" for row in range(count)], [row % 4 for row in range(count)]

    def torn(splits: Splits) -> int:
        where: dict[str, set[str]] = {}
        for split in splits:
            for row in split.indices:
                where.setdefault(groups[row], set()).add(split.name)
        return sum(len(names) > 1 for group, names in where.items() if group)

    grouped = make_splits(examples_of(ids, labels, groups), DATA)
    assert torn(grouped) == 0
    assert torn(make_splits(examples_of(ids, labels), DATA)) > 100, (
        "the control: without groups they are torn"
    )
    assert abs(grouped.test.count / count - 0.2) < 0.05


def test_open_members_of_a_group_follow_those_whose_split_is_given() -> None:
    base = many(400)
    extra = [f"p{row}.png" for row in range(40)]
    examples = examples_of(
        [*base.ids, *extra],
        [*base.labels, *[row % 5 for row in range(40)]],
        [""] * 400 + ["patient"] * 40,
        [""] * 400 + ["train"] + [""] * 39,
    )
    found = sides(make_splits(examples, DATA))
    assert {found[identity] for identity in extra} == {"train"}


def test_given_splits_win_and_missing_ones_are_carved_from_train_alone() -> None:
    base = many(1_000)
    given = ["test" if row < 300 else "train" for row in range(1_000)]
    splits = make_splits(examples_of(list(base.ids), base.labels, splits=given), DATA)
    assert list(splits.test.indices) == list(range(300))
    assert set(splits.validation.indices) <= set(range(300, 1_000))
    assert abs(splits.validation.count / 700 - DATA.validation_fraction) < 0.04
    given = ["validation" if row < 300 else "train" for row in range(1_000)]
    splits = make_splits(examples_of(list(base.ids), base.labels, splits=given), DATA)
    assert list(splits.validation.indices) == list(range(300))
    assert abs(splits.test.count / 700 - DATA.test_fraction) < 0.05


def test_where_some_are_open_the_given_train_examples_stay() -> None:
    base = many(1_000)
    given = ["train" if row < 500 else "" for row in range(1_000)]
    splits = make_splits(examples_of(list(base.ids), base.labels, splits=given), DATA)
    assert set(range(500)) <= set(splits.train.indices)
    assert abs(splits.test.count / 500 - DATA.test_fraction) < 0.06


def test_examples_per_class_thins_train_alone_and_nests() -> None:
    examples = many(1_000)
    whole, twenty, ten = (make_splits(examples, replace(DATA, examples_per_class=n)) for n in (None, 20, 10))
    assert set(np.bincount(ten.train.labels)) == {10} and set(np.bincount(twenty.train.labels)) == {20}
    assert set(ten.train.ids) < set(twenty.train.ids) < set(whole.train.ids)
    for split in ("validation", "test"):
        assert list(getattr(ten, split).ids) == list(getattr(whole, split).ids)
    assert len({whole.fingerprint, twenty.fingerprint, ten.fingerprint}) == 3
    assert set(np.bincount(make_splits(examples, replace(DATA, examples_per_class=1)).train.labels)) == {1}
    assert make_splits(examples, replace(DATA, examples_per_class=10_000)).train.count == whole.train.count


def test_thinning_does_not_follow_the_hash_of_the_split() -> None:
    """With one salt for both, the kept ones would all lie beside the border to validation."""
    examples = many(2_000, classes=2)
    kept = set(make_splits(examples, replace(DATA, examples_per_class=100)).train.ids)
    wider = make_splits(examples, replace(DATA, examples_per_class=None, test_fraction=0.3))
    still_train = kept & set(wider.train.ids)
    assert 120 < len(still_train) < 200


def test_examples_with_several_labels_are_thinned_by_class() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2_000, 3)) < (0.5, 0.3, 0.05)).astype(np.uint8)
    examples = examples_of([f"{row}.png" for row in range(2_000)], labels)
    train = make_splits(examples, replace(DATA, examples_per_class=15)).train
    assert (train.labels.sum(axis=0) >= 15).all() and train.count <= 60
    assert (train.labels.sum(axis=1) == 0).sum() == 15


def test_classes_without_a_test_example_are_warned_of() -> None:
    ids = [f"{row}.png" for row in range(300)] + ["rare/a.png", "rare/b.png"]
    given = ["test" if row % 5 == 0 else "validation" if row % 5 == 1 else "train" for row in range(300)]
    examples = examples_of(ids, [row % 2 for row in range(300)] + [2, 2], splits=[*given, "train", "train"])
    assert make_splits(examples, DATA).warnings == (
        "Class 'class 2' is absent from validation: its figures say nothing of them.",
        "Class 'class 2' is absent from test: its figures say nothing of them.",
    )


def spread(splits: Splits) -> list[list[int]]:
    """Images of each class in train, validation and test."""
    classes = len(splits.class_names)
    return [np.bincount(split.labels, minlength=classes).tolist() for split in splits]


@pytest.mark.parametrize(
    "images, expected",
    [(3, None), (4, (2, 1, 1)), (5, (3, 1, 1)), (10, (7, 1, 2)), (13, (9, 1, 3)), (25, (18, 2, 5))],
)
def test_small_classes_have_their_share_in_every_draw(images: int, expected: tuple[int, ...] | None) -> None:
    """By hash alone 33 to 42 % of classes of 10 to 13 images had none for validation."""
    for draw in range(30):
        ids = [f"{draw}/{row}.png" for row in range(images * 6)]
        found = spread(make_splits(examples_of(ids, [row % 6 for row in range(images * 6)]), DATA))
        if expected:
            assert found == [[count] * 6 for count in expected]
        else:  # one can be spared of each: they are dealt out over both
            assert found[0] == [2] * 6 and sum(found[1]) == sum(found[2]) == 3


def test_few_groups_are_divided_in_every_draw_and_another_salt_draws_anew() -> None:
    """By hash alone ten groups were refused in half of the draws, and could not be drawn again."""
    drawn = set()
    for salt in range(40):
        ids = [f"{row}.png" for row in range(400)]
        groups = [f"patient {row // 40}" for row in range(400)]
        splits = make_splits(
            examples_of(ids, [row % 4 for row in range(400)], groups), replace(DATA, split_salt=salt)
        )
        assert splits.counts() == {"train": 280, "validation": 40, "test": 80}
        assert [len({groups[row] for row in split.indices}) for split in splits] == [7, 1, 2]
        drawn.add(frozenset(groups[row] for row in splits.test.indices))
    assert len(drawn) > 20
    base = make_splits(many(2_000), DATA)
    assert moved(sides(base), sides(make_splits(many(2_000), replace(DATA, split_salt=1)))) > 400


def test_a_giant_group_trains() -> None:
    sizes = [300, *[10] * 9]
    groups = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    for salt in range(20):
        examples = examples_of([f"{row}" for row in range(390)], [row % 3 for row in range(390)], groups)
        splits = make_splits(examples, replace(DATA, split_salt=salt))
        assert "p0" in {groups[row] for row in splits.train.indices}
        assert 60 <= splits.test.count <= 80 and 10 <= splits.validation.count <= 40


def test_rare_labels_of_several_are_in_every_split() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((3_000, 12)) < [0.5] * 4 + [0.004] * 8).astype(np.uint8)
    labels[:40, :4] = 1
    assert labels[:, 4:].sum(axis=0).max() < 30
    for salt in range(10):
        examples = examples_of([f"{row}.png" for row in range(3_000)], labels)
        splits = make_splits(examples, replace(DATA, split_salt=salt))
        assert all((split.labels.sum(axis=0) > 0).all() for split in splits)
        assert (splits.train.labels.sum(axis=0) >= 2).all()


def test_small_classes_move_no_image_of_large_ones() -> None:
    large = many(1_000, classes=4)
    ids = [*large.ids, *[f"rare/{row}.png" for row in range(9)]]
    both = make_splits(examples_of(ids, [*large.labels, *[4] * 9]), DATA)
    assert moved(sides(make_splits(large, DATA)), sides(both)) == 0
    assert [counts[4] for counts in spread(both)] == [6, 1, 2]


def test_classes_below_the_least_are_left_out_and_named() -> None:
    ids = [f"{row}.png" for row in range(104)]
    examples = examples_of(ids, [row % 2 for row in range(100)] + [2, 3, 3, 4], splits=[""] * 103 + ["test"])
    with pytest.raises(DataError, match="'class 4' is in test but not in train"):
        make_splits(examples, DATA)
    splits = make_splits(examples, replace(DATA, min_images_per_class=3))
    assert splits.class_names == ("class 0", "class 1") and sum(splits.counts().values()) == 100
    (warning,) = splits.warnings
    assert (
        "3 of 5 classes have fewer than 3 images" in warning
        and "with 4 images: 'class 2', 'class 3'" in warning
    )
    assert len(make_splits(many(100), replace(DATA, min_images_per_class=3)).warnings) == 0, "the control"


def test_rare_labels_are_left_out_and_images_of_other_labels_stay() -> None:
    labels = np.zeros((60, 4), np.uint8)
    labels[:50, 0] = labels[10:59, 1] = 1
    labels[5, 2] = labels[59, 3] = 1
    examples = replace(examples_of([f"{row}" for row in range(60)], labels), raw=iter)  # type: ignore[arg-type]
    splits = make_splits(examples, replace(DATA, min_images_per_class=2))
    assert splits.class_names == ("class 0", "class 1") and sum(splits.counts().values()) == 59
    kept = splits.train.examples
    assert list(kept.raw(np.array([4, 5]))) == [4, 5] and "59" not in kept.ids  # type: ignore[comparison-overlap]


def test_without_leaves_out_positions_of_the_split() -> None:
    split = make_splits(many(500), DATA).test
    rest = without(split, {3, 0})
    assert list(rest.ids) == [
        identity for position, identity in enumerate(split.ids) if position not in (0, 3)
    ]
    assert split.count == rest.count + 2 and without(split, ()).count == split.count
    with pytest.raises(IndexError):
        without(split, [split.count])


def tiny(*side_names: str) -> Examples:
    return examples_of(
        [f"{row}.png" for row in range(len(side_names))],
        [row % 2 for row in range(len(side_names))],
        splits=side_names,
    )


BAD: dict[str, tuple[Examples, DataRecipe, tuple[str, ...]]] = {
    "nothing": (replace(many(4), labels=np.zeros(4, np.int32)), DATA, ("one class only: 'class 0'",)),
    "empty test": (
        examples_of([f"{row}.png" for row in range(8)], [row // 2 for row in range(8)]),
        DATA,
        (
            "split came out empty",
            "_fraction = 0.1 of 8 unassigned images",
            "raise data.validation_fraction",
        ),
    ),
    "empty validation": (
        tiny(*["train"] * 4, *["test"] * 4),
        DATA,
        ("validation split came out empty", "of 4 train images", "validation/ folder"),
    ),
    "two groups": (
        examples_of(
            [f"{row}.png" for row in range(40)], [row % 2 for row in range(40)], ["a"] * 20 + ["b"] * 20
        ),
        DATA,
        ("validation split came out empty", "of 40 unassigned images (in 2 groups)", "Add groups"),
    ),
    "too few": (
        examples_of([f"{row}.png" for row in range(41)], [0] * 40 + [1]),
        DATA,
        ("Too few training images", "'class 1' (1)", "--set data.min_images_per_class=2"),
    ),
    "test only": (
        replace(
            tiny(*["train"] * 4, "test"),
            labels=np.array([0, 1, 0, 1, 2], np.int32),
            class_names=("a", "b", "c"),
        ),
        DATA,
        ("Class 'c' is in test but not in train",),
    ),
}


@pytest.mark.parametrize("examples, data, fragments", BAD.values(), ids=BAD.keys())
def test_examples_that_cannot_be_split(
    examples: Examples, data: DataRecipe, fragments: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as caught:
        make_splits(examples, data)
    for fragment in (*fragments, "table in a test"):
        assert fragment in str(caught.value)


def test_fingerprint_tells_every_column_apart() -> None:
    base = (["a", "bc"], ["train", ""], [1, 2], "cat")
    variants = [
        base,
        (["ab", "c"], ["train", ""], [1, 2], "cat"),
        (["a", "bc"], ["", "train"], [1, 2], "cat"),
        (["a", "bc"], ["train", ""], [2, 1], "cat"),
        (["a", "bc"], ["train", ""], [1, 2], "dog"),
    ]
    found = {
        fingerprint((text_column(ids), text_column(sides)), (np.array(labels, np.int32),), name)
        for ids, sides, labels, name in variants
    }
    assert len(found) == len(variants)
    ids, given, labels, name = base
    columns = (text_column(ids), text_column(given))
    assert fingerprint(columns, (np.array(labels, np.int32),), name) == fingerprint(
        columns, (np.array(labels, np.int64),), name
    )
