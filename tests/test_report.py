"""The report: what was measured reaches the page, the terminal and the pictures, legibly."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerastl.evaluation.abstention import Accepted
from kerastl.evaluation.answers import LabelledAnswer
from kerastl.evaluation.calibration import Calibration, Reliability
from kerastl.evaluation.metrics import evaluate_logits
from kerastl.report.page import PhaseSummary, Report, Trust, report_text, write_report
from kerastl.report.plots import plot_confusion, plot_curves
from kerastl.report.plots_examples import plot_augmentation, plot_worst
from kerastl.run import Run, create_run
from kerastl.task import Task
from kerastl.task.classification import CLASSIFICATION, MULTI_LABEL
from kerastl.wording import cut, duration

HISTORIES = [
    ("head_phase", [{"loss": 2 / n, "val_loss": 2.2 / n, "accuracy": 1 - 0.5 / n, "val_accuracy": 1 - 0.6 / n,
                     "learning_rate": 1e-3 / n} for n in range(1, 9)]),
    ("finetune_phase", [{"loss": 0.2, "val_loss": float("nan"), "accuracy": 0.9, "val_accuracy": 0.9,
                         "learning_rate": 0.0}, {"loss": 0.1, "val_loss": 0.2, "accuracy": 0.95}]),
]  # fmt: skip


def make_report(names: list[str], count: int = 200, task: Task = CLASSIFICATION) -> Report:
    random = np.random.default_rng(0)
    k = len(names)
    labels = random.integers(0, k - 1, count)  # the last class is absent
    logits = random.normal(size=(count, k))
    logits[np.arange(count), labels] += 2
    given = labels if task.exclusive else np.eye(k, dtype=np.uint8)[labels]
    metrics = evaluate_logits(logits, given, names, task)
    return Report(
        metrics=metrics,
        validation_metrics=evaluate_logits(logits[:60], given[:60], names, task),
        phases=(
            PhaseSummary("head_phase", 30, 28, "val_loss", 0.687, 12.3, 27_500.0),
            PhaseSummary("finetune_phase", 10, 6, "val_loss", 0.499, 230.0, 78.0),
        ),
        winner="finetune_phase",
        counts={"train": 1400, "validation": 160, "test": count},
        unreadable_count=3,
        weights_origin="shipped mobilenet_025",
        fingerprint="abc123",
        class_names=tuple(names),
        seconds=245.0,
        warnings=("The class 'truck' has no image in the test split, so nothing is known of it. " * 2,),
        trust=Trust(
            Calibration("temperature", (1.62,) * k, 160),
            Reliability(count, 0.0712, 0.0213, 0.91, 0.74),
            0.61,
            Accepted(160, 120, 0.95, (0.9, 0.98)),
            Accepted(count, 150, 0.93, (0.88, 0.96)),
        ),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path, "x")


def test_the_json_holds_every_figure(run: Run) -> None:
    report = make_report(["cat", "dog", "truck"])
    write_report(run, report)
    values = json.loads(run.report_json.read_text())
    assert {field.name for field in dataclasses.fields(Report)} == set(values)
    assert values["metrics"] == json.loads(json.dumps(report.metrics.to_dict()))
    assert values["phases"][1]["best_epoch"] == 6


def test_the_report_of_many_classes_stays_small_and_says_what_it_leaves_out(run: Run) -> None:
    report = make_report([f"class {i}" for i in range(2000)], count=3000)
    write_report(run, report)
    assert run.report_json.stat().st_size < 1e6 and run.report_md.stat().st_size < 5e4
    values = json.loads(run.report_json.read_text())
    assert len(values["metrics"]["classes"]) == 2000 and len(values["class_names"]) == 2000
    assert len(values["metrics"]["confusion"]["largest"]) == 1000 < values["metrics"]["confusion"]["pairs"]
    page = run.report_md.read_text()
    absent = sum(each.support == 0 for each in report.metrics.classes)
    assert f"The 200 weakest classes that have a test image; {absent:,} of 2,000 have none." in page
    assert "kept up to 200 classes, and drawn up to 1,000" in page
    small = make_report([f"class {i}" for i in range(200)])
    write_report(run, small)
    assert len(json.loads(run.report_json.read_text())["metrics"]["confusion"]) == 200
    assert "weakest" not in run.report_md.read_text(), "the control: of 200 classes nothing is left out"


def test_the_page_gives_counts_intervals_and_confusions_in_words(run: Run) -> None:
    report = make_report(["cat", "dog|wolf", "truck"])
    run.curves_png.touch()
    write_report(run, report)
    page = run.report_md.read_text()
    low, high = report.metrics.accuracy_interval
    true, predicted, count, support = report.metrics.worst_confusions()[0]
    for part in (
        "test (200 images)", "validation (60 images)",
        f"{report.metrics.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f})",
        r"| dog\|wolf |", f"- {true} taken for {predicted}: {count} of {support} images".replace("|", r"\|"),
        "| truck | 0 | ", "–: not defined", "fine-tune phase | 10 | 6 | `val_loss` | 0.4990 | 3 min 50 s | 78 | kept",
        "| expected calibration error | 0.0712 | 0.0213 |", "160 validation images: temperature 1.62",
        "| test | 75.0% | 0.930 (95 % interval 0.880 to 0.960) |", "0.6100 on are accepted",
        "3 unreadable", "`abc123`", "shipped mobilenet_025", "![Learning curves](curves.png)", "**Warning:**",
    ):  # fmt: skip
        assert part in page, part
    assert "confusion.png" not in page  # not drawn here
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in tables)


@pytest.mark.parametrize("count", [2, 10, 11, 200])
@pytest.mark.parametrize("task", [CLASSIFICATION, MULTI_LABEL])
@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_terminal_summary_fits_its_width(count: int, task: Task, width: int) -> None:
    names = [f"a class with quite a long and winding name {i}" for i in range(count)]
    lines = report_text(make_report(names, task=task), width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= {80: 36, 60: 46, 40: 80}[width]
    assert not any("…" in line for line in lines), "names that begin alike would be one"
    assert any("a class with quite a long" in line for line in lines) or width == 60


def test_the_terminal_says_how_far_probabilities_can_be_trusted() -> None:
    report = make_report(["cat", "dog", "truck"])
    text = report_text(report)
    assert "calibration error   0.021, before 0.071 (temperature 1.62)" in text
    # A smaller error can hide answers that are wrong and far too sure; the log-loss cannot.
    assert re.search(r"calibrated log-loss \d\.\d{3}, before \d\.\d{3}\n", text)
    assert "accepted            75.0% of images, with a probability from 0.610 on" in text
    assert report.trust is not None
    plain = dataclasses.replace(
        report.trust, calibration=Calibration("none", (1.0,) * 3, 160), threshold=None, test_accepted=None
    )
    text = report_text(dataclasses.replace(report, trust=plain))
    assert "not calibrated" in text and "accepted" not in text


def test_the_terminal_summary_lists_all_classes_or_the_weakest() -> None:
    few = report_text(make_report([f"c{i}" for i in range(10)]))
    assert all(f"\n  c{i} " in few for i in range(10))
    report = make_report([f"c{i}" for i in range(100)], count=2000)
    text = report_text(report)
    weakest = min(
        (each for each in report.metrics.classes if each.f1 is not None), key=lambda each: each.f1 or 0
    )
    assert "The 5 weakest of 100 classes" in text and f"\n  {weakest.name} " in text
    assert "1 class without a test image" in text
    rows = [line for line in text.splitlines() if re.match(r"  c(lass|\d)", line)]
    assert sum("taken for" not in line for line in rows) == 6


def test_confusions_are_ordered_by_how_often_they_happen() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 2, 2, 2, 2]), np.array([1, 1, 0, 1, 0, 2, 2, 2])
    metrics = evaluate_logits(np.eye(3)[predicted], labels, ["a", "b", "c"])
    assert metrics.worst_confusions() == [("a", "b", 2, 3), ("c", "a", 1, 4)]


def test_durations_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (0.04, 9.96, 59.6, 200, 3599.7, 7500)]
    assert said == ["0.0 s", "10 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "2 h 05 min"]


def test_curves_are_drawn_with_gaps_zero_rates_and_short_phases(tmp_path: Path) -> None:
    for histories in (HISTORIES, HISTORIES[:1], [("head_phase", [{"loss": 1.0}])]):
        plot_curves(histories, tmp_path / "curves.png", {"head_phase": 8}, "finetune_phase")
        assert Image.open(tmp_path / "curves.png").size > (600, 200)


def test_the_curves_say_which_epoch_and_phase_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k))
    )
    plot_curves(HISTORIES, tmp_path / "curves.png", {"head_phase": 7, "finetune_phase": 2}, "finetune_phase")
    caption = drawn[0].get_suptitle()
    assert "head phase: best at its epoch 7 of 8 (validation loss 0.314" in caption
    assert "fine-tune phase, kept: best at its epoch 2 of 2 (validation loss 0.200)" in caption
    boundary = [line.get_xdata()[0] for line in drawn[0].axes[0].lines if line.get_linestyle() == "--"
                and len(set(line.get_xdata())) == 1]  # fmt: skip
    assert boundary == [8.5]
    plot_curves(
        [("head_phase", []), HISTORIES[1]], tmp_path / "curves.png", {"head_phase": 0}, "finetune_phase"
    )
    solved = drawn[1]
    assert solved.get_suptitle().startswith("head phase: no epochs\nfine-tune phase, kept: best")
    assert [text.get_text() for text in solved.axes[0].texts] == ["fine-tune phase"]


def test_the_curves_show_the_monitor_at_whose_best_value_an_epoch_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k))
    )
    calibrated = [2.0, 0.9, 0.5, 0.121, 0.13, 0.14]
    rows = [
        {
            "loss": 1 / n,
            "val_loss": 1 / n,
            "val_calibrated_loss": value,
            "val_macro_f1": n / 10,
            "learning_rate": 0.1,
        }
        for n, value in enumerate(calibrated, start=1)
    ]
    monitors = {"head_phase": "val_calibrated_loss", "finetune_phase": "val_macro_f1"}
    plot_curves([("head_phase", rows), ("finetune_phase", rows)], tmp_path / "c.png",
                {"head_phase": 4, "finetune_phase": 6}, "head_phase", monitors)  # fmt: skip
    titles = [axis.get_ylabel() for axis in drawn[0].axes]
    assert titles == ["calibrated loss\n(monitor)", "macro F1\n(monitor)", "loss", "learning rate"]
    marks = [line for line in drawn[0].axes[0].lines if line.get_marker() == "D"]
    assert [float(mark.get_ydata()[0]) for mark in marks] == [0.121, 0.14]
    assert (
        "best at its epoch 4 of 6 (validation calibrated loss 0.121, loss 0.250)" in drawn[0].get_suptitle()
    )
    assert {"training", "validation"} <= {text.get_text() for text in drawn[0].legends[0].get_texts()}
    # where loss or accuracy is the monitor, its own panel says so
    plot_curves(
        [("head_phase", rows)],
        tmp_path / "c.png",
        {"head_phase": 6},
        "head_phase",
        {"head_phase": "val_loss"},
    )
    assert [axis.get_ylabel() for axis in drawn[1].axes] == ["loss\n(monitor)", "learning rate"]


def test_a_report_is_read_back_as_it_was_written_and_so_is_one_of_an_earlier_version() -> None:
    report = make_report(["cat", "dog", "truck"])
    values = json.loads(json.dumps(report.to_dict()))
    assert values["modality"] == "image"
    assert Report.from_dict(values).to_dict() == report.to_dict()
    for phase in values["phases"]:
        phase["images_per_second"] = phase.pop("examples_per_second")
    del values["modality"]
    assert Report.from_dict(values).to_dict() == report.to_dict()
    old = json.loads((Path(__file__).parent / "net" / "old_run" / "report.json").read_text())
    assert Report.from_dict(old).phases[0].examples_per_second == old["phases"][0]["images_per_second"]


@pytest.mark.parametrize("classes", [2, 20, 21, 130])
def test_confusion_pictures_grow_with_the_classes_but_not_without_end(tmp_path: Path, classes: int) -> None:
    matrix = np.diag(np.arange(classes))  # the first class is absent
    plot_confusion(matrix, [f"$class {i}" for i in range(classes)], tmp_path / "confusion.png", "images")
    width, height = Image.open(tmp_path / "confusion.png").size
    assert 300 < width < 2300 and 300 < height < 2300


def test_the_worst_answers_are_drawn_with_their_names(tmp_path: Path) -> None:
    answer = LabelledAnswer("test", "a.png", "a class with quite a long name", "$b_c$", 0.98, 4.0)
    for count in (1, 5):
        plot_worst([(np.zeros((96, 96, 3), np.uint8), answer)] * count, tmp_path / "worst.png")
        assert Image.open(tmp_path / "worst.png").size > (200 * min(count, 4), 200)


def test_augmentation_pictures_take_rows_of_different_lengths(tmp_path: Path) -> None:
    image = np.zeros((16, 24, 3), np.uint8)
    plot_augmentation([("a_b$", [image] * 4), ("名前", [image])], tmp_path / "augmentation.png")
    assert [child.name for child in tmp_path.iterdir()] == ["augmentation.png"]


def test_pictures_need_no_window_system_and_pages_no_matplotlib(tmp_path: Path) -> None:
    script = (
        "import sys, kerastl.report.page, kerastl.report.plots as plots\n"
        "assert not {'matplotlib', 'tensorflow', 'sklearn'} & set(sys.modules)\n"
        "plots.plot_confusion([[1]], ['a'], sys.argv[1], 'images')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.png")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


def test_names_that_no_usual_font_draws_get_another_font_or_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kerastl.report import plots

    nowhere = "\U0010fffd"  # for private use
    assert plots._fonts(["cat é ж"])[1] == set() == plots._fonts(["\u1d81"])[1]
    assert len(plots._fonts(["\u1d81"])[0]) > len(plots._fonts(["cat"])[0]), "matplotlib brings STIX"
    assert plots._fonts([f"a {nowhere}"])[1] == {nowhere}

    figures: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    for names in (["cat", "\u1d81"], ["cat", nowhere]):
        plots.plot_confusion([[3, 1], [0, 2]], names, tmp_path / "confusion.png", "images")
    shown = [[tick.get_text() for tick in figure.axes[0].get_yticklabels()] for figure in figures]
    assert shown == [["cat", "\u1d81"], ["0", "1"]]
    assert figures[1].axes[0].get_xlabel() == "predicted class (number)"


def test_captions_are_cut_by_what_they_take_on_the_page() -> None:
    assert cut("犬猫犬猫", 8) == "犬猫犬猫" and cut("犬猫犬猫犬", 8) == "犬猫犬…"
