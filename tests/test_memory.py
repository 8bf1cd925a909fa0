"""What memory may be taken: what is free, less what the limits of a container forbid; and who asks for more is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerastl.features.cache import Cache
from kerastl.features.memory import available_memory
from kerastl.features.unit import UnitKey
from kerastl.progress import Progress
from kerastl.recipe import CacheRecipe
from kerastl.writing import NoSpaceError

GIB = 2**30
FREE = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {64 * GIB // 1024} kB\n"}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def v2(folder: str, limit: object, used: int, pages: int = 0) -> dict[str, str]:
    stat = f"anon 5\ninactive_file {pages}\nslab 7\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def v1(folder: str, limit: int, used: int, pages: int = 0) -> dict[str, str]:
    stat = f"inactive_file 3\ntotal_inactive_file {pages}\n"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def member(line: str) -> dict[str, str]:
    return {"proc/self/cgroup": f"1:name=systemd:/x:y\n{line}\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 0, id="a system that says nothing"),
        pytest.param(FREE, 64 * GIB, id="no container"),
        pytest.param(
            {**FREE, **member("0::/"), **v2(V2, 8 * GIB, 3 * GIB, GIB)}, 6 * GIB, id="2: files give way"
        ),
        pytest.param({**FREE, **member("0::/"), **v2(V2, "max", 3 * GIB)}, 64 * GIB, id="2: no limit"),
        pytest.param(
            {
                **FREE,
                **member("0::/slice/job"),
                **v2(f"{V2}/slice", 4 * GIB, GIB),
                **v2(f"{V2}/slice/job", 9 * GIB, 0),
            },
            3 * GIB,
            id="2: the group around it",
        ),
        pytest.param(
            {**FREE, **member("4:cpu,memory:/docker/abc"), **v1(f"{V1}/docker/abc", 8 * GIB, GIB, GIB)},
            8 * GIB,
            id="1: seen from the host",
        ),
        pytest.param(
            {**FREE, **member("4:memory:/docker/abc"), **v1(V1, 8 * GIB, 2 * GIB)},
            6 * GIB,
            id="1: within the container",
        ),
        pytest.param(
            {**FREE, **member("4:memory:/"), **v1(V1, 9223372036854771712, GIB)}, 64 * GIB, id="1: no limit"
        ),
        pytest.param({**FREE, **member("0::/"), **v2(V2, 8 * GIB, 9 * GIB)}, 0, id="over its limit"),
        pytest.param({**FREE, **member("0::/"), **v2(V2, "much", 0)}, 64 * GIB, id="what no one understands"),
    ],
)
def test_limits_of_containers_are_heeded(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_the_memory_of_this_machine_is_known() -> None:
    if Path("/proc/meminfo").exists():
        assert available_memory() > 0


def test_who_asks_for_more_memory_than_there_is_is_told_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = UnitKey("pooled", {}, 100, (1000,), "float32")
    with Cache(CacheRecipe(mode="memory"), tmp_path) as cache:
        leased = cache.lease([{"pooled": key}], (), Progress())
        monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: int(key.bytes / 0.8) + 8)
        assert cache.choose(leased, 0, lambda: 1.0, Progress()).pooled == "memory"
        monkeypatch.setattr("kerastl.features.cache.available_memory", lambda: key.bytes)
        with pytest.raises(NoSpaceError, match=r"memory: the features need 400 KB, and 320 KB may be taken"):
            cache.choose(leased, 0, lambda: 1.0, Progress())
        asked_last = cache.choose(leased, 0, lambda: 1.0, Progress(), excluded=("disk",))
        assert asked_last.pooled == "live", "the test images, after hours of training"
