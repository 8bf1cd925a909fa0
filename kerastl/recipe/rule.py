"""The rule that fills in what a recipe leaves open, from the number of examples and the backbone.

The model is BiT-HyperRule (Kolesnikov et al. 2020, Big Transfer): few examples train few steps with
little augmentation, many train longer; everything else is fixed. The figures were chosen on
the runs in `benchmarks/` and are explained in `docs/rule.md`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import unicodedata
from pathlib import Path
from typing import Any, TypeVar

from kerastl.backbones import BackboneSpec, get_backbone, is_file_name, is_own
from kerastl.errors import RecipeError
from kerastl.modality import modality_of
from kerastl.modality.recipe import NO_AUGMENTATION, backbone_rule, data_rule, levels_of
from kerastl.presets import label_of
from kerastl.recipe.checks import backbone_checks
from kerastl.recipe.schema import (
    HANDED,
    AugmentRecipe,
    BackboneRecipe,
    DataRecipe,
    FinetunePhaseRecipe,
    HeadPhaseRecipe,
    HeadRecipe,
)
from kerastl.recipe.settings import Recipe, Settings
from kerastl.task import TAGGED_SUFFIXES
from kerastl.wording import safe_name, without_accents

Part = TypeVar(
    "Part", DataRecipe, BackboneRecipe, HeadRecipe, HeadPhaseRecipe, FinetunePhaseRecipe, AugmentRecipe
)

SMALL_BACKBONE_PARAMETERS = 2_000_000
# Beyond so many epochs for each view `view_warnings` warns.
EPOCHS_A_VIEW = 3
FEW_EXAMPLES = 1_000
LAST_STAGE_SHARE = 0.55
LAST_STAGES_SHARE = 0.93
VIEW_BUDGET = 12_000
MOST_VIEWS = 6
# Of the data in a name: what follows it has to fit beside it.
LONGEST_STEM = 100
FEWEST_EPOCHS, MOST_EPOCHS = 5, 20
HEAD_EPOCHS = 100
# From more examples gradients learn what the solution on some of them did not see.
SOLVED_EXAMPLES = 4_096
# The few features of a small backbone need larger weights.
HEAD_RATE, SMALL_HEAD_RATE = 1e-3, 1e-2
FEWEST_FINETUNE_STEPS = 250
FINETUNE_BATCH = 32
# Of words each has a label: a step learns from several hundred of them.
FINETUNE_RATE, WORDS_RATE = 2e-4, 3e-4
# Examples from which on the fine-tune phase's batches grow with their root, so that its steps go on growing, too.
EXAMPLES_OF_FINETUNE_BATCH = 2048
LAYER_DECAY, LOWEST_RATE_SHARE = 0.9, 0.39


def resolve(recipe: Recipe, train_count: int, class_count: int) -> Settings:
    """The settings of a run: the recipe with every open key chosen.

    Args:
        recipe: what was asked for.
        train_count: examples in the train split, after `data.examples_per_class`.
        class_count: classes, or labels when multi-label.

    Raises:
        RecipeError: a network of one's own does not have what is asked for.
        UserError: it cannot be loaded.
    """
    spec = get_backbone(recipe.backbone.name)
    if spec.file and (problems := backbone_checks(recipe, spec)):
        raise RecipeError(problems)
    monitor = {"monitor": recipe.task.monitors[0]}
    chosen = dataclasses.replace(
        recipe,
        name=recipe.name or default_name(recipe),
        data=_fill(recipe.data, data_rule(spec)),
        backbone=_fill(recipe.backbone, backbone_rule(spec)),
        head=_fill(recipe.head, {"start": head_start(recipe)}),
        head_phase=_fill(recipe.head_phase, {**_head_phase(recipe, train_count, spec), **monitor}),
        finetune_phase=_fill(
            recipe.finetune_phase, {**_finetune_phase(recipe, train_count, spec), **monitor}
        ),
        augment=resolve_augment(recipe.augment, train_count, spec),
    )
    return Settings(**vars(chosen))


def default_name(recipe: Recipe) -> str:
    """The name of a run whose recipe gives none: data and backbone, in letters that every path and server takes."""
    source = recipe.data.source.removeprefix("tfds:").removeprefix(HANDED).rstrip("/").rsplit("/", 1)[-1]
    if source in ("", ".", ".."):
        source = Path(recipe.data.source).resolve().name
    suffixes = (".csv", ".parquet", ".jsonl", *TAGGED_SUFFIXES)
    ending = next((suffix for suffix in suffixes if source.endswith(suffix)), "")
    stem = without_accents(source.removesuffix(ending))
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem).lstrip("-_")
    if not 0 < len(kept) <= LONGEST_STEM or any(c.isalnum() and not c.isascii() for c in stem):
        # Two folders whose letters are all lost would share a model's folder, in which one replaces the other.
        digest = hashlib.sha256(unicodedata.normalize("NFC", source).encode("utf-8", "surrogateescape"))
        kept = (
            f"{kept[:LONGEST_STEM].rstrip('-_') or modality_of(recipe).noun + 's'}-{digest.hexdigest()[:6]}"
        )
    backbone = recipe.backbone.name
    return f"{kept}-{safe_name(_stem(backbone)) if is_own(backbone) else backbone}".lower()


def _stem(backbone: str) -> str:
    """Name of a file without its suffix, or of a preset's folder."""
    return Path(backbone).stem if is_file_name(backbone) else label_of(backbone)


