"""Examples whose bytes are held in memory, known by a digest of what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kerastl.data.duplicates import copies_of
from kerastl.data.examples import Examples, fingerprint, text_column
from kerastl.recipe.schema import DataRecipe


def examples_in_memory(
    raw: Sequence[bytes],
    digests: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    splits: np.ndarray,
    groups: np.ndarray,
    *,
    noun: str,
    origin: str,
    place: str,
    recipe: DataRecipe,
    warnings: tuple[str, ...] = (),
) -> Examples:
    """Examples in the order in which they are given; neither that nor other examples decide which split one falls into.

    Args:
        raw: the bytes of each of n examples.
        digests: int64 [n], equal where examples are; see `kerastl.data.duplicates.digest_of`.
        labels: int32 [n], or uint8 [n, classes].
        class_names: of the labels.
        splits: object [n] of str; '' for what is to be carved.
        groups: object [n] of str; '' for none.
        noun: one example, for messages.
        origin: the source in words.
        place: what the identities are relative to.
        recipe: names the source.
        warnings: about the source.
    """
    held = np.empty(len(raw), object)
    held[:] = raw
    ids = text_column(_names(digests))
    return Examples(
        ids=ids,
        labels=labels,
        class_names=class_names,
        groups=groups,
        splits=splits,
        raw=lambda indices: iter(held[indices]),
        noun=noun,
        origin=origin,
        place=place,
        stamps=digests[:, None],
        fingerprint=fingerprint((ids, splits, groups), (labels, digests), *class_names),
        warnings=warnings,
        contents=copies_of(digests),
        recipe=recipe,
    )


def _names(digests: np.ndarray) -> list[str]:
    """A name for each digest; those of equal examples are numbered."""
    seen: Counter[int] = Counter()
    names = []
    for digest in digests.tolist():
        seen[digest] += 1
        names.append(f"{digest & (2**64 - 1):016x}" + (f"-{seen[digest]}" if seen[digest] > 1 else ""))
    return names
