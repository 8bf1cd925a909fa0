"""The result of a run in words and numbers: for programs, for a page, and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kerastl.encoded import NOT_SERVED, SERVED_WORDS
from kerastl.evaluation.confusion import DRAWN_UP_TO, MOST_PAIRS, WHOLE_UP_TO
from kerastl.evaluation.metrics import ClassMetrics, Metrics
from kerastl.report.trust import Trust, trust_rows, trust_section
from kerastl.run import Run
from kerastl.task import task_named
from kerastl.wording import columns, counted, duration, escape, interval, share, table, wrapped
from kerastl.writing import write_json_atomic, write_text_atomic

_WORST_CONFUSIONS = 10
_TERMINAL_CLASSES = 10
_TERMINAL_WEAKEST = 5
_LABEL_WIDTH = 20


@dataclass(frozen=True)
class PhaseSummary:
    """How one phase went.

    Attributes:
        phase: `head_phase` or `finetune_phase`, as in the recipe.
        epochs: that were run.
        best_epoch: whose weights were kept, from 1.
        monitor: validation metric that chose it.
        best_value: of that metric, at that epoch.
        seconds: of the whole phase.
        images_per_second: in training.
    """

    phase: str
    epochs: int
    best_epoch: int
    monitor: str
    best_value: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Report:
    """What came out of a run, written from what was measured.

    Attributes:
        metrics: of the test split, read once, at the end.
        validation_metrics: of the validation split, which also chose epochs and phase: a little too good.
        phases: that were run, in order.
        winner: the phase whose weights were kept.
        counts: split → number of examples.
        unreadable_count: images that were left out because they cannot be read.
        weights_origin: where the pretrained weights came from.
        fingerprint: of the data.
        class_names: in the order of the logits.
        seconds: of the whole run.
        warnings: what the reader of the figures should know.
        trust: how far its probabilities can be trusted; None where that was not measured.
        export_problem: why the model was not published; empty where nothing kept it from that.
    """

    metrics: Metrics
    validation_metrics: Metrics | None
    phases: tuple[PhaseSummary, ...]
    winner: str
    counts: Mapping[str, int]
    unreadable_count: int
    weights_origin: str
    fingerprint: str
    class_names: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    trust: Trust | None = None
    export_problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as report.json holds them."""
        return {
            "metrics": self.metrics.to_dict(),
            "validation_metrics": self.validation_metrics.to_dict() if self.validation_metrics else None,
            "phases": [asdict(phase) for phase in self.phases],
            "winner": self.winner,
            "counts": dict(self.counts),
            "unreadable_count": self.unreadable_count,
            "weights_origin": self.weights_origin,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "seconds": self.seconds,
            "warnings": list(self.warnings),
            "trust": asdict(self.trust) if self.trust else None,
            "export_problem": self.export_problem,
        }


def write_report(run: Run, report: Report) -> None:
    """Write report.json and report.md into the run folder.

    Raises:
        WriteError: if the run folder cannot be written.
    """
    write_json_atomic(run.report_json, report.to_dict(), compact=len(report.class_names) > WHOLE_UP_TO)
    write_text_atomic(run.report_md, _page(run, report))


