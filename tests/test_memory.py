"""What memory may be taken: what is free, less what the limits of a container forbid."""

from __future__ import annotations

from pathlib import Path

import pytest

from kerastl.store.memory import available_memory

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
