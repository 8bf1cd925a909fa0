"""Schema of a recipe: one frozen tree of plain values, each key described where it is defined.

A key that is made by `auto` may be left open (None; in TOML left out, or `"auto"`): the rule in `kerastl.recipe.rule` chooses
it once the data are known. `Settings` is the recipe in which none is open. Help texts, choices, ranges and what a key affects
stand in the field's metadata: checks, `kerastl fit --help`, `docs/recipes.md`, the search and the keys of what is kept read
them from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kerastl.declare import Affects, auto, key
from kerastl.modality import MODALITIES
from kerastl.modality.recipe import LEVELS, AugmentKeys, BackboneKeys, DataKeys
from kerastl.task import MONITORS, TASKS

# What `data.source` begins with in a run on examples that were handed over in Python.
HANDED = "python:"


@dataclass(frozen=True)
class _Data:
    """Keys of `[data]` for every kind of example."""

    source: str = key(
        "digits",
        "a folder with one folder a class (flat, or under train/, validation/, test/), a .csv, .parquet or .jsonl "
        "manifest, tfds:NAME, or what ships: digits, or definitions (texts); of entities a .conll, .jsonl or .json file, or a folder with a "
        "train, validation and test file of that kind",
    )
    data_dir: str | None = key(None, "where TFDS keeps its prepared data; TFDS' own default without it")
    train_split: str | None = key(None, "TFDS split to train on, such as train[:80%]")
    validation_split: str | None = key(None, "TFDS split to validate on; carved from train without it")
    test_split: str | None = key(None, "TFDS split to test on; carved from train without it")
    modality: str = auto(
        "what an example is; as the data have it where that is left open: the columns of a manifest, the features of a TFDS set, the "
        "suffixes of a folder's files",
        choices=MODALITIES,
    )
    path_column: str = key(
        "path", "manifest column with the path of an example's file, relative to the manifest"
    )
    text_column: str = key("text", "manifest column with a text itself, or feature of a TFDS set")
    label_column: str = key("label", "manifest column with the label")
    split_column: str = key("split", "manifest column with train, validation or test; optional")
    group_column: str = key("group", "manifest column whose equal values stay in one split; optional")
    task: str = auto(
        "what is answered: the one class of an example (classification), which labels it has, several or none (multi_label), or which "
        "spans of a text are entities of which type (entities); as a file of tagged words (.conll, .bio, .iob) has it, else classification",
        choices=TASKS,
    )
    label_separator: str = key(
        "|",
        "what stands between the labels of a manifest's cell where there may be several; lists as JSON, Python and NumPy write "
        "them are read without it",
    )
    group_pattern: str | None = key(
        None,
        "regular expression on an example's path; examples for which its parentheses match the same text (without any: the "
        "whole match) stay in one split",
    )
    group_subfolders: bool = key(
        False,
        "of a folder source: files in folders of one name below class folders stay in one split "
        "(cat/monday/1.jpg, dog/monday/2.jpg)",
    )
    mend_spans: bool = key(False, "bring spans that cut words, or hold blanks at an end, to whole words")
    split_salt: int = key(0, "another number draws another division into splits", low=0, high=2**31 - 1)
    validation_fraction: float = key(
        0.1,
        "share of the training examples held out for validation where the source has no validation split",
        above=0,
        below=0.9,
    )
    test_fraction: float = key(
        0.2,
        "share of all examples held out for the test where the source has no test split",
        above=0,
        below=0.9,
    )
    examples_per_class: int | None = key(
        None, "train on this many examples of each class; all without it", low=1
    )
    max_unreadable_fraction: float = key(
        0.05,
        "stop if a larger share of the examples than this cannot be read, those that were left out of the index included",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class DataRecipe(DataKeys, _Data):
    """Which labelled examples, and how they are split."""

    AFFECTS: ClassVar[Affects] = "data"

    @property
    def several_labels(self) -> bool:
        """True if a cell of a manifest may hold several labels, or none."""
        return self.task == "multi_label"


@dataclass(frozen=True)
class _Backbone:
    """Keys of `[backbone]` for every kind of example."""

    name: str = auto(
        "a name that `kerastl backbones` lists, the path of a .keras file with a functional model of your own, or kerashub: and the folder or "
        "name of a KerasHub preset (`pip install 'kerastl[kerashub]'`); without it "
        "mobilenet_025 for digits, minilm_static for definitions, minilm_l6 for other texts and resnet50 for all else"
    )
    weights: str = key(
        "pretrained",
        "pretrained (what ships with the backbone or lies in its file, else imagenet), imagenet, none, or the path of a "
        ".weights.h5, .h5 or .keras file, of a text encoder that of a Hugging Face folder",
    )
    weights_dir: str | None = key(
        None,
        "folder with Keras' published weight files, used instead of a download, or with folders of text encoders",
    )
    engine: str = key(
        "auto",
        "what computes the frozen part: tensorflow, openvino (`pip install 'kerastl[openvino]'`; float32 on processors), or auto: "
        "openvino where it is installed, agrees with tensorflow to 1e-4 and is not clearly slower, for more than 1,000 examples, and "
        "tensorflow elsewhere and with deterministic = true",
        choices=("auto", "tensorflow", "openvino"),
        affects="run",
    )


@dataclass(frozen=True)
class BackboneRecipe(BackboneKeys, _Backbone):
    """Which pretrained network, from which weights, at which size."""

    AFFECTS: ClassVar[Affects] = "features"


@dataclass(frozen=True)
class HeadRecipe:
    """The head on the backbone."""

    features: str = key(
        "auto",
        "which outputs of the frozen backbone the head reads, pooled: the last one (last), those of all joins (joins), some joins by "
        "name (backbone is the last output), or those that leave-one-out on the training features finds best (auto)",
        affects="features",
        names=True,
    )
    pooling: str = key(
        "auto",
        "global pooling of these outputs; first takes the first step of a sequence alone, such as [CLS] of BERT and of ViT. auto chooses "
        "between avg, avgmax and, of sequences, first with the features, and is avg where those are named",
        choices=("auto", "avg", "max", "avgmax", "gem", "first"),
        affects="features",
    )
    start: str = auto(
        "the weights that the head phase begins with: the least-squares solution on the training features, with its penalty chosen "
        "by leave-one-out (solved), or zeros",
        choices=("solved", "zeros"),
        affects="value",
    )
    hidden: tuple[int, ...] = key((), "units of hidden layers before the last one", low=1, affects="head")
    dropout: float = key(0.0, "share of features dropped in training", low=0, below=1, affects="value")
    l2: float = key(0.0, "L2 penalty on the head's kernels, added to the loss", low=0, affects="head")
    layers: str | None = key(
        None,
        "path of a .keras file with layers of your own between the pooled features and the last layer, in place of hidden and "
        "dropout; `kerastl.build(head=[...])` writes one",
        affects="head",
    )


@dataclass(frozen=True)
class PhaseRecipe:
    """Keys that both phases have."""

    epochs: int = auto("passes over the training examples, at most", low=0, affects="value")
    batch_size: int = auto("examples a step", low=1, affects="value")
    optimizer: str = key("adamw", "update rule", choices=("adamw", "sgd"), affects="step")
    learning_rate: float = auto("highest learning rate, after the warm-up", above=0, affects="value")
    weight_decay: float = auto(
        "decoupled decay of the kernels (biases and norms are spared)", low=0, affects="step"
    )
    warmup_epochs: float = auto(
        "epochs in which the rate grows linearly, before the cosine", low=0, affects="value"
    )
    label_smoothing: float = auto(
        "share of each label spread over all classes", low=0, below=1, affects="step"
    )
    gradient_clip_norm: float = auto(
        "largest global norm of a step's gradients; 0 for no limit", low=0, affects="step"
    )
    mixup_alpha: float = key(
        0.0,
        "MixUp of what the phase trains on, within each batch and without a forward pass: both parameters of the Beta "
        "distribution; 0 for none (augment.mixup_alpha mixes the examples themselves)",
        low=0,
        affects="value",
    )
    class_weights: str = key(
        "none",
        "balanced weighs every class the same, in training and in the log-losses that judge it",
        choices=("none", "balanced"),
        affects="value",
    )
    monitor: str = auto(
        "validation metric that picks the best epoch, or the last one where it cannot tell the two apart: the log-loss at the best single temperature "
        "(the usual one), the plain log-loss, the accuracy, the mean over classes of F1 or of recall (balanced accuracy), or the strict F1 "
        "of entities (theirs)",
        choices=tuple(MONITORS),
        affects="value",
    )
    patience_epochs: int = auto(
        "stop after this many epochs without a better one; 0 to never stop", low=0, affects="value"
    )


@dataclass(frozen=True)
class HeadPhaseRecipe(PhaseRecipe):
    """The first phase: the head alone, on the frozen backbone in inference mode."""


@dataclass(frozen=True)
class FinetunePhaseRecipe(PhaseRecipe):
    """The second phase: the head and all layers above the unfreeze point, with small rates."""

    unfreeze_from: str = auto(
        "fine-tune all layers above this unfreeze point (`kerastl backbones NAME` lists them); backbone unfreezes none (no second "
        "phase), input all",
        affects="features",
    )
    layer_decay: float = auto(
        "the learning rate shrinks by this factor from one block to the one below it",
        above=0,
        high=1,
        affects="value",
    )
    batchnorm: str = key(
        "frozen",
        "BatchNorm of unfrozen blocks: frozen, affine (gamma and beta train, statistics stay) or train (all of it)",
        choices=("frozen", "affine", "train"),
        affects="step",
    )


@dataclass(frozen=True)
class _Augment:
    """Keys of `[augment]` for every kind of example."""

    level: str = auto(
        "strength of augmentation: sets the defaults of the changes below", choices=tuple(LEVELS)
    )
    views: int = auto(
        "versions of each training example: the example itself first, then augmented ones",
        low=1,
    )
    seed: int = key(
        0,
        "source of the random changes, apart from the run's seed, so that runs with other seeds share stored views",
        low=0,
        high=2**31 - 1,
    )


@dataclass(frozen=True)
class AugmentRecipe(AugmentKeys, _Augment):
    """Random changes to training examples; never part of the saved model. Knobs left out follow the level."""

    AFFECTS: ClassVar[Affects] = "features"


@dataclass(frozen=True)
class CacheRecipe:
    """The store of the frozen prefix's outputs, for all epochs, phases and runs."""

    AFFECTS: ClassVar[Affects] = "run"
    mode: str = key(
        "auto",
        "auto keeps on disk where there is room, else in memory, else nothing, and says so; disk keeps for later runs; memory for this "
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
    """Calibration of the winner on validation, and the threshold below which it does not answer."""

    AFFECTS: ClassVar[Affects] = "run"
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
        None, "share of examples that are to be accepted, the surest ones", above=0, below=1
    )
