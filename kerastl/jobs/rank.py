"""`rank`: which pretrained backbone suits these images, from one forward pass each."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kerastl.backbones import backbone_names, get_backbone
from kerastl.data.examples import Splits
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import UserError, WeightsError
from kerastl.evaluation.label_probe import label_evidence, label_folds, label_probe
from kerastl.evaluation.transferability import linear_probe, log_evidence, probe_folds
from kerastl.features.cache import Cache
from kerastl.features.extract import Wanted, extract
from kerastl.features.frozen import BATCH_SIZE, Frozen
from kerastl.features.readers import Features
from kerastl.features.views import Views
from kerastl.jobs.log import Log
from kerastl.jobs.prepare import decode_splits, make_repeatable, precision_of, with_significant_bits
from kerastl.modality import modality_of
from kerastl.model.build import build_backbone, build_model
from kerastl.model.cut import POOLED, cut
from kerastl.model.weights import KEYWORDS, load_weights, weights_at_hand
from kerastl.progress import Progress
from kerastl.recipe import Recipe, Settings, resolve
from kerastl.report.plots_choices import plot_ranking
from kerastl.run import Run, create_run, environment
from kerastl.training.two_phase import without_finetuning
from kerastl.wording import safe_name
from kerastl.writing import write_json_atomic

READ_AT_ONCE = 4096
TIMED_BATCHES = 3


@dataclass(frozen=True)
class RankedBackbone:
    """A backbone and how well its frozen features suit the images.

    Attributes:
        name: of the backbone.
        accuracy: of a linear probe on images that it was not fitted on, mean over the folds; its mean average
            precision where images have several labels.
        spread: standard deviation over the folds.
        folds: how many there were.
        log_evidence: LogME; comparable between backbones on the same images only.
        inverse_penalty: scikit-learn's `C` that suited the probe best.
        parameters: of the backbone.
        image_size: side of its input in pixels.
        features: length of its pooled feature vector.
        images_per_second: of a bare forward pass on this machine.
        weights: `bundled`, `imagenet`, `file` or `none`.
    """

    name: str
    accuracy: float
    spread: float
    folds: int
    log_evidence: float
    inverse_penalty: float
    parameters: int
    image_size: int
    features: int
    images_per_second: float
    weights: str


@dataclass(frozen=True)
class LeftOut:
    """A backbone that could not be ranked, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Ranking:
    """What a ranking found.

    Attributes:
        run: folder with `ranking.json` and `ranking.png`.
        images: how many were probed, those of train and validation.
        rows: the backbones, the most accurate first; the evidence decides between equals.
        left_out: those that could not be ranked.
        metric: what the probe was measured by, `accuracy` or `mean average precision`.
    """

    run: Path
    images: int
    rows: tuple[RankedBackbone, ...]
    left_out: tuple[LeftOut, ...]
    metric: str = "accuracy"


