"""Small and unbalanced sets: does the head learn how frequent classes are, do weights count, does calibration help?

Each case is fitted as it is and with the part that it is about taken out (the control), on images of CIFAR-10 at 96 pixels:

    shares      cat 100 : dog 20, the head alone; control: its bias begins at zero
    labels      two labels an image, 12 in all, 280 images, the head alone; the same control
    balanced    cat 100 : dog 20 under class_weights = balanced, both phases; control: validation is not weighted
    calibration frog and ship, 14 validation images, the head alone; control: the temperature has no prior

    python benchmarks/unbalanced.py --data DIR --weights DIR [--cases shares labels balanced calibration] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import kerastl
from kerastl.jobs.conclude import FitSummary

VEHICLES = ("airplane", "automobile", "ship", "truck")
CONTROLS = {
    "shares": ("kerastl.jobs.setup.first_bias", lambda *arguments: None),
    "labels": ("kerastl.jobs.setup.first_bias", lambda *arguments: None),
    "balanced": ("kerastl.training.phase.class_weights", lambda *arguments: None),
    "calibration": ("kerastl.evaluation.calibration._effective_count", lambda *arguments: math.inf),
}
SETS = {
    "shares": ["finetune_phase.unfreeze_from=backbone"],
    "labels": ["finetune_phase.unfreeze_from=backbone", "data.task=multi_label"],
    "balanced": ["head_phase.class_weights=balanced", "finetune_phase.class_weights=balanced"],
    "calibration": ["finetune_phase.unfreeze_from=backbone", "augment.level=none"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/ of CIFAR-10")
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--cases", nargs="+", choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    print(f"{'case':<12} {'side':<8} {'seed':>4}  figures")
    for case in arguments.cases:
        sides: dict[str, list[dict[str, float]]] = {"control": [], "kerastl": []}
        for seed in arguments.seeds:
            for side, rows in sides.items():
                with tempfile.TemporaryDirectory() as folder:
                    taken_out = mock.patch(*CONTROLS[case]) if side == "control" else contextlib.nullcontext()
                    with taken_out:
                        rows.append(figures(case, fitted(arguments, case, seed, Path(folder))))
                print(f"{case:<12} {side:<8} {seed:>4}  {shown(rows[-1])}", flush=True)
        for side, rows in sides.items():
            medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
            print(f"{case:<12} {side:<8} {'all':>4}  {shown(medians)}", flush=True)


def fitted(arguments: argparse.Namespace, case: str, seed: int, folder: Path) -> FitSummary:
    """One run of a case."""
    manifest = folder / "images.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        writer.writerows(rows_of(case, arguments.data.resolve()))
    flags = {
        "data.source": str(manifest),
        "backbone.name": arguments.backbone,
        "backbone.weights": str(arguments.weights / f"{arguments.backbone}_notop.weights.h5"),
        "backbone.image_size": 96,
        "seed": seed,
    }
    recipe = kerastl.load_recipe(None, SETS[case], flags)
    return kerastl.fit(recipe, runs_dir=folder / "runs", export_model=False)


def rows_of(case: str, data: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each image."""
    if case == "labels":
        for folder in sorted((data / "train").iterdir()):
            label = f"{folder.name}|{'vehicle' if folder.name in VEHICLES else 'animal'}"
            yield from split_rows(folder, label, train=22, validation=6)
        for folder in sorted((data / "test").iterdir()):
            label = f"{folder.name}|{'vehicle' if folder.name in VEHICLES else 'animal'}"
            yield from split_rows(folder, label, test=30)
        return
    first, second = ("frog", "ship") if case == "calibration" else ("cat", "dog")
    counts = (
        {first: (100, 20), second: (20, 4)} if case != "calibration" else {first: (93, 7), second: (93, 7)}
    )
    for name, (train, validation) in counts.items():
        yield from split_rows(data / "train" / name, name, train=train, validation=validation)
        yield from split_rows(data / "test" / name, name, test=100)


def split_rows(folder: Path, label: str, **counts: int) -> Iterator[tuple[str, str, str]]:
    """That many images of a folder for each split, one after the other."""
    names = iter(sorted(folder.iterdir()))
    for split, count in counts.items():
        for _ in range(count):
            yield str(next(names)), label, split


def figures(case: str, summary: FitSummary) -> dict[str, float]:
    """What a case is about."""
    report = summary.report
    test, head = report.metrics, report.phases[0]
    assert report.validation_metrics is not None and report.trust is not None
    found = {"best epoch": float(head.best_epoch), "validation log-loss": report.validation_metrics.log_loss}
    if case == "shares":
        share = 20 / 120
        found["constant guess"] = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        found["validation accuracy"] = report.validation_metrics.accuracy
    elif case == "labels":
        shares = [
            each.support / report.validation_metrics.count for each in report.validation_metrics.classes
        ]
        found["constant guess"] = -statistics.mean(
            share * math.log(share) + (1 - share) * math.log(1 - share) for share in shares
        )
        found |= {"test, all labels right": test.accuracy, "test micro F1": test.micro_f1 or 0.0}
    elif case == "balanced":
        recalls = [each.recall or 0.0 for each in test.classes]
        found |= {f"test recall of {each.name}": each.recall or 0.0 for each in test.classes}
        found |= {"test balanced accuracy": statistics.mean(recalls), "test log-loss": test.log_loss}
        found["kept fine-tune phase"] = float(report.winner == "finetune_phase")
    else:
        change = report.trust.reliability
        found["temperature"] = report.trust.calibration.temperatures[0]
        found |= {"test log-loss before": change.log_loss_before, "after": change.log_loss_after}
    return found


def shown(values: dict[str, Any]) -> str:
    """Figures in a line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


if __name__ == "__main__":
    main()
