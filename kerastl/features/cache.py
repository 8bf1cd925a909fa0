"""Where features are kept: on disk, in memory, or nowhere; chosen by what it costs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from kerastl.features.choosing import Demand, Keeping, Room, choose, demand_of
from kerastl.features.memory import available_memory
from kerastl.features.store import FeatureStore, allow_many_files
from kerastl.features.unit import MemoryUnit, Unit, UnitKey
from kerastl.progress import Progress, size_text
from kerastl.recipe import CacheRecipe
from kerastl.writing import NoSpaceError, WriteError

DIRECTORY_VARIABLE = "KERASTL_CACHE_DIR"
MEMORY_SHARE = 0.5
# Who asks for the memory may have more of it than is taken unasked; training needs some, too.
ASKED_MEMORY_SHARE = 0.8


class Leased:
    """What one call of `extract` holds of the store, until it hands it to the cache or lets go.

    Args:
        stack: lets go of it.
        keys: pooled features and activations of each view.
        units: those that are held, for reading if they are complete, else for building.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        keys: Sequence[Mapping[str, UnitKey]],
        units: Mapping[UnitKey, Unit | MemoryUnit],
    ) -> None:
        self.stack, self.keys, self.units = stack, keys, units

    @property
    def missing(self) -> list[UnitKey]:
        """Those that are not complete."""
        every = [key for of_view in self.keys for key in of_view.values()]
        return [key for key in every if key not in self.units or not self.units[key].complete]

    def gaps(self, key: UnitKey) -> Collection[int]:
        """The shards of a unit that are still to be built."""
        unit = self.units.get(key)
        return set(unit.missing) if unit else range(key.shard_count)


