"""The store: rows by what they are made from, computed once by one of all processes; nothing damaged is ever read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kerastl.cli.cache import cache as cache_command
from kerastl.progress import Progress
from kerastl.store.array import Array, ArrayKey, Rows, digests
from kerastl.store.block import BLOCK, BLOCK_ROWS, Block, Ragged, is_block, read_block
from kerastl.store.store import Part, Store
from kerastl.store.store_folder import CLAIM, HOLD, KEY_FILE, Folder
from kerastl.writing import NoSpaceError, WriteError

COUNT = 2 * BLOCK_ROWS + 10
WIDTH = 4
ROW_BYTES = WIDTH * 4


class Said(Progress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class Work:
    """Computes rows that tell which example they belong to, and counts them."""

    def __init__(self, names: np.ndarray, batch: int = 32, pause: float = 0.0) -> None:
        self.names, self.batch, self.pause = names, batch, pause
        self.computed: list[int] = []

    def __call__(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        for start in range(0, len(positions), self.batch):
            part = positions[start : start + self.batch]
            time.sleep(self.pause)
            self.computed += self.names[part].tolist()
            yield Part(part, {name: truth(self.names[part]) for name in outputs})


def truth(names: np.ndarray) -> np.ndarray:
    return np.repeat(names[:, None], WIDTH, axis=1).astype(np.float32)


def keys_of(names: np.ndarray) -> np.ndarray:
    return digests([f"content {name}".encode() for name in names])


def array_of(output: str = "pooled", **facts: object) -> ArrayKey:
    return ArrayKey(output, {"weights": "a", **facts}, (WIDTH,), "float32", {"data": "somewhere"})


EVERY = np.arange(COUNT)


def opened(
    root: Path | Store, names: np.ndarray = EVERY, *outputs: str, **options: Any
) -> tuple[list[int], np.ndarray]:
    """What was computed to read the rows of these examples, and the rows of the last output."""
    work, said = options.pop("work", None) or Work(names), options.pop("said", Said())
    arrays = options.pop("arrays", None) or [array_of(output) for output in outputs or ("pooled",)]
    store = root if isinstance(root, Store) else Store(Folder(root, 10**9))
    with contextlib.nullcontext() if isinstance(root, Store) else store:
        found = store.open(arrays, keys_of(names), work, progress=said, **options)
        rows = found[arrays[-1].output]
        return work.computed, np.zeros(0) if rows is None else np.array(rows[np.arange(len(names))])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def blocks_of(root: Path) -> list[Path]:
    return sorted(path for path in root.glob(f"*/*{BLOCK}") if is_block(path.name))


# Rows


def test_rows_are_computed_once_and_read_back_in_any_order(root: Path) -> None:
    computed, rows = opened(root)
    assert computed == EVERY.tolist() and (rows == truth(EVERY)).all()
    backwards = EVERY[::-1]
    computed, rows = opened(root, backwards)
    assert computed == [] and (rows == truth(backwards)).all()


def test_one_more_example_is_one_more_row(root: Path) -> None:
    opened(root, np.arange(1000))
    computed, rows = opened(root, np.arange(1001))
    assert computed == [1000] and (rows == truth(np.arange(1001))).all()
    assert opened(root, np.arange(1001))[0] == []


def test_thinned_sets_folds_and_other_sets_of_the_same_examples_are_there(root: Path) -> None:
    opened(root, np.arange(1000))
    generator = np.random.default_rng(0)
    for names in (np.arange(0, 1000, 3), generator.permutation(1000)[:500], np.array([7, 7, 999])):
        computed, rows = opened(root, names)
        assert computed == [] and (rows == truth(names)).all()
    assert opened(root, np.array([5, 1000]))[0] == [1000], "the control: another example is not there"


def test_equal_examples_share_a_row(root: Path) -> None:
    names = np.array([3, 1, 3, 3, 1, 2])
    computed, rows = opened(root, names)
    assert computed == [3, 1, 2] and (rows == truth(names)).all()


def test_what_rows_depend_on_beside_the_example_is_another_array(root: Path) -> None:
    opened(root)
    for arrays in ([array_of(weights="b")], [array_of("activations")]):
        assert len(opened(root, arrays=arrays)[0]) == COUNT
        assert opened(root, arrays=arrays)[0] == []


def test_several_outputs_come_from_one_computation_and_those_that_are_there_are_not_asked_for(
    root: Path,
) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []

    class Asked(Work):
        def __call__(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
            asked.append((len(positions), tuple(outputs)))
            return super().__call__(positions, outputs)

    opened(root, np.arange(100), "pooled")
    both = np.arange(150)
    work = Asked(both)
    _, rows = opened(root, both, "pooled", "activations", work=work)
    assert sorted(asked) == [(50, ("pooled", "activations")), (100, ("activations",))]
    assert sorted(work.computed) == both.tolist() and (rows == truth(both)).all()


def test_a_description_in_words_lies_beside_the_rows(root: Path) -> None:
    opened(root, arrays=[array_of(backbone="resnet50")])
    (path,) = root.glob(f"*/{KEY_FILE}")
    content = json.loads(path.read_text())
    assert content["facts"] == {"weights": "a", "backbone": "resnet50"} and content["row_shape"] == [WIDTH]
    assert content["about"] == {"data": "somewhere"}


def test_a_row_that_cannot_be_made_is_left_out_and_tried_again(root: Path) -> None:
    class Some(Work):
        def __call__(self, positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
            return super().__call__(positions[self.names[positions] % 100 != 7], outputs)

    with Store(Folder(root, 10**9)) as store:
        work = Some(EVERY)
        assert store.open([array_of()], keys_of(EVERY), work)["pooled"] is None
        there = store.look(array_of(), keys_of(EVERY))
        assert (
            np.flatnonzero(~there).tolist() == [7, 107, 207, 307, 407, 507]
            and len(work.computed) == COUNT - 6
        )
        assert (store.rows(array_of(), keys_of(EVERY[there]))[np.arange(9)] == truth(EVERY[there][:9])).all()
    assert opened(root)[0] == [7, 107, 207, 307, 407, 507]


def test_notes_stay_with_their_rows(root: Path) -> None:
    def compute(positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        yield Part(positions, {"pooled": truth(EVERY[positions])}, {3: "tiff", 300: "heic"})

    with Store(Folder(root, 10**9)) as store:
        store.open([array_of()], keys_of(EVERY), compute)
    with Store(Folder(root, 10**9)) as store:
        names = np.array([300, 5, 3])
        rows = store.open([array_of()], keys_of(names), Work(names))["pooled"]
        assert rows is not None and rows.notes() == {0: "heic", 2: "tiff"}


@pytest.mark.parametrize(
    ("dtype", "row_shape"), [("int32", (None,)), ("float16", (None, 3)), ("float32", (None, 2, 2))]
)
def test_rows_of_different_lengths_are_kept_and_read(
    root: Path, dtype: str, row_shape: tuple[int | None, ...]
) -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(0, 9, COUNT)
    lengths[:300] = 0  # a block without a value
    every = [generator.normal(size=(length, *row_shape[1:])).astype(np.float32) * 50 for length in lengths]
    every[400] = every[400] * (1e6 if dtype == "float16" else 1)
    rows = [row.astype(dtype) if np.abs(row).max(initial=0) < 6e4 else row for row in every]
    key = ArrayKey("tokens", {}, row_shape, dtype)

    def compute(positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        for start in range(0, len(positions), 50):
            part = positions[start : start + 50]
            yield Part(part, {"tokens": Ragged(np.concatenate([every[at] for at in part]), lengths[part])})

    for _ in range(2):
        with Store(Folder(root, 10**9)) as store:
            found = store.open([key], keys_of(EVERY), compute)["tokens"]
            assert found is not None
            for chosen in (EVERY, np.array([500, 3, 400, 3]), EVERY[:0]):
                part = found.ragged(chosen)
                np.testing.assert_array_equal(part.lengths, lengths[chosen])
                flat = np.concatenate([np.zeros((0, *row_shape[1:]), dtype), *(rows[at] for at in chosen)])
                np.testing.assert_array_equal(part.values, flat)
        compute = None  # type: ignore[assignment]  # the second time nothing is computed


def test_values_that_fit_sixteen_bits_are_kept_in_them_and_rows_that_do_not_are_exact(root: Path) -> None:
    values = np.random.default_rng(2).normal(size=(COUNT, WIDTH)).astype(np.float32)
    values[[5, 400], 2] = [1e6, -70_000]
    key = ArrayKey("activations", {}, (WIDTH,), "float16")
    expected = values.astype(np.float16).astype(np.float32)
    expected[[5, 400]] = values[[5, 400]]

    def compute(positions: np.ndarray, outputs: Collection[str]) -> Iterator[Part]:
        yield Part(positions, {"activations": values[positions]})

    for _ in range(2):
        with Store(Folder(root, 10**9)) as store:
            rows = store.open([key], keys_of(EVERY), compute)["activations"]
            assert rows is not None and rows.dtype == np.float32
            np.testing.assert_array_equal(rows[EVERY], expected)
            fitting = store.rows(key, keys_of(EVERY[10:300]))
            assert fitting.dtype == np.float16, "what fits is read as it was kept"
            np.testing.assert_array_equal(fitting[np.arange(290)], values[10:300].astype(np.float16))
    assert {np.dtype(read.dtype) for path in blocks_of(root) if (read := read_block(path, (WIDTH,), "float16"))} == {
        np.dtype(np.float16), np.dtype(np.float32)
    }  # fmt: skip


def test_rows_in_memory_are_read_like_rows_on_disk(root: Path) -> None:
    with Store(None) as store:
        place = lambda missing, room: dict.fromkeys(missing, "memory")  # noqa: E731
        computed, rows = opened(store, EVERY, place=place)
        assert len(computed) == COUNT and (rows == truth(EVERY)).all()
        assert opened(store, EVERY[::3], place=place)[0] == []
        store.close()
        assert len(opened(store, EVERY, place=place)[0]) == COUNT, "the control: nothing outlives it"
    opened(root, EVERY[:300])
    with Store(Folder(root, 10**9)) as store:
        computed, rows = opened(store, EVERY, place=place)
        assert computed == EVERY[300:].tolist() and (rows == truth(EVERY)).all(), (
            "the rest goes beside what lies there"
        )
    assert opened(root)[0] == EVERY[300:].tolist()


def test_what_is_to_be_live_is_not_computed(root: Path) -> None:
    with Store(Folder(root, 10**9)) as store:
        work, place = Work(EVERY), {"pooled": "disk", "activations": "live"}
        asked: list[dict[str, int]] = []

        def placed(missing: Any, room: int) -> dict[str, str]:
            asked.append(dict(missing))
            return {name: place[name] for name in missing}

        found = store.open([array_of(), array_of("activations")], keys_of(EVERY), work, placed)
        assert found["activations"] is None and found["pooled"] is not None
        assert asked == [{"pooled": COUNT * ROW_BYTES, "activations": COUNT * ROW_BYTES}]


# Damage


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_keys(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 2 - 200] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def truncate_to_its_front(path: Path) -> None:
    os.truncate(path, 20)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_magic(path: Path) -> None:
    path.write_bytes(b"kerastl9" + path.read_bytes()[8:])


def other_note(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"notes": {}', b'"notes": 99'))


def other_array(path: Path) -> None:
    np.save(path.open("wb"), np.zeros((3, 4), np.float32))


def huge_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12:16] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)


DAMAGES = [
    flip_a_bit, flip_a_bit_of_the_keys, truncate, truncate_to_its_front, append, empty, other_magic, other_note, other_array,
    huge_header,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_block_is_never_read_and_its_rows_are_computed_again(
    root: Path, damage: Callable[[Path], None]
) -> None:
    opened(root)
    damaged = blocks_of(root)[0]
    block = read_block(damaged, (WIDTH,), "float32")
    assert block is not None
    lost = set(np.asarray(block.values[:, 0], int).tolist())
    damage(damaged)
    said = Said()
    computed, rows = opened(root, said=said)
    assert set(computed) == lost and len(computed) == len(lost) and (rows == truth(EVERY)).all()
    assert (
        len(said.warnings) == 1 and str(damaged) in said.warnings[0] and "computed again" in said.warnings[0]
    )
    assert not damaged.exists() and opened(root, said=(after := Said()))[0] == [] and not after.warnings


def test_a_damaged_block_that_cannot_be_removed_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(root)
    flip_a_bit(blocks_of(root)[0])
    monkeypatch.setattr(Array, "_remove", lambda array, path: None)
    place = lambda missing, room: dict.fromkeys(missing, "memory")  # noqa: E731
    computed, rows = opened(root, place=place)
    assert 0 < len(computed) < COUNT and (rows == truth(EVERY)).all()


def test_what_was_half_written_is_removed_by_the_next_that_computes(root: Path) -> None:
    opened(root, EVERY[:300])
    left = root / array_of().name / ".tmp-1-abc-x.block"
    left.write_bytes(b"half a block")
    opened(root)
    assert not left.exists()


def test_a_block_is_there_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    opened(root, EVERY[:1])
    before = sorted((root / array_of().name).iterdir())
    with monkeypatch.context() as patch, pytest.raises(NoSpaceError):
        patch.setattr("kerastl.writing.os.replace", fails)
        opened(root)
    assert sorted((root / array_of().name).iterdir()) == before
    assert len(opened(root)[0]) == COUNT - 1


# Several processes

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import kerastl.store.store as store_module
from test_store import *

class Tells(Progress):
    def note(self, message): print(message, flush=True)

store_module.PARCEL_BLOCKS = 1
names = np.arange(int(sys.argv[3]))
work = Work(names, pause=float(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
with Store(Folder(Path(sys.argv[1]), 10**9)) as store:
    found = store.open([array_of()], keys_of(names), work, progress=Tells())["pooled"]
    assert (found[names] == truth(names)).all()
    print("computed", *work.computed, flush=True)
    sys.stdin.readline()
"""


