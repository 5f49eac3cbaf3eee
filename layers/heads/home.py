"""HoME: a hierarchy of normalised experts, of all tasks, of groups of tasks and of one task, behind feature gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import LayerWidths, Part, Shape, TaskName, Tensor, check_named
from mixrank.layers.heads.base import NO_FIELDS, Heads
from mixrank.layers.heads.expert_bank import ExpertBank, count_experts, count_mix, mix, total
from mixrank.layers.heads.task_heads import count_towers, new_towers

# Not a name that a task can have.
SHARED = "(shared)"
LEVELS = 2


@keras.saving.register_keras_serializable("mixrank")
class HoMEHeads(Heads):
    """`z_m = sum_{e in E(m)} w_me f_e + sum_{e of m} s_me f_e`, w a softmax gate, s a self gate; two layers of it.

    `f(x) = swish(norm(MLP(x * 2 sigmoid(x A B))))`: an expert behind its own feature gate of low rank, normalised so
    that the outputs of all experts have one scale and no gate prefers an expert for its size.

    1. Abstraction layer, on the representation. The shared place has experts for all tasks, each group of tasks has
       its own. Hierarchy mask E(m): a group's gate weighs the shared experts and those of the group, the shared gate
       weighs all.
    2. Task layer. Shared experts read the shared output of layer 1; experts of a group, and of each of its tasks, read
       the group's output. The gate of a task reads the group's and the shared output side by side, and weighs the
       shared experts, the group's and the task's own. h^k, the tower, reads the result.

    A self gate weighs a place's own experts alone, so that these get a gradient whatever the other gate prefers: a
    softmax over them, or for a single expert a sigmoid.

    Args:
        groups: groups of tasks that have experts in common, such as [[click, like], [long_view, play_time]]; a task
            that no group names is a group of its own.
        shared_experts: int >= 1. Experts of all tasks, in each layer.
        group_experts: int >= 1. Experts of each group, in each layer.
        task_experts: int >= 1. Experts of each task, in the task layer.
        expert_units: widths of an expert's layers, the last one that of its output.
        feature_rank: int >= 0. Rank r of the feature gates, A (width, r) and B (r, width); 0 has none.
        units: widths of the hidden ReLU layers of every task's tower; empty for logistic regression.
        tasks: as in `Heads`.

    Call arguments:
        x, scenario: as in `Heads`; the scenario is not read.

    Returns:
        task -> float32 tensor (batch,).

    Raises:
        ValueError: if a group is empty or names no task, or a task twice.

    As in the paper, except:
        the norm is over the units of a row: batch normalization would make a row's score depend on its batch;
        a feature gate is one product of low rank per expert, where the paper weighs several of different ranks.

    Source: X. Wang et al., "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou",
    arXiv 2408.05430.

    >>> heads = HoMEHeads(tasks=("click", "like", "view"), groups=(("click", "like"),), expert_units=(4,))
    >>> heads(keras.ops.ones((2, 5)), keras.ops.ones(2, "int32"))["view"].shape
    TensorShape([2])
    """

    def __init__(
        self,
        *,
        groups: tuple[tuple[TaskName, ...], ...] = (),
        shared_experts: PositiveInt = 1,
        group_experts: PositiveInt = 1,
        task_experts: PositiveInt = 1,
        expert_units: LayerWidths = (64,),
        feature_rank: NonNegativeInt = 8,
        units: tuple[PositiveInt, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups_of = group_of_tasks(self.tasks, self.groups)

    def _owners(self, level: int) -> dict[str, int]:
        """Shared, groups and, in the task layer, tasks -> the number of their experts."""
        groups = dict.fromkeys(self.groups_of.values(), self.group_experts)
        tasks = dict.fromkeys(self.tasks, self.task_experts) if level else {}
        return {SHARED: self.shared_experts, **groups, **tasks}

    def _weighed(self, level: int) -> dict[str, tuple[str, ...]]:
        """The hierarchy mask: whose gate -> the owners of the experts that it weighs."""
        groups = tuple(dict.fromkeys(self.groups_of.values()))
        if level:
            return {task: (SHARED, group, task) for task, group in self.groups_of.items()}
        return {**{group: (SHARED, group) for group in groups}, SHARED: (SHARED, *groups)}

    def _widths(self, level: int) -> tuple[int, int]:
        """Widths of what the experts and the gates of a layer read."""
        units = self.expert_units[-1]
        return (units, 2 * units) if level else (self.input_width, self.input_width)

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        policy = {"dtype": self.dtype_policy}
        self.banks: list[dict[str, ExpertBank]] = []
        self.gates: list[dict[str, keras.layers.Dense]] = []
        self.self_gates: list[dict[str, keras.layers.Dense]] = []
        for level in range(LEVELS):
            owners, weighed = self._owners(level), self._weighed(level)
            inputs, read = self._widths(level)
            # Groups have names that are no names of layers.
            names = {owner: f"{level}_{index}" for index, owner in enumerate(owners)}
            banks = {
                owner: ExpertBank(
                    experts=number,
                    units=self.expert_units,
                    activation="swish",
                    rank=self.feature_rank,
                    name=f"experts_{names[owner]}",
                    **policy,
                )
                for owner, number in owners.items()
            }
            gates = {
                owner: keras.layers.Dense(
                    sum(owners[each] for each in own), use_bias=False, name=f"gate_{names[owner]}", **policy
                )
                for owner, own in weighed.items()
            }
            self_gates = {
                owner: keras.layers.Dense(owners[owner], use_bias=False, name=f"self_gate_{names[owner]}", **policy)
                for owner in weighed
            }
            for layers, width in ((banks, inputs), (gates, read), (self_gates, inputs)):
                for layer in layers.values():
                    layer.build((None, width))
            self.banks.append(banks)
            self.gates.append(gates)
            self.self_gates.append(self_gates)
        self.towers = new_towers(self, self.units, self.expert_units[-1])

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        z = self._layer(0, dict.fromkeys(self._owners(0), x), dict.fromkeys(self._weighed(0), x))
        read = {**z, **{task: z[group] for task, group in self.groups_of.items()}}
        both = {task: ops.concatenate([z[group], z[SHARED]], axis=-1) for task, group in self.groups_of.items()}
        found = self._layer(1, read, both)
        return {task: self.towers[task](found[task]) for task in self.tasks}

    def _layer(self, level: int, inputs: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One layer of experts.

        Args:
            level: 0 is the abstraction layer, 1 the task layer.
            inputs: owner -> what its experts and its self gate read.
            read: whose gate -> what it reads.
        """
        title = ("abstraction layer", "task layer")[level]
        names = {owner: [f"{owner} {i + 1}" for i in range(n)] for owner, n in self._owners(level).items()}
        experts = {}
        for owner, bank in self.banks[level].items():
            experts[owner], gates = bank(inputs[owner])
            if gates is not None:
                # (experts, batch, width) -> (batch, experts)
                away = ops.transpose(ops.mean(ops.abs(gates - 1.0), axis=-1))
                self.saw(f"{title}: distance of the feature gates from 1", "experts", names[owner], away)
        found = {}
        for owner, own in self._weighed(level).items():
            weights = ops.softmax(self.gates[level][owner](read[owner]), axis=-1)
            self.saw(title, owner, [name for each in own for name in names[each]], weights)
            alone = self.self_gates[level][owner](inputs[owner])
            alone = ops.softmax(alone, axis=-1) if len(names[owner]) > 1 else ops.sigmoid(alone)
            self.saw(f"{title}: self gates", "own experts", names[owner], alone)
            # (batch, 1, experts) by (batch, experts, units)
            z = mix(weights[:, None], ops.concatenate([experts[each] for each in own], axis=1))
            found[owner] = (z + mix(alone[:, None], experts[owner]))[:, 0]
        return found

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        units, experts, gates = self.expert_units, [], []
        for level in range(LEVELS):
            owners = self._owners(level)
            inputs, read = (units[-1], 2 * units[-1]) if level else (width, width)
            experts += [count_experts(n, inputs, units, "swish", self.feature_rank) for n in owners.values()]
            for owner, own in self._weighed(level).items():
                n, alone = sum(owners[each] for each in own), owners[owner]
                products = read * n + inputs * alone
                gates.append((products, 2 * products + count_mix(n + alone, units[-1])))
        return [
            total("heads: experts", *experts),
            total("heads: gates", *gates),
            count_towers(len(self.tasks), units[-1], self.units),
        ]


def group_of_tasks(tasks: tuple[str, ...], groups: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    """Task -> the name of its group, in the order of the tasks; a task that no group names is a group of its own.

    Raises:
        ValueError: if a group is empty or names no task, or a task twice.
    """
    check_named("groups", groups, tasks, "a task of the log")
    found: dict[str, str] = {}
    for group in groups:
        if not group:
            raise ValueError(f"`groups` must each name a task, received {groups}")
        for task in group:
            if task in found:
                raise ValueError(f"`groups` must name a task once, received {task!r} twice")
            # No name that a task can have.
            found[task] = f"({' + '.join(group)})"
    return {task: found.get(task, f"({task})") for task in tasks}