def report_text(report: Report, width: int = 80) -> str:
    """The summary for a terminal: all classes where they are few, else the weakest.

    Args:
        report: what to show.
        width: no line is longer, in characters.
    """
    rows = _headline(report.metrics) + trust_rows(report.trust)
    for phase in report.phases:
        rows.append((phase_title(phase.phase), _phase_words(phase)))
    if len(report.phases) > 1:
        rows.append(("kept", phase_title(report.winner)))
    lines = [f"Test, {counted(report.metrics.count, 'image')}"]
    lines += [f"  {name:<{_LABEL_WIDTH}}{value}" for name, value in rows]
    classes = list(report.metrics.classes)
    if len(classes) > _TERMINAL_CLASSES:
        absent = sum(each.support == 0 for each in classes)
        lines.append(f"  The {_TERMINAL_WEAKEST} weakest of {len(classes)} classes")
        classes = _weakest(classes)[:_TERMINAL_WEAKEST]
    else:
        absent = 0
    figures = [
        (each.name, each.support, share(each.precision), share(each.recall), share(each.f1))
        for each in classes
    ]
    shown = columns(("class", "images", "precision", "recall", "F1"), figures, width - 2)
    lines += [f"  {line}" for line in shown.splitlines()]
    if absent:
        lines.append(f"  {counted(absent, 'class', 'classes')} without a test image")
    for true, predicted, count, support in worst_confusions(report.metrics)[:3]:
        lines.append(f"  {true} taken for {predicted}: {count} of {support}")
    lines += [f"Warning: {warning}" for warning in report.warnings]
    return "\n".join(piece for line in lines for piece in wrapped(line, width))


def worst_confusions(metrics: Metrics) -> list[tuple[str, str, int, int]]:
    """(true class, predicted class, how often, images of the true class), most frequent first."""
    if metrics.confusion is None:
        return []
    classes = metrics.classes
    pairs = [
        (classes[true].name, classes[predicted].name, count, classes[true].support)
        for true, predicted, count in metrics.confusion.largest().tolist()
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[3]))


def phase_title(phase: str) -> str:
    """A phase as it is called in text: `head_phase` → `head phase`."""
    return {"finetune_phase": "fine-tune phase"}.get(phase, phase.replace("_", " "))


def _headline(metrics: Metrics) -> list[tuple[str, str]]:
    accuracy = f"{metrics.accuracy:.3f} ({interval(*metrics.accuracy_interval, metrics.groups)})"
    rows = [(task_named(metrics.task).accuracy_title, accuracy)]
    figures = [
        ("top-5 accuracy", metrics.top5_accuracy),
        ("macro F1", metrics.macro_f1),
        ("micro F1", metrics.micro_f1),
        ("mean avg precision", metrics.mean_average_precision),
        ("Hamming loss", metrics.hamming_loss),
        ("log-loss", metrics.log_loss),
    ]
    return rows + [(name, f"{value:.3f}") for name, value in figures if value is not None]


def _phase_words(phase: PhaseSummary) -> str:
    if not phase.best_epoch:
        rate = f"{duration(phase.seconds)}, {phase.images_per_second:,.0f} images/s"
        return f"none of {phase.epochs} epochs improved on what it began with, {rate}"
    return (
        f"{phase.monitor} {phase.best_value:.3f} at epoch {phase.best_epoch} of {phase.epochs}, "
        f"{duration(phase.seconds)}, {phase.images_per_second:,.0f} images/s"
    )


