"""PEPNet: gates that fit the representation to the scenario, and every layer of the towers to user and item."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import FieldName, Layer, Part, Shape, Tensor
from mixrank.layers.heads.base import NO_FIELDS, Heads
from mixrank.layers.heads.expert_bank import total
from mixrank.layers.mixing import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class GateUnit(Layer):
    """`delta = 2 sigmoid(relu(x W + b) W' + b')`, x several vectors side by side; PEPNet's Gate NU.

    1 leaves a value as it is, 0 takes it away, 2 doubles it. What one row shares with all others, a vector (1, width)
    beside vectors (batch, width), is multiplied once.

    Args:
        units: int >= 1. Number of values that are gated.
        hidden_dim: int >= 1. Width of the hidden layer.

    Call arguments:
        vectors: list of tensors (batch, width) or (1, width).

    Returns:
        Tensor (batch, units).

    Source: arXiv 2302.01115.

    >>> GateUnit(units=3, hidden_dim=4)([keras.ops.ones((1, 2)), keras.ops.ones((5, 6))]).shape
    TensorShape([5, 3])
    """

    def __init__(self, *, units: PositiveInt, hidden_dim: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, vectors_shape: Sequence[Shape]) -> None:
        widths = [shape[-1] for shape in vectors_shape]
        self.ends = list(itertools.accumulate(widths))
        self.kernel = self.add_weight(
            shape=(sum(widths), self.hidden_dim), initializer="he_normal", name="hidden_kernel"
        )
        self.bias = self.add_weight(shape=(self.hidden_dim,), initializer="zeros", name="hidden_bias")
        self.gate = keras.layers.Dense(self.units, activation="sigmoid", name="gate", dtype=self.dtype_policy)
        self.gate.build((None, self.hidden_dim))

    def call(self, vectors: Sequence[Tensor]) -> Tensor:
        if len({vector.shape[0] for vector in vectors}) == 1:
            hidden = ops.matmul(ops.concatenate(vectors, axis=-1), self.kernel)
        else:
            kernels = ops.split(self.kernel, self.ends[:-1], axis=0)
            hidden = sum(ops.matmul(vector, kernel) for vector, kernel in zip(vectors, kernels, strict=True))
        return 2.0 * self.gate(ops.relu(hidden + self.bias))

    def compute_output_shape(self, vectors_shape: Sequence[Shape]) -> Shape:
        many = [shape[0] for shape in vectors_shape if shape[0] != 1]
        return (many[0] if many else 1, self.units)


@keras.saving.register_keras_serializable("mixrank")
class PEPNetHeads(Heads):
    """EPNet: `o = delta_ep * x`; PPNet, in the tower of task t: `h^{l+1} = relu((delta_t^l * h^l) W_t^l + b_t^l)`.

    x is the representation, `h^0 = o`, the last layer gives the logit and has no ReLU. `delta_ep` is a `GateUnit` of
    [domain; stop(x)], `delta^l` for all tasks one of [personal; stop(o)]: gates read the representation without
    changing it. PEPNet's EPNet and PPNet.

    Args:
        domain: features that tell the domain; empty is the scenario.
        personal: features that tell user and item, such as their ids and the author; empty is the features of the
            log's user and item.
        gate_dim: int >= 1. Width of the hidden layer of every gate.
        units: widths of the hidden ReLU layers of every task's tower; empty for logistic regression.
        tasks: as in `Heads`.

    Call arguments:
        x, scenario, fields: as in `Heads`; the scenario is read as a feature.

    Returns:
        task -> float32 tensor (batch,).

    Raises:
        ValueError: without features of the domain, or of user and item.

    As in the paper, except:
        the domain's gate is on the backbone's representation, where the paper has it on the embeddings below a plain
        network, which other backbones do not have;
        the input of each layer is gated, the representation too, so that a tower without hidden layers has a gate.

    Source: arXiv 2302.01115.

    >>> heads = PEPNetHeads(tasks=("click", "buy"), domain=("page",), personal=("person",))
    >>> fields = {"page": keras.ops.ones((1, 2)), "person": keras.ops.ones((1, 5))}
    >>> heads(keras.ops.ones((3, 4)), keras.ops.ones(1, "int32"), fields)["buy"].shape
    TensorShape([3])
    """

    def __init__(
        self,
        *,
        domain: tuple[FieldName, ...] = (),
        personal: tuple[FieldName, ...] = (),
        gate_dim: PositiveInt = 32,
        units: tuple[PositiveInt, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, fields in {"domain": domain, "personal": personal}.items():
            if not fields:
                raise ValueError(f"`{name}` must name a feature, received (); a spec's are filled in by its ranker")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.domain, *self.personal)))

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        policy, width, tasks = {"dtype": self.dtype_policy}, self.input_width, len(self.tasks)
        domain, personal = (
            [*((None, self.field_widths[name]) for name in names), (None, width)]
            for names in (self.domain, self.personal)
        )
        self.epnet = GateUnit(units=width, hidden_dim=self.gate_dim, name="epnet", **policy)
        self.epnet.build(domain)
        self.ppnet: list[GateUnit] = []
        self.towers: list[PerTokenDense] = []
        for index, (inputs, units) in enumerate(itertools.pairwise((width, *self.units, 1))):
            gate = GateUnit(units=tasks * inputs, hidden_dim=self.gate_dim, name=f"ppnet_{index}", **policy)
            gate.build(personal)
            last = index == len(self.units)
            dense = PerTokenDense(
                units,
                activation=None if last else "relu",
                kernel_initializer="glorot_uniform" if last else "he_normal",
                token_leading=True,
                name=f"towers_{index}",
                **policy,
            )
            dense.build((tasks, None, inputs))
            self.ppnet.append(gate)
            self.towers.append(dense)

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        if fields is None:
            raise ValueError(f"`fields` of {self.name} must hold the vectors of {', '.join(self.reads)}")
        delta = self.epnet([*(fields[name] for name in self.domain), ops.stop_gradient(x)])
        self._saw("representation (EPNet)", ("all tasks",), delta[:, None])
        x = delta * x
        prior = [*(fields[name] for name in self.personal), ops.stop_gradient(x)]
        # (batch, width) -> (1, batch, width), which all tasks share
        h = x[None]
        for index, (gate, dense) in enumerate(zip(self.ppnet, self.towers, strict=True)):
            # (batch, tasks * width) -> (batch, tasks, width)
            delta = ops.reshape(gate(prior), (-1, len(self.tasks), h.shape[-1]))
            self._saw(f"input of tower layer {index + 1} (PPNet)", self.tasks, delta)
            h = dense(ops.transpose(delta, (1, 0, 2)) * h)
        # (tasks, batch, 1) -> (batch,) for each task
        return {task: h[index, :, 0] for index, task in enumerate(self.tasks)}

    def _saw(self, row: str, columns: Sequence[str], delta: Tensor) -> None:
        self.saw("mean gate", row, columns, ops.mean(delta, axis=-1))
        self.saw("mean distance of the gate from 1", row, columns, ops.mean(ops.abs(delta - 1.0), axis=-1))

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        tasks, g = len(self.tasks), self.gate_dim
        gates, towers = [], []
        pairs = list(itertools.pairwise((width, *self.units, 1)))
        gated = [(self.domain, width), *((self.personal, tasks * inputs) for inputs, _ in pairs)]
        for names, units in gated:
            products = (sum(fields[name] for name in names) + width) * g + g * units
            gates.append((products + g + units, 2 * products))
        for inputs, units in pairs:
            towers.append((tasks * (inputs * units + units), 2 * tasks * inputs * units))
        return [total("heads: gates", *gates), total("heads", *towers)]
