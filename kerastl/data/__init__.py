"""Labelled images from wherever they lie, and their division into train, validation and test."""

from kerastl.data.examples import Examples, Split, Splits, label_counts, without
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.data.tfds_listing import prepared_datasets

__all__ = [
    "Examples",
    "Split",
    "Splits",
    "label_counts",
    "make_splits",
    "open_examples",
    "prepared_datasets",
    "without",
]
