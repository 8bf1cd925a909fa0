"""Damaged image files against the decoder of exported models: none may end the process or keep it busy.

    .venv/bin/python benchmarks/fuzz_decode.py --files 20000 [--corpus FOLDER] [--keep FOLDER]

For each format, files that Pillow writes (and those of FOLDER, such as Tests/images of Pillow's source) are damaged:
bytes, numbers and flags are changed, parts cut out, repeated or put into another file; checksums of PNG are made right
again in half of them. The decoder runs in a process of its own, under glibc's checks of its heap where they are
installed, so that bytes written beyond an array are seen. A file that ends this process, or takes more than
`SECONDS_AT_MOST` of the processor, is counted, kept and named; the process begins anew behind it. File i of a format is a pure
function of i and the corpus.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

MAGIC = {"jpeg": b"\xff\xd8", "png": b"\x89PNG", "gif": b"GIF8", "bmp": b"BM", "webp": b"RIFF"}
CHECKED_HEAP = Path("/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")
SECONDS_AT_MOST = 30
MEMORY_BYTES = 12 * 2**30
LARGEST_BYTES = 60_000


def corpus_of(format_name: str, folder: Path | None) -> list[bytes]:
    """Sound files of a format: what Pillow writes in many ways, and what the folder holds."""
    from PIL import Image

    picture = Image.effect_noise((23, 31), 60).convert("RGB")
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:tiff="t"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    frames = [picture.rotate(90 * turn) for turn in range(3)]
    clear_frames = [clear.rotate(90 * turn) for turn in range(3)]
    many = {"save_all": True, "append_images": frames, "duration": 50}
    ways: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "jpeg": [
            (picture, {"exif": exif}), (picture, {"progressive": True, "xmp": xmp}), (picture.convert("L"), {}),
            (picture.convert("CMYK"), {}), (picture.resize((300, 200)), {"icc_profile": b"x" * 70_000}),
        ],
        "png": [
            (picture, {"exif": exif}), (clear, {}), (picture.convert("P"), {"transparency": 3}),
            (picture.convert("1"), {}), (picture.convert("I;16"), {}), (picture, many), (clear.convert("LA"), {}),
        ],
        "gif": [
            (picture, {}), (picture, many), (clear, {"comment": b"x" * 700}), (picture.convert("L"), {"interlace": 0}),
        ],
        "bmp": [(picture.convert(mode), {}) for mode in ("RGB", "RGBA", "L", "P", "1")],
        "webp": [
            (picture, {"exif": exif, "xmp": xmp}), (clear, {"exif": exif, "lossless": True}), (picture, many),
            (picture, {**many, "lossless": True, "xmp": xmp}), (picture, {}), (picture, {"lossless": True}),
            (clear_frames[0], {"save_all": True, "append_images": clear_frames, "duration": 50}),
            (picture, {**many, "minimize_size": True, "allow_mixed": True}),
        ],
    }  # fmt: skip
    found = []
    for image, options in ways[format_name]:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        found.append(buffer.getvalue())
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.is_file() and path.stat().st_size <= LARGEST_BYTES:
            data = path.read_bytes()
            if data.startswith(MAGIC[format_name]):
                found.append(data)
    return found


def damaged(corpus: Sequence[bytes], format_name: str, number: int) -> bytes:
    """File `number` of the damaged ones."""
    chance = random.Random(f"{format_name} {number}")
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if not data:
            break
        # Structure stands at the front: half of the changes go there.
        at = chance.randrange(min(len(data), 120) if chance.random() < 0.5 else len(data))
        way = chance.randrange(9)
        if way == 0:
            data[at] = chance.randrange(256)
        elif way == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif way in (2, 3):
            edge = chance.choice(
                (0, 1, 2, 16, 127, 128, 255, 256, 4096, 16383, 32767, 65535, 2**24 - 1, 2**31, 2**32 - 1)
            )
            size = chance.choice((2, 3, 4))
            number_bytes = (edge % 256**size).to_bytes(size, chance.choice(("little", "big")))
            data[at : at + size] = number_bytes
        elif way == 4:
            del data[at:]
        elif way == 5:
            del data[at : at + chance.randrange(1, 60)]
        elif way == 6:
            data[at:at] = data[at : at + chance.randrange(1, 200)]
        elif way == 7:
            other = chance.choice(corpus)
            start = chance.randrange(len(other))
            data[at:at] = other[start : start + chance.randrange(1, 400)]
        else:
            other = chance.choice(corpus)
            data[at:] = other[at:]
    if chance.random() < 0.9:
        data[: len(MAGIC[format_name])] = MAGIC[format_name]
    if format_name == "webp":
        data[8:12] = b"WEBP"
        if chance.random() < 0.7:
            # Lengths that fit, or else nearly all files end at the container.
            data[4:8] = struct.pack("<I", max(len(data) - 8, 0))
    if format_name == "png" and chance.random() < 0.5:
        data = bytearray(with_checksums(bytes(data)))
    return bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold."""
    result, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        result += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(result + data[at:])


