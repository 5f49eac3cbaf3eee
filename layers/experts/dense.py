"""Experts that are always active, each under a gate of its own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Activation, Layer, Part, Shape, Tensor, check_divides
from mixrank.layers.experts.sparse import Experts, count_experts
from mixrank.layers.mixing import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class SharedDenseMoE(Layer):
    """`sum_{i<=Ks} a_i FFN_i(u) + sum_{j<=mE} b_j FFN_j(u)`, `[a, b] = sigmoid(G u)`; MTmixAtt equations (11), (12).

    Ks shared experts have hidden width h, and each of E base experts is cut into m fine-grained ones of width h / m,
    with the same FLOPs. A sigmoid, not a softmax: no gate takes from another.

    Args:
        experts: int >= 0. Base experts E.
        shared: int >= 0. Shared experts Ks; at least one of both.
        split: int >= 1. Fine-grained experts per base expert, m.
        hidden_dim: int >= 1, a multiple of `split`. Hidden width h.
        share_across_tokens: bool. Whether all tokens use the same experts and gates; by default each has its own.
        activation: Name or function of the experts' activation.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if there are no experts, or `hidden_dim` is not a multiple of `split`.

    Source: arXiv 2510.15286.

    >>> SharedDenseMoE(experts=2, hidden_dim=6)(keras.ops.ones((5, 3, 4))).shape
    TensorShape([5, 3, 4])
    """

    def __init__(
        self,
        *,
        experts: NonNegativeInt,
        shared: NonNegativeInt = 2,
        split: PositiveInt = 1,
        hidden_dim: PositiveInt,
        share_across_tokens: bool = False,
        activation: Activation = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not experts + shared:
            raise ValueError("`experts` and `shared` must not both be 0")
        check_divides(hidden_dim, "`hidden_dim`", split=split)

    @property
    def _kinds(self) -> dict[str, tuple[int, int]]:
        """Name -> number and hidden width of its experts, in the order of the gates."""
        kinds = {
            "shared": (self.shared, self.hidden_dim),
            "fine": (self.experts * self.split, self.hidden_dim // self.split),
        }
        return {name: kind for name, kind in kinds.items() if kind[0]}

    def build(self, input_shape: Shape) -> None:
        tokens, dim = 1 if self.share_across_tokens else input_shape[1], input_shape[2]
        policy = {"dtype": self.dtype_policy}
        gates = sum(number for number, _ in self._kinds.values())
        self.router = PerTokenDense(gates, token_leading=True, name="router", dtype="float32")
        self.router.build((tokens, None, dim))
        self.banks = {}
        for name, (number, width) in self._kinds.items():
            bank = Experts(experts=number, hidden_dim=width, activation=self.activation, name=name, **policy)
            bank.build((tokens, None, dim))
            self.banks[name] = bank

    def call(self, x: Tensor) -> Tensor:
        lead = lead_by_token(x, self.share_across_tokens)
        gates = ops.sigmoid(self.router(lead))
        y, first = 0, 0
        for name, (number, _) in self._kinds.items():
            y = y + self.banks[name](lead, gates[..., first : first + number])
            first += number
        return lead_by_row(y, x.shape[1], self.share_across_tokens)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def lead_by_token(x: Tensor, share_across_tokens: bool) -> Tensor:
    """(batch, tokens, dim) -> (tokens, batch, dim), or (1, batch * tokens, dim) where all tokens share weights."""
    if share_across_tokens:
        return ops.reshape(x, (1, -1, x.shape[2]))
    return ops.transpose(x, (1, 0, 2))


def lead_by_row(x: Tensor, tokens: int, share_across_tokens: bool) -> Tensor:
    """Inverse of `lead_by_token`."""
    if share_across_tokens:
        return ops.reshape(x, (-1, tokens, x.shape[2]))
    return ops.transpose(x, (1, 0, 2))


def count_dense_moe(
    name: str,
    *,
    tokens: int,
    dim: int,
    experts: int,
    shared: int,
    split: int,
    hidden_dim: int,
    share_across_tokens: bool,
) -> Part:
    """Parameters and FLOPs of `SharedDenseMoE`.

    Args:
        name: name of the part.
        tokens, dim: of its input.
        experts, shared, split, hidden_dim, share_across_tokens: as in `SharedDenseMoE`.
    """
    sets, rows = (1, tokens) if share_across_tokens else (tokens, 1)
    gates = shared + experts * split
    banks = [
        count_experts("", shared, hidden_dim, dim, sets, rows=rows),
        count_experts("", experts * split, hidden_dim // split, dim, sets, rows=rows),
    ]
    parameters = sets * (dim + 1) * gates + sum(bank.parameters for bank in banks)
    return Part(name, parameters, 2 * tokens * dim * gates + sum(bank.flops for bank in banks))
