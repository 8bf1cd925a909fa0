"""The cache of a run: in the store on disk, in memory, or none."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kerastl.progress import Progress, size_text
from kerastl.recipe import CacheRecipe
from kerastl.store.memory import available_memory
from kerastl.store.store import Store
from kerastl.store.store_folder import Folder, allow_many_files
from kerastl.writing import NoSpaceError

DIRECTORY_VARIABLE = "KERASTL_CACHE_DIR"
MEMORY_SHARE = 0.5
# Who asks for the memory may have more of it than is taken unasked; training needs some, too.
ASKED_MEMORY_SHARE = 0.8
UNBOUNDED = 2**62
# Stores of which a line said that features of an earlier version lie in them: a process says so once.
_TOLD_OF_OLD = set[Path]()


class Cache:
    """The store of a run, and what the run reads of it; use it as a context manager.

    Args:
        recipe: the `[cache]` table.
        scratch: a folder that is removed with the run, for what is not kept beyond it.

    Attributes:
        store: on disk, or in memory alone where the recipe says so.
        scratch: the store in that folder.
    """

    def __init__(self, recipe: CacheRecipe, scratch: Path) -> None:
        self.recipe = recipe
        self.folder = Folder(cache_directory(recipe), int(recipe.max_gigabytes * 1e9))
        self.on_disk = recipe.mode in ("auto", "disk")
        self.store = Store(self.folder if self.on_disk else None)
        self.scratch = Store(Folder(scratch, UNBOUNDED, disk_share=1.0, shared=False))
        allow_many_files()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go of everything held, so that it may be evicted."""
        self.store.close()
        self.scratch.close()

    def places(
        self,
        missing: Mapping[str, int],
        room: int,
        order: Sequence[str],
        excluded: Collection[str] = (),
        what: str = "features",
        live_if_off: bool = True,
        smaller: str = "smaller inputs",
    ) -> dict[str, str]:
        """Chooses where to keep missing rows: on disk where there is room, else in memory, else nowhere (`live`).

        Args:
            missing: bytes of each output.
            room: on the disk.
            order: of the outputs; the first gets the room.
            excluded: `disk` or `memory`, where it was tried and there was no room; with any, `cache.mode = "disk"` takes what
                there is, and "memory" nothing.
            what: for messages.
            live_if_off: whether `cache.mode = "off"` keeps nothing in memory either.
            smaller: what would make examples smaller, for messages.

        Raises:
            NoSpaceError: the recipe asks for the disk or the memory, and has no room there.
        """
        mode, total = self.recipe.mode, sum(missing.values())
        if (mode == "off" and live_if_off) or (mode == "memory" and excluded):
            return dict.fromkeys(missing, "live")
        memory = 0 if "memory" in excluded else int(MEMORY_SHARE * available_memory())
        if mode == "memory":
            memory = int(ASKED_MEMORY_SHARE * available_memory())
            if total > memory:
                raise NoSpaceError(
                    f"cache.mode = memory: the {what} need {size_text(total)}, and {size_text(memory)} may be taken "
                    f"({ASKED_MEMORY_SHARE:.0%} of the memory that this machine, or its container, has left). Set cache.mode to auto or "
                    f"disk, fewer augment.views, {smaller}{smaller_heads(missing)}, or a later finetune_phase.unfreeze_from"
                )
        room = 0 if "disk" in excluded or not self.on_disk else room
        if mode == "disk" and not excluded and total > room:
            raise NoSpaceError(
                f"The {what} need {size_text(total)}, and {self.folder.root} has room for {size_text(room)} (cache.max_gigabytes, "
                f'and half of the free disk). Raise or free it{smaller_heads(missing)}, or set cache.mode = "auto"'
            )
        chosen = {}
        for name in sorted(missing, key=order.index):
            size = missing[name]
            chosen[name] = "disk" if size <= room else "memory" if size <= memory else "live"
            room -= size if chosen[name] == "disk" else 0
            memory -= size if chosen[name] == "memory" else 0
        return chosen

    def tell_of_old(self, progress: Progress) -> None:
        """Say once that features of an earlier version lie in the store."""
        old = self.folder.old() if self.on_disk and self.folder.root not in _TOLD_OF_OLD else []
        _TOLD_OF_OLD.add(self.folder.root)
        if old:
            size = size_text(sum(array.bytes for array in old))
            progress.note(
                f"{self.folder.root} holds {size} of features that an earlier version of kerastl kept and this one does not read: "
                "`kerastl cache prune` removes them"
            )


def smaller_heads(missing: Collection[str]) -> str:
    """The key that makes features of several depths smaller, for messages; empty where there are none among some outputs."""
    # By their names, as `model.cut` loads TensorFlow, and listing the store does without it.
    return ', head.features = "last"' if {"joins", "join_steps"} & {*missing} else ""


def cache_directory(recipe: CacheRecipe) -> Path:
    """The folder of the store: the recipe's, the environment's, or the user's cache folder (XDG)."""
    named = recipe.directory or os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kerastl"
