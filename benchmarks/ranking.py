"""Does the ranking before training foretell the order after fine-tuning?

Ranks backbones by `kerastl rank`, fits each of them with kerastl's defaults, and prints the rank correlation of the
two scores with the test accuracy after both phases. Accuracies that were measured before are taken from a JSONL file
with the fields `backbone` and `finetune_accuracy` (median over the lines of a backbone), such as the one that
`accuracy.py` writes; `--rank-only` fits nothing.

    python benchmarks/ranking.py --data DIR --weights DIR [--backbones …] [--measured FILE] [--rank-only]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from kerastl.jobs.rank import rank
from kerastl.progress import Progress
from kerastl.recipe import load_recipe
from kerastl.report.ranking import RankedBackbone


class Notes(Progress):
    """Prints what is said on the way."""

    def note(self, message: str) -> None:
        print(message, flush=True)

    warn = note


def measured_accuracies(file: Path | None) -> dict[str, float]:
    """Backbone -> median test accuracy after fine-tuning, of kerastl's side."""
    found: dict[str, list[float]] = {}
    for line in file.read_text().splitlines() if file else ():
        row = json.loads(line)
        if row.get("side", "kerastl") == "kerastl":
            found.setdefault(row["backbone"], []).append(row["finetune_accuracy"])
    return {name: statistics.median(values) for name, values in found.items()}


def flags_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ranking and fits have in common."""
    return {
        "data.source": str(arguments.data),
        "backbone.weights_dir": str(arguments.weights),
        "backbone.image_size": arguments.image_size,
        "seed": arguments.seed,
    }


def fitted_accuracy(arguments: argparse.Namespace, backbone: str) -> float:
    """Test accuracy after both phases."""
    from ours import fit_and_measure

    result = fit_and_measure(None, arguments.sets, flags_of(arguments) | {"backbone.name": backbone})
    with arguments.output.open("a") as file:
        file.write(json.dumps({"backbone": backbone, "seed": arguments.seed, **result}) + "\n")
    return result["finetune_accuracy"]


def correlations(rows: list[RankedBackbone], accuracies: dict[str, float]) -> str:
    """Spearman's and Kendall's coefficients of both scores, over the backbones whose accuracy is known."""
    from scipy.stats import kendalltau, spearmanr

    known = [row for row in rows if row.name in accuracies]
    if len(known) < 3:
        return f"{len(known)} backbones with a fine-tuned accuracy: too few for a rank correlation"
    truth = [accuracies[row.name] for row in known]
    lines = [f"{len(known)} backbones"]
    for word, scores in (
        ("linear probe", [row.accuracy for row in known]),
        ("LogME", [row.log_evidence for row in known]),
        ("parameters", [row.parameters for row in known]),
    ):
        spearman, kendall = spearmanr(scores, truth).statistic, kendalltau(scores, truth).statistic
        lines.append(f"{word:<14} Spearman {spearman:+.2f}  Kendall {kendall:+.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument(
        "--backbones", nargs="+", default=["resnet50", "vgg16", "inception_v3", "mobilenet_v2"]
    )
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measured", type=Path, help="JSONL with backbone and finetune_accuracy")
    parser.add_argument("--rank-only", action="store_true", help="fit nothing")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="recipe key for ranking and fits"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/ranking.jsonl"))
    arguments = parser.parse_args()
    recipe = load_recipe(None, arguments.sets, flags_of(arguments))
    with tempfile.TemporaryDirectory() as folder:
        ranking = rank(recipe, backbones=arguments.backbones, runs_dir=folder, progress=Notes())
    accuracies = measured_accuracies(arguments.measured)
    if not arguments.rank_only:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        for row in ranking.rows:
            if row.name not in accuracies:
                accuracies[row.name] = fitted_accuracy(arguments, row.name)
    print(f"{'backbone':<16}{'probe':>14}{'LogME':>8}{'images/s':>10}{'fine-tuned':>12}")
    for row in ranking.rows:
        tuned = f"{accuracies[row.name]:.3f}" if row.name in accuracies else "-"
        probe = f"{row.accuracy:.3f} ± {row.spread:.3f}"
        print(f"{row.name:<16}{probe:>14}{row.log_evidence:>8.3f}{row.examples_per_second:>10.0f}{tuned:>12}")
    print(correlations(list(ranking.rows), accuracies))


if __name__ == "__main__":
    main()
