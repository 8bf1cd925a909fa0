"""Other formats: what LiteRT and ONNX Runtime answer equals what was trained, and nothing else becomes visible."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Kerastl

from kerastl.errors import ExportError, UserError
from kerastl.export import ask_process
from kerastl.export.check import FORMAT_TOLERANCE, MIXED_PRECISION_TOLERANCE, check_export, tolerance_for
from kerastl.export.compare import INTEGER_STEP, CheckExamples, CheckResult, compare
from kerastl.export.formats import (
    FORMATS,
    SERVED,
    missing_packages,
    read_info,
    require_packages,
    write_format,
)
from kerastl.export.process import Answers, Pass, start_model
from kerastl.export.publish import publish
from kerastl.export.signature import Serving
from kerastl.modality.image import Image as Images
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL

NAMES = ("blau", "grün", "rot")
SIZE = 24
SERVING = Serving(NAMES, Images(SIZE), threshold=0.7)
# blue, green, red: the classes differ by nothing else, so channels in another order exchange them
COLOURS = np.array([(50, 70, 190), (60, 180, 80), (190, 60, 60)])

needs = {
    name: pytest.mark.skipif(
        any(importlib.util.find_spec(package) is None for package in format.packages),
        reason=f"{', '.join(format.packages)} not installed",
    )
    for name, format in FORMATS.items()
}
EACH = [pytest.param(name, marks=needs[name]) for name in FORMATS]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Sixty images of noise around a colour."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 60, (60, SIZE, SIZE, 3))
    return np.clip(COLOURS[np.arange(60) % 3][:, None, None] + noise, 0, 255).astype(np.uint8)


def tiny_model(
    pixels: np.ndarray,
    before: Callable[[Any], Any] = lambda x: x,
    dtype: str = "float32",
    start: Callable[[Any], Any] | None = None,
) -> Any:
    """RGB 0..255 in, three logits out, fitted to the colours; `before` changes only what it is asked with."""
    import keras

    keras.utils.set_random_seed(3)
    rescale = start or keras.layers.Rescaling(1 / 127.5, -1.0, dtype=dtype)
    convolution = keras.layers.Conv2D(8, 3, strides=2, activation="relu", dtype=dtype)
    normalization = keras.layers.BatchNormalization(dtype=dtype)
    pool = keras.layers.GlobalAveragePooling2D(dtype="float32")

    def features_of(x: Any) -> Any:
        return pool(normalization(convolution(rescale(x))))

    inputs = keras.Input((SIZE, SIZE, 3))
    features = keras.Model(inputs, features_of(inputs)).predict(pixels.astype(np.float32), verbose=0)
    wanted = np.where(np.eye(3)[np.arange(len(pixels)) % 3] > 0, 3.0, -1.0)
    solved = np.linalg.lstsq(np.c_[features, np.ones(len(features))], wanted, rcond=None)[0]
    dense = keras.layers.Dense(3, dtype="float32")
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(inputs, dense(features_of(before(inputs))))
    dense.set_weights([solved[:-1].astype(np.float32), solved[-1].astype(np.float32)])
    return model


def flip_channels(x: Any) -> Any:
    import keras

    return keras.ops.flip(x, axis=-1)


def images_of(model: Any, pixels: np.ndarray, task: Task = CLASSIFICATION) -> CheckExamples:
    from kerastl.jobs.convert import checked_examples

    labels = np.arange(len(pixels)) % 3
    given = labels if task.exclusive else np.eye(3, dtype=np.uint8)[labels]
    return checked_examples(model, {"pixels": pixels}, given, np.arange(len(pixels)) >= 20, task)


def test_floats_need_no_representative_images(tmp_path: Path, pixels: np.ndarray) -> None:
    name = next((name for name in ("litert", "onnx") if not missing_packages(FORMATS[name])), None)
    if name is None:
        pytest.skip("no format's packages are installed")
    write_format(tiny_model(pixels), SERVING, FORMATS[name], tmp_path / "m", {"pixels": pixels[:0]})
    assert (tmp_path / "m" / FORMATS[name].file).is_file()


def check(
    folder: Path,
    name: str,
    images: CheckExamples,
    serving: Serving = SERVING,
    tolerance: float = FORMAT_TOLERANCE,
) -> CheckResult:
    return check_export(folder, images, serving, tolerance, FORMATS[name])


def write(model: Any, name: str, folder: Path, pixels: np.ndarray, serving: Serving = SERVING) -> Path:
    # neither black nor white in them: the input's scale must not depend on what the images happen to hold
    write_format(model, serving, FORMATS[name], folder, {"pixels": np.clip(pixels, 40, 215)})
    return folder


@pytest.fixture(scope="module")
def images(pixels: np.ndarray) -> CheckExamples:
    return images_of(tiny_model(pixels), pixels)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Callable[[str], Path]:
    """The folder of the tiny model in a format, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = write(tiny_model(pixels), name, tmp_path_factory.mktemp("f") / name, pixels)
        return made[name]

    return folder_of