def rank(
    recipe: Recipe,
    *,
    backbones: Sequence[str] = ("all",),
    runs_dir: Path | str = Path("runs"),
    progress: Progress = Progress(),
) -> Ranking:
    """Compare pretrained backbones on the training and validation images, without training them.

    Features go through the store, so that a later fit with one of the backbones reads them. Test images are
    not looked at.

    Args:
        recipe: from `kerastl.load_recipe`; its data, head pooling, image size and weights are read. Without an image
            size each backbone gets its own.
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
    recipe, splits = with_significant_bits(recipe, make_splits(open_examples(recipe.data), recipe.data))
    at_hand = [name for name in names if "all" not in backbones or _at_hand(recipe, name)]
    left_out = [LeftOut(name, "its weights are not on this machine") for name in names if name not in at_hand]
    run = create_run(runs_dir, f"{safe_name(recipe.name or Path(recipe.data.source).stem)}-rank")
    progress = Log(progress, run.log_txt)
    progress.note(f"Run {run.path}")
    for warning in splits.warnings:
        progress.warn(warning)
    rows = []
    try:
        for name in at_hand:
            try:
                rows.append(_scored(_with_backbone(recipe, name, splits), splits, run, progress))
            except WeightsError as error:
                left_out.append(LeftOut(name, str(error)))
            except UserError as error:
                if not _is_too_small(recipe, name):
                    raise
                left_out.append(LeftOut(name, str(error)))
            else:
                continue
            progress.warn(f"left out {name}: {left_out[-1].reason}")
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    if not rows:
        reasons = "\n".join(f"  - {each.name}: {each.reason}" for each in left_out)
        raise WeightsError(f"No backbone is left to rank:\n{reasons}")
    rows.sort(key=lambda row: (-row.accuracy, -row.log_evidence))
    images = splits.train.count + splits.validation.count
    metric = "accuracy" if recipe.task.exclusive else "mean average precision"
    ranking = Ranking(run.path, images, tuple(rows), tuple(left_out), metric)
    _write(ranking, run, modality_of(recipe).noun)
    return ranking


def _chosen(recipe: Recipe, backbones: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(backbone_names() if "all" in backbones else backbones))
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
    return resolve(without_finetuning(named), splits.train.count, len(splits.class_names))


def _scored(recipe: Settings, splits: Splits, run: Run, progress: Progress) -> RankedBackbone:
    spec, size = get_backbone(recipe.backbone.name), recipe.backbone.image_size
    make_repeatable(recipe)
    with Cache(recipe.cache, run.scratch) as cache, precision_of(recipe, progress):
        backbone = build_backbone(spec, size)
        loaded = load_weights(backbone, spec, recipe.backbone.weights, recipe.backbone.weights_dir)
        progress.note(f"Backbone {spec.name}, weights: {loaded.origin}")
        prepared = decode_splits(recipe, splits, cache, progress, ("train", "validation"))
        network = build_model(backbone, spec, recipe.head, len(splits.class_names))
        frozen = Frozen(cut(network, "backbone"), backbone)
        views = [
            dataclasses.replace(prepared.frozen_views(part), view_count=1) for part in ("train", "validation")
        ]
        wanted = Wanted(recipe.head.pooling, (POOLED,), finetune_epochs=0)
        readers = extract(frozen, views, cache, wanted, progress)
        features = np.concatenate([_read(reader) for reader in readers])
        speed = _images_per_second(frozen, views[0].views)
    parts = [prepared.splits.train, prepared.splits.validation]
    labels = np.concatenate([part.labels for part in parts])
    groups = np.concatenate([part.examples.groups[part.indices] for part in parts])
    if recipe.task.exclusive:
        probe = linear_probe(features, labels, probe_folds(labels, groups, recipe.seed))
        evidence = log_evidence(features, labels)
    else:
        probe = label_probe(features, labels, label_folds(len(labels), groups, recipe.seed))
        evidence = label_evidence(features, labels)
    progress.note(f"{spec.name}: {probe.accuracy:.3f} ± {probe.spread:.3f}, {speed:.0f} images/s")
    return RankedBackbone(
        name=spec.name,
        accuracy=probe.accuracy,
        spread=probe.spread,
        folds=probe.folds,
        log_evidence=evidence,
        inverse_penalty=probe.inverse_penalty,
        parameters=spec.parameters,
        image_size=size,
        features=features.shape[1],
        images_per_second=speed,
        weights=loaded.origin,
    )


def _read(features: Features) -> np.ndarray:
    """Pooled features of the images themselves, float32 [n, features]; a few at a time, as they are stored in all poolings."""
    starts = range(0, features.count, READ_AT_ONCE)
    positions = [np.arange(start, min(start + READ_AT_ONCE, features.count)) for start in starts]
    return np.concatenate([features.pooled_batch(part, 0) for part in positions])


def _images_per_second(frozen: Frozen, views: Views) -> float:
    """Of the bare forward pass, measured also where all features came from the store."""
    images = views.batch(np.arange(BATCH_SIZE) % views.count, 0)
    seconds = []
    for _ in range(TIMED_BATCHES + 1):
        began = time.perf_counter()
        frozen.run(images, (POOLED,))
        seconds.append(time.perf_counter() - began)
    return BATCH_SIZE / statistics.median(seconds[1:])  # the first one may be traced


def _write(ranking: Ranking, run: Run, noun: str) -> None:
    rows = ranking.rows
    write_json_atomic(run.environment_json, environment())
    write_json_atomic(run.path / "ranking.json", {**dataclasses.asdict(ranking), "run": str(ranking.run)})
    plot_ranking(
        [row.name for row in rows],
        [row.accuracy for row in rows],
        [row.spread for row in rows],
        [row.images_per_second for row in rows],
        run.path / "ranking.png",
        noun,
        ranking.metric,
    )
