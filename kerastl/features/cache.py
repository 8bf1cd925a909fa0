"""Where features are kept: on disk, in memory, or nowhere; chosen by what it costs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kerastl.features.store import FeatureStore
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.progress import Progress, size_text
from kerastl.recipe import CacheRecipe
from kerastl.writing import NoSpaceError, WriteError

DIRECTORY_VARIABLE = "KERASTL_CACHE_DIR"
# A disk slower than this makes keeping dearer than a forward pass only for the earliest cuts.
DISK_BYTES_PER_SECOND = 200e6
MEMORY_SHARE = 0.5
# What is kept serves later runs as well: it may cost this run more than it saves it, up to this factor.
LATER_RUNS = 2.0
MANY_FILES = 16_384


@dataclass(frozen=True)
class Keeping:
    """What is kept where: `disk`, `memory` or `live`, for pooled features and for activations."""

    pooled: str
    activations: str

    def keeps(self, kind: str) -> bool:
        """Whether units of that kind are kept at all."""
        return getattr(self, kind) != "live"


class Cache:
    """The store of a run, and what the run holds of it; use it as a context manager.

    Args:
        recipe: the `[cache]` table.
        scratch: a folder that is removed with the run, for what is not kept beyond it.

    Attributes:
        dtype: of activations; `float16` until a value does not fit.
    """

    def __init__(self, recipe: CacheRecipe, scratch: Path) -> None:
        self.recipe = recipe
        self.dtype = "float32" if recipe.dtype == "float32" else "float16"
        self.store = FeatureStore(cache_directory(recipe), int(recipe.max_gigabytes * 1e9))
        self._scratch = FeatureStore(scratch, max_bytes=sys.maxsize, disk_share=1.0)
        self._pixels: dict[UnitKey, contextlib.ExitStack] = {}
        self._features = contextlib.ExitStack()
        _allow_many_files()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def widened(self) -> bool:
        """Whether activations are kept in thirty-two bits because they did not fit sixteen."""
        return self.dtype == "float32" and self.recipe.dtype != "float32"

    def release(self) -> None:
        """Let go of everything held, so that it may be evicted."""
        self.release_features()
        for stack in self._pixels.values():
            stack.close()
        self._pixels.clear()

    def release_features(self) -> None:
        """Let go of all features."""
        self._features.close()

    def widen(self) -> None:
        """Keep activations in thirty-two bits from now on; lets go of all features."""
        self.release_features()
        self.dtype = "float32"

    def choose(
        self,
        keys: Sequence[Mapping[str, UnitKey]],
        finetune_passes: int,
        rate: Callable[[], float],
        progress: Progress,
        excluded: Collection[str] = (),
    ) -> Keeping:
        """How to keep some units; says in one line what was chosen, and why.

        Args:
            keys: pooled features and activations of each view.
            finetune_passes: forward passes of the fine-tune phase if activations are not kept.
            rate: measures images a second of the forward pass; called where it matters.
            progress: listens.
            excluded: `disk` or `memory`, where it was tried and there was no room.

        Raises:
            NoSpaceError: the recipe asks for the disk, and has no room there.
        """
        mode = self.recipe.mode
        if mode == "off":
            progress.note("Features: computed live, anew in every epoch (cache.mode = off)")
            return Keeping("live", "live")
        if mode == "memory":
            return Keeping("memory", "memory")
        wanted = [key for of_view in keys for key in of_view.values()]
        missing = [key for key in wanted if not self.store.has(key)]
        if not missing:
            return Keeping("disk", "disk")
        needed, room = sum(key.bytes for key in missing), self._room(wanted)
        if mode == "disk" and not excluded:
            if needed <= room:
                return Keeping("disk", "disk")
            raise NoSpaceError(
                f"The features need {size_text(needed)}, and {self.store.root} has room for {size_text(room)} (cache.max_gigabytes, "
                'and half of the free disk). Raise or free it, or set cache.mode = "auto"'
            )
        memory = 0 if "memory" in excluded else int(MEMORY_SHARE * available_memory())
        room = 0 if "disk" in excluded else room
        passes = sum(
            max(key.rows for key in gaps) for of_view in keys if (gaps := _missing(of_view, missing))
        )
        images_per_second = rate()
        kept_seconds = passes / images_per_second + needed / DISK_BYTES_PER_SECOND
        live_seconds = (passes + finetune_passes) / images_per_second
        costs = f"{size_text(needed)}, {_minutes(kept_seconds)}; live {_minutes(live_seconds)}"
        if live_seconds * LATER_RUNS < kept_seconds and not any(key.kind == "pooled" for key in missing):
            choice, why = Keeping("disk", "live"), "activations computed live: cheaper than to keep them"
        elif needed <= room:
            choice, why = Keeping("disk", "disk"), f"kept in {self.store.root}"
        elif needed <= memory:
            choice, why = (
                Keeping("memory", "memory"),
                f"kept in memory: the store has room for {size_text(room)}",
            )
        else:
            pooled = [key for key in missing if key.kind == "pooled"]
            fits = sum(key.bytes for key in pooled) <= room
            choice = Keeping("disk" if fits else "memory", "live")
            why = f"activations computed live: room for {size_text(room)} on disk and {size_text(memory)} in memory"
        progress.note(f"Features: {why} ({costs})")
        return choice

    def hold_pixels(self, key: UnitKey, progress: Progress) -> Unit | MemoryUnit:
        """The unit of a split's decoded images, with room made for it, until `release`."""
        if self.recipe.mode == "memory":
            return MemoryUnit(key)
        kept = self.recipe.mode == "disk" or (
            self.recipe.mode == "auto" and (self.store.has(key) or key.bytes <= self._room([key]))
        )
        for store in (self.store, self._scratch) if kept else (self._scratch,):
            stack = self._pixels[key] = contextlib.ExitStack()
            try:
                unit = self._lease(stack, store, [key], progress)[key]
                if not unit.complete:
                    store.make_room([unit])
                return unit
            except WriteError:
                stack.close()
                if store is self._scratch or self.recipe.mode == "disk":
                    raise
        raise AssertionError("the scratch folder either takes the images or raises")

    def forget_pixels(self, key: UnitKey) -> None:
        """Let go of a unit of decoded images and remove it, unless somebody else uses it."""
        self._pixels.pop(key, contextlib.ExitStack()).close()
        self.store.remove(key.name)

    def hold(
        self, keys: Sequence[UnitKey], keeping: Keeping, progress: Progress
    ) -> dict[UnitKey, Unit | MemoryUnit]:
        """The units under these keys, until `release`, with room made for those that are to be built.

        What is kept already is read from the disk, wherever the rest goes.

        Raises:
            NoSpaceError: there is no room for them.
        """
        in_memory = [
            key
            for key in keys
            if getattr(keeping, key.kind) == "memory"
            and not (self.recipe.mode == "auto" and self.store.has(key))
        ]
        on_disk = [key for key in keys if key not in set(in_memory)]
        leased = self._lease(self._features, self.store, on_disk, progress) if on_disk else {}
        self.store.make_room([unit for unit in leased.values() if not unit.complete])
        return {**leased, **{key: MemoryUnit(key) for key in in_memory}}

    def _lease(
        self,
        stack: contextlib.ExitStack,
        store: FeatureStore,
        keys: Sequence[UnitKey],
        progress: Progress,
    ) -> dict[UnitKey, Unit]:
        said: list[UnitKey] = []

        def waiting(key: UnitKey) -> None:
            if not said:
                progress.note("Waiting for another process that computes the same")
            said.append(key)

        return stack.enter_context(store.lease(keys, waiting))

    def _room(self, keeping: Sequence[UnitKey]) -> int:
        try:
            return self.store.room(evicting=True, keeping=keeping)
        except OSError:
            return 0


def cache_directory(recipe: CacheRecipe) -> Path:
    """The folder of the store: the recipe's, the environment's, or the user's cache folder (XDG)."""
    named = recipe.directory or os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kerastl"


def available_memory() -> int:
    """Bytes that may be taken without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kilobytes) * 1024
    except (OSError, StopIteration, ValueError):
        return 0


def _missing(of_view: Mapping[str, UnitKey], missing: Sequence[UnitKey]) -> list[UnitKey]:
    return [key for key in of_view.values() if key in set(missing)]


def _allow_many_files() -> None:
    """Each unit takes two file descriptors; systems allow few until one asks for more."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < MANY_FILES:
            limit = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"
