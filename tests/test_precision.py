"""What `precision = "auto"` takes on which machine, and that no process takes a whole GPU before it needs it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf
from test_features import Said

from kerastl.model.precision import precision_of
from kerastl.recipe import Recipe


@pytest.mark.parametrize(
    ("capabilities", "expected", "why"),
    [
        ([], "float32", "no GPU"),
        ([(8, 0)], "mixed_bfloat16", "all GPUs have units for it"),
        ([(9, 0), (8, 6)], "mixed_bfloat16", "all GPUs have units for it"),
        ([(10, 0)], "mixed_bfloat16", "all GPUs have units for it"),
        ([(7, 5)], "float32", "GPU:0 has compute capability 7.5, bfloat16 needs 8.0"),
        ([(8, 0), (7, 0)], "float32", "GPU:1 has compute capability 7.0, bfloat16 needs 8.0"),
        ([None], "float32", "GPU:0 has unknown compute capability, bfloat16 needs 8.0"),
    ],
)
def test_bfloat16_is_taken_only_where_every_gpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[Any], expected: str, why: str
) -> None:
    gpus = [SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in range(len(capabilities))]
    details = {
        gpu.name: {"compute_capability": capability} if capability else {}
        for gpu, capability in zip(gpus, capabilities, strict=True)
    }
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name])
    said = Said()
    with precision_of(Recipe(), said) as precision:
        assert precision == expected
    assert said.lines == [f"Arithmetic: {expected} (precision = auto: {why})"]


def test_what_the_recipe_says_is_taken_on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: 1 / 0)
    said = Said()
    with precision_of(Recipe(precision="mixed_bfloat16"), said) as precision:
        assert precision == "mixed_bfloat16"
    assert said.lines == ["Arithmetic: mixed_bfloat16 (precision = mixed_bfloat16)"]


@pytest.mark.parametrize("module", ["kerastl.jobs.fit", "kerastl.search.job"])
@pytest.mark.parametrize(("set_before", "expected"), [(None, "true"), ("false", "false")])
def test_memory_of_a_gpu_is_taken_as_it_is_needed_unless_the_user_wants_it_otherwise(
    module: str, set_before: str | None, expected: str
) -> None:
    name = "TF_FORCE_GPU_ALLOW_GROWTH"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {name: set_before} if set_before else {}
    script = f"import os, {module}; print(os.environ.get('{name}'))"
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
