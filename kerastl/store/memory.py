"""Memory that may be taken: free on the machine, within the limits of the container."""

from __future__ import annotations

from pathlib import Path

# cgroups version 2, and the memory controller of version 1: where they lie, and how they name limit, use, and those
# pages of files in the use that the kernel takes back before it kills anybody.
_VERSIONS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that may be taken without swapping, and without being killed in a container; 0 where the system does not say.

    Args:
        root: of the file system that `proc` and `sys` lie in.
    """
    free = _number(_field(root / "proc/meminfo", "MemAvailable:"))
    if free is None:
        return 0
    return max(0, min([free * 1024, *_left_by_cgroups(root)]))


def _left_by_cgroups(root: Path) -> list[int]:
    """Bytes that each memory limit leaves to this process: of its control group, and of each group above it."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & _VERSIONS.keys():
            mount, limit, used, pages = _VERSIONS[controller]
            # In a container the path is often the host's, and only the mount itself is there.
            inner = Path(path.lstrip("/"))
            for group in (inner, *inner.parents):
                folder = root / mount / group
                most, taken = (_number("".join(_lines(folder / name))) for name in (limit, used))
                if most is not None and taken is not None:
                    left.append(most - taken + (_number(_field(folder / "memory.stat", pages)) or 0))
    return left


def _field(path: Path, name: str) -> str:
    return next((line.split()[1] for line in _lines(path) if line.startswith(f"{name} ")), "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _number(text: str) -> int | None:
    """None where there is no number, such as `max`."""
    return int(text) if text.isdigit() else None
