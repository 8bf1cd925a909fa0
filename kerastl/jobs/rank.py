"""`rank`: which pretrained backbone suits these examples, from one forward pass each."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kerastl.backbones import backbone_names, get_backbone
from kerastl.data.entity_examples import in_rows
from kerastl.data.examples import Splits
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.data.step_labels import answered, answered_groups
from kerastl.errors import UserError, WeightsError
from kerastl.evaluation.label_probe import label_evidence, label_folds, label_probe
from kerastl.evaluation.transferability import linear_probe, log_evidence, probe_folds
from kerastl.features.decoded import decode_splits
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import Frozen
from kerastl.features.readers import Features, pooled_output
from kerastl.features.views import Views
from kerastl.jobs.artifacts import working_cache
from kerastl.jobs.log import Log
from kerastl.jobs.open import for_examples, with_measured, with_own_keys
from kerastl.modality import modality_of
from kerastl.model.head_input import LAST, HeadInput
from kerastl.model.precision import make_repeatable, precision_of
from kerastl.model.pretrained import load_backbone
from kerastl.model.weights import KEYWORDS, weights_at_hand
from kerastl.progress import Progress
from kerastl.recipe import Recipe, Settings, resolve
from kerastl.report.ranking import LeftOut, RankedBackbone, Ranking, write_ranking
from kerastl.run import Run, create_run, environment
from kerastl.training.ridge import sample
from kerastl.training.start import frozen_part, reads_of
from kerastl.training.two_phase import without_finetuning
from kerastl.wording import safe_name
from kerastl.writing import write_json_atomic

READ_AT_ONCE = 4096
# Words of all texts that backbones are scored on, at most: the time of a probe grows with them.
SCORED_WORDS = 4096
TIMED_BATCHES = 3


def rank(
    recipe: Recipe,
    *,
    backbones: Sequence[str] = ("all",),
    runs_dir: Path | str = Path("runs"),
    progress: Progress = Progress(),
) -> Ranking:
    """Compare pretrained backbones on the training and validation examples, without training them.

    Features go through the store, so that a later fit with one of the backbones reads them. Test examples are
    not looked at.

    Args:
        recipe: from `kerastl.load_recipe`; its data, head pooling, `image_size` and weights are read. Without that size
            each backbone gets its own.
        backbones: names, or `all` for those whose weights are on this machine.
        runs_dir: where the folder for the result is made.
        progress: listens.

    Returns:
        The backbones in order, and those that were left out.

    Raises:
        UserError: recipe or data cannot be used, a name is unknown, or no backbone is left.

    Example:
        >>> kerastl.rank(kerastl.load_recipe(flags={"data.source": "photos"}), backbones=["resnet50", "vgg16"]).rows[0]
    """
    names = _chosen(recipe, backbones)
    check_apart(recipe.data.source, runs_dir)
    examples = open_examples(recipe.data)
    recipe = for_examples(recipe, examples)
    names = _chosen(recipe, backbones) if "all" in backbones else names
    recipe, splits = with_measured(recipe, make_splits(examples, recipe.data))
    at_hand = [name for name in names if "all" not in backbones or _at_hand(recipe, name)]
    left_out = [LeftOut(name, "its weights are not on this machine") for name in names if name not in at_hand]
    run = create_run(runs_dir, f"{safe_name(recipe.name or Path(recipe.data.source).stem)}-rank")
    progress = Log(progress, run.log_txt)
    progress.note(f"Run {run.path}")
    for warning in splits.warnings:
        progress.warn(warning)
    rows = []
    for name in at_hand:
        try:
            rows.append(_scored(_with_backbone(recipe, name, splits), splits, run, progress))
        except UserError as error:
            if not (isinstance(error, WeightsError) or _is_too_small(recipe, name)):
                raise
            left_out.append(LeftOut(name, str(error)))
            progress.warn(f"left out {name}: {error}")
    if not rows:
        reasons = "\n".join(f"  - {each.name}: {each.reason}" for each in left_out)
        raise WeightsError(f"No backbone is left to rank:\n{reasons}")
    rows.sort(key=lambda row: (-row.accuracy, -row.log_evidence))
    count = splits.train.count + splits.validation.count
    metric = recipe.task.accuracy_title if recipe.task.exclusive else "mean average precision"
    ranking = Ranking(run.path, count, tuple(rows), tuple(left_out), metric, modality_of(recipe).noun)
    write_json_atomic(run.environment_json, environment())
    write_ranking(ranking)
    return ranking


def _chosen(recipe: Recipe, backbones: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(backbone_names(recipe.modality) if "all" in backbones else backbones))
    if not names:
        raise UserError("backbones = (): expected at least one name, or all; `kerastl backbones` lists them")
    for name in names:
        get_backbone(name)  # an unknown name is a slip, and no backbone whose weights cannot be had
    weights = recipe.backbone.weights
    if weights not in KEYWORDS and len(names) > 1:
        raise UserError(
            f"backbone.weights = '{weights}' is the file of one network, and {len(names)} backbones are to be ranked. "
            f"Expected one of {', '.join(KEYWORDS)}, with backbone.weights_dir (--weights-dir) for a folder of files"
        )
    return names


def _at_hand(recipe: Recipe, name: str) -> bool:
    asked, spec = recipe.backbone, get_backbone(name)
    return weights_at_hand(spec, asked.image_size or spec.image_size, asked.weights, asked.weights_dir)


def _is_too_small(recipe: Recipe, name: str) -> bool:
    size = recipe.backbone.image_size
    return size is not None and size < get_backbone(name).min_image_size


def _with_backbone(recipe: Recipe, name: str, splits: Splits) -> Settings:
    """The recipe resolved for one backbone, with nothing thawed: pooled features alone are needed."""
    named = dataclasses.replace(recipe, backbone=dataclasses.replace(recipe.backbone, name=name))
    named = with_own_keys(without_finetuning(named))
    return resolve(named, splits.train.count, len(splits.class_names))


def _scored(recipe: Settings, splits: Splits, run: Run, progress: Progress) -> RankedBackbone:
    spec, size = get_backbone(recipe.backbone.name), recipe.backbone.image_size
    said, splits = len(splits.warnings), in_rows(splits, modality_of(recipe))
    for warning in splits.warnings[said:]:
        progress.warn(f"{spec.name}: {warning}")
    make_repeatable(recipe)
    with working_cache(run, recipe) as cache, precision_of(recipe, progress):
        backbone, loaded = load_backbone(recipe, progress)
        prepared = decode_splits(recipe, splits, cache, progress, ("train", "validation"))
        frozen = frozen_part(backbone, recipe, len(splits.class_names))
        views = [
            dataclasses.replace(prepared.frozen_views(part), view_count=1) for part in ("train", "validation")
        ]
        # The array that a later fit reads; scored is the last output alone.
        reads = reads_of(backbone, recipe)
        last = HeadInput(reads.pooling, (LAST,), reads.channels)
        wanted = Wanted(last, (pooled_output(reads),), finetune_epochs=0)
        readers = [each.rows for each in extract(frozen, views, cache, wanted, progress)]
        features = np.concatenate([_read(reader) for reader in readers])
        frozen.prepare(len(features), modality_of(recipe).noun, progress)
        speed = _examples_per_second(frozen, views[0].views, pooled_output(reads))
    parts = [prepared.splits.train, prepared.splits.validation]
    labels = np.concatenate([answered(part.labels) for part in parts])
    groups = np.concatenate([answered_groups(part.labels, part.groups) for part in parts])
    if recipe.task.per_step:
        some = sample(len(labels), SCORED_WORDS)
        features, labels, groups = features[some], labels[some], groups[some]
    if recipe.task.exclusive:
        probe = linear_probe(features, labels, probe_folds(labels, groups, recipe.seed))
        evidence = log_evidence(features, labels)
    else:
        probe = label_probe(features, labels, label_folds(len(labels), groups, recipe.seed))
        evidence = label_evidence(features, labels)
    progress.note(
        f"{spec.name}: {probe.accuracy:.3f} ± {probe.spread:.3f}, {speed:.0f} {views[0].views.modality.noun}s/s"
    )
    return RankedBackbone(
        name=spec.name,
        accuracy=probe.accuracy,
        spread=probe.spread,
        folds=probe.folds,
        log_evidence=evidence,
        inverse_penalty=probe.inverse_penalty,
        parameters=spec.parameters,
        image_size=size or 0,
        features=features.shape[1],
        examples_per_second=speed,
        weights=loaded.origin,
    )


def _read(features: Features) -> np.ndarray:
    """Pooled features of the examples themselves, float32 [n, features]; a few at a time, as they are stored in all poolings."""
    starts = range(0, features.count, READ_AT_ONCE)
    positions = [np.arange(start, min(start + READ_AT_ONCE, features.count)) for start in starts]
    return np.concatenate([features.pooled_batch(part, 0) for part in positions])


def _examples_per_second(frozen: Frozen, views: Views, output: str) -> float:
    """Of the bare forward pass by the engine that all of them would be computed by, also where they came from the store."""
    inputs = views.batch(np.arange(frozen.batch_size) % views.count, 0)
    seconds = []
    for _ in range(TIMED_BATCHES + 1):
        began = time.perf_counter()
        frozen.run(inputs, (output,))
        seconds.append(time.perf_counter() - began)
    return frozen.batch_size / statistics.median(seconds[1:])  # the first one may be traced