def process(root: Path, pause: float, count: int = 8 * BLOCK_ROWS) -> subprocess.Popen[str]:
    """Another process, ready to compute so many rows, with a pause before each batch."""
    words = [
        sys.executable,
        "-c",
        SCRIPT.format(tests=str(Path(__file__).parent)),
        str(root),
        str(pause),
        str(count),
    ]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def computed_by(child: subprocess.Popen[str]) -> list[int]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("computed"):
            return [int(word) for word in line.split()[1:]]
    raise AssertionError("it ended before it had all rows")


def end(*children: subprocess.Popen[str]) -> None:
    for child in children:
        child.kill()
        child.wait()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.005)


def test_two_processes_share_the_work_and_no_row_is_computed_twice(root: Path) -> None:
    both = [process(root, pause=0.01) for _ in range(2)]
    for child in both:
        go(child)
    first, second = (computed_by(child) for child in both)
    end(*both)
    assert sorted(first + second) == list(range(8 * BLOCK_ROWS))
    assert first and second, "each of them computed some"


def test_a_process_that_was_killed_hinders_nobody_and_what_it_wrote_is_used(root: Path) -> None:
    child = process(root, pause=0.2)
    go(child)

    def halted_at_work() -> bool:
        """Halt it; between two blocks it holds no claim, and goes on."""
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        if list(root.glob(f"*/*{CLAIM}")):
            return True
        child.send_signal(signal.SIGCONT)
        return False

    wait_for(lambda: len(blocks_of(root)) >= 2 and halted_at_work())
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(root.glob(f"*/*{CLAIM}")), "the control: its claim is left"
    names, kept = np.arange(8 * BLOCK_ROWS), len(blocks_of(root)) * BLOCK_ROWS
    computed, rows = opened(root, names)
    assert len(computed) == len(names) - kept and (rows == truth(names)).all()
    assert not list(root.glob(f"*/*{CLAIM}")) and not list(root.glob("*/.tmp-*"))