def work(format_name: str, first: int, count: int, folder: Path | None, current: Path) -> None:
    """Decode damaged files one after the other; before each, its number goes into a file that outlives this process."""
    import tensorflow as tf

    from kerastl.modality.image.decode import decode

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    read = tf.function(
        lambda data: decode(data, 32, "stretch"),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    corpus = corpus_of(format_name, folder)
    with open(current, "r+b", buffering=0) as note:
        for number in range(first, count):
            note.seek(0)
            note.write(struct.pack("<q", number))
            try:
                read(tf.constant(damaged(corpus, format_name, number)))
                answer = b"r"
            except tf.errors.OpError as error:
                # What TensorFlow itself has no room for would end a smaller machine.
                answer = b"m" if isinstance(error, tf.errors.ResourceExhaustedError) else b"."
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()


def processor_seconds(pid: int) -> float:
    """What a process has computed so far; other work on the machine does not count."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def attack(format_name: str, count: int, folder: Path | None, keep: Path) -> Iterator[str]:
    """Lines about one format; the last one sums up."""
    current = keep / f"{format_name}.current"
    current.write_bytes(struct.pack("<q", -1))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    if CHECKED_HEAP.exists():
        environment |= {"LD_PRELOAD": str(CHECKED_HEAP), "MALLOC_CHECK_": "3"}
    first, answers, bad, started = 0, b"", 0, time.perf_counter()
    while first < count:
        command = [sys.executable, __file__, "--worker", format_name, str(first), str(count), str(current)]
        command += [str(folder)] if folder else []
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        last, seen = 0.0, b""
        while process.poll() is None:
            fresh = process.stdout.read() or b""
            seen += fresh
            # Importing TensorFlow takes some seconds more.
            patience = SECONDS_AT_MOST if seen else 10 * SECONDS_AT_MOST
            if fresh:
                last = processor_seconds(process.pid)
            elif processor_seconds(process.pid) - last > patience:
                process.kill()
            time.sleep(0.05)
        seen += process.stdout.read() or b""
        answers += seen
        if process.returncode == 0:
            break
        (number,) = struct.unpack("<q", current.read_bytes())
        if number < first:
            raise SystemExit(
                f"{format_name}: the process ended with {process.returncode} before its first file"
            )
        what = "took too long" if process.returncode == -9 else f"ended the process ({process.returncode})"
        name = keep / f"{format_name}-{number}"
        name.write_bytes(damaged(corpus_of(format_name, folder), format_name, number))
        bad += 1
        yield f"{format_name}: file {number} {what}: {name}"
        first = number + 1
    yield (
        f"{format_name}: {count:,} damaged files, {answers.count(b'r'):,} read, {answers.count(b'.'):,} refused, "
        f"{answers.count(b'm'):,} without memory, {bad} crashed or hung; {time.perf_counter() - started:.0f} s"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, help="of each format")
    parser.add_argument("--formats", nargs="+", default=list(MAGIC), choices=list(MAGIC))
    parser.add_argument("--corpus", type=Path, help="a folder of sound files to damage as well")
    parser.add_argument(
        "--keep", type=Path, help="where files that crash are kept; a temporary folder without it"
    )
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    print(
        "heap checked by glibc" if CHECKED_HEAP.exists() else f"heap not checked: no {CHECKED_HEAP}",
        flush=True,
    )
    for format_name in options.formats:
        for line in attack(format_name, options.files, options.corpus, keep):
            print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        format_name, first, count, current, *folder = sys.argv[2:]
        work(format_name, int(first), int(count), Path(folder[0]) if folder else None, Path(current))
    else:
        main()
