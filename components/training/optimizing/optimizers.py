"""The optimizers of settings: one of Keras for the dense weights, one of rows for the embedding tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mixrank.components.training.optimizing.row_optimizer import RowOptimizer, build_row_optimizer
from mixrank.components.training.settings import Optimizer, TableOptimizer


def build_optimizer(settings: Optimizer, *, steps: int = 1, first_step: int = 0) -> keras.optimizers.Optimizer:
    """The Keras optimizer of the dense weights; call it inside the strategy's scope.

    Args:
        settings: which one.
        steps: int >= 1. Length of the training, for schedules.
        first_step: int >= 0. Number of steps before this training, which a schedule does not count.

    Raises:
        ValueError: if Keras refuses an option.
    """
    # `keras.optimizers.get` does not know all of them.
    (kind,) = (getattr(keras.optimizers, name) for name in dir(keras.optimizers) if name.lower() == settings.name)
    try:
        return kind(learning_rate=_schedule(settings, steps, first_step), **settings.options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer `{settings.name}` refuses its options {settings.options}: {error}") from error


def build_table_optimizer(settings: TableOptimizer, *, steps: int = 1, first_step: int = 0) -> RowOptimizer:
    """The optimizer of the embedding tables; arguments as in `build_optimizer`."""
    rate = _schedule(settings, steps, first_step)
    return build_row_optimizer(settings.name, rate, settings.options, settings.rates)


def named_variables(
    optimizer: keras.optimizers.Optimizer, weights: Sequence[keras.Variable]
) -> dict[str, keras.Variable]:
    """The variables of a Keras optimizer by what they are: `iteration`, and `<slot>/<place of its weight>`.

    Its learning rate is left out, which is a variable only where it never changes.

    Args:
        optimizer: built.
        weights: those that it was built for, in that order.
    """
    # Keras names a slot after its weight, whose own name counts on in a second model of one process.
    places: dict[str, list[int]] = {}
    for place, weight in enumerate(weights):
        places.setdefault(weight.path.replace("/", "_"), []).append(place)
    found: dict[str, keras.Variable] = {}
    for variable in optimizer.variables:
        owners = [name for name in places if variable.name.startswith(f"{name}_")]
        if owners:
            owner = max(owners, key=len)
            slot = variable.name.removeprefix(f"{owner}_")
            # Weights of one name have their slots in the same order.
            place = next(place for place in places[owner] if f"{slot}/{place}" not in found)
            found[f"{slot}/{place}"] = variable
        elif variable.name != "learning_rate":
            found[variable.name] = variable
    return found


class CosineDecay(keras.optimizers.schedules.CosineDecay):
    """Keras' schedule of the steps since `first_step`.

    Args:
        first_step: int >= 0. Steps of earlier trainings that this one goes on from.
        **decay: as in Keras' class.
    """

    def __init__(self, first_step: int = 0, **decay: Any) -> None:
        super().__init__(**decay)
        self.first_step = first_step

    def __call__(self, step: Any) -> Any:
        return super().__call__(step - self.first_step)


def _schedule(settings: Optimizer | TableOptimizer, steps: int, first_step: int) -> Any:
    decay = settings.decay(steps)
    return float(settings.learning_rate) if decay is None else CosineDecay(first_step, **decay)