def test_one_that_waits_takes_over_from_one_that_is_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = process(root, pause=0.5, count=BLOCK_ROWS)
    go(child)
    wait_for(lambda: list(root.glob(f"*/*{CLAIM}")))

    class Kills(Said):
        def note(self, message: str) -> None:
            super().note(message)
            end(child)

    said = Kills()
    computed, rows = opened(root, np.arange(BLOCK_ROWS), said=said)
    assert said.lines == ["Waiting for another process that computes the same"]
    assert len(computed) == BLOCK_ROWS and (rows == truth(np.arange(BLOCK_ROWS))).all()


def test_rows_that_another_process_computes_are_waited_for_and_read(root: Path) -> None:
    child = process(root, pause=0.1, count=BLOCK_ROWS)
    go(child)
    wait_for(lambda: list(root.glob(f"*/*{CLAIM}")))
    said = Said()
    computed, rows = opened(root, np.arange(BLOCK_ROWS + 3), said=said)
    end(child)
    assert computed == [BLOCK_ROWS, BLOCK_ROWS + 1, BLOCK_ROWS + 2], "only what nobody else computes"
    assert said.lines == ["Waiting for another process that computes the same"]
    assert (rows == truth(np.arange(BLOCK_ROWS + 3))).all()


def test_what_a_living_process_reads_is_in_use_and_what_a_dead_one_read_is_not(root: Path) -> None:
    child = process(root, pause=0.0, count=BLOCK_ROWS)
    go(child)
    computed_by(child)
    folder = Folder(root, 10**9)
    (array,) = folder.arrays()
    assert array.in_use and not folder.remove(array.name)
    end(child)
    assert list(root.glob(f"*/*{HOLD}")), "the control: its mark is left"
    (array,) = folder.arrays()
    assert not array.in_use and folder.remove(array.name) and not folder.arrays()


