"""From a recipe to decoded, split images: the part that every job begins with."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerastl.data.examples import (
    SPLIT_NAMES,
    Examples,
    Split,
    Splits,
    label_counts,
    listed,
    spread_positions,
    without,
)
from kerastl.data.folder import check_apart
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.features.cache import Cache
from kerastl.features.inputs import AGAIN, Inputs, decode_split
from kerastl.features.views import FrozenViews, Views
from kerastl.modality import modality_of
from kerastl.modality.image.convert import bits_used
from kerastl.modality.image.files import CONVERTED
from kerastl.modality.recipe import NO_AUGMENTATION
from kerastl.progress import Progress
from kerastl.recipe import Asked, DataRecipe, Recipe, Settings, resolve
from kerastl.wording import counted

NAMED_UNREADABLE = 5
IMAGES_MEASURED = 64
# Beyond so many epochs for each view `view_warnings` warns.
EPOCHS_A_VIEW = 3
# NVIDIA's processors have units for bfloat16 from Ampere on; older ones (T4, V100) emulate it.
BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Prepared:
    """Split and decoded images.

    Attributes:
        recipe: fully resolved.
        splits: the examples of each split that could be read.
        pixels: the decoded examples of each split, read or decoded where they are asked for.
        unreadable: identity of an image -> why it was left out.
    """

    recipe: Settings
    splits: Splits
    pixels: dict[str, Inputs]
    unreadable: dict[str, str]

    @property
    def converted(self) -> dict[str, int]:
        """Format -> how many of the images that were read so far went through Pillow, as TensorFlow does not decode it."""
        total: Counter[str] = Counter()
        for pixels in self.pixels.values():
            total.update(pixels.converted)
        return dict(total)

    def views(self, split: str) -> Views:
        """The images of a split with their labels and the recipe's augmentation."""
        part: Split = getattr(self.splits, split)
        classes = len(self.splits.class_names)
        inputs = self.pixels[split]
        return Views(
            inputs, inputs.modality, part.labels, classes, part.ids, self.recipe.augment, self.recipe.task
        )

    def frozen_views(self, split: str) -> FrozenViews:
        """The same with how many of them are wanted: all of the recipe's for training, else the image itself."""
        part: Split = getattr(self.splits, split)
        count = self.recipe.augment.views if split == "train" else 1
        pixels, about = self.pixels[split], {"data": part.examples.origin}
        facts = pixels.modality.facts()
        return FrozenViews(split, self.views(split), count, pixels.contents, facts, about)


def open_splits(
    recipe: Recipe, *written: Path | str, examples: Examples | None = None
) -> tuple[Settings, Splits]:
    """Index and split the recipe's data, and fill in what the recipe leaves to the rule.

    Args:
        recipe: what the user asks for.
        written: folders that will be written to.
        examples: those of the recipe's data, where they are open already, or were handed over in Python.

    Raises:
        DataError: the data cannot be used, or a folder to write to lies where the next run would take it for a class.
    """
    check_apart(recipe.data.source, *written)
    splits = make_splits(open_examples(recipe.data) if examples is None else examples, recipe.data)
    recipe, splits = with_significant_bits(recipe, splits)
    return resolve(recipe, splits.train.count, len(splits.class_names)), splits


def with_significant_bits(recipe: Asked, splits: Splits) -> tuple[Asked, Splits]:
    """Fill in `data.significant_bits` from some training images; where it is less than 16, a warning says so."""
    if recipe.data.significant_bits is not None:
        return recipe, splits
    split = splits.train
    if split.examples.stamps.shape[1]:
        positions = spread_positions(split.count, IMAGES_MEASURED)
    else:
        positions = np.arange(min(split.count, IMAGES_MEASURED))  # TFDS reads from the front
    images = split.examples.encoded(split.indices[positions]).ignore_errors().as_numpy_iterator()
    bits = bits_used(images)
    if bits < 16:
        warning = (
            f"Images of 16 bits use only {bits} of them, as {counted(len(positions), 'training image')} show: {2**bits - 1:,} and "
            "more is read as white, here and by the exported model. Set data.significant_bits for another range."
        )
        splits = dataclasses.replace(splits, warnings=(*splits.warnings, warning))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, significant_bits=bits)), splits


def view_warnings(recipe: Settings) -> tuple[str, ...]:
    """What may surprise of a recipe's views: changes beside the level `none`, and few views that are shown again and again.

    In 60 epochs on 550 CIFAR-10 images six views were learnt by heart: training accuracy 0.65, against 0.41 with a new view in
    each epoch, and validation log-loss 1.84 against 1.73 (`mobilenet_025`, one seed).
    """
    settings, views = recipe.finetune_phase, recipe.augment.views
    epochs = settings.epochs
    changes = [knob for knob, neutral in NO_AUGMENTATION.items() if getattr(recipe.augment, knob) != neutral]
    if recipe.augment.level == "none" and changes and views > 1:
        return (
            f"augment.level = 'none', but the recipe sets {', '.join(changes)} itself, and its views are changed by that; "
            "--set augment.views=1 shows each image as it is",
        )
    if views == 1 or epochs <= EPOCHS_A_VIEW * views or settings.unfreeze_from in ("input", "backbone"):
        return ()
    return (
        f"{epochs} fine-tune epochs show the same {views} views of each image again and again, which may be learnt by heart: "
        f"raise augment.views (to {-(-epochs // EPOCHS_A_VIEW)} or more; each costs a forward pass and its place in the store)",
    )