def resolve_augment(augment: AugmentRecipe, train_count: int, spec: BackboneSpec) -> AugmentRecipe:
    """The level, its knobs where none is given, and as many views as pay for the number of examples."""
    # A view more is a forward pass more: docs/rule.md says what views were seen to be worth.
    wanted = _is_small(spec) or (augment.views or 1) > 1
    levels, neutral_knobs = levels_of(spec.modality), NO_AUGMENTATION[spec.modality]
    level = augment.level or ("light" if wanted and "light" in levels else "none")
    filled = _fill(augment, {**neutral_knobs, **levels[level], "level": level})
    if filled.views is None:
        changes = any(getattr(filled, knob) != neutral for knob, neutral in neutral_knobs.items())
        views = min(MOST_VIEWS, max(2, VIEW_BUDGET // max(train_count, 1))) if changes else 1
        filled = dataclasses.replace(filled, views=views)
    return filled


def batch_size(train_count: int) -> int:
    """The power of two that gives about 16 steps an epoch, within 8..64."""
    return 2 ** min(6, max(3, round(math.log2(max(train_count, 1) / 16))))


def finetune_batch_size(train_count: int) -> int:
    """That of `batch_size` up to 32; from 2,048 examples on it grows with their square root up to 64."""
    grown = 2 * round(FINETUNE_BATCH / 2 * math.sqrt(train_count / EXAMPLES_OF_FINETUNE_BATCH))
    return min(batch_size(train_count), max(FINETUNE_BATCH, grown))


def finetune_epochs(train_count: int, batch: int) -> int:
    """As many as 250 steps take, within 5 and 20."""
    steps = math.ceil(max(train_count, 1) / batch)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(FEWEST_FINETUNE_STEPS / steps)))


def layer_decay(spec: BackboneSpec, unfreeze_from: str) -> float:
    """The factor from block to block: 0.9, and nearer to 1 where many blocks thaw, so that the lowest keeps 0.39 of the rate."""
    depth = max(1, spec.unfreeze_points.index(unfreeze_from))
    return max(LAYER_DECAY, round(LOWEST_RATE_SHARE ** (1 / depth), 4))


def head_start(recipe: Recipe) -> str:
    """Solved for a linear head."""
    return "zeros" if recipe.head.hidden or recipe.head.layers else "solved"


def head_epochs(recipe: Recipe, train_count: int, rule: dict[str, Any]) -> int:
    """None where the solution is the head; else until validation says stop, as an example costs microseconds there.

    A recipe that says how the phase is to train, otherwise than the rule does, wants it to; and gradients see what a solution does
    not: dropout, an L2 penalty, more examples than it was found on.
    """
    head, phase = recipe.head, recipe.head_phase
    trained = any(getattr(phase, name) not in (None, value) for name, value in rule.items())
    other = trained or phase.mixup_alpha or phase.optimizer != "adamw" or head.dropout or head.l2
    # Of an example whose words are answered there are many, and gradients tag them better: Wikigold's F1 .53 beside .41.
    few = train_count <= SOLVED_EXAMPLES and not recipe.task.per_step
    solved = (head.start or head_start(recipe)) == "solved" and few
    return 0 if solved and not other else HEAD_EPOCHS