# Room


def test_what_was_not_used_for_longest_makes_room_but_never_what_is_read(root: Path) -> None:
    size = BLOCK_ROWS * (ROW_BYTES + 16)
    folder = Folder(root, max_bytes=4 * size)
    parts = [np.arange(start, start + BLOCK_ROWS) for start in range(0, 5 * BLOCK_ROWS, BLOCK_ROWS)]
    for age, names in zip((30, 20, 10), parts, strict=False):
        with Store(folder) as store:
            opened(store, names)
        (new,) = [path for path in blocks_of(root) if path.stat().st_mtime > time.time() - 5]
        os.utime(new, (time.time() - age, time.time() - age))
    with Store(folder) as reads, Store(folder) as writes:
        assert (
            opened(reads, parts[0])[0] == []
        )  # the oldest, were it not in use: which also marks it as used now
        for path in blocks_of(root):
            if path.stat().st_mtime > time.time() - 5:
                os.utime(path, (1, 1))
        opened(writes, parts[3])
        opened(writes, parts[4])
        with Store(folder) as other:
            assert other.look(array_of(), keys_of(np.array([0, 300, 600, 800, 1100]))).tolist() == [
                True, False, False, True, True
            ] or len(blocks_of(root)) == 4  # fmt: skip
        assert reads.look(array_of(), keys_of(parts[0])).all(), "what is read stays"
        before = len(blocks_of(root))
        with Store(folder) as huge, pytest.raises(NoSpaceError, match="do not fit"):
            opened(huge, np.arange(10_000, 10_000 + 6 * BLOCK_ROWS))
        assert len(blocks_of(root)) == before, "what cannot fit evicts nothing"
    assert sum(path.stat().st_size for path in blocks_of(root)) <= folder.max_bytes


