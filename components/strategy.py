"""Where training runs: MirroredStrategy over all GPUs, or over one or several logical CPU devices."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf


def prepare_devices(replicas: Literal["auto"] | int) -> None:
    """Splits the CPU into logical devices; must run before TensorFlow touches a device.

    Args:
        replicas: as in `TrainSettings.replicas`.

    Raises:
        ValueError: if TensorFlow is already running with another number of devices.
    """
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


def build_strategy(replicas: Literal["auto"] | int) -> tf.distribute.Strategy:
    """MirroredStrategy over every GPU, or over `replicas` logical CPU devices.

    Args:
        replicas: "auto" takes all GPUs, or one CPU device where there are none; a number takes that many.

    Raises:
        ValueError: if there are fewer devices than asked for.
    """
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    wanted = (len(gpus) or 1) if replicas == "auto" else replicas
    if wanted > len(devices):
        kind = "GPU" if gpus else "CPU"
        raise ValueError(f"`replicas`={wanted}, but there are only {len(devices)} logical {kind} devices")
    return tf.distribute.MirroredStrategy([device.name for device in devices[:wanted]])


def use_jit(setting: Literal["auto", "on", "off"], strategy: tf.distribute.Strategy) -> bool:
    """Whether to compile the training step with XLA.

    XLA cannot compile a step whose variables lie on several CPU devices, so "auto" means one replica only.
    """
    if setting == "auto":
        return strategy.num_replicas_in_sync == 1
    return setting == "on"
