"""MaskNet: feed-forward layers behind masks that the row itself computes."""

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
    "tiny": {"dim": 16, "num_blocks": 2, "block_units": 64, "reduction": 0.1, "mlp_units": (128,)},
    # Blocks and an MLP of common benchmark size.
    "small": {"dim": 10, "num_blocks": 3, "block_units": 400, "reduction": 2.0, "mlp_units": (400, 400)},
}
SCALED = {"block_units": (8,), "mlp_units": (8,)}


@keras.saving.register_keras_serializable("mixrank")
class MaskBlock(Layer):
    """`relu(LN(W (mask * x)))`, `mask = W_2 relu(W_1 v + b_1) + b_2`; MaskNet equations (6), (9) and (10).

    Args:
        units: int >= 1. Width of the output.
        mask_units: int >= 1. Hidden width of the mask, the aggregation layer.

    Call arguments:
        x: Tensor (batch, width), normalized embeddings or the output of a block.
        v: Tensor (batch, embeddings), all embeddings side by side.

    Returns:
        Tensor (batch, units).

    Raises:
        ValueError: if a width is below 1.

    Source: arXiv 2102.07619.

    >>> MaskBlock(units=4, mask_units=6)(keras.ops.ones((2, 5)), keras.ops.ones((2, 3))).shape
    TensorShape([2, 4])
    """

    def __init__(self, *, units: PositiveInt, mask_units: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, v_shape: Shape) -> None:
        policy = {"dtype": self.dtype_policy}
        relu = {"activation": "relu", "kernel_initializer": "he_normal"}
        self.aggregate = keras.layers.Dense(self.mask_units, name="aggregate", **relu, **policy)
        self.aggregate.build(v_shape)
        self.mask = keras.layers.Dense(x_shape[-1], name="mask", **policy)
        self.mask.build((None, self.mask_units))
        self.dense = keras.layers.Dense(self.units, use_bias=False, name="dense", **policy)
        self.dense.build(x_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.norm.build((None, self.units))

    def call(self, x: Tensor, v: Tensor) -> Tensor:
        return ops.relu(self.norm(self.dense(self.mask(self.aggregate(v)) * x)))

    def compute_output_shape(self, x_shape: Shape, v_shape: Shape) -> Shape:
        return (x_shape[0], self.units)


@register(
    title="MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided Mask",
    arxiv="2102.07619",
)
class MaskNet(FieldBackbone):
    """Blocks side by side: `MLP([block_1(LN(v)); ...; block_u(LN(v))])`; or in a row, `block_u(...block_1(LN(v)))`.

    v are the fields' embeddings; LN is a norm per field, equation (8).

    Args:
        dim: int >= 1. Width k of a field's embedding.
        structure: parallel or serial, MaskNet's two forms.
        num_blocks: int >= 1. Blocks u.
        block_units: int >= 1. Width of a block's output.
        reduction: float > 0. Hidden width of a mask over that of v, r.
        mlp_units: widths of the MLP's layers after parallel blocks; not read with serial.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, mlp_units[-1]) in parallel, (batch, block_units) in series.

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        a linear map per field brings the spec's embeddings and numbers to `dim`;
        histories, which the paper does not have, enter pooled.

    Source: arXiv 2102.07619.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 10,
        structure: Literal["parallel", "serial"] = "parallel",
        num_blocks: PositiveInt = 3,
        block_units: PositiveInt = 400,
        reduction: float = 2.0,
        mlp_units: tuple[PositiveInt, ...] = (400, 400),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not reduction > 0:
            raise ValueError(f"`reduction` must be above 0, received {reduction}")

    def _mask_units(self, width: int) -> int:
        return max(1, round(self.reduction * width))

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.project = FieldTokens(dim=self.dim, name="project", **policy)
        self.project.build([(None, width) for width in widths])
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.norm.build((None, len(widths), self.dim))
        wide = len(widths) * self.dim
        read, self.blocks = wide, []
        for index in range(self.num_blocks):
            units = self._mask_units(wide)
            block = MaskBlock(units=self.block_units, mask_units=units, name=f"block_{index}", **policy)
            block.build((None, read), (None, wide))
            read = wide if self.structure == "parallel" else self.block_units
            self.blocks.append(block)
        self.mlp = None
        if self.structure == "parallel":
            self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
            self.mlp.build((None, self.num_blocks * self.block_units))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        tokens = self.project(self.fields(features, histories, request_of))
        wide = tokens.shape[1] * self.dim
        # (batch, fields, dim) -> (batch, fields * dim)
        v, x = (ops.reshape(each, (-1, wide)) for each in (tokens, self.norm(tokens)))
        if self.mlp is not None:
            return self.mlp(ops.concatenate([block(x, v) for block in self.blocks], axis=-1), training=training)
        for block in self.blocks:
            x = block(x, v)
        return x

    def width(self, widths: Widths) -> int:
        if self.structure == "serial":
            return self.block_units
        return self.mlp_units[-1] if self.mlp_units else self.num_blocks * self.block_units

    def count(self, widths: Widths) -> list[Part]:
        fields, units = self.field_widths(widths), self.block_units
        wide, parallel = len(fields) * self.dim, self.structure == "parallel"
        read = [wide, *([wide if parallel else units] * (self.num_blocks - 1))]
        masks = [dense_part("blocks: masks", [wide, self._mask_units(wide), each]) for each in read]
        products = sum(each * units for each in read)
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, self.dim)._replace(name="projection"),
            *masks,
            Part("blocks: layers", products, 2 * products),
            Part("norms", 2 * self.dim + 2 * units * self.num_blocks, 0),
            *([dense_part("MLP", [self.num_blocks * units, *self.mlp_units])] if parallel else []),
        ]
