"""Test accuracy of kerastl's defaults beside the loop of Keras' transfer-learning guide.

Both sides see the same training folder, backbone, weights and image size; the guide trains on all of
its images, kerastl holds a tenth of them back for validation. Finished results are kept in the output
file under a key of everything that they depend on, so an interrupted benchmark goes on where it stopped.

    python benchmarks/accuracy.py --data DIR --weights DIR [--backbones …] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import guide
from rows import Rows, digest_of, package_files

SIDES = ("guide", "kerastl")


def kerastl_side(
    arguments: argparse.Namespace, backbone: str, weights: str | None, seed: int
) -> dict[str, Any]:
    """Both phases with our defaults; test accuracy after each."""
    from ours import fit_and_measure

    flags = {
        "data.source": str(arguments.data),
        "data.examples_per_class": arguments.per_class,
        "backbone.name": backbone,
        "backbone.weights": weights or "none",
        "backbone.image_size": arguments.image_size,
        "seed": seed,
    }
    return fit_and_measure(None, arguments.sets, flags)


def guide_side(
    arguments: argparse.Namespace, backbone: str, weights: str | None, seed: int
) -> dict[str, Any]:
    """Both phases of the guide; test accuracy after each."""
    train = guide.load_split(arguments.data / "train", arguments.image_size)
    test = guide.load_split(arguments.data / "test", arguments.image_size)
    if arguments.per_class:
        kept = guide.keep_per_class(train[1], arguments.per_class, seed)
        train = train[0][kept], train[1][kept]
    return guide.run_guide(train, test, backbone, weights, seed)


def table(results: list[dict[str, Any]]) -> str:
    """Median and range over seeds, in points, for each backbone and side."""
    lines = [f"{'backbone':<16}{'side':<10}{'seeds':>6}  {'after head phase':<26}{'after both':<26}"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["backbone"], row["side"]), []).append(row)
    for (backbone, side), rows in sorted(groups.items()):
        cells = [spread([100 * row[key] for row in rows]) for key in ("head_accuracy", "finetune_accuracy")]
        lines.append(f"{backbone:<16}{side:<10}{len(rows):>6}  {cells[0]:<26}{cells[1]:<26}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Median and range, in points."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/ and test/, one folder a class"
    )
    parser.add_argument(
        "--weights", type=Path, help="folder with BACKBONE_notop.weights.h5; random weights without it"
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "inception_v3", "vgg16"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--per-class", type=int, help="train on this many images a class")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="recipe key for kerastl's side"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/accuracy.jsonl"))
    arguments = parser.parse_args()
    rows = Rows(arguments.output)
    shown = []
    for backbone in arguments.backbones:
        weights = str(arguments.weights / f"{backbone}_notop.weights.h5") if arguments.weights else None
        for seed in arguments.seeds:
            for side in arguments.sides:
                condition = {
                    "side": side,
                    "backbone": backbone,
                    "seed": seed,
                    "weights": weights and "imagenet",
                }
                condition |= {"image_size": arguments.image_size, "per_class": arguments.per_class}
                condition["code"] = _code(side, arguments.sets)
                run = guide_side if side == "guide" else kerastl_side
                shown.append(rows.row(condition, functools.partial(run, arguments, backbone, weights, seed)))
    print(table(shown))


def _code(side: str, sets: list[str]) -> str:
    """What a side's result depends on: the guide's file; or the settings, and the package's modules that a fit imports."""
    if side == "guide":
        return digest_of([Path(__file__).parent / "guide.py"], "".join(sets))
    import ours  # noqa: F401

    return digest_of(package_files(), "".join(sets))


if __name__ == "__main__":
    main()
