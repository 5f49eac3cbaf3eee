"""Optimizers of embedding tables, which read and write only the rows that a step has looked up.

An optimizer of Keras works over whole variables: its step costs what the table costs, and equal ids of a batch count as
several gradients. Here the gradients of equal rows are summed first, and the step costs what the batch costs, whatever
the size of the table.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mixrank.schemas.naming import nearest

# A slot holds this many numbers per row: one, or as many as a row of the table has.
ONE, ALL = "one", "all"


class Rows(NamedTuple):
    """Some rows of one replica's copy of a table.

    Args:
        table: tf.Variable (size, dim).
        numbers: int64 (rows,), each at most once.
    """

    table: tf.Variable
    numbers: tf.Tensor

    def of(self, variable: tf.Variable) -> tf.Tensor:
        return tf.gather(variable, self.numbers)

    def replace(self, variable: tf.Variable, values: tf.Tensor) -> None:
        tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=self.numbers, updates=values)

    def subtract(self, values: tf.Tensor) -> None:
        tf.raw_ops.ResourceScatterSub(resource=self.table.handle, indices=self.numbers, updates=values)


class RowwiseAdagrad:
    """`a += mean_d(g_d^2)`, `w -= rate g / sqrt(a + start)`: one number a per row.

    The mean makes the rate independent of the width (Mudigere et al. 2022, *Software-Hardware Co-design for Fast and
    Scalable Training of Deep Learning Recommendation Models*, section 4.1.4). Keras' Adagrad starts at .1, which
    the small gradients of rows take long to exceed.

    Args:
        start: float > 0.
    """

    slots = (ONE,)

    def __init__(self, *, start: float = 1e-8) -> None:
        self.start = _positive("start", start)

    def update(self, rows: Rows, slots: Sequence[tf.Variable], g: tf.Tensor, rate: tf.Tensor, step: tf.Tensor) -> None:
        a = rows.of(slots[0]) + tf.reduce_mean(tf.square(g), axis=1, keepdims=True)
        rows.replace(slots[0], a)
        rows.subtract(rate * g * tf.math.rsqrt(a + self.start))


class Adagrad:
    """`a += g^2`, `w -= rate g / sqrt(a + start)`, for every number of a row (Duchi et al. 2011).

    Args:
        start: float > 0.
    """

    slots = (ALL,)

    def __init__(self, *, start: float = 1e-8) -> None:
        self.start = _positive("start", start)

    def update(self, rows: Rows, slots: Sequence[tf.Variable], g: tf.Tensor, rate: tf.Tensor, step: tf.Tensor) -> None:
        a = rows.of(slots[0]) + tf.square(g)
        rows.replace(slots[0], a)
        rows.subtract(rate * g * tf.math.rsqrt(a + self.start))


class LazyAdam:
    """Adam (Kingma & Ba 2015, Algorithm 1) on the rows of a step; the moments of all others stay as they are.

    `m += (1 - beta_1)(g - m)`, `v += (1 - beta_2)(g^2 - v)`,
    `w -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)`, with t the number of the step from 1.

    Args:
        beta_1, beta_2: float in [0, 1).
        epsilon: float > 0.
    """

    slots = (ALL, ALL)

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> None:
        self.beta_1, self.beta_2 = _share("beta_1", beta_1), _share("beta_2", beta_2)
        self.epsilon = _positive("epsilon", epsilon)

    def update(self, rows: Rows, slots: Sequence[tf.Variable], g: tf.Tensor, rate: tf.Tensor, step: tf.Tensor) -> None:
        m, v = (rows.of(slot) for slot in slots)
        m += (1 - self.beta_1) * (g - m)
        v += (1 - self.beta_2) * (tf.square(g) - v)
        rows.replace(slots[0], m)
        rows.replace(slots[1], v)
        t = tf.cast(step + 1, tf.float32)
        scale = tf.sqrt(1 - tf.pow(self.beta_2, t)) / (1 - tf.pow(self.beta_1, t))
        rows.subtract(rate * scale * m / (tf.sqrt(v) + self.epsilon))


RULES: dict[str, type] = {
    "rowwise_adagrad": RowwiseAdagrad,
    "adagrad": Adagrad,
    "lazy_adam": LazyAdam,
}


class Gradient(NamedTuple):
    """Gradients of the rows of one table, a row as often as it was looked up.

    Args:
        rows: int64 (lookups,).
        values: float (lookups, dim).
    """

    rows: tf.Tensor
    values: tf.Tensor


class Factors(NamedTuple):
    """Factors of the learning rate of several tables that are one variable.

    Args:
        begins: first row of each table, ascending from 0.
        factors: one of each table.
    """

    begins: tuple[int, ...]
    factors: tuple[float, ...]

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """The factor of each row, float32 (rows, 1)."""
        table = tf.searchsorted(tf.constant(self.begins[1:], tf.int64), rows, side="right")
        return tf.gather(tf.constant(self.factors, tf.float32), table)[:, None]


class RowOptimizer:
    """Sums the gradients of equal rows and updates those rows.

    Under a distribution strategy every replica sums its own, the replicas exchange row numbers and sums, and each
    updates its copy of the table once with the total: no gradient ever has the size of a table.

    Args:
        rule: how a row is updated, one of `RULES`.
        learning_rate: float, or a Keras schedule of the step.
        clipvalue: float > 0 or None. Limit of every number of a summed gradient.
        global_clipnorm: float > 0 or None. Limit of the norm of all gradients of all tables together.
        rates: name of a table -> factor of the learning rate of its rows; 1 for all others.

    Raises:
        ValueError: for a limit that is not positive.
    """

    def __init__(
        self,
        rule: Any,
        learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
        *,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.rule = rule
        self.rates = dict(rates)
        self.learning_rate = learning_rate
        self.clipvalue = None if clipvalue is None else _positive("clipvalue", clipvalue)
        self.global_clipnorm = None if global_clipnorm is None else _positive("global_clipnorm", global_clipnorm)
        self.tables: list[keras.Variable] = []
        self.slots: list[list[keras.Variable]] = []
        self.factors: list[Factors | None] = []

    def build(self, tables: Sequence[keras.Variable], first_rows: Sequence[Mapping[str, int]] = ()) -> None:
        """Makes the slots, zeros; inside the strategy's scope, once.

        Args:
            tables: float32 (size, dim).
            first_rows: for each of `tables`, as far as they are known, name of a table in it -> its first row.
        """
        self.tables = list(tables)
        named = [*first_rows, *({} for _ in self.tables[len(first_rows) :])]
        self.factors = [self._factors(first) for first in named]
        for table in self.tables:
            widths = [1 if kind == ONE else table.shape[1] for kind in self.rule.slots]
            name = table.path.replace("/", "_")
            with _beside(table.value):
                self.slots.append(
                    [
                        keras.Variable(
                            lambda shape, dtype: tf.zeros(shape, dtype),
                            shape=(table.shape[0], width),
                            dtype="float32",
                            trainable=False,
                            autocast=False,
                            name=f"{name}_slot_{number}",
                        )
                        for number, width in enumerate(widths)
                    ]
                )

    def _factors(self, first_rows: Mapping[str, int]) -> Factors | None:
        if not set(self.rates) & set(first_rows):
            return None
        ordered = sorted(first_rows, key=lambda name: first_rows[name])
        begins = tuple(first_rows[name] for name in ordered)
        return Factors(begins, tuple(self.rates.get(name, 1.0) for name in ordered))

    @property
    def variables(self) -> list[keras.Variable]:
        """All slots, in the order of the tables."""
        return [slot for slots in self.slots for slot in slots]

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, from 0."""
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        return tf.cast(rate, tf.float32)

    def apply(self, gradients: Sequence[Gradient], step: tf.Tensor) -> None:
        """Updates the tables; in a replica's context, in graph or eager mode.

        Args:
            gradients: one per table, in the order of `build`.
            step: int scalar from 0, the number of updates before this one.
        """
        summed = []
        for table, gradient in zip(self.tables, gradients, strict=True):
            with _beside(table.value):
                summed.append(summed_by_row(gradient))
        strategy = tf.distribute.get_strategy()
        if strategy.num_replicas_in_sync == 1:
            limited = self._limited(summed)
            for table, slots, gradient, factors in zip(self.tables, self.slots, limited, self.factors, strict=True):
                with _beside(table.value):
                    self._row_update(table.value, self._values(slots), gradient, step, factors)
            return
        tf.distribute.get_replica_context().merge_call(
            self._merged, args=([g.rows for g in summed], [g.values for g in summed], step)
        )

    def _merged(self, strategy: Any, rows: list[Any], values: list[Any], step: Any) -> None:
        """All replicas' gradients to every replica, then the same update in each."""
        total = [
            summed_by_row(Gradient(strategy.gather(r, axis=0), strategy.gather(v, axis=0)))
            for r, v in zip(rows, values, strict=True)
        ]
        (step, *_) = strategy.experimental_local_results(step)
        limits = self._limited(total)
        for table, slots, gradient, factors in zip(self.tables, self.slots, limits, self.factors, strict=True):

            def update(
                copy: tf.Variable,
                slots: list[tf.Variable],
                rows: Any,
                values: Any,
                step: Any,
                factors: Factors | None = factors,
            ) -> None:
                self._row_update(copy, slots, Gradient(rows, values), step, factors)

            strategy.extended.update(
                table.value, update, args=(self._values(slots), gradient.rows, gradient.values, step), group=False
            )

    def _row_update(
        self,
        table: tf.Variable,
        slots: Sequence[tf.Variable],
        gradient: Gradient,
        step: Any,
        factors: Factors | None,
    ) -> None:
        rate = self.rate(step)
        if factors is not None:
            rate = rate * factors.of(gradient.rows)
        self.rule.update(Rows(table, gradient.rows), slots, gradient.values, rate, step)

    def _limited(self, gradients: Sequence[Gradient]) -> list[Gradient]:
        values = [gradient.values for gradient in gradients]
        if self.clipvalue is not None:
            values = [tf.clip_by_value(each, -self.clipvalue, self.clipvalue) for each in values]
        if self.global_clipnorm is not None:
            values, _ = tf.clip_by_global_norm(values, self.global_clipnorm)
        return [Gradient(gradient.rows, each) for gradient, each in zip(gradients, values, strict=True)]

    @staticmethod
    def _values(slots: Sequence[keras.Variable]) -> list[tf.Variable]:
        return [slot.value for slot in slots]


