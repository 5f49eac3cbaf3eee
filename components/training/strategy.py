"""Distribution strategies: all GPUs or some logical CPU devices of this process, or of several workers."""

from __future__ import annotations

from functools import cache
from typing import Literal

import tensorflow as tf

from mixrank.components.training.workers import ALONE, Workers


def prepare_devices(replicas: Literal["auto"] | int) -> None:
    """Splits the CPU into logical devices for a command; must run before TensorFlow touches a device.

    Args:
        replicas: as in `TrainSettings.replicas`.

    Raises:
        ValueError: if TensorFlow is already running with another number of devices, or TF_CONFIG names several
            workers, because each would do all the work.
    """
    if Workers.of_environment().several:
        raise ValueError(
            "TF_CONFIG names several workers, and this command is for one process: unset it, or start the Trainer's "
            "step on every worker (docs/training.md, Several workers)"
        )
    if replicas == "auto" or tf.config.list_physical_devices("GPU"):
        return
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError:
        have = len(tf.config.list_logical_devices("CPU"))
        if have < replicas:
            raise ValueError(
                f"`replicas`={replicas} needs as many logical CPU devices, but TensorFlow already runs with {have}; "
                "set it before anything uses TensorFlow in this process"
            ) from None


def build_strategy(
    replicas: Literal["auto"] | int, workers: Workers = ALONE, tables: Literal["device", "host"] = "device"
) -> tf.distribute.Strategy:
    """MirroredStrategy over all GPUs or `replicas` logical CPU devices; its multi-worker form for several workers.

    One CPU device needs no strategy: autotuning cannot be turned off (see `untuned`) in the strategy's own iterators,
    and tracing the step would take longer.

    Args:
        replicas: "auto" uses all GPUs, or one CPU device if there are none; a number uses that many.
        workers: the workers of this training. Several must be joined before anything else uses TensorFlow.
        tables: as in `TrainSettings.tables`; on the host they are not mirrored, so there is one replica.

    Raises:
        ValueError: if there are fewer devices than asked for, tables on the host and several workers, or if it is
            too late to join the workers.
    """
    if tables == "host":
        if workers.several:
            raise ValueError("`tables: host` is for one replica, received several workers: set `tables` to device")
        return tf.distribute.get_strategy()
    if workers.several:
        return _join(replicas)
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    wanted = (len(gpus) or 1) if replicas == "auto" else replicas
    if wanted > len(devices):
        kind = "GPU" if gpus else "CPU"
        raise ValueError(f"`replicas`={wanted}, but there are only {len(devices)} logical {kind} devices")
    if wanted == 1 and not gpus:
        return tf.distribute.get_strategy()
    return _mirrored(tuple(device.name for device in devices[:wanted]))


@cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    # One strategy per set of devices: each numbers its reductions from the same start, and TensorFlow remembers the
    # shape of each number for the whole process, so that a second training with other shapes would fail.
    return tf.distribute.MirroredStrategy(list(devices))


def _join(replicas: Literal["auto"] | int) -> tf.distribute.Strategy:
    if replicas != "auto":
        raise ValueError(f"`replicas` must be auto where TF_CONFIG names several workers, received {replicas}")
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ValueError(
            "TF_CONFIG names several workers, which TensorFlow must join before it does anything else, and it already "
            "runs in this process: start the Trainer's step in a process of its own"
        ) from None


def dense_device(tables: Literal["device", "host"]) -> str | None:
    """The first GPU, if tables on the host are to be kept off it; None leaves all devices to TensorFlow."""
    return "GPU:0" if tables == "host" and tf.config.list_logical_devices("GPU") else None


def use_jit(setting: Literal["auto", "on", "off"], strategy: tf.distribute.Strategy) -> bool:
    """Whether to compile the training step with XLA.

    "auto" compiles for one GPU. On a CPU small models lose by it more than large ones gain (`benchmarks/models.py`),
    and XLA cannot compile a step whose variables are on several devices. A trial at the start could choose differently
    from run to run, and then equal runs would not end in equal weights.
    """
    if setting == "auto":
        return strategy.num_replicas_in_sync == 1 and bool(tf.config.list_logical_devices("GPU"))
    return setting == "on"
