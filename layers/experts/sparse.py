"""A bank of feed-forward experts under gates: all of them computed, or only those that were chosen."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Activation, Layer, Part, PerToken, Shape, Tensor

Dispatch = Literal["auto", "dense", "grouped"]
# With at least this many experts per active one, and weights per kernel, grouping was as fast or faster in both passes
# on CPU, with XLA and without; see benchmarks/sparse_experts.py.
GROUPED_FROM, GROUPED_WEIGHTS = 5, 3000


@keras.saving.register_keras_serializable("mixrank")
class Experts(Layer):
    """`y = sum_i g_i FFN_i(u)`, `FFN_i(u) = phi(u W_1^i + b_1^i) W_2^i + b_2^i`; MTmixAtt equations (11) to (14).

    The weights of expert i of token t are rows t * experts + i of stacked kernels. Chosen experts are computed in one
    of two forms with the same result. *dense* computes all and multiplies the others by 0: two products per token.
    *grouped* sorts the (row, expert) pairs by expert, fills each expert's rows up to whole blocks, and multiplies every
    block by the kernels of its expert. The number of blocks is bounded by the shapes alone, so nothing is dropped.

    Args:
        experts: int >= 1. Experts per token.
        hidden_dim: int >= 1. Hidden width of an expert.
        activation: Name or function of phi.
        dispatch: dense, grouped, or auto: grouped on CPU from 5 experts per active one and kernels of 3000 weights on.
        block: int >= 1 or None. Rows per block of the grouped form; None is 64 where the batch is known to fill such
            blocks, else 32. A block reads its expert's kernels from memory, so larger ones read less, and pad more.

    Call arguments:
        x: Tensor (tokens, batch, dim).
        gates: Tensor (tokens, batch, experts), or (tokens, batch, active) beside `chosen`.
        chosen: None if all experts are active, or int tensor (tokens, batch, active): different experts of a row.

    Returns:
        Tensor (tokens, batch, dim).

    Raises:
        ValueError: a size below 1 or an unknown `dispatch`.

    Source: arXiv 2510.15286.

    >>> Experts(experts=2, hidden_dim=3)(keras.ops.ones((5, 7, 4)), keras.ops.ones((5, 7, 2))).shape
    TensorShape([5, 7, 4])
    """

    def __init__(
        self,
        *,
        experts: PositiveInt,
        hidden_dim: PositiveInt,
        activation: Activation = "gelu",
        dispatch: Dispatch = "auto",
        block: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, gates_shape: Shape | None = None, chosen_shape: Shape | None = None) -> None:
        tokens, dim = x_shape[0], x_shape[-1]
        n, h = tokens * self.experts, self.hidden_dim
        self.tokens = tokens
        self.expand = self.add_weight(shape=(n, dim, h), initializer=PerToken("he_normal"), name="expand")
        self.expand_bias = self.add_weight(shape=(n, 1, h), initializer="zeros", name="expand_bias")
        self.contract = self.add_weight(shape=(n, h, dim), initializer=PerToken("glorot_uniform"), name="contract")
        self.contract_bias = self.add_weight(shape=(n, 1, dim), initializer="zeros", name="contract_bias")

    def call(self, x: Tensor, gates: Tensor, chosen: Tensor | None = None) -> Tensor:
        gates = ops.cast(gates, x.dtype)
        if chosen is None:
            return self._dense(x, gates)
        if choose_dispatch(self.dispatch, self.experts, chosen.shape[-1], x.shape[-1] * self.hidden_dim) == "grouped":
            return self._grouped(x, gates, chosen)
        # (tokens, batch, active) -> (tokens, batch, experts)
        places = ops.cast(ops.equal(chosen[..., None], ops.arange(self.experts, dtype=chosen.dtype)), x.dtype)
        return self._dense(x, ops.sum(places * gates[..., None], axis=2))

    def _dense(self, x: Tensor, gates: Tensor) -> Tensor:
        tokens, dim, n, h = self.tokens, x.shape[-1], self.experts, self.hidden_dim
        # (tokens * experts, dim, hidden) -> (tokens, dim, experts * hidden): one product for all experts of a token
        expand = ops.transpose(ops.reshape(self.expand, (tokens, n, dim, h)), (0, 2, 1, 3))
        hidden = ops.matmul(x, ops.reshape(expand, (tokens, dim, n * h)))
        hidden = self.activation(hidden + ops.reshape(self.expand_bias, (tokens, 1, n * h)))
        # (tokens, batch, experts * hidden) -> (tokens, batch, experts, hidden)
        hidden = ops.reshape(hidden, (tokens, -1, n, h)) * gates[..., None]
        y = ops.matmul(ops.reshape(hidden, (tokens, -1, n * h)), ops.reshape(self.contract, (tokens, n * h, dim)))
        return y + ops.matmul(gates, ops.reshape(self.contract_bias, (tokens, n, dim)))

    def _grouped(self, x: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
        tokens, dim, active = self.tokens, x.shape[-1], chosen.shape[-1]
        block = self.block or choose_block((chosen.shape[1] or 0) * active, self.experts)
        batch = ops.shape(x)[1]
        source, filled, slot, owner = group(chosen, self.experts, block)
        token = ops.arange(tokens, dtype="int32")[:, None]
        # (tokens, slots) rows of (tokens * batch, dim) -> (tokens * blocks, block, dim)
        rows = ops.take(ops.reshape(x, (-1, dim)), ops.reshape(source + token * batch, (-1,)), axis=0)
        rows = ops.reshape(rows * ops.cast(ops.reshape(filled, (-1, 1)), x.dtype), (-1, block, dim))
        kernels = ops.reshape(owner + token * self.experts, (-1,))
        expand, expand_bias, contract, contract_bias = (
            ops.take(ops.convert_to_tensor(weight), kernels, axis=0)
            for weight in (self.expand, self.expand_bias, self.contract, self.contract_bias)
        )
        hidden = self.activation(ops.matmul(rows, expand) + expand_bias)
        y = ops.reshape(ops.matmul(hidden, contract) + contract_bias, (-1, dim))
        y = ops.take(y, ops.reshape(slot + token * ops.shape(source)[1], (-1,)), axis=0)
        # (tokens * batch * active, dim) -> (tokens, batch, active, dim)
        return ops.sum(ops.reshape(y, (tokens, -1, active, dim)) * gates[..., None], axis=2)

    def compute_output_shape(
        self, x_shape: Shape, gates_shape: Shape | None = None, chosen_shape: Shape | None = None
    ) -> Shape:
        return x_shape


def choose_dispatch(dispatch: Dispatch, experts: int, active: int, weights: int) -> str:
    """The form that is computed on CPU: "dense" or "grouped".

    Args:
        dispatch, experts: as in `Experts`.
        active: int. Experts chosen per row.
        weights: int. Weights of one kernel, dim times hidden_dim.
    """
    if dispatch == "auto":
        return "grouped" if experts >= GROUPED_FROM * active and weights >= GROUPED_WEIGHTS else "dense"
    return dispatch


def choose_block(pairs: int, experts: int) -> int:
    """Rows per block of the grouped form.

    Args:
        pairs: int. Rows of a batch times the experts of each; 0 if it is not known.
        experts: as in `Experts`.
    """
    # A training of 1024 rows, 2 of 15 experts each: 1.4 to 1.8 times as fast in blocks of 64, which then are full
    # twice over; see benchmarks/sparse_experts.py.
    return 64 if pairs >= 64 * experts else 32


def dispatch_here() -> Dispatch:
    """The form for this machine: auto, but dense on an accelerator, which small blocks leave waiting for memory.

    Looks at the devices, so it must not be called before they are configured.
    """
    if keras.backend.backend() == "numpy":
        return "auto"
    accelerated = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    return "dense" if accelerated else "auto"


def group(chosen: Tensor, experts: int, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places (row, expert) pairs so that every block of slots holds rows of one expert.

    Args:
        chosen: int tensor (tokens, batch, active).
        experts: int. Number of experts.
        block: int. Slots per block.

    Returns:
        Four int32 tensors (the second bool) for S slots in S / block blocks:
        source (tokens, S), the row in a slot; filled (tokens, S), whether there is one;
        slot (tokens, batch * active), where a pair went; owner (tokens, S / block), the expert of a block.
    """
    tokens, active = chosen.shape[0], chosen.shape[-1]
    pairs = ops.shape(chosen)[1] * active
    # (tokens, batch, active) -> (tokens, pairs)
    queue = ops.cast(ops.reshape(chosen, (tokens, -1)), "int32")
    of_expert = ops.equal(queue[:, :, None], ops.arange(experts, dtype="int32"))
    load = ops.sum(ops.cast(of_expert, "int32"), axis=1)
    end = ops.cumsum(load, axis=1)
    last_block = ops.cumsum((load + block - 1) // block, axis=1)
    first_slot = ops.pad(last_block[:, :-1], ((0, 0), (1, 0))) * block
    # A pair's slot is its place among the sorted pairs, moved by its expert's shift.
    shift = first_slot - (end - load)
    # Unique keys, so that the order does not hang on a sort's stability. Sorts, where a running sum over pairs or a
    # scatter would do: XLA is slow at both on CPU.
    order = ops.cast(ops.argsort(queue * pairs + ops.arange(pairs, dtype="int32"), axis=1), "int32")
    slot = ops.cast(ops.argsort(order, axis=1), "int32") + ops.take_along_axis(shift, queue, axis=1)
    # Every expert leaves at most block - 1 slots empty.
    blocks = (pairs + experts * (block - 1)) // block
    index = ops.arange(blocks, dtype="int32")[None, :, None]
    owner = ops.sum(ops.cast(index >= last_block[:, None, :], "int32"), axis=-1)
    owner = ops.minimum(owner, experts - 1)
    # (tokens, blocks) -> (tokens, slots)
    owner_of_slot = ops.repeat(owner, block, axis=1)
    place = ops.arange(blocks * block, dtype="int32")[None, :] - ops.take_along_axis(shift, owner_of_slot, axis=1)
    filled = place < ops.take_along_axis(end, owner_of_slot, axis=1)
    source = ops.take_along_axis(order, ops.clip(place, 0, pairs - 1), axis=1) // active
    return source, filled, slot, owner


def count_experts(
    name: str, experts: int, hidden_dim: int, dim: int, tokens: int, *, rows: int, active: int | None = None
) -> Part:
    """Parameters and FLOPs of `Experts`; the rows that fill up the last blocks of the grouped form are not counted.

    Args:
        name: name of the part.
        experts, hidden_dim: as in `Experts`.
        dim: width of a token.
        tokens: number of stacked kernels per expert.
        rows: vectors per sample that every kernel sees.
        active: experts computed per vector in the grouped form; None is the dense form.
    """
    parameters = tokens * experts * (2 * dim * hidden_dim + hidden_dim + dim)
    if active is None:
        return Part(name, parameters, 2 * tokens * rows * experts * (2 * dim * hidden_dim + dim))
    return Part(name, parameters, 2 * tokens * rows * active * 2 * dim * hidden_dim)