def _page(run: Run, report: Report) -> str:
    parts = [f"# {run.name}", ""]
    if report.warnings:
        parts += [f"> **Warning:** {warning.strip()}  " for warning in report.warnings] + [""]
    if report.export_problem:
        parts += [
            "## Not exported",
            "",
            *(escape(line) + "  " for line in report.export_problem.splitlines()),
            "",
        ]
    parts += ["## Result", ""]
    parts += [*_metrics_table(report), ""]
    if report.validation_metrics:
        parts += ["Validation chose the epochs and the phase, so its figures are a little too good.", ""]
    parts += ["## Phases", ""]
    header = ["phase", "epochs", "best epoch", "monitor", "best value", "time", "images/s", ""]
    rows = [
        [phase_title(phase.phase), str(phase.epochs), str(phase.best_epoch), f"`{phase.monitor}`",
         f"{phase.best_value:.4f}", duration(phase.seconds), f"{phase.images_per_second:,.0f}",
         "kept" if phase.phase == report.winner else ""]
        for phase in report.phases
    ]  # fmt: skip
    parts += [*table(header, rows, left=(0, 3, 7)), ""]
    if run.curves_png.exists():
        parts += ["![Learning curves](curves.png)", ""]
    if report.trust:
        parts += trust_section(report.trust)
    parts += ["## Classes (test)", "", *_class_table(report.metrics), ""]
    confusions = worst_confusions(report.metrics)
    if report.metrics.confusion is not None:
        parts += ["## Most frequent confusions (test)", ""]
        parts += [
            f"- {escape(true)} taken for {escape(predicted)}: {count} of {counted(support, 'image')}"
            for true, predicted, count, support in confusions[:_WORST_CONFUSIONS]
        ] or ["None: every test image was classified correctly."]
        if len(confusions) > _WORST_CONFUSIONS:
            parts.append(
                f"- and {len(confusions) - _WORST_CONFUSIONS} more pairs of classes, each less or as often"
            )
        parts.append("")
        if run.confusion_png.exists():
            parts += ["![Confusion matrix](confusion.png)", ""]
        if report.metrics.confusion.size > WHOLE_UP_TO:
            parts += [
                f"`report.json` holds the {MOST_PAIRS:,} most frequent confusions: the whole matrix is kept up to "
                f"{WHOLE_UP_TO} classes, and drawn up to {DRAWN_UP_TO:,}.",
                "",
            ]
    if run.predictions_csv.exists():
        parts += [
            "## Image by image", "",
            "`predictions.csv` says for each validation and test image what it is, what it was taken for and how surely; the "
            "largest loss comes first.", "",
        ]  # fmt: skip
    if run.worst_png.exists():
        parts += ["![Test images that the model is most wrong about](worst.png)", ""]
    counts = ", ".join(f"{name} {count:,}" for name, count in report.counts.items())
    parts += [
        "## Data and weights", "",
        f"- Images: {counts}; {report.unreadable_count:,} unreadable and left out",
        f"- The exported model takes {SERVED_WORDS}; {NOT_SERVED}",
        f"- Data fingerprint: `{report.fingerprint}`",
        f"- Pretrained weights: {escape(report.weights_origin)}",
        f"- The whole run took {duration(report.seconds)}.", "",
    ]  # fmt: skip
    if run.augmentation_png.exists():
        parts += ["![Augmented training images](augmentation.png)", ""]
    return "\n".join(parts)


def _metrics_table(report: Report) -> list[str]:
    test = _headline(report.metrics)
    header, rows = (
        ["", f"test ({counted(report.metrics.count, 'image')})"],
        [[name, value] for name, value in test],
    )
    if report.validation_metrics:
        header.append(f"validation ({counted(report.validation_metrics.count, 'image')})")
        validation = dict(_headline(report.validation_metrics))
        rows = [[*row, validation.get(row[0], "–")] for row in rows]
    return table(header, rows, left=(0, 1, 2))


def _class_table(metrics: Metrics) -> list[str]:
    header = ["class", "images", "precision", "recall", "F1"]
    classes = metrics.classes
    if len(classes) > WHOLE_UP_TO:
        classes = tuple(_weakest(classes)[:WHOLE_UP_TO])
    rows = [
        [escape(each.name), str(each.support), share(each.precision), share(each.recall), share(each.f1)]
        for each in classes
    ]
    if not task_named(metrics.task).exclusive:
        header.append("average precision")
        rows = [[*row, share(each.average_precision)] for row, each in zip(rows, classes, strict=True)]
    lines = table(header, rows, left=(0,))
    if any("–" in row for row in rows):
        lines += ["", "–: not defined, because no image has the class or none was given it."]
    if len(classes) < len(metrics.classes):
        absent = sum(each.support == 0 for each in metrics.classes)
        lines += [
            "",
            f"The {len(classes)} weakest classes that have a test image; {absent:,} of {len(metrics.classes):,} have none. "
            "`report.json` holds them all.",
        ]
    return lines


def _weakest(classes: Sequence[ClassMetrics]) -> list[ClassMetrics]:
    return sorted((each for each in classes if each.f1 is not None), key=lambda each: each.f1 or 0.0)
