"""A mixture of experts per token, routed by ReLU; RankMixer's sparse form."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Activation, Layer, Shape, Share, Tensor
from mixrank.layers.mixing import PerTokenDense

# lambda moves by this factor a step and must come back within some tens of steps from where it no longer matters.
_STEP, _LEAST = 1.2, 1e-6


@keras.saving.register_keras_serializable("mixrank")
class ReluMoE(Layer):
    """`v_i = sum_j G_ij e_ij(s_i)`, `G_ij = ReLU(h_i(s_i))_j`; RankMixer equations (10) and (11).

    Token i has experts e_ij and a router h_i of its own; `e_ij(s) = gelu(s W_1 + b_1) W_2 + b_2`. In training
    `lambda * L_reg` is added to the loss, `L_reg = sum_i sum_j G_ij` on average over rows. After each training step
    lambda is multiplied by 1.2 if more gates than `active_share` were open, divided by 1.2 if fewer. It stays below
    `max_penalty`: gates close with a delay, and a lambda that has grown far meanwhile closes experts for good.

    With `dual_router` (dense training, sparse inference) there are two routers over the same experts. In training
    h_train routes the rows at even places of a batch, h_infer those at odd places; L_reg counts only h_infer. Outside
    training h_infer routes every row.

    All experts are computed, open or not: as one product per token over the experts' hidden layers side by side.

    Args:
        num_experts: int >= 1. Experts of a token.
        hidden_dim: int >= 1. Hidden width of one expert.
        active_share: float in (0, 1]. Share of gates that the penalty aims at.
        dual_router: bool. Whether training has a second router without penalty.
        penalty: float > 0. lambda at the start.
        max_penalty: float >= `penalty`. Greatest lambda.
        activation: Name or function between an expert's two products.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if an argument is out of bounds.

    Source: arXiv 2507.15551.

    >>> ReluMoE(num_experts=2, hidden_dim=6)(keras.ops.ones((3, 5, 4))).shape
    TensorShape([3, 5, 4])
    """

    def __init__(
        self,
        *,
        num_experts: PositiveInt,
        hidden_dim: PositiveInt,
        active_share: Share = 0.25,
        dual_router: bool = True,
        penalty: float = 1e-4,
        max_penalty: float = 0.1,
        activation: Activation = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < penalty <= max_penalty:
            raise ValueError(f"`penalty` must be above 0 and at most `max_penalty`={max_penalty}, received {penalty}")

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        leading = {"token_leading": True, "dtype": self.dtype_policy}
        self.router = PerTokenDense(self.num_experts, name="router", **leading)
        self.router.build((tokens, None, dim))
        if self.dual_router:
            self.training_router = PerTokenDense(self.num_experts, name="training_router", **leading)
            self.training_router.build((tokens, None, dim))
        width = self.num_experts * self.hidden_dim
        self.expand = PerTokenDense(
            width, activation=self.activation, kernel_initializer="he_normal", name="expand", **leading
        )
        self.expand.build((tokens, None, dim))
        self.contract = PerTokenDense(dim, use_bias=False, name="contract", **leading)
        self.contract.build((tokens, None, width))
        # The biases b_2 of all experts of a token, weighted by the same gates as their outputs.
        self.offset = PerTokenDense(dim, use_bias=False, kernel_initializer="zeros", name="offset", **leading)
        self.offset.build((tokens, None, self.num_experts))
        # Replicas propose a value each; their mean is kept.
        state = {"shape": (), "trainable": False, "dtype": "float32", "autocast": False, "aggregation": "mean"}
        self.penalty_weight = self.add_weight(
            initializer=keras.initializers.Constant(self.penalty), name="penalty_weight", **state
        )
        self.active_ratio = self.add_weight(initializer="zeros", name="active_ratio", **state)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        # (batch, tokens, dim) -> (tokens, batch, dim)
        x = ops.transpose(x, (1, 0, 2))
        gates = ops.relu(self.router(x))
        if training:
            # 1 for the rows that the router of inference routes.
            routed = ops.arange(ops.shape(x)[1]) % 2 if self.dual_router else ops.ones(ops.shape(x)[1], "int32")
            self._regularize(gates, routed)
            if self.dual_router:
                gates = ops.where(routed[None, :, None] > 0, gates, ops.relu(self.training_router(x)))
        # (tokens, batch, experts * hidden) -> (tokens, batch, experts, hidden), and back
        tokens, batch = x.shape[0], ops.shape(x)[1]
        hidden = ops.reshape(self.expand(x), (tokens, batch, self.num_experts, self.hidden_dim)) * gates[..., None]
        hidden = ops.reshape(hidden, (tokens, batch, self.num_experts * self.hidden_dim))
        # (tokens, batch, dim) -> (batch, tokens, dim)
        return ops.transpose(self.contract(hidden) + self.offset(gates), (1, 0, 2))

    def _regularize(self, gates, routed) -> None:
        """Adds `lambda * L_reg` and adapts lambda."""
        gates, routed = ops.cast(gates, "float32"), ops.cast(routed, "float32")
        weight, before = (ops.convert_to_tensor(state) for state in (self.penalty_weight, self.active_ratio))
        rows = ops.sum(routed)
        # (tokens, batch, experts) -> (batch,)
        penalty = ops.sum(gates, axis=(0, 2)) * routed
        self.add_loss(weight * ops.sum(penalty) / ops.maximum(rows, 1))

        opened = ops.mean(ops.cast(gates > 0, "float32"), axis=(0, 2)) * routed
        # A batch of one row has none to learn from; it leaves both as they are.
        ratio = ops.where(rows > 0, ops.sum(opened) / ops.maximum(rows, 1), self.active_share)
        weight = weight * ops.power(_STEP, ops.sign(ratio - self.active_share))
        self.penalty_weight.assign(ops.clip(weight, _LEAST, self.max_penalty))
        self.active_ratio.assign(ops.where(rows > 0, ratio, before))

    def gates(self, x):
        """Gates of inference.

        Args:
            x: Tensor (batch, tokens, dim).

        Returns:
            Tensor (batch, tokens, experts), at least 0; an expert with gate 0 is not active.
        """
        return ops.transpose(ops.relu(self.router(ops.transpose(x, (1, 0, 2)))), (1, 0, 2))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
