"""What the worker does through the Python API: functions of a module, so that another process finds them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import kerastl


class Said(kerastl.Progress):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tracked: dict[str, int] = {}

    def note(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")

    def track(self, label: str, total: int, unit: str = "images") -> kerastl.Tracker:
        self.tracked[label] = total
        return kerastl.Tracker()


def fit_and_export(flags: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`fit` without an export, then `export_run`; their paths and some of what the objects say."""
    said = Said()
    summary = kerastl.fit(
        kerastl.load_recipe(flags=flags),
        runs_dir=folder / "runs",
        models_dir=folder / "models",
        export_model=False,
        progress=said,
    )
    before = (folder / "models").exists(), summary.exported
    exported = kerastl.export_run(summary.run, models_dir=folder / "models", name="marks", warmup=False)
    return {
        "run": Path(summary.run),
        "before": before,
        "exported": Path(exported.path),
        "version": exported.version,
        "log_loss": summary.report.metrics.log_loss,
        "tracked": said.tracked,
        "lines": said.lines,
    }


def plan_text(flags: dict[str, Any], width: int) -> str:
    """The plan of a recipe as text."""
    return kerastl.plan(kerastl.load_recipe(flags=flags)).text(width)


def predictions(model: Path, images: list[str], top: int) -> list[dict[str, Any]]:
    """What `predict` returns, as dictionaries."""
    return [dataclasses.asdict(each) for each in kerastl.predict(model, images, top=top)]


def figures(run: Path) -> dict[str, Any]:
    """What `evaluate` returns of a run's own test split."""
    metrics = kerastl.evaluate(run)
    return {"count": metrics.count, "accuracy": metrics.accuracy, "log_loss": metrics.log_loss}
