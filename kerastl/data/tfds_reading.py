"""Reads what TensorFlow Datasets stores on this machine, which goes from front to back only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastl.errors import DataError
from kerastl.pipeline import untuned

# Stored rows that are read while others are worked on.
PREFETCHED = 16


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of one stored split; `stored` are the increasing positions in it that have a label."""

    split: str
    start: int
    stop: int
    stored: np.ndarray


def rows_of(
    builder: Any, split: str, positions: np.ndarray, encoded: str, *others: str
) -> Iterator[dict[str, Any]]:
    """Rows at increasing positions (int64 [n], n > 0) of a stored split; the field `encoded` as it is stored.

    Raises:
        DataError: a file is damaged or cannot be read. Of what lies behind that place no row could be told from another.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    start, stop = int(positions[0]), int(positions[-1]) + 1
    wanted = np.isin(np.arange(start, stop), positions, assume_unique=True)
    decoders = tfds.decode.PartialDecoding(
        dict.fromkeys((encoded, *others), True), decoders={encoded: tfds.decode.SkipDecoding()}
    )
    rows = builder.as_dataset(
        split=tfds.core.ReadInstruction(split, from_=start, to=stop, unit="abs"),
        shuffle_files=False,
        decoders=decoders,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    )
    # Those between are left out before they become Python's.
    rows = tf.data.Dataset.zip(tf.data.Dataset.from_tensor_slices(wanted), rows).filter(
        lambda chosen, row: chosen
    )
    count = 0
    try:
        for _, row in untuned(rows.prefetch(PREFETCHED)).as_numpy_iterator():
            yield row
            count += 1
    except tf.errors.OpError as error:
        reason = (error.message or type(error).__name__).split("}} ")[-1].split(" [Op:")[0][:200]
        damaged = isinstance(
            error, (tf.errors.DataLossError, tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError)
        )
        raise _unread(builder, reason, damaged) from error
    if count < len(positions):
        raise _unread(builder, f"split '{split}' has fewer examples than its description says", damaged=True)


def raw_reader(builder: Any, field: str, parts: Sequence[Part]) -> Callable[[np.ndarray], Iterator[bytes]]:
    """`Examples.raw` of the examples with labels of some stretches, one behind another."""
    ends = np.cumsum([len(part.stored) for part in parts])

    def raw(indices: np.ndarray) -> Iterator[bytes]:
        wanted = np.asarray(indices, dtype=np.int64)
        if (np.diff(wanted) <= 0).any():
            raise ValueError("indices must increase strictly: TFDS can only be read from front to back")
        return (
            row[field]
            for part, end in zip(parts, ends.tolist(), strict=True)
            if len(inside := _inside(wanted, end - len(part.stored), end))
            for row in rows_of(builder, part.split, part.stored[inside], field)
        )

    return raw


def _inside(wanted: np.ndarray, start: int, stop: int) -> np.ndarray:
    return wanted[(wanted >= start) & (wanted < stop)] - start


def _unread(builder: Any, reason: str, damaged: bool) -> DataError:
    files = f"Files of the TFDS set {builder.info.full_name} in {builder.data_dir}"
    if damaged:
        return DataError(f"{files} are damaged: {reason}. Prepare it again, in an empty data.data_dir")
    return DataError(f"{files} cannot be read: {reason}")
