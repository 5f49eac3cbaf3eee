"""PLE: levels of experts that are shared and experts that are a task's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import LayerWidths, Part, Shape, Tensor
from mixrank.layers.heads.base import NO_FIELDS, Heads
from mixrank.layers.heads.expert_bank import ExpertBank, count_experts, count_mix, mix, total
from mixrank.layers.heads.task_heads import count_towers, new_towers

# Not a name that a task can have.
SHARED = "(shared)"


@keras.saving.register_keras_serializable("mixrank")
class PLEHeads(Heads):
    """`g^k(x) = w^k(x) S^k(x)`, `w^k(x) = softmax(W_g^k x)`, over `levels` levels; PLE, section 4.

    S^k are the outputs of the experts of task k and of the shared ones: customized gate control, CGC. At the next level
    the experts and the gate of task k read `g^k`, and the shared experts read the output of a shared gate, which weighs
    all experts of the level. The last level has no shared gate. One level is CGC alone. h^k, the tower, reads the last
    `g^k`.

    Args:
        task_experts: int >= 0. Experts of each task, in every level; at least one of both.
        shared_experts: int >= 0. Shared experts, in every level; at least one if there are several levels.
        expert_units: widths of an expert's ReLU layers.
        levels: int >= 1. Extraction levels; 1 is CGC.
        units: widths of the hidden ReLU layers of every task's tower; empty for logistic regression.
        tasks: as in `Heads`.

    Call arguments:
        x, scenario: as in `Heads`; the scenario is not read.

    Returns:
        task -> float32 tensor (batch,).

    Raises:
        ValueError: without experts, or without shared ones for several levels.

    Source: H. Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations", RecSys 2020.

    >>> heads = PLEHeads(tasks=("click", "buy"), expert_units=(4,), levels=2)
    >>> heads(keras.ops.ones((2, 5)), keras.ops.ones(2, "int32"))["buy"].shape
    TensorShape([2])
    """

    def __init__(
        self,
        *,
        task_experts: NonNegativeInt = 2,
        shared_experts: NonNegativeInt = 2,
        expert_units: LayerWidths = (64,),
        levels: PositiveInt = 2,
        units: tuple[PositiveInt, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not task_experts + shared_experts:
            raise ValueError("`task_experts` and `shared_experts` must not both be 0")
        if levels > 1 and not shared_experts:
            raise ValueError(f"`shared_experts` must be at least 1 with `levels` {levels}, received 0")

    def _owners(self) -> dict[str, int]:
        """Task or shared -> number of its experts, of those that have some."""
        owners = dict.fromkeys(self.tasks, self.task_experts)
        return {owner: number for owner, number in {**owners, SHARED: self.shared_experts}.items() if number}

    def _gated(self, level: int) -> dict[str, list[str]]:
        """Task, and shared but for the last level -> the owners whose experts its gate weighs."""
        owners = self._owners()
        gated = {task: [owner for owner in owners if owner in (task, SHARED)] for task in self.tasks}
        return gated if level == self.levels - 1 else {**gated, SHARED: list(owners)}

    def _width(self, level: int) -> int:
        """Width of what a level reads."""
        return self.expert_units[-1] if level else self.input_width

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        policy, owners = {"dtype": self.dtype_policy}, self._owners()
        self.banks: list[dict[str, ExpertBank]] = []
        self.gates: list[dict[str, keras.layers.Dense]] = []
        for level in range(self.levels):
            banks = {
                owner: ExpertBank(
                    experts=n, units=self.expert_units, name=f"experts_{level}_{_suffix(owner)}", **policy
                )
                for owner, n in owners.items()
            }
            gates = {
                reader: keras.layers.Dense(
                    sum(owners[owner] for owner in read),
                    use_bias=False,
                    name=f"gate_{level}_{_suffix(reader)}",
                    **policy,
                )
                for reader, read in self._gated(level).items()
            }
            for layer in (*banks.values(), *gates.values()):
                layer.build((None, self._width(level)))
            self.banks.append(banks)
            self.gates.append(gates)
        self.towers = new_towers(self, self.units, self.expert_units[-1])

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        owners = self._owners()
        read = dict.fromkeys((*self.tasks, SHARED), x)
        for level in range(self.levels):
            experts = {owner: bank(read[owner])[0] for owner, bank in self.banks[level].items()}
            found = {}
            for reader, own in self._gated(level).items():
                weights = ops.softmax(self.gates[level][reader](read[reader]), axis=-1)
                names = [f"{owner} {index + 1}" for owner in own for index in range(owners[owner])]
                self.saw(f"level {level + 1}", reader, names, weights)
                # (batch, 1, experts) by (batch, experts, units)
                both = ops.concatenate([experts[owner] for owner in own], axis=1)
                found[reader] = mix(weights[:, None], both)[:, 0]
            read = found
        return {task: self.towers[task](read[task]) for task in self.tasks}

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        owners, units = self._owners(), self.expert_units
        experts, gates = [], []
        for level in range(self.levels):
            inputs = units[-1] if level else width
            experts += [count_experts(number, inputs, units) for number in owners.values()]
            for own in self._gated(level).values():
                n = sum(owners[owner] for owner in own)
                gates.append((inputs * n, 2 * inputs * n + count_mix(n, units[-1])))
        return [
            total("heads: experts", *experts),
            total("heads: gates", *gates),
            count_towers(len(self.tasks), units[-1], self.units),
        ]


def _suffix(owner: str) -> str:
    """Part of a layer's name."""
    return "shared" if owner == SHARED else f"of_{owner}"