def build_row_optimizer(
    name: str,
    learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
    options: dict[str, Any],
    rates: Mapping[str, float] = MappingProxyType({}),
) -> RowOptimizer:
    """The optimizer of a rule's name, with options of the rule and of the optimizer, and its `rates`.

    Raises:
        ValueError: for an unknown option or a value out of bounds.
    """
    own = {key: options[key] for key in ("clipvalue", "global_clipnorm") if key in options}
    known = [*inspect.signature(RULES[name]).parameters, "clipvalue", "global_clipnorm"]
    for key in options:
        if key not in known:
            raise ValueError(f"optimizer `{name}` of the embedding tables has no option `{key}`{nearest(key, known)}")
    rule = RULES[name](**{key: value for key, value in options.items() if key not in own})
    return RowOptimizer(rule, learning_rate, rates=rates, **own)


def summed_by_row(gradient: Gradient) -> Gradient:
    """Each row once, with the sum of its gradients."""
    rows, places = tf.unique(gradient.rows)
    return Gradient(rows, tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows)))


def _beside(table: tf.Variable) -> contextlib.AbstractContextManager[Any]:
    """On the device of a table; a strategy chooses the devices of its replicas itself."""
    return contextlib.nullcontext() if tf.distribute.has_strategy() else tf.device(table.device)


def _positive(name: str, value: float) -> float:
    if not (_is_number(value) and value > 0):
        raise ValueError(f"`{name}` must be a number > 0, received {value!r}")
    return float(value)


def _share(name: str, value: float) -> float:
    if not (_is_number(value) and 0 <= value < 1):
        raise ValueError(f"`{name}` must be in [0, 1), received {value!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
