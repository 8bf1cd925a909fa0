"""The result of a run in words and numbers: as JSON, as a page, and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kerastl.evaluation.abstention import Accepted
from kerastl.evaluation.calibration import Calibration, Reliability
from kerastl.evaluation.confusion import DRAWN_UP_TO, MOST_PAIRS, WHOLE_UP_TO
from kerastl.evaluation.metrics import ClassMetrics, Metrics
from kerastl.markdown import render
from kerastl.modality import FIRST, modality_named
from kerastl.run import Run
from kerastl.task import task_named, unit_of
from kerastl.wording import columns, counted, duration, interval, share, wrapped
from kerastl.writing import write_json_atomic, write_text_atomic

_WORST_CONFUSIONS = 10
_TERMINAL_CLASSES = 10
_TERMINAL_WEAKEST = 5
_LABEL_WIDTH = 20
# Keys of a phase in reports of earlier versions.
_RENAMED = {"images_per_second": "examples_per_second"}


@dataclass(frozen=True)
class PhaseSummary:
    """Summary of one phase.

    Attributes:
        phase: `head_phase` or `finetune_phase`, as in the recipe.
        epochs: that were run.
        best_epoch: whose weights were kept, from 1.
        monitor: validation metric that chose it.
        best_value: of that metric, at that epoch.
        seconds: of the whole phase.
        examples_per_second: in training.
        solved: how the weights that it began with were found, where they were solved for.
    """

    phase: str
    epochs: int
    best_epoch: int
    monitor: str
    best_value: float
    seconds: float
    examples_per_second: float
    solved: str = ""


@dataclass(frozen=True)
class Trust:
    """Reliability of a model's probabilities.

    Attributes:
        calibration: the temperatures, fitted on validation.
        reliability: what they changed on the test split.
        threshold: lowest probability that counts as an answer; None without one.
        validation_accepted: the validation examples that reach it, which also chose it.
        test_accepted: the test examples that reach it.
    """

    calibration: Calibration
    reliability: Reliability
    threshold: float | None
    validation_accepted: Accepted | None
    test_accepted: Accepted | None


@dataclass(frozen=True)
class Report:
    """Results of a run.

    Attributes:
        metrics: of the test split, read once, at the end.
        validation_metrics: of the validation split, which also chose epochs and phase: a little too good.
        phases: that were run, in order.
        winner: the phase whose weights were kept.
        counts: split → number of examples.
        unreadable_count: examples that were left out because they cannot be read.
        weights_origin: where the pretrained weights came from.
        fingerprint: of the data.
        class_names: in the order of the logits.
        seconds: of the whole run.
        warnings: what the reader of the figures should know.
        trust: how far its probabilities can be trusted; None where that was not measured.
        export_problem: why the model was not published; empty where nothing kept it from that.
        modality: name of what an example is, see `kerastl.modality.modality_named`.
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
    modality: str = FIRST

    @property
    def noun(self) -> str:
        """One example in words."""
        return modality_named(self.modality).noun

    @property
    def answered(self) -> str:
        """One example, or where each of its words has an answer one of these, in words."""
        return unit_of(task_named(self.metrics.task), self.noun)

    @property
    def columns(self) -> tuple[str, str]:
        """Names of a class, and of what is counted in each."""
        return ("type", "entities") if self.metrics.entities else ("class", f"{self.noun}s")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as report.json holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            "metrics": self.metrics.to_dict(),
            "validation_metrics": self.validation_metrics and self.validation_metrics.to_dict(),
            "phases": [asdict(phase) for phase in self.phases],
            "trust": self.trust and asdict(self.trust),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave, here or in an earlier version."""
        trust, validation = values.get("trust"), values.get("validation_metrics")
        phases = [{_RENAMED.get(key, key): value for key, value in each.items()} for each in values["phases"]]
        return cls(
            **{
                **values,
                "metrics": Metrics.from_dict(values["metrics"]),
                "validation_metrics": Metrics.from_dict(validation) if validation else None,
                "phases": tuple(PhaseSummary(**phase) for phase in phases),
                "class_names": tuple(values["class_names"]),
                "warnings": tuple(values.get("warnings", ())),
                "trust": trust and _trust_from(trust),
            }
        )


def _trust_from(values: Mapping[str, Any]) -> Trust:
    def accepted(found: Mapping[str, Any] | None) -> Accepted | None:
        if found is None:
            return None
        interval = found["precision_interval"]
        return Accepted(**{**found, "precision_interval": interval and tuple(interval)})

    calibration = values["calibration"]
    return Trust(
        calibration=Calibration(**{**calibration, "temperatures": tuple(calibration["temperatures"])}),
        reliability=Reliability(**values["reliability"]),
        threshold=values["threshold"],
        validation_accepted=accepted(values["validation_accepted"]),
        test_accepted=accepted(values["test_accepted"]),
    )


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
    rows = _headline(report.metrics) + _trust_rows(report.trust, report.noun)
    for phase in report.phases:
        rows.append((phase_title(phase.phase), _phase_words(phase, report.noun)))
    if len(report.phases) > 1:
        rows.append(("kept", phase_title(report.winner)))
    lines = [f"Test, {counted(report.metrics.count, report.noun)}"]
    lines += [f"  {name:<{_LABEL_WIDTH}}{value}" for name, value in rows]
    classes = list(report.metrics.classes)
    if len(classes) > _TERMINAL_CLASSES:
        absent = sum(each.support == 0 for each in classes)
        lines.append(f"  The {_TERMINAL_WEAKEST} weakest of {len(classes):,} classes")
        classes = _weakest(classes)[:_TERMINAL_WEAKEST]
    else:
        absent = 0
    figures = [
        (each.name, each.support, share(each.precision), share(each.recall), share(each.f1))
        for each in classes
    ]
    shown = columns((*report.columns, "precision", "recall", "F1"), figures, width - 2)
    lines += [f"  {line}" for line in shown.splitlines()]
    if absent:
        lines.append(f"  {counted(absent, 'class', 'classes')} without a test {report.noun}")
    for true, predicted, count, support in report.metrics.worst_confusions()[:3]:
        lines.append(f"  {true} taken for {predicted}: {count} of {support}")
    lines += [f"Warning: {warning}" for warning in report.warnings]
    return "\n".join(piece for line in lines for piece in wrapped(line, width))


def phase_title(phase: str) -> str:
    """A phase as it is called in text: `head_phase` → `head phase`."""
    return {"finetune_phase": "fine-tune phase"}.get(phase, phase.replace("_", " "))


def _headline(metrics: Metrics) -> list[tuple[str, str]]:
    accuracy = f"{metrics.accuracy:.3f} ({interval(*metrics.accuracy_interval, metrics.groups)})"
    whole = metrics.entities.figures() if metrics.entities else []
    rows = [*whole, (task_named(metrics.task).accuracy_title, accuracy)]
    figures = [
        ("top-5 accuracy", metrics.top5_accuracy),
        ("macro F1", metrics.macro_f1),
        ("micro F1", metrics.micro_f1),
        ("mean avg precision", metrics.mean_average_precision),
        ("Hamming loss", metrics.hamming_loss),
        ("log-loss", metrics.log_loss),
    ]
    return rows + [(name, f"{value:.3f}") for name, value in figures if value is not None]


def _trust_rows(trust: Trust | None, noun: str) -> list[tuple[str, str]]:
    """(name, value) for the terminal."""
    if trust is None:
        return []
    found = trust.reliability
    rows = [
        (
            "calibration error",
            f"{found.error_after:.3f}, before {found.error_before:.3f} ({_temperatures(trust.calibration)})",
        ),
        ("calibrated log-loss", f"{found.log_loss_after:.3f}, before {found.log_loss_before:.3f}"),
    ]
    if trust.threshold is not None and trust.test_accepted is not None:
        words = (
            f"{trust.test_accepted.coverage:.1%} of {noun}s, with a probability from {trust.threshold:.3f} on"
        )
        rows += [("accepted", words), ("right of these", _precision(trust.test_accepted))]
    return rows


def _temperatures(calibration: Calibration) -> str:
    """Temperatures in words."""
    lowest, highest = min(calibration.temperatures), max(calibration.temperatures)
    if calibration.kind == "none":
        return "not calibrated"
    if calibration.kind == "temperature":
        return f"temperature {lowest:.2f}"
    return f"a temperature a class, {lowest:.2f} to {highest:.2f}"


def _precision(accepted: Accepted) -> str:
    """Share of accepted answers that is right, with its interval."""
    if accepted.precision is None or accepted.precision_interval is None:
        return "none was accepted"
    low, high = accepted.precision_interval
    return f"{accepted.precision:.3f} (95 % interval {low:.3f} to {high:.3f})"


def _phase_words(phase: PhaseSummary, noun: str) -> str:
    speed = f"{duration(phase.seconds)}, {phase.examples_per_second:,.0f} {noun}s/s"
    if phase.solved and not phase.best_epoch:
        more = f"; none of {phase.epochs} epochs improved on it" if phase.epochs else ""
        return f"{phase.monitor} {phase.best_value:.3f} by {phase.solved}{more}, {duration(phase.seconds)}"
    if not phase.best_epoch:
        return f"none of {phase.epochs} epochs improved on what it began with, {speed}"
    return f"{phase.monitor} {phase.best_value:.3f} at epoch {phase.best_epoch} of {phase.epochs}, {speed}"


def _page(run: Run, report: Report) -> str:
    metrics, validation = report.metrics, report.validation_metrics
    classes = metrics.classes
    if len(classes) > WHOLE_UP_TO:
        classes = tuple(_weakest(classes)[:WHOLE_UP_TO])
    return render(
        Path(__file__).with_name("run.md.j2"),
        run=run,
        report=report,
        test=_headline(metrics),
        validation=dict(_headline(validation)) if validation else {},
        classes=classes,
        several=not task_named(metrics.task).exclusive,
        undefined=any(None in (each.precision, each.recall, each.f1) for each in classes),
        absent=sum(each.support == 0 for each in metrics.classes),
        confusions=metrics.worst_confusions(),
        most_confusions=_WORST_CONFUSIONS,
        most_pairs=MOST_PAIRS,
        whole_up_to=WHOLE_UP_TO,
        drawn_up_to=DRAWN_UP_TO,
        modality=modality_named(report.modality),
        phase_title=phase_title,
        temperatures=_temperatures,
        precision=_precision,
    )


def _weakest(classes: Sequence[ClassMetrics]) -> list[ClassMetrics]:
    return sorted((each for each in classes if each.f1 is not None), key=lambda each: each.f1 or 0.0)
