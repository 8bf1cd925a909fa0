"""Sizes and arithmetic that follow from the devices, and on which device each part of the work runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_features import POINT, Said, features_of, frozen_at, new_network, views

from kerastl.features import engines
from kerastl.features.compute import at_once
from kerastl.features.frozen import BATCH_SIZE, Frozen
from kerastl.model.build import Network
from kerastl.model.cut import cut
from kerastl.model.device import DevicePlan, Gpu, plan_for

ALL_UNITS = "all GPUs have units for it"
BOTH = np.arange(10)


@pytest.fixture(scope="module")
def network() -> Network:
    return new_network()


@pytest.mark.parametrize(
    ("capabilities", "plan"),
    [
        ([], DevicePlan("float32", "no GPU", 32, 1)),
        ([(8, 0)], DevicePlan("mixed_bfloat16", ALL_UNITS, 256, 3)),
        ([(12, 0), (8, 6)], DevicePlan("mixed_bfloat16", ALL_UNITS, 256, 3)),
        (
            [(8, 0), (7, 5)],
            DevicePlan("float32", "GPU:1 has compute capability 7.5, bfloat16 needs 8.0", 256, 3),
        ),
        ([None], DevicePlan("float32", "GPU:0 has unknown compute capability, bfloat16 needs 8.0", 256, 3)),
    ],
)
def test_the_plan_follows_from_the_devices(
    capabilities: list[tuple[int, int] | None], plan: DevicePlan
) -> None:
    assert plan_for([Gpu(f"GPU:{number}", each) for number, each in enumerate(capabilities)]) == plan


def planned(network: Network, batch_size: int, at_once: int) -> Frozen:
    plan = DevicePlan("float32", "made up", batch_size, at_once)
    return Frozen(cut(network, POINT), network.backbone, "tensorflow", plan)


def many(count: int) -> dict[str, np.ndarray]:
    pixels = views(level="none").batch(np.arange(count) % 10, 0)["pixels"].copy()
    pixels[:, 0, 0, 0] = np.arange(count)
    return {"pixels": pixels}


def test_many_examples_are_one_large_batch_and_few_a_small_one(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, sizes = planned(network, 64, 1), list[int]()
    noted(monkeypatch, sizes)
    found = frozen.run(many(40), ["pooled", "activation"])
    frozen.run(many(3), ["pooled", "activation"])
    assert sizes == [64, BATCH_SIZE] and len(found["pooled"]) == 40 and frozen.forward_passes == 43
    sizes.clear()
    small = frozen_at(network, POINT, "tensorflow").run(many(40), ["pooled", "activation"])
    assert sizes == [BATCH_SIZE, BATCH_SIZE], "the control"
    for name, values in small.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)


def noted(monkeypatch: pytest.MonkeyPatch, sizes: list[int], fits: int = 1000) -> None:
    """Notes the size of each batch that TensorFlow computes; more examples than `fits` exhaust a memory."""
    made = engines.in_constants

    def noting(model: object, inputs: object) -> engines.Engine:
        engine = made(model, inputs)  # type: ignore[arg-type]

        def start(batch: dict[str, np.ndarray]) -> object:
            sizes.append(len(batch["pixels"]))
            if sizes[-1] > fits:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return engine.start(batch)

        return engines.Engine(engine.name, start)  # type: ignore[arg-type]

    monkeypatch.setattr(engines, "in_constants", noting)


def test_a_batch_that_does_not_fit_is_halved_and_later_ones_are_small_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = planned(network, 128, 1).run(many(100), ["pooled"])["pooled"]
    frozen, sizes, said = planned(network, 128, 1), list[int](), Said()
    noted(monkeypatch, sizes, fits=64)
    frozen.prepare(100, "image", said)
    halves = frozen.run(many(100), ["pooled"])["pooled"]
    assert sizes == [128, 64, 64] and frozen.batch_size == 64 and frozen.forward_passes == 100
    assert said.lines == ["128 images at once do not fit the GPU: 64 from here on"]
    np.testing.assert_allclose(halves, whole, rtol=1e-4, atol=1e-4)
    sizes.clear()
    frozen.run(many(100), ["pooled"])
    assert sizes == [64, 64]
    noted(monkeypatch, sizes, fits=16)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        planned(network, 128, 1).run(many(100), ["pooled"])
    assert sizes[2:] == [128, 64, 32], "a small batch that does not fit is an error, not a loop"


def test_features_are_the_same_however_many_batches_are_on_their_way(
    network: Network, tmp_path: Path
) -> None:
    found = [
        features_of(planned(network, 4, count), views(level="light"), 2, tmp_path / str(count))
        for count in (1, 3)
    ]
    for view in (0, 1):
        one, three = (each.activation_batch(BOTH, view) for each in found)
        np.testing.assert_array_equal(one, three)
        assert one.dtype == np.float16
    assert (one != found[0].activation_batch(BOTH, 0)).any(), "the control"


def test_results_come_in_order_and_no_more_than_asked_for_are_on_their_way() -> None:
    lock, running, most = threading.Lock(), 0, 0
    pair = threading.Barrier(2, timeout=10)

    def run(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number in (1, 2):
            pair.wait()  # ends only where both run at once
        with lock:
            running -= 1
        return number * number

    assert list(at_once(run, range(9), 2)) == [number**2 for number in range(9)]
    assert most == 2
    most = 0
    assert list(at_once(lambda number: run(number + 3), range(5), 1)) == [9, 16, 25, 36, 49]
    assert most == 1, "the control"


def test_an_error_ends_it() -> None:
    def run(number: int) -> int:
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(at_once(run, range(9), 3))


# As where the default device is a GPU: a second device, on which all computes that is not told otherwise.
PLACES = """
import sys
sys.path[:0] = {path!r}
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from test_features import POINT, frozen_at, new_network, views
from kerastl.features import views as rooms
from kerastl.modality.image.augment import augmenter

def place(tensor):
    return tensor.device.rsplit("/device:", 1)[1]

images = views(level="strong")
with tf.device("CPU:1"):
    frozen = frozen_at(new_network(), POINT, "tensorflow")
    seen = []
    view = type(images.modality).view
    def noted(self, inputs, keys, augment):
        changed = augmenter(augment)(inputs["pixels"], keys)
        seen.append(place(changed))
        return view(self, inputs, keys, augment)
    type(images.modality).view = noted
    batch = images.batch(np.arange(4), 1)
    outside = place(augmenter(images.recipe)(batch["pixels"], np.zeros((4, 2), np.int32)))
    frozen.run(batch, ["pooled", "activation"], "float16")
    engine = frozen._compiled[1]
    inputs = {{"pixels": np.repeat(batch["pixels"], 8, axis=0)}}
    outputs = engine.start(inputs)
    forward = {{place(each) for each in outputs.values()}}
    from kerastl.features.frozen import narrowed
    half, fits = narrowed(outputs["activation"])
print(sorted(set(seen)), outside, sorted(forward), place(half), place(fits))
"""


def test_changes_are_made_by_the_processor_and_the_network_computes_where_the_default_is() -> None:
    script = PLACES.format(path=[str(Path(__file__).parent)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    augmented, network = "['CPU:0']", "CPU:1"
    assert done.stdout.split("\n")[-2] == f"{augmented} {network} ['{network}'] {network} {network}"
