"""The phases of a fit one by one, on a network from `kerastl.build`: what `kerastl.fit` does in one call, to the bit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastl.data.examples import Examples
from kerastl.data.step_labels import StepLabels, answered
from kerastl.errors import UserError
from kerastl.jobs.artifacts import start_run, write_histories, write_setup
from kerastl.jobs.conclude import conclude
from kerastl.jobs.export import export_network
from kerastl.jobs.fitted import Fitted
from kerastl.jobs.log import Log
from kerastl.jobs.measure import features_of
from kerastl.jobs.net import Net
from kerastl.jobs.recipes import recipe_for
from kerastl.training.phase import PhaseResult
from kerastl.training.two_phase import finetunes, result_of


@dataclass(frozen=True, eq=False)
class FeatureArrays:
    """Pooled features of all examples that can be read, in the order of the data; or of all words, where these are answered.

    Attributes:
        features: float32 [n, features], what the head reads of the frozen backbone, without augmentation.
        labels: int32 [n], or uint8 [n, classes] for several labels.
        ids: object [n] of str.
        splits: object [n]: `train`, `validation` or `test`.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    splits: np.ndarray


def features(net: Net, data: Examples | None = None) -> FeatureArrays:
    """Pooled features of the frozen backbone, from the store or computed now and kept there.

    Args:
        net: from `kerastl.build`.
        data: other examples for the same backbone; those of the network without it.

    Returns:
        Arrays with a row for each example that can be read.

    Example:
        >>> found = kerastl.features(net)
        >>> sklearn.linear_model.LogisticRegression().fit(found.features, found.labels)
    """
    if data is not None and data is not net.examples:
        # Those of the same outputs, also where they were chosen on the network's own examples.
        asked = dataclasses.replace(recipe_for(net.asked, data, {}), head=net.setup.recipe.head)
        other = Net(asked, data, None, net.progress)
        try:
            return features(other)
        finally:
            other.close()
    setup = net.setup
    parts = []
    for split in setup.prepared.splits:
        rows = features_of(setup, split.name, net.progress).rows
        values = rows.pooled_batch(np.arange(rows.count), 0)
        labels = split.labels
        # Of words the example that each is in.
        at = labels.places[0] if isinstance(labels, StepLabels) else np.arange(split.count)
        names = np.full(len(at), split.name, object)
        parts.append((split.indices[at], values, answered(labels), split.ids[at], names))
    indices, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(indices, kind="stable")
    return FeatureArrays(*(column[order] for column in columns))


def train_head(
    net: Net, *, callbacks: Sequence[keras.callbacks.Callback] = (), **options: Any
) -> PhaseResult:
    """Train the head alone, on pooled features of the frozen backbone: the first phase of `kerastl.fit`.

    Args:
        net: from `kerastl.build`.
        callbacks: Keras callbacks.
        **options: keys of the phase, such as `head_epochs=20`.

    Returns:
        History, best epoch and best weights, which the network now has.

    Raises:
        UserError: the head was trained before, or an option is none of this phase.
        TrainingError: a loss is not finite.
    """
    if net.phases:
        raise UserError(
            "The head of this network is trained. kerastl.finetune goes on; net.close() begins anew"
        )
    net.change(options)
    net.phases = (net.run_phase("head_phase", callbacks),)
    return net.phases[-1]


def unfreeze(net: Net, unfreeze_from: str) -> None:
    """Unfreeze the network above a point, for `finetune`; what lies below is computed once and kept.

    Args:
        net: from `kerastl.build`.
        unfreeze_from: one of `net.unfreeze_points`, or any other join of the backbone that is listed there.

    Raises:
        RecipeError: the backbone has no such point.
        UserError: the network was fine-tuned already.
    """
    if len(net.phases) > 1:
        raise UserError("This network is fine-tuned. kerastl.finish tests it; net.close() begins anew")
    net.change({"unfreeze_from": unfreeze_from})


def finetune(net: Net, *, callbacks: Sequence[keras.callbacks.Callback] = (), **options: Any) -> PhaseResult:
    """Train head and all blocks above the unfreeze point: the second phase of `kerastl.fit`, which can only improve on the first.

    Args:
        net: whose head is trained.
        callbacks: Keras callbacks.
        **options: keys of the phase, such as `finetune_epochs=5` or `finetune_phase={"learning_rate": 1e-5}`.

    Returns:
        History, best epoch and best weights; the network has these, or those from before where no epoch was better.

    Raises:
        UserError: the head is not trained, nothing is unfrozen, or the network was fine-tuned already.
        TrainingError: a loss is not finite.
    """
    if len(net.phases) != 1:
        raise UserError(
            "kerastl.finetune comes once, after kerastl.train_head: "
            + (
                "this network is fine-tuned already. kerastl.finish tests it; net.close() begins anew, and kerastl.fit(net) "
                "always begins from pretrained weights"
                if net.phases
                else "the head of this network is not trained"
            )
        )
    net.change(options)
    if not finetunes(net.recipe.finetune_phase):
        raise UserError(
            f"Nothing is unfrozen. Expected kerastl.unfreeze(net, POINT) before, with one of {', '.join(net.unfreeze_points[1:])}"
        )
    net.phases = (*net.phases, net.run_phase("finetune_phase", callbacks))
    return net.phases[-1]


def finish(
    net: Net,
    *,
    runs_dir: Path | str = Path("runs"),
    models_dir: Path | str = Path("saved_models"),
    export_model: bool = False,
    keep: int | None = None,
    warmup: bool = True,
) -> Fitted:
    """Calibrate the better of the phases, test it once and write the run down: the end of `kerastl.fit`.

    Args:
        net: whose head, at least, is trained. It is closed: another step begins anew.
        runs_dir: where the run's folder is made.
        models_dir: the folder that TensorFlow Serving watches.
        export_model: publish the model there.
        keep: how many versions of the model stay there; all of them without it.
        warmup: put warm-up requests for TensorFlow Serving beside the model.

    Raises:
        UserError: nothing is trained yet.
        ExportError: the exported model does not agree with the trained one; nothing was published.
    """
    if not net.phases:
        raise UserError("Nothing is trained yet. Expected kerastl.train_head(net) before")
    run, recipe = start_run(net.recipe, net.splits, runs_dir, net.files)
    setup, log, result = net.setup.with_recipe(recipe), Log(net.progress, run.log_txt), result_of(net.phases)
    publish = functools.partial(export_network, models_dir=models_dir, keep=keep, warmup=warmup)
    with log.end_written():
        checks = write_setup(run, setup, log, export_model)
        write_histories(run, result)
        summary = conclude(run, setup, result, checks, publish, log, net._started)
    net.close()
    return Fitted(run.path, summary.report, summary.exported, net.examples)