@pytest.mark.parametrize("name", EACH)
def test_a_converted_model_answers_as_the_model(
    name: str, written: Callable[[str], Path], images: CheckExamples
) -> None:
    format, folder = FORMATS[name], written(name)
    result = check(folder, name, images)
    assert result.problems == () and result.passed
    assert result.count == 60 and result.test_count == 40
    assert result.largest_difference < (0.1 if format.is_integer else 1e-5)
    assert result.label_agreement >= 0.95 and result.model_accuracy == 1.0
    assert result.accuracy >= (0.97 if format.is_integer else 1.0)
    assert {each.name for each in folder.iterdir()} == {format.file, "labels.txt", "format.json"}
    assert (folder / "labels.txt").read_text("utf-8") == "blau\ngrün\nrot\n"


@pytest.mark.parametrize("name", EACH)
def test_what_goes_in_and_comes_out_stands_beside_the_model(
    name: str, written: Callable[[str], Path], images: CheckExamples
) -> None:
    check(written(name), name, images)
    info = read_info(written(name))
    dtype = "uint8" if name == "litert-int8" else "float32"
    assert info["input"] == {
        "name": "pixels",
        "dtype": dtype,
        "shape": [-1, SIZE, SIZE, 3],
        "channels": "RGB",
        "range": [0, 255],
        "image_size": SIZE,
        "resize": "stretch",
        "significant_bits": 16,
    }
    assert info["output"]["dtype"] == dtype and info["output"]["activation"] == "softmax"
    assert ("scale" in info["output"]) == (dtype == "uint8")
    assert info["output"].get("scale", INTEGER_STEP) == INTEGER_STEP
    assert (info["labels"], info["threshold"], info["check"]["test_examples"]) == (list(NAMES), 0.7, 40)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("fault", ["blue for red", "classes reversed", "preprocessing done twice"])
def test_a_model_that_answers_otherwise_is_refused(
    name: str, fault: str, written: Callable[[str], Path], pixels: np.ndarray
) -> None:
    import keras

    before = {
        "blue for red": flip_channels,
        "preprocessing done twice": keras.layers.Rescaling(1 / 127.5, -1.0),
    }.get(fault, lambda x: x)
    expected = images_of(tiny_model(pixels, before), pixels)
    if fault == "classes reversed":
        expected = dataclasses.replace(expected, probabilities=expected.probabilities[:, ::-1])
    result = check(written(name), name, expected)
    assert not result.passed
    said = "images are called otherwise" if name == "litert-int8" else "probabilities differ by up to"
    assert said in "\n".join(result.problems)


def test_labels_and_description_that_do_not_fit_are_refused(
    written: Callable[[str], Path], images: CheckExamples, tmp_path: Path
) -> None:
    name = next((name for name, format in FORMATS.items() if not missing_packages(format)), None)
    if name is None:
        pytest.skip("no format's packages are installed")
    folder = shutil.copytree(written(name), tmp_path / "changed")
    (folder / "labels.txt").write_text("rot\ngrün\nblau\n", "utf-8")
    result = check(folder, name, images)
    assert result.problems == ("labels.txt says rot, grün, blau…, expected blau, grün, rot….",)
    info = read_info(folder)
    info["input"]["shape"] = [-1, 32, 32, 3]
    (folder / "format.json").write_text(json.dumps(info), "utf-8")
    result = check(folder, name, images)
    assert (
        "input.shape is [-1, 24, 24, 3] in the model, and [-1, 32, 32, 3] in format.json." in result.problems
    )


