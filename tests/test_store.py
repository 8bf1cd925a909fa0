"""The store: what is damaged, foreign or half-built is never read; one process builds; what is used stays."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kerastl.cli.cache import cache as cache_command
from kerastl.features.sealing import JOURNAL, MANIFEST
from kerastl.features.store import FeatureStore
from kerastl.features.unit import ROWS, SHARD_ROWS, Unit, UnitKey
from kerastl.writing import NoSpaceError, WriteError

ROW_COUNT = 2 * SHARD_ROWS + 10


def key_of(rows: int = ROW_COUNT, **facts: object) -> UnitKey:
    return UnitKey("pooled", {"weights": "a", **facts}, rows, (4,), "float32", {"data": "somewhere"})


def truth(key: UnitKey, shard: int) -> np.ndarray:
    rows = key.shard(shard)
    return np.arange(rows.start * 4, rows.stop * 4, dtype=np.float32).reshape(-1, 4)


def build(store: FeatureStore, key: UnitKey) -> list[int]:
    """Build what is missing; returns the shards that were."""
    with store.lease([key]) as units:
        unit = units[key]
        if unit.complete:
            return []
        unit.begin()
        missing = unit.missing
        for shard in missing:
            unit.write(shard, truth(key, shard))
        unit.publish()
        return missing


def read(store: FeatureStore, key: UnitKey) -> np.ndarray:
    with store.lease([key]) as units:
        assert units[key].complete
        return np.array(units[key].rows())


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store", max_bytes=10**9)


def whole(key: UnitKey) -> np.ndarray:
    return np.concatenate([truth(key, shard) for shard in range(key.shard_count)])


def test_what_was_built_is_read_back_and_built_once(store: FeatureStore) -> None:
    key = key_of()
    assert build(store, key) == [0, 1, 2] and build(store, key) == []
    np.testing.assert_array_equal(read(store, key), whole(key))
    np.testing.assert_array_equal(np.load(store.root / key.name / ROWS), whole(key), "plain NumPy reads it")


def test_the_manifest_says_in_words_what_the_rows_depend_on(store: FeatureStore) -> None:
    key = key_of(backbone="resnet50")
    build(store, key)
    content = json.loads((store.root / key.name / MANIFEST).read_text())
    assert content["facts"] == {"weights": "a", "backbone": "resnet50"} and content["rows"] == ROW_COUNT
    assert content["about"] == {"data": "somewhere"}


def flip_a_bit(folder: Path) -> None:
    with (folder / ROWS).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def truncate(folder: Path) -> None:
    os.truncate(folder / ROWS, (folder / ROWS).stat().st_size - 100)


def drop_rows(folder: Path) -> None:
    (folder / ROWS).unlink()


def append(folder: Path) -> None:
    with (folder / ROWS).open("ab") as file:
        file.write(b"more")


def other_array(folder: Path) -> None:
    np.save(folder / ROWS, np.zeros((3, 4), np.float32))


def other_format(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": 99}))


def other_weights(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "facts": {"weights": "b"}}))


def half_a_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def other_number(folder: Path) -> None:
    """One digit of what was noted: a damaged disk, or an editor."""
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "notes": {"0": {"3": "truncated"}}}))


def other_types(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    wrong = {"notes": [3], "crc32": {"a": 1}, "created": "yesterday", "facts": 7, "about": [[1]]}
    (folder / MANIFEST).write_text(json.dumps({**content, **wrong}))


def no_object(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1, 2]")


@pytest.mark.parametrize(
    ("damage", "rebuilt"),
    [
        (flip_a_bit, [2]),
        (truncate, [0, 1, 2]),
        (drop_rows, [0, 1, 2]),
        (append, [0, 1, 2]),
        (other_array, [0, 1, 2]),
        (other_format, [0, 1, 2]),
        (other_weights, [0, 1, 2]),
        (half_a_manifest, [0, 1, 2]),
        (other_number, [0, 1, 2]),
        (other_types, [0, 1, 2]),
        (no_object, [0, 1, 2]),
    ],
)
def test_what_is_damaged_or_foreign_is_built_again_and_never_read(
    store: FeatureStore, damage: Callable[[Path], None], rebuilt: list[int]
) -> None:
    key = key_of()
    build(store, key)
    damage(store.root / key.name)
    assert all(unit.name == key.name for unit in store.units())
    with store.lease([key]) as units:
        assert not units[key].complete
        with pytest.raises(AssertionError):
            units[key].rows()
    assert build(store, key) == rebuilt
    np.testing.assert_array_equal(read(store, key), whole(key))


def test_another_key_is_another_unit(store: FeatureStore) -> None:
    build(store, key_of())
    for other in (key_of(weights="b"), key_of(decode=2), key_of(rows=5)):
        with store.lease([other]) as units:
            assert not units[other].complete


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_store import *
store, key = FeatureStore(Path(sys.argv[1]), 10**9), key_of()
with store.lease([key], waiting=lambda key: print("waiting", flush=True)) as units:
    unit = units[key]
    if unit.complete:
        print("read", flush=True)
    else:
        unit.begin()
        print("builds", unit.missing, flush=True)
        for shard in unit.missing:
            unit.write(shard, truth(key, shard))
            print("wrote", shard, flush=True)
            time.sleep(float(sys.argv[2]))
        unit.publish()
        print("built", flush=True)
    assert (np.array(unit.rows()) == whole(key)).all()
    time.sleep(float(sys.argv[3]))
"""


