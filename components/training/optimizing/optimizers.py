"""The optimizers of settings: one of Keras for the dense weights, one of rows for the embedding tables."""

from __future__ import annotations

from typing import Any

import keras

from mixrank.components.training.optimizing.row_optimizer import RowOptimizer, build_row_optimizer
from mixrank.components.training.settings import Optimizer, TableOptimizer


def build_optimizer(settings: Optimizer, *, steps: int = 1) -> keras.optimizers.Optimizer:
    """The Keras optimizer of the dense weights; call it inside the strategy's scope.

    Args:
        settings: which one.
        steps: int >= 1. Length of the training, for schedules.

    Raises:
        ValueError: if Keras refuses an option.
    """
    rate: Any = _schedule(settings, steps)
    if not isinstance(rate, float):
        rate = keras.saving.serialize_keras_object(rate)
    try:
        return keras.optimizers.get(
            {"class_name": settings.name, "config": {"learning_rate": rate, **settings.options}}
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer `{settings.name}` refuses its options {settings.options}: {error}") from error


def build_table_optimizer(settings: TableOptimizer, *, steps: int = 1) -> RowOptimizer:
    """The optimizer of the embedding tables; arguments as in `build_optimizer`."""
    return build_row_optimizer(settings.name, _schedule(settings, steps), settings.options, settings.rates)


def _schedule(settings: Optimizer | TableOptimizer, steps: int) -> Any:
    decay = settings.decay(steps)
    return float(settings.learning_rate) if decay is None else keras.optimizers.schedules.CosineDecay(**decay)
