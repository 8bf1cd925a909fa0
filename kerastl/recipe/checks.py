"""What no single key of a recipe can tell: values that do not go together. A line for each problem, naming its key."""

from __future__ import annotations

import re

from kerastl.recipe.schema import Recipe


def group_checks(recipe: Recipe) -> list[str]:
    """What is wrong with the keys that name groups."""
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
    """What is wrong with the keys that choose a threshold."""
    asked = {
        f"calibration.{name}": value
        for name in ("abstain_precision", "abstain_coverage")
        if (value := getattr(recipe.calibration, name)) is not None
    }
    problems = []
    if len(asked) == 2:
        problems.append(f"{' and '.join(asked)}: expected one of them; each chooses the threshold alone")
    if recipe.data.multi_label:
        problems += [
            f"{name} = {value}: expected none where data.multi_label is true: no label stands for the whole image"
            for name, value in asked.items()
        ]
    return problems
