"""Initial values of stacked kernels, and one seed for a whole model."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import keras
from keras import ops


@keras.saving.register_keras_serializable("mixrank")
class PerToken(keras.initializers.Initializer):
    """Draws every token's matrix of a stacked kernel (tokens, ...) on its own.

    A stock initializer would read (tokens, inputs, outputs) as a convolution kernel: fan and variance come out wrong by
    the number of tokens, and an orthogonal draw is orthogonal as a whole but not per token. One integer seed for all
    tokens would make them equal.

    Args:
        initializer: Name, config or instance of a `keras.initializers` initializer for one token.
        seed: int or None. Token t draws with `seed + t`; None takes a seed from Python's `random`.

    Raises:
        ValueError: if the shape has no token axis.

    >>> kernel = PerToken("glorot_uniform", seed=1)((3, 4, 5))
    """

    def __init__(self, initializer, seed: int | None = None) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.seed = seed
        self._first_seed = random.randint(1, 10**9) if seed is None else seed

    def __call__(self, shape, dtype=None, **kwargs):
        if len(shape) < 2:
            raise ValueError(f"`shape` of a stacked kernel must be (tokens, ...), received {tuple(shape)}")
        return ops.stack([self._token(index)(shape[1:], dtype=dtype) for index in range(shape[0])])

    def _token(self, index: int) -> keras.initializers.Initializer:
        config = self.initializer.get_config()
        if "seed" in config:
            config["seed"] = self._first_seed + index
        return type(self.initializer).from_config(config)

    def get_config(self) -> dict:
        return {"initializer": keras.initializers.serialize(self.initializer), "seed": self.seed}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every initializer and dropout made inside without a seed of its own follows from `seed`.

    Python's `random`, from which Keras takes such seeds, continues afterwards as if nothing had happened.

    Args:
        seed: int. The same seed and the same model give the same weights.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
