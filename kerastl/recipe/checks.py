"""What no single key of a recipe can tell: values that do not go together. A line for each problem, naming its key."""

from __future__ import annotations

import re

from kerastl.recipe.schema import Recipe


def task_checks(recipe: Recipe) -> list[str]:
    """What the task does not have of what is asked for."""
    task = recipe.task
    problems = []
    for phase in ("head_phase", "finetune_phase"):
        settings = getattr(recipe, phase)
        if settings.class_weights != "none" and not task.exclusive:
            problems.append(
                f"{phase}.class_weights = '{settings.class_weights}': expected none where data.task = '{task.name}'"
            )
        if settings.monitor not in task.monitors:
            problems.append(
                f"{phase}.monitor = '{settings.monitor}': expected one of {', '.join(task.monitors)} where data.task = "
                f"'{task.name}'"
            )
    return problems


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
    if not recipe.task.exclusive:
        problems += [
            f"{name} = {value}: expected none where data.task = '{recipe.data.task}': no label stands for the whole image"
            for name, value in asked.items()
        ]
    return problems