@pytest.mark.parametrize("name", EACH)
def test_a_file_that_the_runtime_cannot_read_is_named(
    name: str, written: Callable[[str], Path], images: CheckExamples, tmp_path: Path
) -> None:
    folder = shutil.copytree(written(name), tmp_path / "broken")
    (folder / FORMATS[name].file).write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"could not load and ask .*broken/model\."):
        check(folder, name, images)


@pytest.mark.parametrize("name", EACH)
def test_only_what_passed_its_check_becomes_visible(
    name: str, written: Callable[[str], Path], images: CheckExamples, tmp_path: Path
) -> None:
    format = FORMATS[name]

    def build(path: Path) -> None:
        shutil.copytree(written(name), path)

    good = publish(build, lambda path: check(path, name, images), tmp_path / name, "m")
    assert good.path == tmp_path / name / "m" / "1" and (good.path / format.file).is_file()
    reversed_images = dataclasses.replace(images, probabilities=images.probabilities[:, ::-1])
    with pytest.raises(ExportError, match="Nothing was published; version 1 stays the latest"):
        publish(build, lambda path: check(path, name, reversed_images), tmp_path / name, "m")
    assert [child.name for child in (tmp_path / name / "m").iterdir()] == ["1"]


BATCH_SIZE, SINGLES = 32, 4


def answers_with(images: CheckExamples, wrong_tests: int) -> Answers:
    """As expected, but for the first few test images, whose classes are exchanged."""
    given = images.probabilities.copy()
    places = np.flatnonzero(images.is_test)[:wrong_tests]
    given[places] = given[places][:, ::-1]
    return answers_of(given)


def answers_of(
    given: np.ndarray, singles: np.ndarray | None = None, again: np.ndarray | None = None
) -> Answers:
    """As a runtime answers, the same whether asked in a batch, alone or again; but for what is given otherwise."""
    batch, few = min(BATCH_SIZE, len(given)), min(SINGLES, len(given))
    singles, again = (
        (given[:few] if singles is None else singles),
        (given[:batch] if again is None else again),
    )
    asked = [(batch, len(given), given), (1, few, singles), (batch, batch, again)]
    return Answers(tuple(Pass("litert", size, count, {"probabilities": rows}) for size, count, rows in asked))


def compared(name: str, answers: Answers, images: CheckExamples) -> CheckResult:
    return compare(answers, images, SERVING, 1e-4, FORMATS[name].is_integer)


def clear_images(count: int) -> CheckExamples:
    """Test images of the first class, each recognised."""
    probabilities = np.tile([0.9, 0.06, 0.04], (count, 1))
    pixels = np.zeros((count, 1, 1, 3), np.uint8)
    return CheckExamples(
        {"pixels": pixels}, probabilities, labels=np.zeros(count, int), is_test=np.ones(count, bool)
    )


@pytest.mark.parametrize(
    ("tests", "wrong", "passes"),
    [(10, 0, True), (10, 1, True), (10, 2, False), (100, 2, True), (100, 3, False), (1000, 20, True), (1000, 21, False)],
)  # fmt: skip
def test_integers_may_lose_two_points_or_one_image(tests: int, wrong: int, passes: bool) -> None:
    images = clear_images(tests)
    result = compared("litert-int8", answers_with(images, wrong), images)
    assert result.passed is passes
    assert (result.accuracy, result.label_agreement) == pytest.approx((1 - wrong / tests,) * 2)
    if not passes:
        assert f"Accuracy on {tests} test images is" in result.problems[0]
        assert "points are lost, at most 2 may be" in result.problems[0]


def test_integers_that_change_labels_are_refused_though_no_accuracy_is_lost() -> None:
    images = dataclasses.replace(clear_images(100), labels=np.ones(100, int))  # the model is always wrong
    for wrong, passes in ((20, True), (21, False)):
        result = compared("litert-int8", answers_with(images, wrong), images)
        assert result.passed is passes and result.accuracy == result.model_accuracy == 0
    assert result.problems == (
        "21 of 100 images are called otherwise than the model calls them; at least 80% must agree. Accuracy on 100 "
        "test images is 0.000, that of the model 0.000.",
    )


