"""Calibration and abstention of a model, in words."""

from __future__ import annotations

from dataclasses import dataclass

from kerastl.evaluation.abstention import Accepted
from kerastl.evaluation.calibration import Calibration, Reliability


@dataclass(frozen=True)
class Trust:
    """Reliability of a model's probabilities.

    Attributes:
        calibration: the temperatures, fitted on validation.
        reliability: what they changed on the test split.
        threshold: lowest probability that counts as an answer; None without one.
        validation_accepted: the validation images that reach it, which also chose it.
        test_accepted: the test images that reach it.
    """

    calibration: Calibration
    reliability: Reliability
    threshold: float | None
    validation_accepted: Accepted | None
    test_accepted: Accepted | None


def trust_rows(trust: Trust | None) -> list[tuple[str, str]]:
    """(name, value) for the terminal."""
    if trust is None:
        return []
    found = trust.reliability
    rows = [
        (
            "calibration error",
            f"{found.error_after:.3f}, before {found.error_before:.3f} ({temperatures_text(trust.calibration)})",
        ),
        ("calibrated log-loss", f"{found.log_loss_after:.3f}, before {found.log_loss_before:.3f}"),
    ]
    if trust.threshold is not None and trust.test_accepted is not None:
        words = (
            f"{trust.test_accepted.coverage:.1%} of images, with a probability from {trust.threshold:.3f} on"
        )
        rows += [("accepted", words), ("right of these", precision_text(trust.test_accepted))]
    return rows


def temperatures_text(calibration: Calibration) -> str:
    """Temperatures in words."""
    lowest, highest = min(calibration.temperatures), max(calibration.temperatures)
    if calibration.kind == "none":
        return "not calibrated"
    if calibration.kind == "temperature":
        return f"temperature {lowest:.2f}"
    return f"a temperature a class, {lowest:.2f} to {highest:.2f}"


def precision_text(accepted: Accepted) -> str:
    """Share of accepted answers that is right, with its interval."""
    if accepted.precision is None or accepted.precision_interval is None:
        return "none was accepted"
    low, high = accepted.precision_interval
    return f"{accepted.precision:.3f} (95 % interval {low:.3f} to {high:.3f})"