def process(store: FeatureStore, pause: float, stay: float = 0.0) -> subprocess.Popen[str]:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    words = [sys.executable, "-c", script, str(store.root), str(pause), str(stay)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_build_that_was_killed_goes_on_where_it_was(store: FeatureStore) -> None:
    child = process(store, pause=60)
    assert child.stdout is not None
    assert child.stdout.readline() == "builds [0, 1, 2]\n" and child.stdout.readline() == "wrote 0\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (unit,) = store.units()
    assert not unit.complete and not unit.in_use and unit.facts == {"weights": "a"}
    assert build(store, key_of()) == [1, 2]
    np.testing.assert_array_equal(read(store, key_of()), whole(key_of()))


def test_a_shard_that_was_half_written_when_the_machine_stopped_is_built_again(store: FeatureStore) -> None:
    key = key_of()
    with store.lease([key]) as units:
        units[key].begin()
        for shard in (0, 1):
            units[key].write(shard, truth(key, shard))
    folder = store.root / key.name
    with (folder / JOURNAL).open("a") as file:
        file.write('{"shard": 2, "crc')
    array = np.load(folder / ROWS, mmap_mode="r+")
    array[SHARD_ROWS] = -1
    array.flush()
    assert build(store, key) == [1, 2]
    np.testing.assert_array_equal(read(store, key), whole(key))


def test_of_two_processes_one_builds_and_the_other_waits_and_reads(store: FeatureStore) -> None:
    first = process(store, pause=0.5, stay=20)
    assert first.stdout is not None and first.stdout.readline().startswith("builds")
    second = process(store, pause=0.5)
    out, _ = second.communicate(timeout=60)
    assert out.split() == ["waiting", "read"]
    assert first.poll() is None, "the control: the builder still holds the unit, now as a reader"
    assert store.units()[0].in_use
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 10
    while store.units()[0].in_use and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not store.units()[0].in_use


def test_what_was_not_used_for_longest_makes_room_but_never_what_is_in_use(tmp_path: Path) -> None:
    keys = [key_of(number=number) for number in range(4)]
    size = keys[0].bytes + 128
    store = FeatureStore(tmp_path, max_bytes=3 * size)
    for age, key in zip((30, 20, 10), keys, strict=False):
        build(store, key)
        os.utime(store.root / key.name / MANIFEST, (time.time() - age, time.time() - age))
    with store.lease([keys[0]]):  # the oldest, were it not in use: which also marks it as used now
        os.utime(store.root / keys[0].name / MANIFEST, (1, 1))
        with store.lease([keys[3]]) as units:
            store.make_room([units[keys[3]]])
        assert {unit.name for unit in store.units()} == {keys[0].name, keys[2].name}
        with store.lease([huge := key_of(rows=3 * ROW_COUNT)]) as units, pytest.raises(NoSpaceError):
            store.make_room([units[huge]])
        assert len(store.units()) == 2, "what cannot fit evicts nothing"
        assert not store.remove(keys[0].name)
    assert store.remove(keys[0].name)
    assert [unit.name for unit in store.units()] == [keys[2].name]


def test_reading_marks_a_unit_as_used(store: FeatureStore) -> None:
    for number in (1, 2):
        build(store, key_of(number=number))
    for number in (1, 2):
        os.utime(store.root / key_of(number=number).name / MANIFEST, (100 + number, 100 + number))
    assert store.units()[0].name == key_of(number=2).name
    read(store, key_of(number=1))
    assert store.units()[0].name == key_of(number=1).name


def test_a_unit_that_is_removed_while_it_is_read_stays_readable(store: FeatureStore) -> None:
    key = key_of()
    build(store, key)
    with store.lease([key]) as units:
        rows = units[key].rows()
    assert store.remove(key.name) and not store.units()
    np.testing.assert_array_equal(rows, whole(key))


def test_a_build_that_was_killed_before_it_was_published_is_published_by_the_next(
    store: FeatureStore,
) -> None:
    key = key_of()
    with store.lease([key]) as units:
        units[key].begin()
        for shard in range(key.shard_count):
            units[key].write(shard, truth(key, shard))
    assert build(store, key) == []
    np.testing.assert_array_equal(read(store, key), whole(key))


def test_a_build_that_was_killed_needs_no_more_room_to_go_on(tmp_path: Path) -> None:
    key = key_of()
    store = FeatureStore(tmp_path, max_bytes=key.bytes + 500)
    with store.lease([key]) as units:
        units[key].begin()
    with store.lease([key]) as units:
        store.make_room([units[key]])  # its rows are reserved: nothing is asked for twice
    other = key_of(weights="b")
    with store.lease([other]) as units, store.lease([key]), pytest.raises(NoSpaceError):
        store.make_room([units[other]])


def test_a_damaged_unit_is_not_read_again_and_again_while_somebody_holds_it(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that verify in turns would never let each other build."""
    build(store, key_of())
    verified: list[bool] = []
    verify = Unit.verify
    monkeypatch.setattr(Unit, "verify", lambda unit: verified.append(True) or verify(unit))
    with ThreadPoolExecutor(1) as pool:
        with store.lease([key_of()]):
            flip_a_bit(store.root / key_of().name)
            verified.clear()
            rebuilt = pool.submit(build, store, key_of())
            time.sleep(2.0)
            assert len(verified) == 1 and not rebuilt.done()
        assert rebuilt.result(timeout=30) == [2]


def test_two_that_find_a_unit_damaged_do_not_wait_for_each_other_for_ever(store: FeatureStore) -> None:
    build(store, key_of())
    flip_a_bit(store.root / key_of().name)
    both = [process(store, pause=0.1) for _ in range(2)]
    said = sorted(child.communicate(timeout=60)[0].split("\n")[-2] for child in both)
    assert said == ["built", "read"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_somebody_else_is_read(store: FeatureStore, tmp_path: Path) -> None:
    build(store, key_of())
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from test_store import *\n"
        "store = FeatureStore(Path(sys.argv[1]), 10**9)\n"
        "read(store, key_of())\n"  # all that is imported late is imported as root
        "os.setuid(65534)\n"
        "assert (read(store, key_of()) == whole(key_of())).all()\n"
        "assert store.room() == 0 and len(store.units()) == 1\n"
        "assert not store.remove(key_of().name) and len(store.units()) == 1\n"
    )
    words = [sys.executable, "-c", script, str(store.root), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_notes_of_a_shard_survive_a_kill_and_go_with_the_shard(store: FeatureStore) -> None:
    key = key_of()
    with store.lease([key]) as units:
        units[key].begin()
        units[key].write(0, truth(key, 0), {"3": "truncated jpeg"})
    with store.lease([key]) as units:
        unit: Unit = units[key]
        unit.begin()
        assert unit.missing == [1, 2]
        for shard in unit.missing:
            unit.write(shard, truth(key, shard))
        unit.publish()
    with store.lease([key]) as units:
        assert units[key].notes == {0: {"3": "truncated jpeg"}}


def test_a_damaged_line_of_a_journal_is_not_believed_nor_what_follows_it(store: FeatureStore) -> None:
    key = key_of()
    with store.lease([key]) as units:
        units[key].begin()
        for shard in (0, 1):
            units[key].write(shard, truth(key, shard), {"3": "truncated jpeg"})
    journal = store.root / key.name / JOURNAL
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], lines[2].replace('"3"', '"4"')]) + "\n")
    assert build(store, key) == [1, 2]
    with store.lease([key]) as units:
        assert units[key].notes == {0: {"3": "truncated jpeg"}}


def test_what_a_build_has_reserved_is_not_asked_for_again(store: FeatureStore) -> None:
    begun, other = key_of(), key_of(weights="b")
    with store.lease([begun]) as units:
        units[begun].begin()
    assert store.lacking([begun]) == 0 and store.lacking([begun, other]) == other.bytes


def test_what_was_held_but_not_built_leaves_nothing_behind(store: FeatureStore) -> None:
    build(store, key_of())
    before = sorted(store.root.iterdir())
    with store.lease([key_of(), key_of(weights="b")]):
        assert sorted(store.root.iterdir()) != before
    assert sorted(store.root.iterdir()) == before


# Locks


def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks as NFS has them: exclusive ones only for files that are open for writing."""
    flock = fcntl.flock

    def over_the_network(descriptor: int, operation: int) -> None:
        may_write = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not may_write:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", over_the_network)


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOLCK) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)


