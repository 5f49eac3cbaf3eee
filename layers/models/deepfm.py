"""DeepFM: a factorization machine and an MLP on the same embeddings."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Layer, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 16, "mlp_units": (256, 128)},
    # The paper's embeddings and layers.
    "small": {"dim": 10, "mlp_units": (400, 400, 400)},
}
SCALED = {"mlp_units": (8,)}


@keras.saving.register_keras_serializable("mixrank")
class FactorizationMachine(Layer):
    """`p = sum_{i<j} v_i * v_j = ((sum_i v_i)^2 - sum_i v_i^2) / 2`, element by element; DeepFM equation (2).

    The sum over the width is the factorization machine's `sum_{i<j} <v_i, v_j>`. It is left to the head, whose weights
    are then those of NFM's bi-interaction; equal weights are the factorization machine.

    Call arguments:
        tokens: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, dim).

    Source: arXiv 1703.04247.

    >>> FactorizationMachine()(keras.ops.ones((2, 4, 3))).shape
    TensorShape([2, 3])
    """

    def build(self, tokens_shape: Shape) -> None:
        """Nothing to create."""

    def call(self, tokens: Tensor) -> Tensor:
        # Sums of many squares lose bfloat16's few digits.
        x = ops.cast(tokens, "float32")
        pairs = (ops.square(ops.sum(x, axis=1)) - ops.sum(ops.square(x), axis=1)) / 2
        return ops.cast(pairs, tokens.dtype)

    def compute_output_shape(self, tokens_shape: Shape) -> Shape:
        return (tokens_shape[0], tokens_shape[2])


@register(title="DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", arxiv="1703.04247")
class DeepFM(FieldBackbone):
    """`[x; sum_d p_d; MLP(v)]`, p the factorization machine of the fields' vectors v, x all fields side by side.

    A logistic head on it adds the three logits of equation (1): first order `<w, x>`, second order, and deep.

    Args:
        dim: int >= 1. Width k of the vectors that are multiplied.
        mlp_units: widths of the MLP's layers; none is a factorization machine.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields + 1 + mlp_units[-1]).

    Raises:
        ValueError: a value out of bounds, or fewer than two fields to multiply.

    As in the paper, except:
        a linear map per field brings the spec's embeddings and numbers to `dim`;
        the first order is a linear map of a field's embedding, where the paper has a weight per value;
        histories, which the paper does not have, enter pooled.

    Source: arXiv 1703.04247.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 10,
        mlp_units: tuple[PositiveInt, ...] = (400, 400, 400),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        if len(widths) < 2:
            raise ValueError(f"deepfm multiplies pairs of fields, but the spec gives {len(widths)}; declare more")
        self.project = FieldTokens(dim=self.dim, name="project", **policy)
        self.project.build([(None, width) for width in widths])
        self.machine = FactorizationMachine(name="machine", **policy)
        self.machine.build((None, len(widths), self.dim))
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
        self.mlp.build((None, len(widths) * self.dim))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = self.fields(features, histories, request_of)
        tokens = self.project(fields)
        second = ops.sum(self.machine(tokens), axis=-1, keepdims=True)
        found = [*fields, second]
        if self.mlp_units:
            # (batch, fields, dim) -> (batch, fields * dim)
            found.append(self.mlp(ops.reshape(tokens, (-1, len(fields) * self.dim)), training=training))
        return ops.concatenate(found, axis=-1)

    def width(self, widths: Widths) -> int:
        return sum(self.field_widths(widths)) + 1 + (self.mlp_units[-1] if self.mlp_units else 0)

    def count(self, widths: Widths) -> list[Part]:
        fields = self.field_widths(widths)
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, self.dim)._replace(name="projection"),
            dense_part("MLP", [len(fields) * self.dim, *self.mlp_units]),
        ]
