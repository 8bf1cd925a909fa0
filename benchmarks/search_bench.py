"""What all parts of `search.py` have in common: the recipe, the space, the plain side's data, and the rows of the file."""

from __future__ import annotations

import argparse
import functools
import inspect
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import plain_search
from plain_search import FINETUNE, HEAD, NOTHING, POINT, Plain
from rows import Rows, digest_of, key_of, package_files

from kerastl.backbones import get_backbone
from kerastl.features.cache import Cache
from kerastl.features.decoded import decode_splits
from kerastl.jobs.open import open_splits
from kerastl.modality.image import Image
from kerastl.model.build import build_backbone
from kerastl.model.pretrained import load_backbone
from kerastl.progress import Progress
from kerastl.recipe import Recipe, load_recipe
from kerastl.search.hyperparameters import Hyperparameter, Space, with_values
from kerastl.search.space import spread_joins
from kerastl.search.spec import SearchSettings, SearchSpec

MONITOR = "val_accuracy"
# What a score of the plain side is made by.
SCORING = (
    plain_search.score_of,
    plain_search.outputs_at.__wrapped__,
    plain_search.head_of,
    plain_search.pooling_of,
    plain_search.compile_for,
    plain_search.thaw,
)
KEYS = {HEAD: "head_phase.learning_rate", POINT: "finetune_phase.unfreeze_from"}
KEYS[FINETUNE] = "finetune_phase.learning_rate"
CONDITION = ("backbone", "image_size", "per_class", "head_epochs", "finetune_epochs", "joins", "seed")


