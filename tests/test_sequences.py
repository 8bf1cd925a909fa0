"""Sequences of different lengths: lengths rounded up, batches of like ones, and rows of their real steps alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from kerastl.features.sequences import STEPS, alike, filled_up, ragged, rounded, shortened
from kerastl.modality import Batch
from kerastl.store.block import Ragged

MOST = 3 * STEPS + 5


def batch_of(lengths: list[int], first: int = 0) -> Batch:
    """Examples whose every real step holds the example's own number, and 1,000 behind; an input without steps beside them."""
    numbers = np.arange(first, first + len(lengths))
    real = np.arange(MOST) < np.array(lengths, int)[:, None]
    pieces = np.where(real, numbers[:, None], 1000).astype(np.int32)
    return {"pieces": pieces, "length": np.array(lengths, np.int32), "other": numbers[:, None] * 1.0}


def parts_of(lengths: list[int], size: int) -> Iterator[tuple[np.ndarray, Batch]]:
    for start in range(0, len(lengths), size):
        some = lengths[start : start + size]
        yield np.arange(start, start + len(some)), batch_of(some, start)


@pytest.mark.parametrize(
    ("length", "steps"),
    [(0, STEPS), (1, STEPS), (STEPS, STEPS), (STEPS + 1, 2 * STEPS), (3 * STEPS, 3 * STEPS), (3 * STEPS + 1, MOST), (MOST, MOST)],
)  # fmt: skip
def test_lengths_are_rounded_up_to_what_there_may_be(length: int, steps: int) -> None:
    assert rounded(np.array([length]), MOST).tolist() == [steps]


def test_a_network_of_few_steps_is_given_all_of_them() -> None:
    assert rounded(np.array([0, 1, 7]), 7).tolist() == [7, 7, 7] and rounded(np.array([1]), 1).tolist() == [1]
    assert rounded(np.zeros(0, np.int32), MOST).shape == (0,)


def test_a_batch_is_as_long_as_its_longest_example_rounded_up() -> None:
    given = batch_of([3, STEPS + 1, 1])
    found = shortened(given, "length", ["pieces"])
    assert found["pieces"].shape == (3, 2 * STEPS) and list(found) == list(given)
    np.testing.assert_array_equal(found["pieces"], given["pieces"][:, : 2 * STEPS])
    for name in ("length", "other"):
        np.testing.assert_array_equal(found[name], given[name])
    assert shortened(batch_of([MOST]), "length", ["pieces"])["pieces"].shape == (1, MOST)


def test_nothing_is_shortened_without_examples_or_inputs_with_steps() -> None:
    empty, whole = batch_of([]), batch_of([1])
    assert shortened(empty, "length", ["pieces"]) is empty
    assert shortened(whole, "length", []) is whole and shortened(whole, "length", ["absent"]) is whole


def test_batches_hold_examples_of_one_rounded_length_in_the_order_in_which_they_fill() -> None:
    short, long = 5, STEPS + 5
    lengths = [short, long, short, long, long, short, MOST]
    found = list(alike(parts_of(lengths, 3), "length", ["pieces"], 2))
    assert [positions.tolist() for positions, _ in found] == [[0, 2], [1, 3], [5], [4], [6]]
    assert [inputs["pieces"].shape[1] for _, inputs in found] == [STEPS, 2 * STEPS, STEPS, 2 * STEPS, MOST]


def test_a_batch_comes_as_soon_as_it_is_full_and_those_left_over_the_shortest_first() -> None:
    def parts() -> Iterator[tuple[np.ndarray, Batch]]:
        yield from parts_of([MOST, 5, 5], 3)
        raise AssertionError("asked for more than a batch needs")

    found = alike(parts(), "length", ["pieces"], 2)
    assert next(found)[0].tolist() == [1, 2]
    left_over = alike(parts_of([MOST, STEPS + 1, 5], 3), "length", ["pieces"], 2)
    assert [positions.tolist() for positions, _ in left_over] == [[2], [1], [0]]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_every_example_comes_once_with_its_own_values(size: int, at_once: int) -> None:
    lengths = np.random.default_rng(size).integers(1, MOST + 1, 50).tolist()
    seen: list[int] = []
    for positions, inputs in alike(parts_of(lengths, at_once), "length", ["pieces"], size):
        steps = rounded(inputs["length"], MOST)
        assert 0 < len(positions) <= size and (steps == inputs["pieces"].shape[1]).all()
        assert inputs["length"].tolist() == [lengths[at] for at in positions]
        for at, row, length, other in zip(
            positions, inputs["pieces"], inputs["length"], inputs["other"], strict=True
        ):
            assert (row[:length] == at).all() and (row[length:] == 1000).all() and other == at
        seen += positions.tolist()
    assert sorted(seen) == list(range(50))


def test_an_example_is_computed_alike_whatever_comes_before_it() -> None:
    """The steps that it is given follow from its own length, never from its neighbours'."""
    for lengths in ([5], [5, MOST], [MOST, 5, 5]):
        steps = {
            at: inputs["pieces"].shape[1]
            for positions, inputs in alike(parts_of(lengths, 3), "length", ["pieces"], 3)
            for at in positions.tolist()
        }
        assert [steps[at] for at, length in enumerate(lengths) if length == 5] == [STEPS] * lengths.count(5)


def test_no_examples_make_no_batches() -> None:
    assert list(alike(iter(()), "length", ["pieces"], 4)) == []
    assert list(alike([(np.zeros(0, int), batch_of([]))], "length", ["pieces"], 4)) == []


def test_rows_hold_their_real_steps_alone_and_come_back_with_zeros_behind() -> None:
    lengths = np.array([2, 0, STEPS + 1], np.int32)
    states = np.random.default_rng(0).normal(size=(3, 2 * STEPS, 4)).astype(np.float32)
    rows = ragged(states, lengths)
    assert rows.values.shape == (STEPS + 3, 4) and rows.lengths.dtype == np.int64
    np.testing.assert_array_equal(rows.values[:2], states[0, :2])
    np.testing.assert_array_equal(rows.values[2:], states[2, : STEPS + 1])
    again = filled_up(rows, MOST)
    real = np.arange(2 * STEPS) < lengths[:, None]
    np.testing.assert_array_equal(again, np.where(real[..., None], states, 0))
    assert again.dtype == states.dtype
    np.testing.assert_array_equal(filled_up(rows[np.array([2, 0])], MOST)[1, :2], states[0, :2])


def test_rows_are_filled_up_to_what_their_longest_needs() -> None:
    def steps(lengths: list[int], most: int = MOST) -> tuple[int, ...]:
        rows = Ragged(np.ones((sum(lengths), 2), np.float16), np.array(lengths, np.int64))
        found = filled_up(rows, most)
        assert found.sum() == 2 * sum(lengths)
        return found.shape

    assert steps([1, 2]) == (2, STEPS, 2) and steps([1, STEPS + 1]) == (2, 2 * STEPS, 2)
    assert steps([MOST]) == (1, MOST, 2) and steps([1], most=1) == (1, 1, 2) and steps([0]) == (1, STEPS, 2)
    assert steps([]) == (0, 1, 2)