def _head_phase(recipe: Recipe, train_count: int, spec: BackboneSpec) -> dict[str, Any]:
    # Adam moves each weight by about the rate, so a logit moves by more the more features it adds up. Those of several joins
    # are scaled to add up to as much as those of the last activation alone.
    rate = (SMALL_HEAD_RATE if _is_small(spec) else HEAD_RATE) * math.sqrt(256 / spec.feature_channels)
    rule = {
        "batch_size": 2 * batch_size(train_count),
        "learning_rate": float(f"{rate:.1e}"),
        "weight_decay": 1e-2,
        "warmup_epochs": 1.0,
        "label_smoothing": 0.1,
        "gradient_clip_norm": 1.0,
        "patience_epochs": 15,
    }
    return {"epochs": head_epochs(recipe, train_count, rule), **rule}


def _finetune_phase(recipe: Recipe, train_count: int, spec: BackboneSpec) -> dict[str, Any]:
    small = _is_small(spec)
    # The last stage holds about half of the weights, the last two nearly all of them.
    share = LAST_STAGE_SHARE if train_count < FEW_EXAMPLES else LAST_STAGES_SHARE
    asked = recipe.finetune_phase
    unfreeze_from = asked.unfreeze_from or ("input" if small else spec.point_of_share(share))
    batch = finetune_batch_size(train_count)
    sgd = asked.optimizer == "sgd"
    # By the square root of the batch (Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms").
    smaller = math.sqrt(min(asked.batch_size or batch, FINETUNE_BATCH) / FINETUNE_BATCH)
    usual = WORDS_RATE if recipe.task.per_step else FINETUNE_RATE
    adam_rate = 1e-3 if small else float(f"{usual * smaller:.1e}")
    return {
        "unfreeze_from": unfreeze_from,
        "epochs": MOST_EPOCHS if small else finetune_epochs(train_count, asked.batch_size or batch),
        "batch_size": batch,
        "learning_rate": 30 * adam_rate if sgd else adam_rate,
        "weight_decay": 1e-4 if sgd else 1e-2,
        "warmup_epochs": 1.0,
        "label_smoothing": 0.1,
        "gradient_clip_norm": 1.0,
        "layer_decay": layer_decay(spec, unfreeze_from),
        # No early stop: what a cosine gains, it gains at its end. The best epoch is restored all the same.
        "patience_epochs": 0,
    }


def view_warnings(recipe: Settings) -> tuple[str, ...]:
    """Warnings about a recipe's views: changes beside the level `none`, and few views that are shown again and again.

    In 60 epochs on 550 CIFAR-10 examples six views were learnt by heart: training accuracy 0.65, against 0.41 with a new view in
    each epoch, and validation log-loss 1.84 against 1.73 (`mobilenet_025`, one seed).
    """
    settings, views = recipe.finetune_phase, recipe.augment.views
    epochs = settings.epochs
    knobs = NO_AUGMENTATION[recipe.modality]
    changes = [knob for knob, neutral in knobs.items() if getattr(recipe.augment, knob) != neutral]
    if recipe.augment.level == "none" and changes and views > 1:
        return (
            f"augment.level = 'none', but the recipe sets {', '.join(changes)} itself, and its views are changed by that; "
            "--set augment.views=1 shows each example as it is",
        )
    if views == 1 or epochs <= EPOCHS_A_VIEW * views or settings.unfreeze_from in ("input", "backbone"):
        return ()
    return (
        f"{epochs} fine-tune epochs show the same {views} views of each example again and again, which may be learnt by heart: "
        f"raise augment.views (to {-(-epochs // EPOCHS_A_VIEW)} or more; each costs a forward pass and its place in the store)",
    )


def _is_small(spec: BackboneSpec) -> bool:
    return spec.parameters < SMALL_BACKBONE_PARAMETERS


def _fill(part: Part, defaults: dict[str, Any]) -> Part:
    missing = {name: value for name, value in defaults.items() if getattr(part, name) is None}
    return dataclasses.replace(part, **missing)
