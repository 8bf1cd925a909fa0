"""What several tests need: a quiet TensorFlow, a folder of solid colours, and the command line as a process."""

from __future__ import annotations

import atexit
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from served import PALETTE, StandIn, stand_in, write_colour_models

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

# No test may read, or fill, the store of the one who runs it.
os.environ["KERASTL_CACHE_DIR"] = tempfile.mkdtemp(prefix="kerastl-test-cache-")
atexit.register(shutil.rmtree, os.environ["KERASTL_CACHE_DIR"], ignore_errors=True)

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}

Kerastl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let unseeded weights be the same whichever tests ran before in this process.

    Keras takes the seeds of its initialisers from here. TensorFlow's own seed stays as it is: setting it empties TensorFlow's
    cache of graphs, and every test that decodes would wait a second for the decoder's.
    """
    random.seed(0)
    if "keras" in sys.modules:
        with mock.patch("tensorflow.random.set_seed"):
            sys.modules["keras"].utils.set_random_seed(0)


def heed_ctrl_c() -> None:
    """For `preexec_fn`: a test run in the background hands down that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """The folder with real ImageNet weights beside the project."""
    folder = Path(__file__).parents[2] / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip("real ImageNet weights are not at ../shared/weights")
    return folder


@pytest.fixture(scope="session")
def shared_cifar10() -> Path:
    """The folder with 2,000 + 1,000 images of CIFAR-10 beside the project."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not at ../shared/data/cifar10")
    return folder


@pytest.fixture(scope="session")
def solid_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder a colour, 24 noisy PNGs of 32 pixels in each: anyone can learn it."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(7)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(24):
            noise = generator.integers(-25, 26, (32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


@functools.cache
def small_backbone_file(drawing: bool = False) -> str:
    """File of a network of three blocks with BatchNorm, whose parts are built and traced in no time; for images of 32 pixels.

    Its cut points are `block2_out`, `block1_out` and `stem`. With `drawing` dropout stands in each block.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=4, name="stem")(layers.Rescaling(1 / 127.5, offset=-1)(images))
    for number in (1, 2, 3):
        y = layers.BatchNormalization(name=f"block{number}_bn")(x)
        y = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"block{number}_conv")(y)
        if drawing:
            y = layers.Dropout(0.2, name=f"block{number}_dropout")(y)
        x = layers.Add(name=f"block{number}_out")([x, y])
    folder = tempfile.mkdtemp(prefix="kerastl-test-backbone-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    keras.Model(images, x, name="small").save(f"{folder}/small.keras")
    return f"{folder}/small.keras"


@pytest.fixture(scope="session")
def small_backbone() -> str:
    """File of a network of three blocks; see `small_backbone_file`."""
    return small_backbone_file()


@pytest.fixture
def decode_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each pass decoded."""
    from kerastl.features import inputs

    counts: list[int] = []
    once = inputs.decode_in_chunks

    def counted(modality: Any, raw: Any, lengths: Any, *rest: Any) -> Iterator[Any]:
        counts.append(sum(lengths))
        return once(modality, raw, lengths, *rest)

    monkeypatch.setattr(inputs, "decode_in_chunks", counted)
    return counts


@pytest.fixture(scope="module")
def shared_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`shared_of(recipe, folds)`: what the trials of a search share, on a store of its own."""
    from kerastl.features.cache import Cache
    from kerastl.jobs.open import open_splits
    from kerastl.search.shared import Shared

    with ExitStack() as stack:

        def make(recipe: Any, folds: int = 0) -> Any:
            cache = stack.enter_context(Cache(recipe.cache, tmp_path_factory.mktemp("scratch")))
            return Shared(open_splits(recipe)[1], cache, folds, 5)

        yield make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kerastl:
    """`here(*words)`: the command line in this process, where no process is what is tested."""
    from kerastl.cli import main

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        handler = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, words)))
        signal.signal(signal.SIGTERM, handler)
        return subprocess.CompletedProcess(words, int(str(ended.value.code)), *capsys.readouterr())

    return run


@pytest.fixture
def kerastl(tmp_path: Path) -> Kerastl:
    """`kerastl(*words)` runs the command line as a user would, in an empty folder."""

    def run(*words: str | Path, cwd: Path = tmp_path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kerastl", *map(str, words)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture(scope="session")
def served_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models to serve; see `write_colour_models`."""
    return write_colour_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def served(served_models: dict[str, Path]) -> Iterator[StandIn]:
    """The stand-in for TensorFlow Serving with all of them."""
    with stand_in(served_models) as running:
        yield running


@pytest.fixture
def palette(tmp_path: Path) -> Path:
    """A folder with an image of each colour of the palette, named for it."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in PALETTE.items():
        Image.new("RGB", (12, 9), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """One red image."""
    from PIL import Image

    Image.new("RGB", (8, 8), PALETTE["red"]).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")
