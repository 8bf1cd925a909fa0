"""The demo of texts: what ships for it, how that was made, and that it transfers."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse

import kerastl
from kerastl.backbones import BUNDLED_WEIGHTS_FOLDER, get_backbone
from kerastl.data.definitions import DEFINITIONS_FILE
from kerastl.data.sources import open_examples
from kerastl.data.splits import make_splits
from kerastl.errors import DataError
from kerastl.modality import InputSpec
from kerastl.model.build import build_backbone
from kerastl.model.static_embeddings import StaticConfig, build_static, load_static
from kerastl.model.weights import load_weights
from kerastl.recipe import load_recipe
from kerastl.recipe.schema import DataRecipe

ROOT = Path(__file__).parents[1]
EMBEDDINGS = BUNDLED_WEIGHTS_FOLDER / "minilm_static"
MOST_BYTES = 2_000_000
CLASSES = (
    "animal",
    "artifact",
    "body",
    "communication",
    "feeling",
    "food",
    "location",
    "person",
    "plant",
    "time",
)
DATA = DataRecipe(source="definitions")


def shipped() -> list[Path]:
    return sorted(path for folder in (EMBEDDINGS, DEFINITIONS_FILE.parent) for path in folder.iterdir())


def test_the_definitions_are_ten_equal_classes_of_different_texts() -> None:
    examples = open_examples(DATA)
    assert len(examples) == 3000 and examples.class_names == CLASSES and examples.noun == "text"
    assert np.bincount(examples.labels).tolist() == [300] * 10
    texts = [bytes(each).decode() for each in examples.raw(np.arange(3000))]
    assert len(set(texts)) == 3000 and all(20 <= len(text) <= 120 for text in texts)
    first, second = (make_splits(open_examples(DATA), DATA) for _ in range(2))
    assert first.fingerprint == second.fingerprint and first.warnings == ()


def test_they_are_the_same_read_as_the_manifest_that_they_are() -> None:
    ours, read = open_examples(DATA), open_examples(DataRecipe(source=str(DEFINITIONS_FILE)))

    def pairs(examples: Any) -> set[tuple[bytes, str]]:
        raw = examples.raw(np.arange(len(examples)))
        return {
            (bytes(each), examples.class_names[label])
            for each, label in zip(raw, examples.labels, strict=True)
        }

    assert pairs(ours) == pairs(read)


def test_definitions_are_no_images_and_a_folder_of_their_name_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"'definitions' are texts.*--data"):
        open_examples(DataRecipe(source="definitions", modality="image"))
    monkeypatch.chdir(tmp_path)
    assert open_examples(DATA).warnings == ()
    (tmp_path / "definitions").mkdir()
    assert "--data ./definitions" in open_examples(DATA).warnings[0]


def test_data_that_ship_get_the_backbone_that_ships() -> None:
    assert load_recipe(flags={"data.source": "definitions"}).backbone.name == "minilm_static"
    assert load_recipe("texts").backbone.name == "minilm_static"
    assert (
        load_recipe(flags={"data.source": "other.csv", "data.modality": "text"}).backbone.name == "minilm_l6"
    )


def test_what_ships_is_small_and_is_what_its_page_says() -> None:
    assert sum(path.stat().st_size for path in shipped()) <= MOST_BYTES
    page = (BUNDLED_WEIGHTS_FOLDER / "README.md").read_text(encoding="utf-8")
    for path in (DEFINITIONS_FILE, EMBEDDINGS / "model.safetensors", EMBEDDINGS / "vocab.txt"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = next((line for line in page.splitlines() if line.startswith(f"| `{path.name}` |")), "")
        assert digest in row and f"{path.stat().st_size:,} bytes" in row, f"{path.name}: {digest}"


def test_origins_and_licences_are_stated() -> None:
    licence = (DEFINITIONS_FILE.parent / "LICENSE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence and "without fee or" in licence
    page = (BUNDLED_WEIGHTS_FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(word in page for word in ("all-MiniLM-L6-v2", "Apache-2.0", "WordNet 3.0", "wordnet/LICENSE"))


def left_out_of_the_wheel(package_data: dict[str, list[str]]) -> list[Path]:
    """The shipped files that no pattern of setup.cfg takes."""
    taken = [
        (ROOT / package.replace(".", "/"), pattern)
        for package, patterns in package_data.items()
        for pattern in patterns
    ]
    return [
        path
        for path in shipped()
        if not any(
            path.is_relative_to(folder)
            and path.relative_to(folder).as_posix().count("/") == pattern.count("/")
            and fnmatch(path.relative_to(folder).as_posix(), pattern)
            for folder, pattern in taken
        )
    ]


def test_the_wheel_takes_all_that_ships() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    package_data = {name: patterns.split() for name, patterns in config["options.package_data"].items()}
    assert left_out_of_the_wheel(package_data) == []
    assert left_out_of_the_wheel({"kerastl": ["weights/*"]}) == shipped(), "the control"
    assert "kerastl/data/wordnet/LICENSE" in config["metadata"]["license_files"].split()


def test_the_embeddings_are_loaded_without_a_folder_and_are_not_those_of_chance() -> None:
    spec = get_backbone("minilm_static")
    backbone = build_backbone(spec, {"pieces": InputSpec((16,), "int32"), "length": InputSpec((), "int32")})
    loaded = load_weights(backbone, spec, "pretrained")
    assert loaded.origin == "bundled" and loaded.path == str(EMBEDDINGS / "model.safetensors")
    (table,) = backbone.get_weights()
    assert table.shape == tuple(dict(spec.arguments).values()) and table.size == spec.parameters
    pieces = (EMBEDDINGS / "vocab.txt").read_text(encoding="utf-8").split("\n")
    kinds = [
        ["dog", "horse", "bird", "fish"],
        ["month", "week", "day", "year"],
        ["bread", "cheese", "soup", "cake"],
    ]
    places = [pieces.index(piece) for kind in kinds for piece in kind]

    def nearer_to_their_kind(table: np.ndarray) -> float:
        """How much more alike, as cosines, pieces of one kind are than pieces of two."""
        rows = table[places] / np.linalg.norm(table[places], axis=1, keepdims=True)
        of_one_kind, cosines = np.kron(np.eye(3), np.ones((4, 4))) == 1, rows @ rows.T
        return float(cosines[of_one_kind & ~np.eye(12, dtype=bool)].mean() - cosines[~of_one_kind].mean())

    assert nearer_to_their_kind(table) > 0.15
    assert abs(nearer_to_their_kind(np.random.default_rng(0).permutation(table[4:]))) < 0.1, "the control"
    assert not table[:4].any(), "special pieces say nothing"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")


def test_definitions_are_chosen_by_their_kind_and_by_nothing_else(tools: None, tmp_path: Path) -> None:
    import wordnet_definitions as made

    lines = ["  1 This software and database is provided under a licence"]
    lines += [
        f'{at:08} 05 n 01 x{at} 0 001 @ 0 n 0 | an animal that runs on {at} legs; "it ran"  '
        for at in range(400)
    ]
    lines += [
        "1 18 n 01 y 0 001 @i 0 n 0 | a king who ruled for many years  ",
        "2 18 n 01 z 0 000 | someone who teaches children  ",
    ]
    lines += ["3 18 n 01 u 0 000 | too short  ", "4 18 n 01 v 0 000 | offensive terms for a person  "]
    lines += [
        "5 13 n 01 a 0 000 | it stands under two words  ",
        "6 20 n 01 b 0 000 | it stands under two words  ",
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines) + "\n")
    found = made.chosen(tmp_path)
    assert found["person"] == ["someone who teaches children"] and found["food"] == found["plant"] == []
    assert len(found["animal"]) == 300 and all(text.endswith("legs") for text in found["animal"])
    (tmp_path / "data.noun").write_text("\n".join(reversed(lines)) + "\n")
    assert made.chosen(tmp_path) == found, "in another order the same are taken"
    rest = made.others(tmp_path)
    assert len(rest) == 100 + 2 and not set(rest) & set(found["animal"])


def test_a_table_is_solved_for(tools: None) -> None:
    import distil_static as made

    generator = np.random.default_rng(0)
    table = generator.normal(size=(30, 5))
    given = sparse.csr_matrix(generator.dirichlet(np.ones(30), 200))
    start = np.zeros_like(table)
    found = made.solved(given, given @ table, start, 1e-6)
    np.testing.assert_allclose(found, table, atol=5e-2)
    assert np.abs(made.solved(given, given @ table, start, 1e3)).max() < 1e-1, (
        "a strong penalty stays at the start"
    )
    pieces, lengths = np.array([[2, 5, 5, 3, 0], [2, 3, 0, 0, 0]]), np.array([4, 2])
    np.testing.assert_array_equal(
        made.shares(pieces, lengths, 6).toarray(), [[0, 0, 0.25, 0.25, 0, 0.5], [0, 0, 0.5, 0.5, 0, 0]]
    )


def test_a_table_in_8_bits_is_read_back(tools: None, tmp_path: Path) -> None:
    import distil_static as made

    table = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32) * np.logspace(-2, 1, 20)[:, None]
    table[0] = 0
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    made.write_tensors(tmp_path / "model.safetensors", made.stored(table))
    backbone = build_static(StaticConfig(20, 6))
    load_static(backbone, StaticConfig(20, 6), tmp_path)
    off = np.abs(backbone.get_weights()[0] - table) / np.maximum(np.abs(table).max(1, keepdims=True), 1e-9)
    assert 0 < off.max() <= 0.6 / 127


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Test accuracy of the demo on ten definitions a class, with what ships and with random embeddings, heads alone."""
    runs = tmp_path_factory.mktemp("runs")
    return {
        weights: kerastl.fit(
            "texts",
            runs_dir=runs,
            weights=weights,
            examples_per_class=10,
            finetune_epochs=0,
            export_model=False,
        ).report.metrics.accuracy
        for weights in ("pretrained", "none")
    }


@pytest.mark.slow
def test_the_demo_transfers(accuracies: dict[str, float]) -> None:
    assert accuracies["pretrained"] > accuracies["none"] + 0.15 > 0.3


@pytest.mark.slow
def test_the_demo_ends_with_an_exported_model_and_what_to_try_next(tmp_path: Path, here: Any) -> None:
    done = here("fit", "texts")
    assert done.returncode == 0, done.stderr
    assert (
        "Test, " in done.stdout and (tmp_path / "saved_models" / "texts" / "1" / "saved_model.pb").is_file()
    )
    report, following = done.stdout.split("\nnext\n")
    assert "accuracy" in report and len(following.splitlines()) == 3
    run, sentence = re.search(r"kerastl predict (\S+) \"(.*)\"", following).groups()  # type: ignore[union-attr]
    asked = here("predict", run, sentence, "someone who bakes bread", "the day before a holiday")
    assert [line.split()[-2] for line in asked.stdout.splitlines()[1:]] == ["animal", "person", "time"]
