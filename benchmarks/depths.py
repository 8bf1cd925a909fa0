"""Where features from every depth help, and where not: a head on the last output alone beside one on outputs of all depths.

For each data set, backbone and number of labels: test accuracy of the head phase with `head.features = last` and with `auto`, and
of both phases with each (`--finetune`). A data set is a folder with `train/` and `test/`; `digits` are the embedded ones. With `--shifted`
test images are also measured in which light, focus and noise differ from those of the training, as Hendrycks and Dietterich
("Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019) do it.

    python benchmarks/depths.py --data CIFAR10 FASHION digits --weights DIR --backbones resnet50 mobilenet_v2 --per-class 0 10
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from rows import Rows, digest_of, package_files

FEATURES = ("last", "auto")


def _noise(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + np.random.default_rng(seed).normal(0, 20, pixels.shape)
    return Image.fromarray(np.clip(noisy.round(), 0, 255).astype(np.uint8))


SHIFTS: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {
    "noise": _noise,
    "blur": lambda image, seed: image.filter(ImageFilter.GaussianBlur(1)),
    "contrast": lambda image, seed: ImageEnhance.Contrast(image).enhance(0.4),
}


def shifted(folder: Path, shift: str, work: Path) -> Path:
    """A folder with the training images of another, and its test images changed."""
    made = work / f"{folder.name}-{shift}"
    if not made.exists():
        for number, path in enumerate(sorted((folder / "test").glob("*/*"))):
            target = made.with_suffix(".part") / "test" / path.relative_to(folder / "test")
            target.parent.mkdir(parents=True, exist_ok=True)
            SHIFTS[shift](Image.open(path).convert("RGB"), number).save(target.with_suffix(".png"))
        (made.with_suffix(".part") / "train").symlink_to((folder / "train").resolve())
        made.with_suffix(".part").rename(made)
    return made


def measured(
    asked: argparse.Namespace, data: str, backbone: str, per_class: int, features: str
) -> dict[str, Any]:
    """Test accuracy after each phase, and on shifted test images after the head phase."""
    from ours import fit_and_measure

    def run(source: str, finetune: bool) -> dict[str, Any]:
        flags = {
            "data.source": source,
            "backbone.name": backbone,
            "backbone.weights": str(asked.weights / f"{backbone}_notop.weights.h5"),
            "backbone.image_size": asked.image_size,
            "head.features": features,
        }
        flags |= {"data.examples_per_class": per_class} if per_class else {}
        flags |= {} if finetune else {"finetune_phase.epochs": 0}
        return fit_and_measure(None, [], flags)

    found = run(data, asked.finetune)
    row = {"head": found["head_accuracy"], "train_examples": found["train_examples"]}
    row |= {"both": found["finetune_accuracy"]} if asked.finetune else {}
    for shift in SHIFTS if asked.shifted and data != "digits" else ():
        row[shift] = run(str(shifted(Path(data), shift, asked.work)), False)["head_accuracy"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, help="folders with train/ and test/, or digits")
    parser.add_argument("--weights", type=Path, required=True, help="folder with BACKBONE_notop.weights.h5")
    parser.add_argument(
        "--backbones", nargs="+", default=["resnet50", "mobilenet_v2", "inception_v3", "vgg16"]
    )
    parser.add_argument(
        "--per-class", nargs="+", type=int, default=[0], help="training images a class; 0 is all"
    )
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--finetune", action="store_true", help="run the fine-tune phase as well")
    parser.add_argument("--shifted", action="store_true", help="measure shifted test images as well")
    parser.add_argument("--work", type=Path, default=Path("depths-work"), help="for shifted images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/depths.jsonl"))
    asked = parser.parse_args()
    import ours  # noqa: F401

    rows, code = Rows(asked.output), digest_of(package_files())
    for data in asked.data:
        for backbone in asked.backbones:
            for per_class in asked.per_class:
                for features in FEATURES:
                    condition = {
                        "data": Path(data).name,
                        "backbone": backbone,
                        "per_class": per_class,
                        "features": features,
                        "image_size": asked.image_size,
                        "phases": 2 if asked.finetune else 1,
                        "shifted": asked.shifted,
                        "code": code,
                    }
                    rows.row(
                        condition, functools.partial(measured, asked, data, backbone, per_class, features)
                    )


if __name__ == "__main__":
    main()