def test_answers_that_are_no_numbers_or_of_another_shape_are_refused() -> None:
    images = clear_images(10)
    for given in (np.full((10, 3), np.nan), np.ones((10, 4)), np.ones((9, 3))):
        for name in ("litert", "litert-int8"):
            answers = answers_of(images.probabilities)
            first = dataclasses.replace(answers.passes[0], outputs={"probabilities": given})
            result = compared(name, Answers((first, *answers.passes[1:])), images)
            assert not result.passed and "expected [10, 3] finite numbers" in result.problems[0]
            assert result.largest_difference == np.inf and result.accuracy == 0


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("side", "given", "expected"),
    [
        ("singles", np.full((4, 3), np.nan), "batches of 1: probabilities are [4, 3] and not all finite, expected [4, 3]"),
        ("singles", np.full((3, 3), 0.3), "batches of 1: probabilities are [3, 3], expected [4, 3]"),
        ("again", np.full((10, 3), np.inf), "batches of 10: probabilities are [10, 3] and not all finite, expected [10, 3]"),
        ("again", np.zeros((0, 3)), "batches of 10: probabilities are [0, 3], expected [10, 3]"),
    ],
)  # fmt: skip
def test_answers_to_single_images_and_to_a_second_request_are_looked_at(
    name: str, side: str, given: np.ndarray, expected: str
) -> None:
    images = clear_images(10)
    result = compared(name, answers_of(images.probabilities, **{side: given}), images)
    assert len(result.problems) == 1 and expected in result.problems[0]
    assert result.largest_difference == np.inf


def test_a_runtime_is_asked_in_batches_alone_and_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(images: np.ndarray) -> dict[str, np.ndarray]:
        """The number of the call, for each image."""
        asked.append(len(images))
        return {"probabilities": np.full((len(images), 1), len(asked))}

    counting = ask_process.Model({"counting": ask_process.Signature(["pixels"], ask)}, {})
    monkeypatch.setitem(ask_process.OPENERS, "counting", lambda model, threads: counting)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"batch_size": 3, "calls": 2}\n'))
    monkeypatch.setattr("sys.stdout", io.StringIO())
    np.save(tmp_path / "pixels.npy", np.zeros((37, 1, 1, 3), np.uint8))
    request = {"passes": [(32, 37), (1, 4), (32, 32)], "signatures": None}
    (tmp_path / "request.json").write_text(json.dumps(request))
    ask_process.answer("counting", "", str(tmp_path), "1")
    assert asked == [32, 5, 1, 1, 1, 1, 32, 3, 3, 3]
    with np.load(tmp_path / "answers.npz") as answers:
        given = [answers[f"pass{number}_probabilities"] for number in range(3)]
        assert json.loads(str(answers["facts"]))["signatures"] == ["counting"]
    assert [len(each) for each in given] == [37, 4, 32]
    assert (given[2] == 7).all() and (given[0][:32] == 1).all() and (given[0][32:] == 2).all()
    assert len(json.loads(sys.stdout.getvalue())) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_images_must_get_the_same_answers_twice(name: str) -> None:
    images = clear_images(40)
    given = images.probabilities
    assert compared(name, answers_of(given), images).problems == ()
    result = compared(name, answers_of(given, again=given[:BATCH_SIZE] + 1 / 256), images)
    assert result.problems[-1] == "The same request got answers that differ by 0.0039 when sent twice."
    assert len(result.problems) == (1 if name == "litert-int8" else 2)


@pytest.mark.parametrize("name", [each for each in EACH if each.values[0] != "litert-int8"])
def test_the_exact_gelu_is_written_in_floats(name: str, tmp_path: Path, pixels: np.ndarray) -> None:
    import keras

    model = tiny_model(pixels, start=lambda x: keras.ops.gelu(x / 32 - 4, approximate=False))
    folder = write(model, name, tmp_path / "model", pixels)
    result = check(folder, name, images_of(model, pixels))
    assert result.passed and result.largest_difference < 5e-5


def test_integers_may_move_two_steps_where_an_image_is_asked_alone() -> None:
    images = clear_images(10)
    given = images.probabilities
    for steps, passes in ((0, True), (2, True), (3, False)):
        answers = answers_of(given, singles=given[:SINGLES] + steps / 256)
        result = compared("litert-int8", answers, images)
        assert result.passed is passes
    assert "batches of 1: probabilities differ by up to 0.012 from those in larger" in result.problems[0]


def test_an_image_asked_alone_must_get_the_same_answer() -> None:
    images = clear_images(10)
    answers = answers_of(images.probabilities, singles=images.probabilities[:4] + 0.01)
    result = compared("onnx", answers, images)
    assert "batches of 1: probabilities differ by up to 0.01, at most 0.0001" in result.problems[0]


