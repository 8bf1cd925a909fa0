"""The numbers of two recipes, to the bit where golden.json was recorded and within a tolerance elsewhere."""

from __future__ import annotations

import copy
import os
import sys
from typing import Any

import numpy as np
import pytest

from net import golden
from net.conftest import Fitted


def check(
    name: str, fit: Fitted, answers: dict[str, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = golden.measured(fit.run) | golden.answered(answers[name]["probabilities"])
    if golden.RECORD in os.environ:
        golden.record(name, numbers)
        pytest.skip(f"recorded the numbers of {name} in {golden.GOLDEN}")
    kept = golden.read()
    exact = kept["environment"] == golden.environment()
    how = (
        "to the bit"
        if exact
        else f"within {golden.RELATIVE:.0%} or {golden.ABSOLUTE}: another processor or other packages"
    )
    with capsys.disabled():
        sys.stdout.write(f"\n  {name}: compared {how}\n")
    found = golden.differences(kept[name], numbers, exact)
    assert not found, f"compared {how}\n" + "\n".join(found)


def test_one_label_a_digit_gives_the_golden_numbers(
    one_label: Fitted, answers: dict[str, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    check("one_label", one_label, answers, capsys)


def test_several_labels_a_digit_give_the_golden_numbers(
    many_labels: Fitted, answers: dict[str, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    check("many_labels", many_labels, answers, capsys)


CHANGES: list[tuple[tuple[Any, ...], float, bool]] = [
    (("test", "log_loss"), 1e-15, False),
    (("test", "log_loss"), 0.05, True),
    (("history", "head_phase", 0, "val_loss"), 0.05, True),
    (("history", "finetune_phase", 1, "accuracy"), 0.05, True),
    (("answers", 0, 0), 0.05, True),
]


@pytest.mark.parametrize(("place", "change", "far"), CHANGES)
def test_the_comparison_sees_a_bit_where_it_is_exact_and_what_matters_elsewhere(
    place: tuple[Any, ...], change: float, far: bool
) -> None:
    kept = golden.read()["one_label"]
    other = copy.deepcopy(kept)
    inner = other
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += change
    assert kept != other and golden.differences(kept, kept, exact=True) == []
    assert len(golden.differences(kept, other, exact=True)) == 1
    assert len(golden.differences(kept, other, exact=False)) == far


def test_other_labels_give_other_numbers() -> None:
    kept = golden.read()
    assert golden.differences(kept["one_label"], kept["many_labels"], exact=False)
