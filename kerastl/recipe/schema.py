"""What can be asked of a run: one frozen tree of plain values, each key described where it is defined.

A key that is `None` is chosen by the rule in `kerastl.recipe.rule` once the data are known; in TOML
it is left out or written `"auto"`. Help texts, choices and ranges stand in the field's metadata: the
checks, `kerastl fit --help` and `docs/recipes.md` all read them from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kerastl.task import MONITORS, TASKS, Task, task_named


def key(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    above: float | None = None,
) -> Any:
    """A recipe key: its default, what it means, and which values it takes.

    `low`/`high` include their bound, `above`/`below` leave it out.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "above": above, "below": below}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataRecipe:
    """Which labelled images, and how they are split."""

    source: str = key(
        "digits",
        "a folder with one folder a class (flat, or under train/, validation/, test/), a .csv or .parquet "
        "manifest, tfds:NAME, or digits (bundled with scikit-learn)",
    )
    data_dir: str | None = key(None, "where TFDS keeps its prepared data; TFDS' own default without it")
    train_split: str | None = key(None, "TFDS split to train on, such as train[:80%]")
    validation_split: str | None = key(None, "TFDS split to validate on; carved from train without it")
    test_split: str | None = key(None, "TFDS split to test on; carved from train without it")
    path_column: str = key("path", "manifest column with the image's path, relative to the manifest")
    label_column: str = key("label", "manifest column with the label")
    split_column: str = key("split", "manifest column with train, validation or test; optional")
    group_column: str = key("group", "manifest column whose equal values stay in one split; optional")
    task: str = key(
        "classification",
        "what is answered: the one class of an image (classification), or which labels it has, several or none "
        "(multi_label)",
        choices=TASKS,
    )
    label_separator: str = key(
        "|",
        "what stands between the labels of a manifest's cell where there may be several; lists as JSON, Python and NumPy write "
        "them are read without it",
    )
    group_pattern: str | None = key(
        None,
        "regular expression on an image's path; images for which its parentheses match the same text (without any: the "
        "whole match) stay in one split",
    )
    group_subfolders: bool = key(
        False,
        "of a folder source: images in folders of one name below class folders stay in one split "
        "(cat/monday/1.jpg, dog/monday/2.jpg)",
    )
    split_salt: int = key(0, "another number draws another division into splits", low=0, high=2**31 - 1)
    validation_fraction: float = key(
        0.1,
        "share of the training images held out for validation where the source has no validation split",
        above=0,
        below=0.9,
    )
    test_fraction: float = key(
        0.2,
        "share of all images held out for the test where the source has no test split",
        above=0,
        below=0.9,
    )
    examples_per_class: int | None = key(
        None, "train on this many images of each class; all without it", low=1
    )
    min_images_per_class: int | None = key(
        None,
        "leave out classes with fewer images to learn from than this, and say so; stop at them without it",
        low=2,
    )
    max_unreadable_fraction: float = key(
        0.05,
        "stop if a larger share of the pictures than this cannot be read, those that were left out of the index included",
        low=0,
        high=1,
    )
    resize: str = key(
        "stretch", "how an image becomes the network's size", choices=("stretch", "crop", "pad")
    )
    significant_bits: int | None = key(
        None,
        "bits that the levels of 16-bit PNG and TIFF use: instruments store 10 to 14, and 2 to the power of this is white; as "
        "many as some of the training images need without it",
        low=8,
        high=16,
    )

    @property
    def several_labels(self) -> bool:
        """Whether what a manifest says of an image may be several labels, or none."""
        return self.task == "multi_label"


@dataclass(frozen=True)
class BackboneRecipe:
    """Which pretrained network, from which weights, at which size."""

    name: str | None = key(
        None,
        "a name that `kerastl backbones` lists; mobilenet_025 for digits and resnet50 for all else without it",
    )
    weights: str = key(
        "pretrained",
        "pretrained (what ships with the backbone, else imagenet), imagenet, none, or the path of a "
        ".weights.h5, .h5 or .keras file",
    )
    weights_dir: str | None = key(
        None, "folder with Keras' published weight files, used instead of a download"
    )
    image_size: int | None = key(None, "side of the square input in pixels", low=8, high=2048)


@dataclass(frozen=True)
class HeadRecipe:
    """What stands on the backbone."""

    pooling: str = key("avg", "how positions become one vector", choices=("avg", "max", "avgmax", "gem"))
    hidden: tuple[int, ...] = key((), "units of hidden layers before the last one", low=1)
    dropout: float = key(0.0, "share of features dropped in training", low=0, below=1)
    l2: float = key(0.0, "L2 penalty on the head's kernels, added to the loss", low=0)


@dataclass(frozen=True)
class PhaseRecipe:
    """What both phases have in common."""

    epochs: int | None = key(None, "passes over the training images, at most", low=0)
    batch_size: int | None = key(None, "images a step", low=1)
    optimizer: str = key("adamw", "update rule", choices=("adamw", "sgd"))
    learning_rate: float | None = key(None, "highest learning rate, after the warm-up", above=0)
    weight_decay: float | None = key(
        None, "decoupled decay of the kernels (biases and norms are spared)", low=0
    )
    warmup_epochs: float | None = key(
        None, "epochs in which the rate grows linearly, before the cosine", low=0
    )
    label_smoothing: float | None = key(None, "share of each label spread over all classes", low=0, below=1)
    gradient_clip_norm: float | None = key(
        None, "largest global norm of a step's gradients; 0 for no limit", low=0
    )
    mixup_alpha: float = key(
        0.0,
        "MixUp of what the phase trains on, within each batch and without a forward pass: both parameters of the Beta "
        "distribution; 0 for none (augment.mixup_alpha mixes pixels)",
        low=0,
    )
    class_weights: str = key(
        "none",
        "balanced weighs every class the same, in training and in the log-losses that judge it",
        choices=("none", "balanced"),
    )
    monitor: str = key(
        "val_calibrated_loss",
        "validation metric that picks the best epoch: the log-loss at the best single temperature, the plain "
        "log-loss, the accuracy, or the mean over classes of F1 or of recall (balanced accuracy)",
        choices=tuple(MONITORS),
    )
    patience_epochs: int | None = key(
        None, "stop after this many epochs without a better one; 0 to never stop", low=0
    )


