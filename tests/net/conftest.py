"""What the tests of the net look at, each made once: two fits, their exported models and what these answer where kerastl is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from net.inputs import write_marked, write_pictures
from net.jobs import fit_and_export
from net.stopped import Stopped, end_fit, kill_fit
from net.worker import Answer, SharedResults, Worker, shared_folder

# A fit of seconds: 160 images to learn from, at 32 pixels.
RECIPE = [
    "--data", "digits", "--examples-per-class", "16", "--image-size", "32", "--head-epochs", "6", "--augment", "light",
    "--set", "augment.views=3", "--set", "data.test_fraction=0.1", "--deterministic", "--set", "head.start=zeros",
]  # fmt: skip
# Rates at which the fine-tune phase wins by a margin, here and below, so that the answers are those of thawed blocks.
THAWED = [
    "--unfreeze-from", "conv_pw_11_relu", "--finetune-epochs", "4", "--set", "finetune_phase.learning_rate=3e-4",
]  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """What a fit left behind, and what it said."""

    folder: Path
    run: Path
    exported: Path
    answer: Answer | None = None
    facts: dict[str, Any] | None = None


@dataclass(frozen=True)
class Pictures:
    """Files with digits that lie beside those of a fit, and the folder of the files."""

    folder: Path
    files: list[str]


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    running = Worker()
    yield running
    running.pool.shutdown()


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedResults]:
    shared = SharedResults(shared_folder(tmp_path_factory.getbasetemp()))
    yield shared
    shared.pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def store(results: SharedResults) -> Path:
    """Where the fits of the net keep what they compute."""
    return results.folder / "store"


@pytest.fixture(scope="session")
def recipe(store: Path) -> list[str]:
    """The words of a fit with one label an image."""
    return [*RECIPE, "--set", f"cache.directory={store}"]


@pytest.fixture(scope="session")
def stopped_fits(
    request: pytest.FixtureRequest, results: SharedResults
) -> dict[str, Callable[[Path], Stopped]]:
    """Fits that are stopped from outside; begun with the first fit of all, if a test will ask for them."""
    makes = {
        "killed_fit": partial(kill_fit, ["fit", *RECIPE, *THAWED, "--name", "digits", "--no-export"]),
        "ended_fit": partial(end_fit, ["fit", *RECIPE]),
    }
    if any(item.path.name == "test_stops.py" for item in request.session.items):
        for name, make in makes.items():
            results.begin(name, make)
    return makes


@pytest.fixture(scope="session")
def one_label(results: SharedResults, worker: Worker, recipe: list[str], stopped_fits: object) -> Fitted:
    """`kerastl fit` of digits in two phases, with its export."""

    def make(folder: Path) -> Fitted:
        answer = worker.run("fit", *recipe, *THAWED, "--name", "digits", "--json", folder=folder)
        return Fitted(folder, folder / answer.json["run"], folder / answer.json["exported"]["path"], answer)

    return results.made("one_label", make)


@pytest.fixture(scope="session")
def marks(results: SharedResults, store: Path) -> dict[str, Any]:
    """The flags of a fit with several labels an image."""
    manifest = results.made("marks", write_marked)
    return {
        "name": "marks", "data.source": str(manifest), "data.multi_label": True, "backbone.name": "mobilenet_025",
        "backbone.image_size": 32, "head.start": "zeros", "head_phase.epochs": 6, "finetune_phase.epochs": 2, "augment.level": "light",
        "finetune_phase.unfreeze_from": "conv_pw_12_relu", "finetune_phase.learning_rate": 1e-3, "augment.views": 2,
        "cache.directory": str(store), "deterministic": True,
    }  # fmt: skip


@pytest.fixture(scope="session")
def many_labels(results: SharedResults, worker: Worker, marks: dict[str, Any]) -> Fitted:
    """`kerastl.fit` from a manifest with several labels an image, and `kerastl.export_run` of it."""

    def make(folder: Path) -> Fitted:
        facts = worker.call(fit_and_export, marks, folder)
        return Fitted(folder, facts["run"], facts["exported"], facts=facts)

    return results.made("many_labels", make)


@pytest.fixture(scope="session")
def pictures(results: SharedResults) -> Pictures:
    """Forty digits as files."""

    def make(folder: Path) -> Pictures:
        return Pictures(folder, [str(path) for path, _ in write_pictures(folder, 1600, 40)])

    return results.made("pictures", make)


@pytest.fixture(scope="session")
def answers(
    results: SharedResults, one_label: Fitted, many_labels: Fitted, pictures: Pictures
) -> dict[str, dict[str, np.ndarray]]:
    """What both exported models answer in a process that cannot import kerastl, by the names of their outputs."""

    def make(folder: Path) -> dict[str, dict[str, np.ndarray]]:
        models = {"one_label": one_label.exported, "many_labels": many_labels.exported}
        asked = {name: [str(path), pictures.files] for name, path in models.items()}
        (folder / "models.json").write_text(json.dumps(asked))
        program = [sys.executable, "-I", str(Path(__file__).with_name("without_kerastl.py"))]
        done = subprocess.run(
            [*program, "models.json", "answers.npz"], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        with np.load(folder / "answers.npz") as found:
            return {
                name: {key.split("/")[1]: found[key] for key in found if key.startswith(f"{name}/")}
                for name in models
            }

    return results.made("answers", make)
