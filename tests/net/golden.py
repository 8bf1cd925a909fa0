"""The numbers of two small recipes, as golden.json holds them, and where they are held to the bit."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("golden.json")
RECORD = "KERASTL_RECORD_GOLDEN"
# On another processor or with other libraries: sums are taken in another order, and training carries that on.
RELATIVE, ABSOLUTE = 0.02, 0.01
PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-learn")
VECTORS = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")
SETTINGS = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "XLA_FLAGS", "TF_XLA_FLAGS")  # fmt: skip


def environment() -> dict[str, Any]:
    """What the bits of a run depend on beside its recipe."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {
        name.strip(): value.strip() for name, _, value in reversed([line.partition(":") for line in lines])
    }
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": [facts.get(key, "") for key in ("model name", "cpu family", "model", "stepping")],
        "vector_instructions": sorted(flag for flag in flags if flag.startswith(VECTORS)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def measured(run: Path) -> dict[str, Any]:
    """What a run measured, as its folder holds it."""
    report = json.loads((run / "report.json").read_text())
    whole = {"count": None, "accuracy": None, "log_loss": None, "macro_f1": None}
    return {
        "winner": report["winner"],
        "phases": [{key: phase[key] for key in ("phase", "epochs", "best_epoch", "best_value")} for phase in report["phases"]],
        "history": {phase["phase"]: history_of(run, phase["phase"]) for phase in report["phases"]},
        "validation": {key: report["validation_metrics"][key] for key in whole},
        "test": {key: report["metrics"][key] for key in whole},
        "temperatures": report["trust"]["calibration"]["temperatures"],
    }  # fmt: skip


def answered(probabilities: Any) -> dict[str, Any]:
    """What an exported model answers to some images, float32 [images, classes]: five of them, and a digest of all."""
    rows = [[float(each) for each in row] for row in probabilities[:5]]
    return {"answers": rows, "digest_of_answers": hashlib.sha256(probabilities.tobytes()).hexdigest()}


def history_of(run: Path, phase: str) -> list[dict[str, float]]:
    """All that a phase measured, a row an epoch, but the time that it took."""
    with (run / f"{phase}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in rows]


def differences(golden: Any, found: Any, exact: bool, at: str = "") -> list[str]:
    """Where numbers differ from the golden ones, a line each: to the bit, or by more than the tolerance.

    Within the tolerance the digest says nothing, and another epoch may be the best one.
    """
    if isinstance(golden, dict) and isinstance(found, dict) and golden.keys() == found.keys():
        kept = [key for key in golden if exact or key not in ("digest_of_answers", "best_epoch")]
        return [line for key in kept for line in differences(golden[key], found[key], exact, f"{at}.{key}")]
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        return [line for at_row, (one, other) in enumerate(zip(golden, found, strict=True))
                for line in differences(one, other, exact, f"{at}[{at_row}]")]  # fmt: skip
    number = isinstance(golden, float) and isinstance(found, float) and not exact
    same = math.isclose(golden, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE) if number else golden == found
    return [] if same else [f"{at.lstrip('.')}: {golden!r} in {GOLDEN.name}, {found!r} found"]


def read() -> dict[str, Any]:
    """The golden numbers with the environment that they were recorded in."""
    return json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"environment": None}


def record(name: str, numbers: dict[str, Any]) -> None:
    """Put the numbers of a recipe into golden.json; those of other recipes stay if they are of this environment."""
    here, before = environment(), read()
    kept = before if before["environment"] == here else {}
    GOLDEN.write_text(json.dumps({**kept, "environment": here, name: numbers}, indent=1) + "\n")