@dataclass(frozen=True)
class HeadPhaseRecipe(PhaseRecipe):
    """The first phase: the head alone, on the frozen backbone in inference mode."""


@dataclass(frozen=True)
class FinetunePhaseRecipe(PhaseRecipe):
    """The second phase: the head and all layers above the unfreeze point, with small rates."""

    unfreeze_from: str | None = key(
        None, "train everything above this join; backbone thaws nothing (no second phase), input everything"
    )
    layer_decay: float | None = key(
        None, "the learning rate shrinks by this factor from one block to the one below it", above=0, high=1
    )
    batchnorm: str = key(
        "frozen",
        "BatchNorm of thawed blocks: frozen, affine (gamma and beta train, statistics stay) or train (all of it)",
        choices=("frozen", "affine", "train"),
    )


@dataclass(frozen=True)
class AugmentRecipe:
    """Random changes to training images; never part of the saved model. Knobs left out follow the level."""

    level: str | None = key(None, "how much in all", choices=("none", "light", "medium", "strong"))
    views: int | None = key(
        None, "versions made of each training image; the first is the image itself", low=1
    )
    seed: int = key(
        0,
        "source of the random changes, apart from the run's seed, so that runs with other seeds share stored views",
        low=0,
        high=2**31 - 1,
    )
    horizontal_flip: bool | None = key(None, "mirror half of the images left to right")
    crop_min_area: float | None = key(
        None, "random resized crops cover at least this share of the image; 1 for no crop", above=0, high=1
    )
    color: float | None = key(
        None, "largest relative change of brightness, contrast and saturation", low=0, high=1
    )
    rotation_degrees: float | None = key(None, "largest rotation to either side", low=0, high=180)
    erase_probability: float | None = key(None, "share of images with an erased rectangle", low=0, high=1)
    policy_operations: int | None = key(
        None, "random operations of the RandAugment-like policy", low=0, high=10
    )
    policy_magnitude: float | None = key(None, "strength of these operations", low=0, high=1)
    mixup_alpha: float | None = key(
        None, "MixUp: both parameters of the Beta distribution; 0 for none", low=0
    )
    cutmix_alpha: float | None = key(
        None, "CutMix: both parameters of the Beta distribution; 0 for none", low=0
    )


@dataclass(frozen=True)
class CacheRecipe:
    """Where the frozen part's outputs are kept, for all epochs, phases and runs."""

    mode: str = key(
        "auto",
        "auto weighs the ways against each other and says what it chose; disk keeps for later runs; memory for this "
        "run; off computes everything anew in every epoch",
        choices=("auto", "disk", "memory", "off"),
    )
    directory: str | None = key(
        None, "folder of the store; $KERASTL_CACHE_DIR, else kerastl in the user's cache folder without it"
    )
    max_gigabytes: float = key(
        50.0, "largest size of the store; what was not used for longest makes room", above=0
    )
    dtype: str = key(
        "auto",
        "of activations; auto takes float16, and float32 where a value does not fit",
        choices=("auto", "float32"),
    )


@dataclass(frozen=True)
class CalibrationRecipe:
    """How the winner's probabilities are set right on validation, and when it had better not answer."""

    kind: str = key(
        "auto",
        "temperature divides all logits by one number; per_class by one a class; auto takes these where "
        "cross-validation shows that they help; none leaves the logits as trained",
        choices=("auto", "temperature", "per_class", "none"),
    )
    abstain_precision: float | None = key(
        None,
        "share of accepted answers that have to be right, known from validation with 95 % confidence: less sure ones "
        "are served as not accepted",
        above=0,
        below=1,
    )
    abstain_coverage: float | None = key(
        None, "share of images that are to be accepted, the surest ones", above=0, below=1
    )


@dataclass(frozen=True)
class Recipe:
    """All that is asked of a run. Made by `kerastl.recipe.load_recipe` or `make_recipe`, never changed."""

    name: str | None = key(
        None,
        "name of the run and of the exported model: letters a to z, digits, _, - and .; from data and backbone without it",
    )
    seed: int = key(0, "source of every random choice", low=0, high=2**31 - 1)
    precision: str = key(
        "auto",
        "arithmetic of the network; auto takes mixed_bfloat16 where all GPUs have units for it (NVIDIA, compute capability "
        "8.0 or more), float32 elsewhere",
        choices=("auto", "float32", "mixed_bfloat16"),
    )
    deterministic: bool = key(False, "same bits at every repetition on the same machine; slower on a GPU")
    data: DataRecipe = field(default_factory=DataRecipe)
    backbone: BackboneRecipe = field(default_factory=BackboneRecipe)
    head: HeadRecipe = field(default_factory=HeadRecipe)
    head_phase: HeadPhaseRecipe = field(default_factory=HeadPhaseRecipe)
    finetune_phase: FinetunePhaseRecipe = field(default_factory=FinetunePhaseRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    cache: CacheRecipe = field(default_factory=CacheRecipe)
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)

    @property
    def task(self) -> Task:
        """What is answered, as `data.task` names it."""
        return task_named(self.data.task)
