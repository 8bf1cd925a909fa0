"""GPUs that TensorFlow sees, and what follows from them: the arithmetic, and how many examples are computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

# Examples and their changes are made by the processor also where there is a GPU: there each of their many small steps is a
# kernel, for which the network would wait.
PROCESSOR = "CPU:0"
# Examples of a batch of the frozen prefix on a processor, which more would not make faster: 32 keep all cores at work, and what
# is computed in one batch is held in memory twice.
PROCESSOR_BATCH = 32
# As many as keep a GPU busy with the small networks, too. Where they do not fit its memory they are halved until they do.
GPU_BATCH = 256
# Batches that are on their way at once: one on the GPU, one that is copied from it, one that is copied to it.
GPU_BATCHES_AT_ONCE = 3
# NVIDIA's processors have units for bfloat16 from Ampere on; older ones (T4, V100) emulate it.
BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: `GPU:0`.
        capability: NVIDIA's compute capability; None where it is not known.
    """

    name: str
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class DevicePlan:
    """Arithmetic and sizes that suit the devices of a process.

    Attributes:
        precision: that `auto` takes, `float32` or `mixed_bfloat16`.
        why: it takes that.
        batch_size: examples that the frozen prefix computes together.
        batches_at_once: how many such batches are on their way at once.
    """

    precision: str
    why: str
    batch_size: int = PROCESSOR_BATCH
    batches_at_once: int = 1


def gpus_here() -> tuple[Gpu, ...]:
    """The GPUs that TensorFlow may use in this process; none is initialised by that."""
    found = []
    for each in tf.config.list_physical_devices("GPU"):
        capability = tf.config.experimental.get_device_details(each).get("compute_capability")
        found.append(Gpu(each.name.removeprefix("/physical_device:"), capability and tuple(capability)))
    return tuple(found)


def plan_for(gpus: Sequence[Gpu]) -> DevicePlan:
    """The plan for some GPUs; without any, that of the processor.

    Args:
        gpus: from `gpus_here`, or made up.
    """
    if not gpus:
        # On processors bfloat16 pays only with special instructions, and not for every network.
        return DevicePlan("float32", "no GPU")
    for gpu in gpus:
        if gpu.capability is None or gpu.capability < BFLOAT16_CAPABILITY:
            has = "unknown compute capability"
            if gpu.capability is not None:
                has = "compute capability {}.{}".format(*gpu.capability)
            why = f"{gpu.name} has {has}, bfloat16 needs 8.0"
            return DevicePlan("float32", why, GPU_BATCH, GPU_BATCHES_AT_ONCE)
    return DevicePlan("mixed_bfloat16", "all GPUs have units for it", GPU_BATCH, GPU_BATCHES_AT_ONCE)