def test_a_store_on_nfs_is_built_listed_read_and_cleared(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    nfs(monkeypatch)
    assert build(store, key_of()) == [0, 1, 2]
    np.testing.assert_array_equal(read(store, key_of()), whole(key_of()))
    with store.lease([key_of()]):
        assert store.units()[0].in_use and not store.remove(key_of().name)
    assert not store.units()[0].in_use and store.remove(key_of().name)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EIO])
def test_without_locks_it_is_said_where_to_go_and_no_file_stays_open(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    build(store, key_of())
    no_locks(monkeypatch, code)
    open_files = len(os.listdir("/proc/self/fd"))
    with (
        pytest.raises(WriteError, match=f"{store.root} gives no locks.*cache.directory"),
        store.lease([key_of()]),
    ):
        pass
    assert store.units()[0].in_use, "nobody can tell"
    assert not store.remove(key_of().name)
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_store_that_nobody_else_knows_of_needs_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    store = FeatureStore(tmp_path, 10**9, shared=False)
    assert build(store, key_of()) == [0, 1, 2] and build(store, key_of()) == []


# Foreign folders


def foreign_folders(root: Path, elsewhere: Path) -> list[Path]:
    """What people keep beside a store, each with a file of the store's names in it; the last one is a link."""
    names = ["my experiment", "pooled", "pixels-2024", "pooled-" + "a" * 23, "pooled-" + "a" * 25]
    names += [
        "activations-" + "A" * 24,
        "pooled-" + "g" * 24,
        "features-" + "a" * 24,
        "pooled-" + "a" * 24 + ".bak",
    ]
    names += [".hidden", "x" + "pooled-" + "a" * 24]
    folders = [root / name for name in names]
    for folder in (*folders, elsewhere):
        folder.mkdir()
        np.save(folder / ROWS, np.zeros((3, 4), np.float32))
        (folder / MANIFEST).write_text("{}")
        (folder / JOURNAL).write_text("")
        (folder / "notes.txt").write_text("of a year's work")
    link = root / ("pooled-" + "b" * 24)
    link.symlink_to(elsewhere, target_is_directory=True)
    return [*folders, link]


def test_folders_that_the_store_did_not_make_are_neither_listed_nor_removed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", max_bytes=2 * key_of().bytes)
    build(store, key_of())
    foreign = foreign_folders(store.root, tmp_path / "elsewhere")
    assert [unit.name for unit in store.units()] == [key_of().name]
    with store.lease([other := key_of(weights="b", rows=2 * ROW_COUNT - 200)]) as units:
        store.make_room([units[other]])
    assert not (store.root / key_of().name).exists(), "the control: room had to be made"
    assert not any(store.remove(folder.name) for folder in foreign)
    assert all(sorted(os.listdir(folder)) == [JOURNAL, MANIFEST, "notes.txt", ROWS] for folder in foreign)


def test_clearing_and_pruning_leave_foreign_folders_alone(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store", max_bytes=10**9)
    for command in (["clear"], ["prune", "--max-gigabytes", "0"], ["prune", "--older-than-days", "0"]):
        build(store, key_of())
        foreign = foreign_folders(store.root, tmp_path / "elsewhere")
        done = CliRunner().invoke(cache_command, [*command, "--directory", str(store.root)])
        assert done.exit_code == 0 and done.output.startswith("removed 1 units"), done.output
        assert all((folder / "notes.txt").is_file() for folder in foreign)
        for folder in foreign:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "elsewhere")
