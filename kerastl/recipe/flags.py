"""The short names of recipe keys: flags of the command line, and options of `kerastl.fit` and `kerastl.build` in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kerastl.errors import RecipeError, nearest
from kerastl.modality.recipe import MODALITY_FLAGS
from kerastl.recipe.keys import keys_of
from kerastl.recipe.settings import Recipe

# flag -> recipe key; what has no flag of its own is reached by --set
FLAGS = {
    "--data": "data.source",
    "--data-dir": "data.data_dir",
    "--task": "data.task",
    "--examples-per-class": "data.examples_per_class",
    "--backbone": "backbone.name",
    "--weights": "backbone.weights",
    "--weights-dir": "backbone.weights_dir",
    **MODALITY_FLAGS,
    "--head-epochs": "head_phase.epochs",
    "--unfreeze-from": "finetune_phase.unfreeze_from",
    "--finetune-epochs": "finetune_phase.epochs",
    "--augment": "augment.level",
    "--cache": "cache.mode",
    "--name": "name",
    "--seed": "seed",
    "--precision": "precision",
    "--deterministic": "deterministic",
}


def keys_from_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe keys that options of a Python call set, for the `flags` of `kerastl.load_recipe`.

    Args:
        options: values by the word of a flag (`unfreeze_from`), a dotted key (`head.dropout`), the last word of a key that
            no other key has (`dropout`), or the name of a table, with a mapping of its keys (`finetune_phase={"epochs": 3}`).
            None sets nothing.

    Returns:
        Dotted keys and their values.

    Raises:
        RecipeError: with a line for each word that is none, or means several keys.

    Example:
        >>> keys_from_options({"unfreeze_from": "backbone", "dropout": 0.2})
        {'finetune_phase.unfreeze_from': 'backbone', 'head.dropout': 0.2}
    """
    words = {flag.removeprefix("--").replace("-", "_"): key for flag, key in FLAGS.items()}
    every = [name for name, _, _ in keys_of(Recipe)]
    tables = {name.partition(".")[0] for name in every if "." in name}
    found: dict[str, Any] = {}
    problems = []
    for word, value in options.items():
        last = [name for name in every if name.rpartition(".")[2] == word]
        if isinstance(value, Mapping) and word in tables:
            found |= {f"{word}.{name}": inner for name, inner in value.items()}
        elif word in words or word in every:
            found[words.get(word, word)] = value
        elif len(last) == 1:
            found[last[0]] = value
        elif last:
            table = last[0].partition(".")[0]
            problems.append(
                f"{word}: a key of several tables, {' and '.join(last)}. Say which: {table}={{'{word}': {value!r}}}"
            )
        elif word in tables:
            problems.append(f"{word} = {value!r}: expected a mapping of the keys of [{word}]")
        else:
            short = [name.rpartition(".")[2] for name in every]
            problems.append(
                f"{word}: no option.{nearest(word, [*words, *short])} Expected a flag of `kerastl fit` (unfreeze_from=...), "
                "or a key of a recipe (docs/recipes.md)"
            )
    if problems:
        raise RecipeError(problems, "options")
    return found