def decode_splits(
    recipe: Settings,
    splits: Splits,
    cache: Cache,
    progress: Progress,
    names: Collection[str] = SPLIT_NAMES,
    reading: str = AGAIN,
) -> Prepared:
    """Make images readable, decoded; unreadable ones are left out and listed.

    Args:
        recipe: resolved.
        splits: from `open_splits`.
        cache: keeps the decoded pixels.
        progress: listens.
        names: the splits to decode; the images of others are not even opened.
        reading: how images are read; see `kerastl.features.inputs.decode_split`.

    Raises:
        DataError: where more than `data.max_unreadable_fraction` of the images cannot be read, or none of
            a split or of a training class are left.
    """
    modality = modality_of(recipe)
    pixels: dict[str, Inputs] = {}
    kept: dict[str, Split] = {split.name: split for split in splits}
    unreadable: dict[str, str] = {}
    decoded = [split for split in splits if split.name in names]
    for split in decoded:
        pixels[split.name], reasons = decode_split(split, modality, cache, progress, reading)
        ids = split.ids
        unreadable |= {str(ids[position]): reason for position, reason in reasons.items()}
        kept[split.name] = without(split, reasons)
        if reasons and len(reasons) == split.count:
            raise DataError(
                f"None of the {split.count} {split.name} images can be read; the first is {ids[0]}: {reasons[0]}. "
                "Mend or replace these files"
            )
    warnings = reading_warnings(unreadable.values(), {})
    for warning in warnings:
        progress.warn(warning)
    readable = dataclasses.replace(
        splits,
        train=kept["train"],
        validation=kept["validation"],
        test=kept["test"],
        warnings=(*splits.warnings, *warnings),
    )
    skipped = splits.train.examples.skipped_pictures
    _check_unreadable(unreadable, skipped, sum(split.count for split in decoded), recipe.data)
    _check_classes(readable.train, readable.class_names)
    return Prepared(recipe, readable, pixels, unreadable)


@contextmanager
def lost_images_named(prepared: Prepared) -> Iterator[None]:
    """While images may be decoded within TensorFlow, which would pass on no more than words of what went wrong.

    Raises:
        DataError: an image cannot be read any more.
    """
    try:
        yield
    except tf.errors.OpError:
        for pixels in prepared.pixels.values():
            if pixels.failure:
                raise pixels.failure from None
        raise


@contextmanager
def precision_of(recipe: Recipe, progress: Progress = Progress()) -> Iterator[str]:
    """Build networks in the recipe's arithmetic; yields `float32` or `mixed_bfloat16`, and says why to who listens."""
    precision, why = recipe.precision, f"precision = {recipe.precision}"
    if precision == "auto":
        precision, because = _precision_here()
        why += f": {because}"
    progress.note(f"Arithmetic: {precision} ({why})")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield precision
    finally:
        keras.config.set_dtype_policy(before)


def _precision_here() -> tuple[str, str]:
    """The arithmetic for this machine, and why."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        # On processors bfloat16 pays only with special instructions, and not for every network.
        return "float32", "no GPU"
    for gpu in gpus:
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability")
        if capability is None or tuple(capability) < BFLOAT16_CAPABILITY:
            has = (
                "unknown compute capability"
                if capability is None
                else "compute capability {}.{}".format(*capability)
            )
            return "float32", f"{gpu.name.removeprefix('/physical_device:')} has {has}, bfloat16 needs 8.0"
    return "mixed_bfloat16", "all GPUs have units for it"


def make_repeatable(recipe: Recipe) -> None:
    """Seed everything; in deterministic mode also forbid operations whose result depends on timing."""
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()


def reading_warnings(reasons: Iterable[str], converted: Mapping[str, int]) -> tuple[str, ...]:
    """What the user has to know of the images that were decoded: those left out, and those that took another way.

    Args:
        reasons: why images were left out.
        converted: format -> how many went through Pillow.
    """
    left_out = Counter(reasons)
    warnings = []
    for word, kinds in (("left out, because they cannot be read", left_out), (CONVERTED, converted)):
        if kinds:
            parts = ", ".join(
                f"{count:,} {kind}" for kind, count in Counter(kinds).most_common(NAMED_UNREADABLE)
            )
            more = ", ..." if len(kinds) > NAMED_UNREADABLE else ""
            warnings.append(f"{counted(sum(kinds.values()), 'image')} ({parts}{more}) {word}.")
    return tuple(warnings)


def _check_unreadable(unreadable: dict[str, str], skipped: int, total: int, data: DataRecipe) -> None:
    lost, total = len(unreadable) + skipped, total + skipped
    share = lost / max(total, 1)
    if share <= data.max_unreadable_fraction:
        return
    named = "; ".join(f"{name} ({reason})" for name, reason in list(unreadable.items())[:NAMED_UNREADABLE])
    raise DataError(
        f"{lost} of {total} images cannot be read, a share of {share:.1%}; "
        f"data.max_unreadable_fraction allows {data.max_unreadable_fraction:.1%}. "
        + (f"{skipped} were left out before, as the warnings say. " if skipped else "")
        + (f"The first: {named}. " if named else "")
        + "Replace or remove these files, or raise that key"
    )


def _check_classes(train: Split, class_names: tuple[str, ...]) -> None:
    counts = label_counts(train.labels, len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"No readable training image is left of {listed(empty)}. Add images, or remove the class"
        )