class Cache:
    """The store of a run, and what the run holds of it; use it as a context manager.

    Args:
        recipe: the `[cache]` table.
        scratch: a folder that is removed with the run, for what is not kept beyond it.
    """

    def __init__(self, recipe: CacheRecipe, scratch: Path) -> None:
        self.recipe = recipe
        self.store = FeatureStore(cache_directory(recipe), int(recipe.max_gigabytes * 1e9))
        self._scratch = FeatureStore(scratch, max_bytes=sys.maxsize, disk_share=1.0, shared=False)
        self._pixels: dict[UnitKey, contextlib.ExitStack] = {}
        self._features = contextlib.ExitStack()
        self._memory: dict[UnitKey, MemoryUnit] = {}
        self._wide: set[str] = set()
        allow_many_files()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of everything held, so that it may be evicted."""
        self._features.close()
        for stack in self._pixels.values():
            stack.close()
        self._pixels.clear()
        self._memory.clear()

    def dtype_at(self, place: str) -> str:
        """Of activations at a cut: `float16`, until a value there does not fit."""
        return "float32" if self.recipe.dtype == "float32" or place in self._wide else "float16"

    def widen(self, place: str) -> None:
        """Keep activations at a cut in thirty-two bits from now on."""
        self._wide.add(place)

    def lease(
        self, keys: Sequence[Mapping[str, UnitKey]], excluded: Collection[str], progress: Progress
    ) -> Leased:
        """Hold the units of a call, where the disk is possible: what another process builds is waited for.

        Args:
            keys: pooled features and activations of each view.
            excluded: `disk` or `memory`, where it was tried and there was no room.
            progress: listens.

        Raises:
            WriteError: the store cannot be written.
        """
        wanted = [key for of_view in keys for key in of_view.values()]
        remembered = {key: self._memory[key] for key in wanted if key in self._memory}
        remembered = {key: unit for key, unit in remembered.items() if unit.complete}
        on_disk = self.recipe.mode not in ("off", "memory")
        every = [key for key in wanted if on_disk and key not in remembered]
        present = [key for key in every if self.store.has(key)]
        possible = "disk" not in excluded and (
            self.recipe.mode == "disk" or self._may_build(every, some=True)
        )
        with contextlib.ExitStack() as stack:
            units = self._lease(stack, self.store, every if possible else present, progress)
            for unit in units.values():
                if possible and not unit.complete:
                    unit.recover()
                elif not unit.complete:  # found damaged, and cannot be mended
                    unit.release()
            held = {key: unit for key, unit in units.items() if possible or unit.complete}
            return Leased(stack.pop_all(), keys, {**remembered, **held})

    def keep(self, leased: Leased) -> None:
        """Hold what a call holds until `release`."""
        self._features.callback(leased.stack.pop_all().close)

    def choose(
        self,
        leased: Leased,
        live_passes: int,
        rate: Callable[[], float],
        progress: Progress,
        excluded: Collection[str] = (),
    ) -> Keeping:
        """How to keep some units; says in one line what was chosen, and why.

        Args:
            leased: which ones, and what the store holds of them.
            live_passes: forward passes of the fine-tune phase if activations are not kept.
            rate: measures images a second of the forward pass; called where it matters.
            progress: listens.
            excluded: `disk` or `memory`, where it was tried and there was no room.

        Raises:
            NoSpaceError: the recipe asks for the disk or the memory, and has no room there.
        """
        mode, missing = self.recipe.mode, leased.missing
        if mode == "off":
            progress.note("Features: computed live, anew in every epoch (cache.mode = off)")
            return Keeping("live", "live")
        if mode == "memory" and excluded:
            return Keeping("live", "live")
        if mode == "memory":
            _check_memory(sum(key.bytes for key in missing), "features")
            return Keeping("memory", "memory")
        if not missing:
            return Keeping("disk", "disk")
        room = self._room_for(leased, excluded)
        demand = demand_of(leased.keys, set(missing), leased.gaps, self.store.lacking, live_passes)
        lacking = demand.pooled.disk + demand.activations.disk
        if mode == "disk" and not excluded:
            if lacking <= room.disk:
                return Keeping("disk", "disk")
            raise NoSpaceError(
                f"The features need {size_text(lacking)}, and {self.store.root} has room for {size_text(room.disk)} (cache.max_gigabytes, "
                'and half of the free disk). Raise or free it, or set cache.mode = "auto"'
            )
        if not demand.passes and lacking <= room.disk:
            return Keeping("disk", "disk")  # all is computed: a build was stopped before its last step
        measured = rate() if demand.passes else math.inf
        keeping, why = choose(demand, room, measured, str(self.store.root))
        progress.note(f"Features: {why} ({_costs(demand, measured)})")
        return keeping

    def units(self, leased: Leased, keeping: Keeping) -> dict[UnitKey, Unit | MemoryUnit]:
        """The units that are kept, with room made for those that are to be built; lets go of the others.

        What is kept already is read from the disk, wherever the rest goes.

        Raises:
            NoSpaceError: there is no room for them.
        """
        found: dict[UnitKey, Unit | MemoryUnit] = {}
        to_build: list[Unit] = []
        for kind, key in (item for of_view in leased.keys for item in of_view.items()):
            place, unit = keeping.of(kind), leased.units.get(key)
            if unit and (place == "disk" or (place == "memory" and unit.complete)):
                found[key] = unit
                to_build += [unit] if isinstance(unit, Unit) and not unit.complete else []
                continue
            if isinstance(unit, Unit):
                unit.release()
            if place != "live":
                found[key] = self._memory[key] = MemoryUnit(key)
        self.store.make_room(to_build)
        return found

    def _room_for(self, leased: Leased, excluded: Collection[str]) -> Room:
        every = [key for of_view in leased.keys for key in of_view.values()]
        # Where a unit could not be held it cannot be built either.
        possible = "disk" not in excluded and all(key in leased.units for key in leased.missing)
        memory = 0 if "memory" in excluded else int(MEMORY_SHARE * available_memory())
        return Room(self._room(every) if possible else -1, memory)

    def places_of_pixels(
        self, key: UnitKey, known: UnitKey, reading: str, in_turn_only: bool
    ) -> Iterator[tuple[UnitKey, str]]:
        """What to keep of a split's images and where, the best first: `disk`, `memory`, `scratch` or `nowhere`.

        Args:
            key: the decoded images.
            known: which of them can be read.
            reading: `again`, or another word where they are read no more than once after this.
            in_turn_only: to read one image means to read all before it, so reading them again needs them kept.

        Raises:
            NoSpaceError: the recipe asks for the memory, and there is not enough.
        """
        mode = self.recipe.mode
        on_disk = mode in ("auto", "disk")
        if on_disk and self.store.has(key):
            yield key, "disk"
        elif reading == "again":
            if mode == "memory":
                _check_memory(key.bytes, "decoded images")
            if mode == "disk" or (on_disk and self._may_build([key])):
                yield key, "disk"
            if mode == "memory" or key.bytes <= MEMORY_SHARE * available_memory():
                yield key, "memory"
            if in_turn_only:
                yield key, "scratch"
        elif reading == "in turn" and not (on_disk and self.store.has(known)) and known not in self._memory:
            yield known, "nowhere"
        if on_disk and (self.store.has(known) or self._may_build([known])):
            yield known, "disk"
        yield known, "memory"

    def hold_pixels(self, key: UnitKey, place: str, progress: Progress) -> Unit | MemoryUnit:
        """The unit of a split's images at a place, with room made for it, until `release`."""
        if place == "memory":
            return self._memory.setdefault(key, MemoryUnit(key))
        store = self.store if place == "disk" else self._scratch
        stack = self._pixels[key] = contextlib.ExitStack()
        try:
            unit = self._lease(stack, store, [key], progress)[key]
            if not unit.complete:
                store.make_room([unit])
            return unit
        except WriteError:
            stack.close()
            raise

    def forget_pixels(self, key: UnitKey) -> None:
        """Let go of a unit of a split's images and remove it, unless somebody else uses it."""
        self._memory.pop(key, None)
        self._pixels.pop(key, contextlib.ExitStack()).close()
        self.store.remove(key.name)

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

        return stack.enter_context(store.lease(keys, waiting)) if keys else {}

    def _may_build(self, keys: Sequence[UnitKey], some: bool = False) -> bool:
        """Whether the disk has room for these units, or for some of them."""
        lacking = self.store.lacking(keys)
        return self.store.writable and (not lacking or self._room(keys) >= (1 if some else lacking))

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


def _check_memory(wanted: int, what: str) -> None:
    free = int(ASKED_MEMORY_SHARE * available_memory())
    if wanted > free:
        raise NoSpaceError(
            f"cache.mode = memory: the {what} need {size_text(wanted)}, and {size_text(free)} may be taken "
            f"({ASKED_MEMORY_SHARE:.0%} of the memory that this machine, or its container, has left). Set cache.mode to auto or "
            "disk, fewer augment.views, a smaller backbone.image_size, or a later finetune_phase.unfreeze_from"
        )


def _costs(demand: Demand, rate: float) -> str:
    missing = size_text(demand.pooled.bytes + demand.activations.bytes)
    return f"{missing}, {_minutes(demand.kept_seconds(rate))}; live {_minutes(demand.live_seconds(rate))}"


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"