class Bench:
    """What all parts have in common: recipe, space, settings, and the rows that are known."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        spec = get_backbone(arguments.backbone)
        self.points = spread_joins(spec, arguments.joins)
        self.settings = plain_search.draw(self.points, arguments.settings, arguments.seed)
        self.rows = Rows(arguments.output)
        self._code = {
            "plain": digest_of([Path(plain_search.__file__)]),
            "scores": digest_of([], "".join(map(inspect.getsource, SCORING))),
            "ours": digest_of(package_files()),
        }

    def row(self, side: str, what: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A row of the file: the one that is there, or measured now."""
        dated = lambda: {**measure(), "at": time.strftime("%FT%T")}  # noqa: E731
        return self.rows.row({**self.condition(side, what), **what}, dated)

    def key(self, side: str, what: dict[str, Any]) -> str:
        """Under which a row is kept."""
        return key_of({**self.condition(side, what), **what})

    def condition(self, side: str, what: dict[str, Any]) -> dict[str, Any]:
        """What every row of a side depends on; scores of the plain side not on how its work is timed."""
        code = self._code["scores" if side == "plain" and what.get("kind") in ("score", "fresh") else side]
        names = {name: getattr(self.arguments, name) for name in CONDITION}
        weights = self.arguments.weights and "imagenet"
        return {"side": side, "weights": weights, "code": code, **names}

    def folder(self, name: str) -> Path:
        """Where a part keeps its store, apart from those of other conditions."""
        return self.arguments.work / f"{name}-{self.key('ours', {'folder': name})}"

    def recipe(self, store: Path, defaults: bool = False) -> Recipe:
        """Our side's recipe; with `defaults` what anybody gets, else the plain side's training."""
        arguments = self.arguments
        flags: dict[str, Any] = {
            "data.source": str(arguments.data),
            "data.examples_per_class": arguments.per_class,
            "backbone.name": arguments.backbone,
            "backbone.image_size": arguments.image_size,
            "cache.directory": str(store),
        }
        if arguments.weights:
            flags["backbone.weights"] = str(arguments.weights / f"{arguments.backbone}_notop.weights.h5")
        if defaults:
            return load_recipe(None, arguments.sets, flags)
        rates = (plain_search.HEAD_RATES, plain_search.FINETUNE_RATES)
        epochs = (arguments.head_epochs, arguments.finetune_epochs)
        for phase, of_phase, count in zip(("head_phase", "finetune_phase"), rates, epochs, strict=True):
            plain = {"weight_decay": 0.0, "warmup_epochs": 0.0, "label_smoothing": 0.0}
            plain |= {"gradient_clip_norm": 0.0, "patience_epochs": 0, "monitor": MONITOR}
            plain |= {"epochs": count, "batch_size": plain_search.BATCH, "learning_rate": of_phase[2]}
            flags |= {f"{phase}.{name}": value for name, value in plain.items()}
        middle = self.points[len(self.points) // 2]
        flags |= {"finetune_phase.unfreeze_from": middle, "finetune_phase.layer_decay": 1.0}
        return load_recipe(None, (), {**flags, "augment.level": "none"})

    @property
    def space(self) -> Space:
        """The plain side's space, for our tuner."""
        values = (plain_search.HEAD_RATES, self.points, plain_search.FINETUNE_RATES)
        return Space(
            tuple(
                Hyperparameter(k, tuple(v), ordered=True) for k, v in zip(KEYS.values(), values, strict=True)
            )
        )

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        return open_splits(self.recipe(Path("unused")))[1].counts()

    @functools.cached_property
    def plain(self) -> Plain:
        """The plain side, on the same images, split and weights."""
        recipe = with_values(self.recipe(Path("unused")), {"cache.mode": "memory"})
        recipe, splits = open_splits(recipe)
        assert recipe.backbone.name and recipe.backbone.image_size
        spec, size = get_backbone(recipe.backbone.name), recipe.backbone.image_size
        weights = load_backbone(recipe)[0].get_weights()
        with tempfile.TemporaryDirectory() as scratch, Cache(recipe.cache, Path(scratch)) as cache:
            prepared = decode_splits(recipe, splits, cache, Progress(), ("train", "validation"))
            sides = []
            for name in ("train", "validation"):
                views = prepared.views(name)
                pixels = views.batch(np.arange(views.count), 0)["pixels"]
                sides.append((pixels.astype(np.float32), views.classes))

        def build() -> keras.Model:
            base = build_backbone(spec, Image(size).spec)
            base.set_weights(weights)
            return base

        preprocess = getattr(keras.applications, spec.module).preprocess_input
        inputs = keras.Input((size, size, 3))
        pooled = keras.Model(inputs, plain_search.pooling_of(build()(preprocess(inputs), training=False)))
        rows = pooled.predict(sides[0][0], batch_size=plain_search.BATCH, verbose=0)
        variance = rows.var(axis=0)
        return Plain(
            build, preprocess, sides[0], sides[1], self.arguments.head_epochs, self.arguments.finetune_epochs,
            self.points, (rows.mean(axis=0), variance + variance.mean()),
        )  # fmt: skip


def ours_of(values: dict[str, Any]) -> dict[str, Any]:
    """A setting as recipe keys."""
    return {KEYS[name]: value for name, value in values.items()}


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Mean and standard error, and the ends."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    mean = statistics.fmean(values)
    return {name: mean, f"{name}_error": error, f"{name}_low": min(values), f"{name}_high": max(values)}


def spec_of(bench: Bench, recipe: Recipe, settings: SearchSettings) -> SearchSpec:
    """Our search over the plain side's space."""
    resolved, splits = open_splits(recipe)
    return SearchSpec(recipe, resolved, bench.space, settings, splits)


def plain_scores(bench: Bench) -> list[float]:
    """What the plain side scores with each setting that is to be scored."""
    return [
        bench.row(
            "plain",
            {"kind": "score", "number": number, **values},
            lambda values=values: {"score": plain_search.score_of(bench.plain, values, bench.arguments.seed)},
        )["score"]
        for number, values in enumerate(bench.settings[: bench.arguments.scored])
    ]


def plain_each(bench: Bench, parts: dict[str, dict[str, Any]]) -> list[float]:
    """Seconds of each plain trial, from its timed parts; decoding and Keras Tuner's checkpoints are left out."""
    steps, checks = (-(-bench.counts[name] // plain_search.BATCH) for name in ("train", "validation"))

    def phase(part: dict[str, Any], epochs: int) -> float:
        return part["trace"] + epochs * (steps * part["step"] + checks * part["validate"])

    head = parts[NOTHING]
    return [
        head["build"] + phase(head, bench.arguments.head_epochs)
        + (phase(parts[one[POINT]], bench.arguments.finetune_epochs) if one[POINT] != NOTHING else 0.0)
        for one in bench.settings
    ]  # fmt: skip


def limit_of(bench: Bench, bare: dict[str, dict[str, Any]]) -> float:
    """How much faster a search can be that computes what is frozen once and nothing but the networks costs time."""
    train, validation = (bench.counts[name] / plain_search.BATCH for name in ("train", "validation"))
    arguments, forward = bench.arguments, bare[NOTHING]["forward"]
    theirs = ours = 0.0
    for one in bench.settings:
        theirs += arguments.head_epochs * (train + validation) * forward
        if one[POINT] != NOTHING:
            at = bare[one[POINT]]
            theirs += arguments.finetune_epochs * (train * at["whole_step"] + validation * at["forward"])
            ours += arguments.finetune_epochs * (train * at["suffix_step"] + validation * at["suffix"])
    prefixes = [at["prefix"] for at in bare.values() if "prefix" in at]
    # The first forward pass goes on to the pooled features, which serve all cuts.
    ours += (train + validation) * (forward + sum(prefixes[1:]))
    return theirs / ours