def test_a_served_model_must_answer_with_labels_and_without_noise() -> None:
    images = clear_images(4)
    answered = {
        "probabilities": images.probabilities,
        "classes": np.array([NAMES] * 4),
        "scores": images.probabilities,
        "label": np.array(["blau"] * 4),
        "label_index": np.zeros(4, int),
    }
    serving = dataclasses.replace(SERVING, threshold=None)

    def problems(outputs: dict[str, np.ndarray], **facts: Any) -> tuple[str, ...]:
        answers = Answers((Pass("serving_default", 4, 4, outputs),), facts)
        return compare(answers, images, serving, 1e-5).problems

    assert problems(answered) == ()
    for name in ("classes", "scores", "label", "label_index"):
        without = {key: value for key, value in answered.items() if key != name}
        assert problems(without) == (f"serving_default in batches of 4: {name} not answered.",)
    (problem,) = problems({**answered, "label": np.array(["rot"] * 4)})
    assert "4 of 4 labels are wrong; image 0 was called 'rot' (column 0), expected 'blau'" in problem
    assert problems(answered, random_operations=["RandomUniform"]) == (
        "The graph holds random operations: RandomUniform.",
    )


@pytest.mark.parametrize("name", [each for each in EACH if each.values == ("onnx",)])
def test_a_process_that_ends_early_or_hangs_is_named_with_its_last_words(
    name: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    broken, silent = tmp_path / "broken.onnx", tmp_path / "silent.onnx"
    broken.write_bytes(b"no model")
    os.mkfifo(silent)  # who reads it waits for ever
    runtime = FORMATS[name].runtime
    for ask in (lambda process: process.times(1, 1), lambda process: process.answers()):
        words = r"(?s)could not load and ask .*broken\.onnx:\n.*InvalidProtobuf"
        with (
            start_model(runtime, broken, {"pixels": pixels}, [(32, 60)]) as process,
            pytest.raises(ExportError, match=words),
        ):
            ask(process)
    with start_model(runtime, silent, {"pixels": pixels}, [(32, 60)]) as process:
        with pytest.raises(ExportError, match=r"silent\.onnx did not answer within 2 seconds"):
            process.answers(seconds=2)
        assert process._process.poll() is None, "else it had not been waited for"
    assert process._process.poll() is not None, "no process is left behind"


@pytest.mark.parametrize("runtime", ["litert", "onnx", "saved_model", "keras", "convert"])
def test_no_process_can_import_kerastl_and_few_keras(runtime: str, tmp_path: Path) -> None:
    """The script refuses packages before anything else is imported."""
    script = Path(ask_process.__file__)
    program = f"""if True:
        import runpy, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        sys.argv = ["ask_process.py", {runtime!r}]
        try:
            runpy.run_path({str(script)!r}, run_name="__main__")
        except TypeError as error:  # no request was given
            print([name for name in ("kerastl", "tensorflow", "keras") if sys.modules.get(name, 1) is None])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    refused = {"saved_model": ["kerastl", "keras"], "litert": ["kerastl", "tensorflow", "keras"]}
    refused |= {"onnx": refused["litert"], "keras": ["kerastl"], "convert": ["kerastl"]}
    assert done.stdout == f"{refused[runtime]}\n", done.stderr


@pytest.mark.slow
def test_missing_packages_are_one_error_with_the_command_that_installs_them(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('ai_edge_litert', 'onnxruntime', 'tf2onnx'): sys.modules[name] = None\n"
        "from kerastl.cli import main\nmain()"
    )
    for command, name, extra in (("export", "litert-int8", "litert"), ("benchmark", "onnx", "onnx")):
        done = subprocess.run(
            [sys.executable, "-c", program, command, ".", "--format", name],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and f"pip install 'kerastl[{extra}]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_packages_that_extras_install_are_those_that_are_asked_for() -> None:
    import configparser

    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
    extras = config["options.extras_require"]
    for format in FORMATS.values():
        for package in format.packages:
            assert f"{package.replace('_', '-')}>=" in extras[format.extra]


def test_an_unknown_format_is_named_with_the_nearest(kerastl: Kerastl) -> None:
    from kerastl.jobs.convert import format_named

    with pytest.raises(UserError, match=r"Unknown format 'litert8'\. Did you mean 'litert'\?"):
        format_named("litert8")
    done = kerastl("export", ".", "--format", "tflite")
    assert done.returncode == 2 and "'litert-int8'" in done.stderr and "'onnx'" in done.stderr


def test_mixed_precision_is_written_in_float32(pixels: np.ndarray) -> None:
    from kerastl.model.precision import computes_in_float32, in_float32

    model = tiny_model(pixels, dtype="mixed_bfloat16")
    copy = in_float32(model)
    assert not computes_in_float32(model) and computes_in_float32(copy)
    assert in_float32(copy) is copy
    given = pixels[:8].astype(np.float32)
    np.testing.assert_allclose(copy(given), model(given), atol=0.1)
    for one, other in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    tolerances = [tolerance_for(precision, FORMATS["onnx"]) for precision in ("float32", "mixed_bfloat16")]
    assert tolerances == [1e-4, 0.02] and tolerance_for("float32", SERVED) == 1e-5


def test_the_first_representative_image_holds_both_ends_of_the_range() -> None:
    grey = np.full((2, 4, 4, 3), 90, np.uint8)
    changed = SERVING.modality.full_range({"pixels": grey})["pixels"]
    assert (changed[0].min(), changed[0].max()) == (0, 255) and (grey == 90).all()
    np.testing.assert_array_equal(changed[1], grey[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(
    "kind", ["mixed precision", "several labels", "BGR minus the mean", "generalised mean"]
)
def test_what_kerastl_builds_can_be_converted(
    name: str, kind: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    import keras

    serving, model, tolerance = SERVING, tiny_model(pixels), 1e-4
    if kind == "mixed precision":
        model = tiny_model(pixels, dtype="mixed_bfloat16")
        tolerance = MIXED_PRECISION_TOLERANCE
    elif kind == "several labels":
        serving = dataclasses.replace(SERVING, task=MULTI_LABEL)
    elif kind == "BGR minus the mean":
        minus = keras.layers.Normalization(mean=[103.9, 116.8, 123.7], variance=[1.0] * 3)
        model = tiny_model(pixels, start=lambda x: minus(x[..., ::-1]))
    else:
        inputs = keras.Input((SIZE, SIZE, 3))
        powers = keras.ops.power(keras.ops.maximum(inputs / 255.0, 1e-6), 3.0)
        mean = keras.ops.power(keras.layers.GlobalAveragePooling2D()(powers), 1 / 3.0)
        model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="identity")(mean[:, ::-1] * 9))
    folder = write(model, name, tmp_path / "m", pixels, serving)
    images = images_of(model, pixels, serving.task)
    result = check(folder, name, images, serving, tolerance)
    assert result.problems == ()
    assert result.model_accuracy > 0.9


def caffe_model(pixels: np.ndarray) -> Any:
    """The tiny model behind the preprocessing of ResNet and VGG as Keras writes it."""
    import keras

    mode = keras.applications.resnet50.preprocess_input
    return tiny_model(pixels, start=lambda x: keras.layers.Rescaling(1 / 100)(mode(x)))


@pytest.mark.parametrize("name", [each for each in EACH if each.values == ("litert-int8",)])
def test_a_pixel_is_the_input_also_where_channels_are_reordered(
    name: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    model = caffe_model(pixels)
    images = images_of(model, pixels)
    result = check(write(model, name, tmp_path / "m", pixels), name, images)
    assert result.problems == () and result.model_accuracy > 0.9


@pytest.mark.parametrize(("own_scale", "is_pixel"), [(True, True), (False, False)])
@pytest.mark.skipif(bool(missing_packages(FORMATS["litert-int8"])), reason="LiteRT is not installed")
def test_the_scale_of_reordered_channels_is_kept_from_the_input(
    own_scale: bool, is_pixel: bool, tmp_path: Path, pixels: np.ndarray
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from kerastl.export.ask_process import litert
    from kerastl.export.saved_model import write_decoded_only

    write_decoded_only(caffe_model(pixels), SERVING, tmp_path / "m", integer=own_scale)
    content = litert(str(tmp_path / "m"), SERVING.modality.full_range({"pixels": pixels})["pixels"])
    scale, zero_point = Interpreter(model_content=content).get_input_details()[0]["quantization"]
    assert ((scale, zero_point) == (pytest.approx(1.0), 0)) == is_pixel


@pytest.mark.slow
def test_a_run_is_exported_in_every_format_and_benchmarked(kerastl: Kerastl, tmp_path: Path) -> None:
    for format in FORMATS.values():
        if missing_packages(format):
            pytest.skip(f"{', '.join(missing_packages(format))} not installed")
    done = kerastl("fit", "digits", "--head-epochs", "5", "--no-finetune", "-q")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    published = sorted((tmp_path / "saved_models").rglob("*"))
    for name in FORMATS:
        done = kerastl("export", run, "--format", name, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["path"] == f"exported/{name}/digits/1" and (tmp_path / said["path"]).is_dir()
        assert said["test_count"] == 364 and said["example_count"] == 364 + 64
        assert said["model_accuracy"] - said["accuracy"] <= 0.02
    assert sorted((tmp_path / "saved_models").rglob("*")) == published
    assert not list((tmp_path / "exported").rglob("models.config")), "no server watches these"

    done = kerastl("benchmark", run, "--format", "litert")
    assert done.returncode == 0, done.stderr
    first_words = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert [word for word in first_words if word in ("keras", *FORMATS)] == ["keras", "litert"]

    done = kerastl("benchmark", run, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = {row["format"]: row for row in said["rows"]}
    assert list(rows) == ["keras", "saved_model", "litert", "litert-int8", "onnx"] and said["left_out"] == {}
    accuracy = json.loads(kerastl("evaluate", run, "--json").stdout)["accuracy"]
    assert rows["keras"]["accuracy"] == pytest.approx(accuracy) and said["example_count"] == 364
    for name, row in rows.items():
        exact = name != "litert-int8"
        assert abs(row["points_lost"]) <= (0 if exact else 2) and row["labels_changed"] <= (
            0 if exact else 36
        )
        assert [each["batch_size"] for each in row["latencies"]] == [1, 32]
        for each in row["latencies"]:
            assert (
                0 < each["lowest_milliseconds"] <= each["median_milliseconds"] <= each["highest_milliseconds"]
            )
    assert rows["litert-int8"]["bytes"] < rows["litert"]["bytes"] / 2


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_real_network_with_real_weights_passes(
    name: str, weights_folder: Path, shared_cifar10: Path, tmp_path: Path
) -> None:
    import keras
    from PIL import Image

    size, classes = 96, ("airplane", "frog", "truck")
    files = [sorted((shared_cifar10 / "train" / each).glob("*.png"))[:60] for each in classes]
    pixels = np.stack(
        [np.array(Image.open(file).convert("RGB").resize((size, size))) for row in files for file in row]
    )
    labels = np.repeat(np.arange(3), 60)
    backbone = keras.applications.MobileNetV2(
        include_top=False,
        weights=str(weights_folder / "mobilenet_v2_notop.weights.h5"),
        input_shape=(size, size, 3),
    )
    inputs = keras.Input((size, size, 3))
    features = keras.layers.GlobalAveragePooling2D()(
        backbone(keras.layers.Rescaling(1 / 127.5, -1.0)(inputs), training=False)
    )
    means = keras.Model(inputs, features).predict(pixels.astype(np.float32), verbose=0)
    wanted = np.where(np.eye(3)[labels] > 0, 3.0, -1.0)
    kernel = np.linalg.solve(means.T @ means + 10 * np.eye(means.shape[1]), means.T @ wanted)
    dense = keras.layers.Dense(3)
    model = keras.Model(inputs, dense(features))
    dense.set_weights([kernel.astype(np.float32), np.zeros(3, np.float32)])
    serving = Serving(classes, Images(size))
    folder = write(model, name, tmp_path / "m", pixels, serving)
    from kerastl.jobs.convert import checked_examples

    images = checked_examples(
        model, {"pixels": pixels}, labels, np.arange(len(pixels)) % 2 == 0, CLASSIFICATION
    )
    result = check(folder, name, images, serving)
    assert result.problems == () and result.model_accuracy > 0.9
    reversed_images = dataclasses.replace(images, inputs={"pixels": np.ascontiguousarray(pixels[..., ::-1])})
    assert not check(folder, name, reversed_images, serving).passed


def test_require_packages_is_silent_where_all_are_there() -> None:
    here = [format for format in FORMATS.values() if not missing_packages(format)]
    for format in here:
        require_packages(format)