def test_a_new_set_makes_room_among_the_rows_of_its_own_array(root: Path) -> None:
    size = BLOCK_ROWS * (ROW_BYTES + 16) + 512
    folder = Folder(root, max_bytes=3 * size)
    for start in (0, 10_000):
        with Store(folder) as store:
            opened(store, np.arange(start, start + 2 * BLOCK_ROWS))
    with Store(folder) as store:
        assert opened(store, np.arange(10_000, 10_000 + 2 * BLOCK_ROWS))[0] == []
        assert not store.look(array_of(), keys_of(np.arange(2 * BLOCK_ROWS))).all(), (
            "the control: the first had to go"
        )


def test_no_more_than_half_of_the_free_disk_is_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("kerastl.store.store_folder.shutil.disk_usage", lambda path: usage)
    assert Folder(root, 10**9).room() == 500
    with pytest.raises(NoSpaceError, match="room for 500 bytes is left"):
        opened(root)


def test_the_work_runs_ahead_of_a_slow_disk_by_one_block_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that wait for the disk wait in memory."""
    work, add, ahead = Work(np.arange(4 * BLOCK_ROWS), pause=0.002), Array.add, []

    def slow(array: Array, *rest: Any) -> None:
        before = len(work.computed)
        time.sleep(0.2)
        ahead.append((len(ahead), before, len(work.computed)))
        add(array, *rest)

    monkeypatch.setattr(Array, "add", slow)
    opened(root, np.arange(4 * BLOCK_ROWS), work=work)
    assert all(after <= (block + 2) * BLOCK_ROWS for block, _, after in ahead), ahead
    assert any(after > before for _, before, after in ahead), "the work waited for the disk"


def test_a_block_that_is_removed_while_it_is_read_stays_readable(root: Path) -> None:
    with Store(Folder(root, 10**9)) as store:
        rows = store.open([array_of()], keys_of(EVERY), Work(EVERY))["pooled"]
        assert rows is not None and (rows[EVERY] == truth(EVERY)).all()
        for path in blocks_of(root):
            path.unlink()
        assert (rows[EVERY] == truth(EVERY)).all()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_somebody_else_is_read(root: Path, tmp_path: Path) -> None:
    opened(root)
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from test_store import *\n"
        "root = Path(sys.argv[1])\n"
        "opened(root)\n"  # all that is imported late is imported as root
        "os.setuid(65534)\n"
        "computed, rows = opened(root)\n"
        "assert computed == [] and (rows == truth(EVERY)).all()\n"
        "folder = Folder(root, 10**9)\n"
        "assert folder.room() == 0 and len(folder.arrays()) == 1\n"
        "assert not folder.remove(array_of().name) and len(folder.arrays()) == 1\n"
    )
    words = [sys.executable, "-c", script, str(root), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


def test_a_store_on_nfs_is_filled_listed_read_and_cleared(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nfs(monkeypatch)
    assert len(opened(root)[0]) == COUNT and opened(root)[0] == []
    folder = Folder(root, 10**9)
    with Store(folder) as store:
        opened(store)
        assert folder.arrays()[0].in_use and not folder.remove(array_of().name)
    assert not folder.arrays()[0].in_use and folder.remove(array_of().name)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EIO])
def test_without_locks_it_is_said_where_to_go_and_no_file_stays_open(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    opened(root, EVERY[:100])
    no_locks(monkeypatch, code)
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WriteError, match=f"{root} gives no locks.*cache.directory"):
        opened(root)
    assert opened(root, EVERY[:100])[0] == [], "what is there is read"
    assert not Folder(root, 10**9).remove(array_of().name)
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_store_that_nobody_else_knows_of_needs_no_locks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    with Store(Folder(root, 10**9, shared=False)) as store:
        assert len(opened(store)[0]) == COUNT and opened(store)[0] == []


# Folders of others, and of earlier versions

MANIFEST, JOURNAL, ROWS = "manifest.json", "journal.jsonl", "rows.npy"


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


def test_folders_that_the_store_did_not_make_are_neither_listed_nor_removed(
    root: Path, tmp_path: Path
) -> None:
    folder = Folder(root, max_bytes=2 * COUNT * (ROW_BYTES + 16))
    with Store(folder) as store:
        opened(store)
    foreign = foreign_folders(root, tmp_path / "elsewhere")
    assert [array.name for array in folder.arrays()] == [array_of().name]
    with Store(folder) as store:
        opened(store, np.arange(10_000, 10_000 + 2 * COUNT - 300))
        assert not store.look(array_of(), keys_of(EVERY)).all(), "the control: room had to be made"
    assert not any(folder.remove(each.name) for each in foreign)
    assert all(sorted(os.listdir(each)) == [JOURNAL, MANIFEST, "notes.txt", ROWS] for each in foreign)


def test_clearing_and_pruning_leave_foreign_folders_alone(root: Path, tmp_path: Path) -> None:
    for command in (["clear"], ["prune", "--max-gigabytes", "0"], ["prune", "--older-than-days", "0"]):
        opened(root)
        foreign = foreign_folders(root, tmp_path / "elsewhere")
        done = CliRunner().invoke(cache_command, [*command, "--directory", str(root)])
        assert done.exit_code == 0 and done.output.startswith("removed 1 arrays"), done.output
        assert all((folder / "notes.txt").is_file() for folder in foreign)
        for folder in foreign:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "elsewhere")


def old_unit(root: Path, kind: str, number: int = 0) -> Path:
    """What an earlier version kept."""
    folder = root / f"{kind}-{number:024x}"
    folder.mkdir(parents=True)
    np.save(folder / ROWS, np.zeros((3, 4), np.float32))
    (folder / MANIFEST).write_text(json.dumps({"format": 2, "facts": {}}))
    return folder


def test_what_an_earlier_version_kept_is_never_read_and_is_listed_evicted_and_cleared(root: Path) -> None:
    folder = Folder(root, max_bytes=COUNT * (ROW_BYTES + 16) + 2000)
    units = [old_unit(root, kind) for kind in ("pixels", "pooled", "activations")]
    assert [(array.complete, array.in_use) for array in folder.arrays()] == [(False, False)] * 3
    with Store(folder) as store:
        assert len(opened(store)[0]) == COUNT
    runner = CliRunner()
    done = runner.invoke(cache_command, ["prune", "--directory", str(root)])
    assert (
        done.exit_code == 0 and "removed 3 arrays" in done.output and not any(unit.exists() for unit in units)
    )
    assert len(folder.arrays()) == 1, "what this version kept stays"
    old_unit(root, "pooled", 7)
    big = old_unit(root, "pixels", 8)
    (big / ROWS).write_bytes(b"x" * 20_000)
    with Store(folder) as store:
        opened(store, np.arange(5_000, 5_000 + COUNT))
    assert not big.exists(), "what nobody reads any more makes room"


def test_a_store_of_a_hundred_thousand_rows_is_opened_by_its_keys_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = np.arange(20_000)
    opened(root, names)
    read: list[int] = []
    sound = Block.sound
    monkeypatch.setattr(Block, "sound", lambda block: read.append(1) or sound(block))  # type: ignore[func-returns-value]
    few = np.array([3, 19_000])
    with Store(Folder(root, 10**9)) as store:
        rows = store.open([array_of()], keys_of(few), Work(few))["pooled"]
        assert isinstance(rows, Rows) and (rows[np.arange(2)] == truth(few)).all()
    assert 0 < len(read) <= 4, "only blocks that hold what is asked for are read and checked"
