"""Which features to keep, and where: what is missing, where there is room for it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from kerastl.features.unit import UnitKey
from kerastl.progress import size_text

# A disk slower than this makes keeping dearer than a forward pass only for the earliest cuts.
DISK_BYTES_PER_SECOND = 200e6
# What is kept serves later runs as well: it may cost this run more than it saves it, up to this factor.
LATER_RUNS = 2.0
Gaps = Callable[[UnitKey], Collection[int]]


@dataclass(frozen=True)
class Keeping:
    """What is kept where: `disk`, `memory` or `live`, for pooled features and for activations."""

    pooled: str
    activations: str

    def of(self, kind: str) -> str:
        """Where units of that kind are kept."""
        return getattr(self, kind)


@dataclass(frozen=True)
class Missing:
    """What is missing of one kind of features.

    Attributes:
        bytes: of the units that are not complete, as many as they would take in memory.
        disk: of these, what the disk still has to find room for; builds that were begun have theirs.
    """

    bytes: int
    disk: int


@dataclass(frozen=True)
class Room:
    """Bytes that may be taken; `disk` is negative where nothing may be built there, not even what has its room."""

    disk: int
    memory: int


@dataclass(frozen=True)
class Demand:
    """What is missing, and what it takes to make it.

    Attributes:
        pooled: the pooled features.
        activations: the activations.
        passes: images to run for both.
        pooled_passes: images to run for pooled features alone.
        live_passes: images to run for activations that are not kept, over all epochs.
        activation_row_bytes: of the activations of one image.
    """

    pooled: Missing
    activations: Missing
    passes: int
    pooled_passes: int
    live_passes: int
    activation_row_bytes: int = 0

    def reading_seconds(self, memory: int) -> float:
        """Time to read kept activations in all epochs: from the disk, where they are larger than the memory that is left."""
        if self.activations.bytes <= memory:
            return 0.0
        return self.live_passes * self.activation_row_bytes / DISK_BYTES_PER_SECOND

    def kept_seconds(self, rate: float) -> float:
        """Time to make and write all that is missing."""
        return self.passes / rate + (self.pooled.bytes + self.activations.bytes) / DISK_BYTES_PER_SECOND

    def live_seconds(self, rate: float) -> float:
        """Time to make pooled features once, and activations whenever they are read."""
        return (self.pooled_passes + self.live_passes) / rate

    def live_is_cheaper(self, rate: float, memory: int) -> bool:
        """Whether activations are not worth their place; pooled features always are."""
        if not self.activations.bytes:
            return False
        kept = (self.passes - self.pooled_passes) / rate + self.activations.bytes / DISK_BYTES_PER_SECOND
        kept += self.reading_seconds(memory)
        return self.live_passes / rate * LATER_RUNS < kept


def demand_of(
    keys: Sequence[Mapping[str, UnitKey]],
    missing: Collection[UnitKey],
    gaps: Gaps,
    lacking: Callable[[Sequence[UnitKey]], int],
    live_passes: int,
) -> Demand:
    """What is missing.

    Args:
        keys: pooled features and activations of each view.
        missing: those of them that are not complete.
        gaps: the shards of a unit that are to be built.
        lacking: bytes that the disk still has to find room for.
        live_passes: of the fine-tune phase, if activations are not kept.
    """
    of_kind = {
        kind: [key for of_view in keys for name, key in of_view.items() if name == kind and key in missing]
        for kind in ("pooled", "activations")
    }
    sizes = {
        kind: Missing(sum(key.bytes for key in chosen), lacking(chosen)) for kind, chosen in of_kind.items()
    }
    passes = sum(_rows(list(of_view.values()), gaps) for of_view in keys)
    pooled = sum(_rows([key for kind, key in of_view.items() if kind == "pooled"], gaps) for of_view in keys)
    row_bytes = max(
        (of_view["activations"].row_bytes for of_view in keys if "activations" in of_view), default=0
    )
    return Demand(sizes["pooled"], sizes["activations"], passes, pooled, live_passes, row_bytes)


def choose(demand: Demand, room: Room, rate: float, store: str) -> tuple[Keeping, str]:
    """Where to keep what is missing, and why.

    Pooled features come first, because they are small and every head needs them: on disk if they fit there, else in
    memory, else nowhere. Activations take what room is left, if they are worth it.

    Args:
        demand: what is missing.
        room: for it.
        rate: images a second, made and run forward.
        store: what to call the disk.
    """
    pooled, left = _placed(demand.pooled, room)
    cheaper = demand.live_is_cheaper(rate, room.memory)
    activations = "live" if cheaper else _placed(demand.activations, left)[0]
    where = {"disk": f"kept in {store}", "memory": "kept in memory", "live": "computed live"}
    named = [("pooled features", demand.pooled, pooled), ("activations", demand.activations, activations)]
    placed = [(name, place) for name, missing, place in named if missing.bytes]
    places = {place for _, place in placed}
    why = where[places.pop()] if places in ({"disk"}, {"memory"}) else ""
    why = why or ", ".join(f"{name} {where[place]}" for name, place in placed)
    if cheaper:
        why += ": cheaper than to keep them"
    elif any(place != "disk" for _, place in placed):
        why += f": room for {size_text(room.disk)} on disk and {size_text(room.memory)} in memory"
    return Keeping(pooled, activations), why


def _placed(missing: Missing, room: Room) -> tuple[str, Room]:
    """Where it goes, and the room that is left."""
    if not missing.bytes:
        return "disk", room  # all of it is there
    if missing.disk <= room.disk:
        return "disk", Room(room.disk - missing.disk, room.memory)
    if missing.bytes <= room.memory:
        return "memory", Room(room.disk, room.memory - missing.bytes)
    return "live", room


def _rows(keys: Sequence[UnitKey], gaps: Gaps) -> int:
    """Images of one view that any of the units misses."""
    shards = {shard for key in keys for shard in gaps(key)}
    return sum(len(keys[0].shard(shard)) for shard in shards)
