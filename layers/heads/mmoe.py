"""MMoE: experts that all tasks share, and a gate per task that weighs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import LayerWidths, Part, Shape, Tensor
from mixrank.layers.heads.base import NO_FIELDS, Heads
from mixrank.layers.heads.expert_bank import ExpertBank, count_experts, count_mix, mix, total
from mixrank.layers.heads.task_heads import count_towers, new_towers
from mixrank.layers.mixing import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class MMoEHeads(Heads):
    """`y_k = h^k(f^k(x))`, `f^k(x) = sum_i g^k(x)_i f_i(x)`, `g^k(x) = softmax(W_gk x)`; MMoE, section 4.2.

    f_i are E experts on the representation x, h^k is the tower of task k.

    Args:
        experts: int >= 1. Experts E.
        expert_units: widths of an expert's ReLU layers.
        units: widths of the hidden ReLU layers of every task's tower; empty for logistic regression.
        tasks: as in `Heads`.

    Call arguments:
        x, scenario: as in `Heads`; the scenario is not read.

    Returns:
        task -> float32 tensor (batch,).

    Source: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
    KDD 2018.

    >>> heads = MMoEHeads(tasks=("click", "buy"), experts=3, expert_units=(4,))
    >>> heads(keras.ops.ones((2, 5)), keras.ops.ones(2, "int32"))["buy"].shape
    TensorShape([2])
    """

    def __init__(
        self,
        *,
        experts: PositiveInt = 4,
        expert_units: LayerWidths = (64,),
        units: tuple[PositiveInt, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        policy, width = {"dtype": self.dtype_policy}, self.input_width
        self.bank = ExpertBank(experts=self.experts, units=self.expert_units, name="experts", **policy)
        self.bank.build((None, width))
        self.gates = PerTokenDense(self.experts, use_bias=False, token_leading=True, name="gates", **policy)
        self.gates.build((len(self.tasks), None, width))
        self.towers = new_towers(self, self.units, self.expert_units[-1])

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        experts, _ = self.bank(x)
        # (tasks, batch, experts) -> (batch, tasks, experts)
        weights = ops.transpose(ops.softmax(self.gates(x[None]), axis=-1), (1, 0, 2))
        names = [f"expert {index + 1}" for index in range(self.experts)]
        for index, task in enumerate(self.tasks):
            self.saw("experts", task, names, weights[:, index])
        mixed = mix(weights, experts)
        return {task: self.towers[task](mixed[:, index]) for index, task in enumerate(self.tasks)}

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        tasks, e, units = len(self.tasks), self.experts, self.expert_units
        gates = tasks * width * e, tasks * (2 * width * e + count_mix(e, units[-1]))
        return [
            total("heads: experts", count_experts(e, width, units)),
            total("heads: gates", gates),
            count_towers(tasks, units[-1], self.units),
        ]
