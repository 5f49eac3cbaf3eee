"""Task heads with an adapter per scenario, and tasks that are predicted through another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Part, Shape, Tensor, check_named, dense_part
from mixrank.layers.heads import NO_FIELDS, Heads
from mixrank.layers.models.mtmixatt.lora import ScenarioAdapter, adapter_rank
from mixrank.layers.task_kinds import product_logit

Adapter = Literal["dense", "logit", "none"]


@keras.saving.register_keras_serializable("mixrank")
class ScenarioHeads(Heads):
    """A network per task whose dense layers have an adapter per scenario: `h = relu(x W + b + x A_c B_c + b_c)`.

    A task of `esmm` is predicted through its parent, `p = p_parent sigmoid(y)`, in logits:
    `logit p = -log(exp(-a) + exp(-y) + exp(-a - y))`, a the logit of the parent, which neither over- nor underflows.

    Args:
        tasks: as in `Heads`.
        units: widths of the hidden layers.
        scenarios, ratio: as in `ScenarioAdapter`.
        adapter: dense adapts every layer; logit adds one adapter from x to the logit; none has none.
        esmm: pairs (task, parent task).

    Call arguments:
        x: Tensor (batch, width).
        scenario: int tensor (batch,), or (1,) for the candidates of one request; ids as in `ScenarioAdapter`.

    Returns:
        task -> float32 tensor (batch,).

    Raises:
        ValueError: a value out of bounds, or `esmm` names no task, one twice, or goes in a circle.

    Source: arXiv 2510.15286; the product of probabilities is that of arXiv 1804.07931.

    >>> heads = ScenarioHeads(tasks=("click", "buy"), scenarios=2, esmm=(("buy", "click"),))
    >>> heads(keras.ops.ones((4, 5)), keras.ops.array([0, 1, 2, 3]))["buy"].shape
    TensorShape([4])
    """

    removed: ClassVar = {"main": 0, "min_rank": 4, "added": 0}

    def __init__(
        self,
        *,
        units: tuple[PositiveInt, ...] = (),
        scenarios: NonNegativeInt,
        ratio: PositiveInt = 16,
        adapter: Adapter = "dense",
        esmm: tuple[tuple[str, str], ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.parents = check_parents(self.tasks, self.esmm)

    def _adapter(self, units: int, width: int, name: str) -> ScenarioAdapter:
        adapter = ScenarioAdapter(
            units=units,
            scenarios=self.scenarios,
            ratio=self.ratio,
            name=name,
            dtype=self.dtype_policy,
        )
        adapter.build((None, width))
        return adapter

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        self.dense, self.adapters = {}, {}
        for task in self.tasks:
            width = self.input_width
            for index, units in enumerate((*self.units, 1)):
                name = f"{task}_hidden_{index}" if index < len(self.units) else f"{task}_logit"
                start = "he_normal" if index < len(self.units) else "glorot_uniform"
                self.dense[name] = keras.layers.Dense(
                    units, kernel_initializer=start, name=name, dtype=self.dtype_policy
                )
                self.dense[name].build((None, width))
                if self.adapter == "dense" and self.scenarios > 1:
                    self.adapters[name] = self._adapter(units, width, f"{name}_adapter")
                width = units
            if self.adapter == "logit" and self.scenarios > 1:
                self.adapters[task] = self._adapter(1, self.input_width, f"{task}_adapter")

    def _own_logit(self, task: str, x: Tensor, scenario: Tensor) -> Tensor:
        h = x
        for name in (*(f"{task}_hidden_{index}" for index in range(len(self.units))), f"{task}_logit"):
            y = self.dense[name](h)
            if name in self.adapters:
                y = y + self.adapters[name](h, scenario)
            h = y if name == f"{task}_logit" else ops.relu(y)
        if task in self.adapters:
            h = h + self.adapters[task](x, scenario)
        # (batch, 1) -> (batch,)
        return ops.reshape(h, (-1,))

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        x = ops.cast(x, self.compute_dtype)
        own = {task: self._own_logit(task, x, scenario) for task in self.tasks}
        found: dict = {}

        def logit(task: str) -> Tensor:
            if task not in found:
                parent = self.parents.get(task)
                found[task] = own[task] if parent is None else product_logit(logit(parent), own[task])
            return found[task]

        return {task: logit(task) for task in self.tasks}

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        number = max(0, self.scenarios - 1)
        widths = [width, *self.units, 1]
        one = dense_part("heads", widths)
        pairs = {"dense": list(itertools.pairwise(widths)), "logit": [(width, 1)], "none": []}[self.adapter]
        parameters, flops = 0, 0
        for inputs, units in pairs if number else ():
            rank = adapter_rank(inputs, self.ratio)
            parameters += number * (inputs * rank + rank * units + units)
            flops += 2 * (inputs * rank + rank * units)
        tasks = len(self.tasks)
        adapters = [Part("heads: adapters", tasks * parameters, tasks * flops)] if parameters else []
        return [Part("heads", tasks * one.parameters, tasks * one.flops), *adapters]


def check_parents(tasks: tuple[str, ...], esmm: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Task -> its parent.

    Raises:
        ValueError: `esmm` names no task, gives one two parents, or goes in a circle.
    """
    parents: dict[str, str] = {}
    check_named("esmm", esmm, tasks, "a task of the log")
    for task, parent in esmm:
        if task in parents:
            raise ValueError(f"`esmm` must give {task!r} one parent, received {parents[task]!r} and {parent!r}")
        parents[task] = parent
    for task in parents:
        seen, each = {task}, parents[task]
        while each in parents and each not in seen:
            seen.add(each)
            each = parents[each]
        if each in seen:
            raise ValueError(f"`esmm` must not go in a circle, received {esmm}")
    return parents
