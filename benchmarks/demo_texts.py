"""Do the shipped embeddings of texts transfer? The demo with them beside the same demo without, at few labels.

The shipped recipe `texts` on 10, 30 and 100 definitions of each class, once with the embeddings that ship with kerastl and once with random ones, which
it trains as well; and tf-idf with logistic regression on the same definitions, whose penalty and n-grams the validation split chooses. Each seed has its
own division into training, validation and test, and its own definitions to learn from.

    python benchmarks/demo_texts.py [--seeds 0 1 2 3 4] [--per-class 10 30 100]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from accuracy import spread
from ours import fit_and_measure
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from kerastl.data.examples import Split
from kerastl.jobs.open import open_splits
from kerastl.recipe import load_recipe

SIDES = {"shipped": "pretrained", "random": "none"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", nargs="+", type=int, default=[10, 30, 100])
    arguments = parser.parse_args()
    for count in arguments.per_class:
        rows: dict[str, list[float]] = {}
        for seed in arguments.seeds:
            flags = {"seed": seed, "data.split_salt": seed, "data.examples_per_class": count}
            measured = {}
            for side, weights in SIDES.items():
                result = fit_and_measure("texts", (), {**flags, "backbone.weights": weights})
                measured |= {
                    f"{side}, head phase": result["head_accuracy"],
                    f"{side}, both": result["finetune_accuracy"],
                }
            measured["tf-idf"] = tfidf(flags)
            print(json.dumps({"per_class": count, "seed": seed, **measured}), flush=True)
            for side, accuracy in measured.items():
                rows.setdefault(side, []).append(100 * accuracy)
        for side, values in rows.items():
            gains = [ours - other for ours, other in zip(rows["shipped, both"], values, strict=True)]
            print(f"{count:>4} a class  {side:<24}{spread(values):<26}gain over it {spread(gains)}")


def tfidf(flags: dict[str, int]) -> float:
    """Test accuracy of logistic regression on words, on the same split as the demo's."""
    _, splits = open_splits(load_recipe("texts", (), flags))
    parts = [_texts(part) for part in (splits.train, splits.validation, splits.test)]
    train, validation, test = parts
    models = [
        make_pipeline(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, most)),
            LogisticRegression(C=penalty, max_iter=1000),
        ).fit(*train)
        for most in (1, 2)
        for penalty in (1, 10, 100)
    ]
    return float(max(models, key=lambda model: model.score(*validation)).score(*test))


def _texts(part: Split) -> tuple[list[str], np.ndarray]:
    return [bytes(raw).decode() for raw in part.raw(np.arange(part.count))], part.labels


if __name__ == "__main__":
    main()
