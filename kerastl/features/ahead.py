"""Images made while the network computes, and which of the two waits for the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kerastl.features.views import Views


class Watch:
    """Whether the forward pass waits for images, or they for it."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.started = time.perf_counter()

    def limit(self) -> str:
        """What holds the work up, in a few words for the progress bar."""
        share = self.waited / max(1e-9, time.perf_counter() - self.started)
        return f"limit: images ({share:.0%} waiting)" if share > 0.3 else "limit: network"


def images_ahead(
    views: Views, view: int, batches: Sequence[np.ndarray], watch: Watch
) -> Iterator[np.ndarray]:
    """The images of each batch, the next one made while the last one is computed with."""
    with ThreadPoolExecutor(1) as pool:
        making = views.in_turn(batches, view)
        coming = [pool.submit(next, making) for _ in batches[:2]]
        for number in range(len(batches)):
            began = time.perf_counter()
            images = coming.pop(0).result()
            watch.waited += time.perf_counter() - began
            if number + 2 < len(batches):
                coming.append(pool.submit(next, making))
            yield images
