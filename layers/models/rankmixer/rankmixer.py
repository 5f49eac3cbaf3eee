"""RankMixer: parameter-free token mixing and a feed-forward network, or experts, per token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Part, Shape, Share, Tensor
from mixrank.layers.mixing import PerTokenFFN, PostNormBlock, SelfAttention, SharedFFN, TokenMixing
from mixrank.layers.models.rankmixer.relu_moe import ReluMoE
from mixrank.layers.tokens import EvenSplit

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 64, "num_tokens": 8, "num_layers": 2, "hidden_dim": 128, "head_units": (32,)},
    # Tokens, width and layers as published; the hidden width is what the published 107 M and 1.1 B leave.
    "small": {"dim": 768, "num_tokens": 16, "num_layers": 2, "hidden_dim": 2176},
    "large": {"dim": 1536, "num_tokens": 32, "num_layers": 2, "hidden_dim": 5600},
}
SCALED = {"dim": ("num_tokens", "attention_heads"), "hidden_dim": (8,)}


@register(title="RankMixer: Scaling Up Ranking Models in Industrial Recommenders", arxiv="2507.15551")
class RankMixer(FieldBackbone):
    """`S = LN(TokenMixing(X) + X)`, `X' = LN(PFFN(S) + S)`, L times, mean over tokens; equations (1) to (11).

    All fields side by side are cut into T equal pieces, each projected to a token of width D (2). TokenMixing lets
    every token collect one piece of every other (3)-(5); PFFN is a feed-forward network per token (6)-(9), or experts
    per token under ReLU routing (10)-(11).

    Args:
        dim: int >= 1. Token width D, a multiple of `num_tokens`.
        num_tokens: int >= 1. Tokens T.
        num_layers: int >= 0. Number of blocks, L.
        hidden_dim: int >= 1. Hidden width of a token's network, kD in the paper; of one expert with `num_experts`.
        num_experts: int >= 0. Experts per token; 0 is a dense network.
        active_share: float in (0, 1]. Share of experts that inference is to use; the penalty aims at it.
        dual_router: bool. Whether experts have a second router, in training only, that is not penalized.
        mixing: tokens for TokenMixing; attention among tokens, or none, are ablations.
        attention_heads: int >= 1, a divisor of `dim`. Heads of the attention ablation.
        ffn: per_token, or shared by all tokens as an ablation.
        skip: bool. Whether blocks have residuals; off is an ablation.
        norm: bool. Whether blocks have LN; off is an ablation.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or a width that the tokens do not divide.

    As in the paper, except:
        each token has a projection of its own in (2), which the paper leaves open; fields come in the spec's order;
        rows of a training batch go to the two routers in turn, which in expectation is the mean of the losses under
        either router at the price of one pass;
        how lambda is adapted is left open there: by a factor 1.2 per step, up or down, and at most 0.1;
        closed experts are computed, and multiplied by 0;
        `dropout` is an addition, off by default.

    Source: arXiv 2507.15551.
    """

    removed: ClassVar = {"penalty": 1e-4, "max_penalty": 0.1}

    def __init__(
        self,
        *,
        dim: PositiveInt = 768,
        num_tokens: PositiveInt = 16,
        num_layers: NonNegativeInt = 2,
        hidden_dim: PositiveInt = 2176,
        num_experts: NonNegativeInt = 0,
        active_share: Share = 0.25,
        dual_router: bool = True,
        mixing: Literal["tokens", "attention", "none"] = "tokens",
        attention_heads: PositiveInt = 4,
        ffn: Literal["per_token", "shared"] = "per_token",
        skip: bool = True,
        norm: bool = True,
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_experts and ffn == "shared":
            raise ValueError(
                f'`ffn` must be "per_token" with experts, received "shared" and `num_experts`={num_experts}'
            )

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        self.tokenizer = EvenSplit(tokens=self.num_tokens, dim=self.dim, name="tokenizer", dtype=self.dtype_policy)
        self.tokenizer.build((None, sum(self.field_widths(self.widths))))
        self.blocks = [self._new_block(index) for index in range(self.num_layers)]
        for block in self.blocks:
            block.build((None, self.num_tokens, self.dim))

    def _new_block(self, index: int) -> PostNormBlock:
        policy = {"dtype": self.dtype_policy}
        mixing: keras.Layer
        if self.mixing == "tokens":
            mixing = TokenMixing(name="mixing", **policy)
        elif self.mixing == "attention":
            mixing = SelfAttention(heads=self.attention_heads, name="mixing", **policy)
        else:
            mixing = keras.layers.Identity(name="mixing", **policy)
        ffn: keras.Layer
        if self.num_experts:
            ffn = ReluMoE(
                num_experts=self.num_experts,
                hidden_dim=self.hidden_dim,
                active_share=self.active_share,
                dual_router=self.dual_router,
                name="experts",
                **policy,
            )
        else:
            kind = PerTokenFFN if self.ffn == "per_token" else SharedFFN
            ffn = kind(hidden_dim=self.hidden_dim, activation="gelu", name="ffn", **policy)
        return PostNormBlock(
            mixing=mixing,
            ffn=ffn,
            dropout=self.dropout,
            skip=self.skip,
            norm=self.norm,
            name=f"block_{index}",
            **policy,
        )

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokenizer(ops.concatenate(self.fields(features, histories, request_of), axis=-1))
        for block in self.blocks:
            x = block(x, training=training)
        return ops.mean(x, axis=1)

    def insights(self, ranker: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Share of experts that inference's router opened in the last training batch, per block; empty without."""
        if not self.num_experts:
            return {}
        return {"active_ratio": [float(block.ffn.active_ratio) for block in self.blocks]}

    def width(self, widths: Widths) -> int:
        return self.dim

    def count(self, widths: Widths) -> list[Part]:
        t, d, h, e = self.num_tokens, self.dim, self.hidden_dim, self.num_experts
        piece = -(-sum(self.field_widths(widths)) // t)
        mixing, products = (4 * d * d, 4 * t * d * d + 2 * t * t * d) if self.mixing == "attention" else (0, 0)
        if e:
            # Inference asks one router; the second has parameters only.
            ffn = t * ((1 + self.dual_router) * (d * e + e) + e * (2 * d * h + h + d))
            ffn_products = t * e * (d + 2 * d * h + d)
        else:
            ffn = (1 if self.ffn == "shared" else t) * (2 * d * h + h + d)
            ffn_products = t * 2 * d * h
        return [
            *self.count_fields(widths),
            Part("tokenizer", t * (piece * d + d), 2 * t * piece * d),
            Part("blocks: mixing", self.num_layers * mixing, self.num_layers * 2 * products),
            Part("blocks: experts" if e else "blocks: FFN", self.num_layers * ffn, self.num_layers * 2 * ffn_products),
            Part("blocks: norms", self.num_layers * 4 * d * self.norm, 0),
        ]
