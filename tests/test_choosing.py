"""Where features go: pooled ones first, and activations where there is room and where they are worth it."""

from __future__ import annotations

import pytest

from kerastl.features.choosing import DISK_BYTES_PER_SECOND, Demand, Keeping, Missing, Room, choose, demand_of
from kerastl.features.unit import SHARD_ROWS, UnitKey

POOLED, ACTIVATIONS = 1_000, 100_000
FAST, SLOW = 1e9, 1.0


def demand(pooled: int = POOLED, activations: int = ACTIVATIONS, live_passes: int = 50) -> Demand:
    """Ten images; all of them are to be run for each kind that is missing."""
    passes = 10 if pooled or activations else 0
    return Demand(
        Missing(pooled, pooled), Missing(activations, activations), passes, 10 if pooled else 0, live_passes
    )


def chosen(asked: Demand, disk: int, memory: int, rate: float = SLOW) -> Keeping:
    return choose(asked, Room(disk, memory), rate, "the store")[0]


@pytest.mark.parametrize(
    ("disk", "memory", "expected"),
    [
        (101_000, 0, ("disk", "disk")),
        (100_999, 0, ("disk", "live")),
        (1_000, 100_000, ("disk", "memory")),
        (999, 101_000, ("memory", "memory")),
        (999, 100_999, ("memory", "live")),
        (999, 999, ("live", "live")),
        (-1, 101_000, ("memory", "memory")),
    ],
)
def test_pooled_features_go_first_and_nothing_goes_where_there_is_no_room(
    disk: int, memory: int, expected: tuple[str, str]
) -> None:
    assert chosen(demand(), disk, memory) == Keeping(*expected)


def test_what_is_all_there_is_read_wherever_the_rest_goes() -> None:
    assert chosen(demand(pooled=0), 0, 0) == Keeping("disk", "live")
    assert chosen(demand(activations=0), 0, POOLED) == Keeping("memory", "disk")


def test_a_build_that_was_begun_needs_its_room_in_memory_but_no_more_on_disk() -> None:
    begun = Demand(Missing(POOLED, 0), Missing(ACTIVATIONS, 10), 10, 10, 50)
    assert chosen(begun, 10, 0) == Keeping("disk", "disk")
    assert chosen(begun, -1, ACTIVATIONS) == Keeping("memory", "live")


@pytest.mark.parametrize("pooled", [0, POOLED])
def test_activations_are_kept_where_that_is_cheaper_whether_or_not_pooled_features_are_missing(
    pooled: int,
) -> None:
    asked = demand(pooled=pooled, activations=int(DISK_BYTES_PER_SECOND), live_passes=50)  # a second to write
    room = Room(10**12, 0)
    keeping, why = choose(asked, room, 1_000.0, "the store")  # 0.05 s to compute live
    assert keeping == Keeping("disk", "live") and "cheaper than to keep them" in why
    assert ("pooled features kept in the store" in why) is bool(pooled)
    keeping, why = choose(asked, room, 50.0, "the store")  # a second to compute live
    assert keeping == Keeping("disk", "disk") and why == "kept in the store"


def test_what_was_chosen_is_said() -> None:
    said = [
        choose(demand(), room, SLOW, "here")[1] for room in (Room(10**6, 0), Room(-1, 10**6), Room(1000, 0))
    ]
    assert said[0] == "kept in here"
    assert said[1] == "kept in memory: room for 0 bytes on disk and 1.0 MB in memory"
    assert said[2].startswith("pooled features kept in here, activations computed live: room for 1.0 KB")


def test_passes_are_those_of_the_rows_that_are_missing() -> None:
    keys = [
        {
            kind: UnitKey(kind, {"view": view}, SHARD_ROWS + 10, (2,), "float32")
            for kind in ("pooled", "activations")
        }
        for view in range(2)
    ]
    first, second = keys
    gaps = {first["pooled"]: {1}, first["activations"]: {0, 1}, second["activations"]: {1}}
    found = demand_of(keys, set(gaps), lambda key: gaps.get(key, ()), lambda chosen: len(chosen), 7)
    assert (found.passes, found.pooled_passes, found.live_passes) == (SHARD_ROWS + 20, 10, 7)
    assert found.pooled == Missing(first["pooled"].bytes, 1)
    assert found.activations == Missing(2 * first["activations"].bytes, 2)


def test_what_is_larger_than_the_memory_is_read_from_the_disk_in_every_epoch() -> None:
    asked = Demand(
        Missing(0, 0), Missing(10**9, 10**9), 1_000, 0, live_passes=50_000, activation_row_bytes=10**6
    )
    # 6 s to write, 250 s to read in 50 epochs, 100 s to compute live.
    assert chosen(asked, 10**12, memory=10**9, rate=500.0) == Keeping("disk", "disk")
    assert chosen(asked, 10**12, memory=10**9 - 1, rate=500.0) == Keeping("disk", "live")
