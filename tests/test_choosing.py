"""Where features go: pooled ones first, each on disk where there is room, else in memory, else nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerastl.features.cache import Cache
from kerastl.recipe import CacheRecipe
from kerastl.writing import NoSpaceError

POOLED, ACTIVATIONS = 1_000, 100_000
ORDER = ("pooled", "activations")
BOTH = {"activations": ACTIVATIONS, "pooled": POOLED}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the machine has free; twice of what may be taken unasked."""
    free = [0]
    monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: free[0])
    return free


def cache(folder: Path, mode: str = "auto") -> Cache:
    return Cache(CacheRecipe(mode=mode, directory=str(folder / "store")), folder / "scratch")


@pytest.mark.parametrize(
    ("disk", "free", "expected"),
    [
        (101_000, 0, ("disk", "disk")),
        (100_999, 0, ("disk", "live")),
        (1_000, 100_000, ("disk", "memory")),
        (999, 101_000, ("memory", "memory")),
        (999, 100_999, ("memory", "live")),
        (999, 999, ("live", "live")),
        (0, 101_000, ("memory", "memory")),
    ],
)
def test_pooled_features_go_first_and_nothing_goes_where_there_is_no_room(
    tmp_path: Path, memory: list[int], disk: int, free: int, expected: tuple[str, str]
) -> None:
    memory[0] = 2 * free
    found = cache(tmp_path).places(BOTH, disk, ORDER)
    assert (found["pooled"], found["activations"]) == expected


def test_only_what_is_missing_is_placed(tmp_path: Path) -> None:
    assert cache(tmp_path).places({"activations": 5}, 5, ORDER) == {"activations": "disk"}


@pytest.mark.parametrize(
    ("excluded", "place"), [((), "disk"), (("disk",), "memory"), (("disk", "memory"), "live")]
)
def test_where_it_was_tried_and_there_was_no_room_it_is_not_tried_again(
    tmp_path: Path, memory: list[int], excluded: tuple[str, ...], place: str
) -> None:
    memory[0] = 10**9
    for mode in ("auto", "disk"):
        assert set(cache(tmp_path, mode).places(BOTH, 10**9, ORDER, excluded).values()) == {place}


def test_the_disk_or_the_memory_that_a_recipe_asks_for_has_room_or_an_error_says_how_much_is_missing(
    tmp_path: Path, memory: list[int]
) -> None:
    with pytest.raises(NoSpaceError, match=r"need 101 KB, and .*store has room for 100 KB .*cache.mode"):
        cache(tmp_path, "disk").places(BOTH, 100_000, ORDER)
    memory[0] = int(101_000 / 0.8) + 8
    assert set(cache(tmp_path, "memory").places(BOTH, 10**9, ORDER).values()) == {"memory"}
    memory[0] = 101_000
    with pytest.raises(NoSpaceError, match=r"memory: the features need 101 KB, and 81 KB may be taken"):
        cache(tmp_path, "memory").places(BOTH, 10**9, ORDER)
    asked_last = cache(tmp_path, "memory").places(BOTH, 10**9, ORDER, excluded=("disk",))
    assert set(asked_last.values()) == {"live"}, "the test images, after hours of training"


def test_of_features_of_several_depths_the_messages_name_the_key_that_makes_them_smaller(
    tmp_path: Path, memory: list[int]
) -> None:
    for name, named in (("joins", True), ("join_steps", True), ("pooled", False)):
        for mode in ("disk", "memory"):
            with pytest.raises(NoSpaceError) as error:
                cache(tmp_path, mode).places({name: 10**6}, 0, (name,))
            assert ('head.features = "last"' in str(error.value)) == named


def test_with_the_cache_off_nothing_is_kept_but_decoded_images_in_memory(
    tmp_path: Path, memory: list[int]
) -> None:
    memory[0] = 10**9
    assert set(cache(tmp_path, "off").places(BOTH, 10**9, ORDER).values()) == {"live"}
    images = cache(tmp_path, "off").places({"inputs": 5}, 10**9, ["inputs"], live_if_off=False)
    assert images == {"inputs": "memory"}
