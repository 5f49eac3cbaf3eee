"""Optimizers from settings, with a separate one for embedding tables if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mixrank.components.training.settings import Optimizer


def build_optimizer(
    settings: Optimizer, embedding: Optimizer | None = None, *, steps: int = 1
) -> keras.optimizers.Optimizer:
    """The Keras optimizer of a run; call it inside the strategy's scope.

    Args:
        settings: optimizer of all weights, or of all but the embedding tables.
        embedding: optimizer of the embedding tables, or None.
        steps: int >= 1. Length of the training, for schedules.

    Raises:
        ValueError: if Keras refuses an option.
    """
    if embedding is None:
        return _keras_optimizer(settings, steps)
    return PartitionedOptimizer(dense=_keras_optimizer(settings, steps), embedding=_keras_optimizer(embedding, steps))


def _learning_rate(settings: Optimizer, steps: int) -> Any:
    decay = settings.decay(steps)
    if decay is None:
        return float(settings.learning_rate)
    return keras.saving.serialize_keras_object(keras.optimizers.schedules.CosineDecay(**decay))


def _keras_optimizer(settings: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    try:
        return keras.optimizers.get(
            {
                "class_name": settings.name,
                "config": {"learning_rate": _learning_rate(settings, steps), **settings.options},
            }
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer `{settings.name}` refuses its options {settings.options}: {error}") from error


def is_embedding(variable: Any) -> bool:
    """Whether a weight belongs to an embedding table of the ranker."""
    return "embedding_" in variable.path


@keras.saving.register_keras_serializable(package="mixrank")
class PartitionedOptimizer(keras.optimizers.Optimizer):
    """Applies one optimizer to the embedding tables and another to all other weights.

    Industrial rankers train sparse tables with Adagrad and a high rate, dense weights with a lower one.

    Args:
        dense: optimizer of every weight whose path has no `embedding_`.
        embedding: optimizer of the tables.
    """

    def __init__(
        self, dense: keras.optimizers.Optimizer, embedding: keras.optimizers.Optimizer, name: str = "partitioned"
    ) -> None:
        # The base class requires a learning rate; the two parts use their own.
        super().__init__(learning_rate=1.0, name=name)
        self.dense = dense
        self.embedding = embedding

    def build(self, variables: Sequence[Any]) -> None:
        super().build(variables)
        self.dense.build([v for v in variables if not is_embedding(v)])
        self.embedding.build([v for v in variables if is_embedding(v)])

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self.built:
            self.build(variables)
        pairs = list(zip(grads, variables, strict=True))
        for part, wanted in ((self.dense, False), (self.embedding, True)):
            mine = [(g, v) for g, v in pairs if g is not None and is_embedding(v) is wanted]
            if mine:
                part.apply([g for g, _ in mine], [v for _, v in mine])
        self.iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {"name": self.name, "dense": serialize(self.dense), "embedding": serialize(self.embedding)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PartitionedOptimizer:
        del custom_objects
        parts = {k: keras.saving.deserialize_keras_object(config[k]) for k in ("dense", "embedding")}
        return cls(name=config["name"], **parts)
