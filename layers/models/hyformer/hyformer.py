"""HyFormer: queries of each history read it in every block, and mix with the fields in between."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, all_vectors, register
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, check_divides, per_candidate
from mixrank.layers.mixing import PerTokenDense
from mixrank.layers.models.hyformer.history_encoder import kept_events
from mixrank.layers.models.hyformer.query_block import QueryBlock
from mixrank.layers.tokens import EvenSplit, masked_mean, merge_adjacent, merged_shapes

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "num_tokens": 16,
        "num_queries": 2,
        "num_layers": 2,
        "attention_heads": 2,
        "hidden_dim": 64,
        "head_units": (32,),
    },
    # 16 tokens as published, and RankMixer small's size; the paper leaves width and blocks open.
    "small": {"dim": 512, "num_tokens": 16, "num_layers": 3, "attention_heads": 4, "hidden_dim": 1536},
}
SCALED = {"dim": ("num_tokens", "attention_heads"), "hidden_dim": (8,)}


@register(
    title="HyFormer: Revisiting the Roles of Sequence Modeling and Feature Interaction in CTR Prediction",
    arxiv="2601.12681",
)
class HyFormer(Backbone):
    """`[Q_1, ..., F]` through L blocks in which queries Q_h read history h, and all tokens mix.

    F are M equal pieces of all feature vectors, each projected to the width D. History h has N queries
    `FFN_i([F_1, ..., F_M, mean(S_h)])`, S_h its events, each FFN with weights of its own. A block encodes every
    history, `Q_h` read it by attention (query decoding), and `X' = PFFN(Mix(RMSNorm(X))) + X` over all tokens (query
    boosting). The representation is all tokens side by side, after an RMSNorm.

    Args:
        dim: int >= 1, a multiple of `num_tokens`. Token width D.
        num_tokens: int >= 1. All tokens T; what the queries leave of them holds the fields, M = T - N * histories.
        num_queries: int >= 1. Queries of each history, N.
        num_layers: int >= 1. Blocks, L.
        attention_heads: int >= 1, a divisor of `dim`. Attention heads.
        events_per_token: int >= 1. Adjacent events of a history that make one token, newest first.
        encoder: transformer for attention among all events of a history; short for attention of the newest to all;
            swiglu for none.
        short_length: int >= 1. The newest events that go on with the encoder `short`.
        hidden_dim: int >= 1. Hidden width of the FFN of a token.
        sequence_expansion: int >= 1. Hidden width of an encoder's SwiGLU over `dim`.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        target_interest: bool. Whether the fields are also cut from what each history says about the candidate, as
            `TargetInterest` finds it.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, num_tokens * dim).

    Raises:
        ValueError: a value out of bounds, tokens or heads that do not divide `dim`, or no token left for the fields.

    As in the paper, except:
        fields are even pieces in the order of the spec, where the paper groups features by hand;
        sizes the paper leaves open are arguments; an event is aligned by one linear map;
        a block encodes what the block before has encoded; queries are added to what they find, so that they outlive an
            empty history; an RMSNorm before each sub-layer and after the last block;
        `events_per_token` (LONGER's token merge) and `dropout` are additions, off by default.

    Source: arXiv 2601.12681.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 512,
        num_tokens: PositiveInt = 16,
        num_queries: PositiveInt = 1,
        num_layers: PositiveInt = 3,
        attention_heads: PositiveInt = 4,
        events_per_token: PositiveInt = 1,
        encoder: Literal["transformer", "short", "swiglu"] = "transformer",
        short_length: PositiveInt = 16,
        hidden_dim: PositiveInt = 1536,
        sequence_expansion: PositiveInt = 2,
        dropout: DropoutRate = 0.0,
        target_interest: bool = True,
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", num_tokens=num_tokens, attention_heads=attention_heads)

    def check_widths(self, widths: Widths) -> None:
        super().check_widths(widths)
        queries = self.num_queries * len(self.reads(widths.histories))
        if queries >= self.num_tokens:
            raise ValueError(
                f"`num_tokens` must leave a token for the fields: above the {queries} queries of "
                f"{len(self.reads(widths.histories))} histories, received {self.num_tokens}; lower `num_queries`"
            )

    def num_fields(self, widths: Widths) -> int:
        """Tokens that hold fields, M."""
        return self.num_tokens - self.num_queries * len(self.reads(widths.histories))

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        fields, d, n = self.num_fields(self.widths), self.dim, self.num_queries
        self.tokenizer = EvenSplit(tokens=fields, dim=d, name="tokenizer", **policy)
        self.tokenizer.build((None, self.widths.features))
        self.align, self.expand, self.contract = {}, {}, {}
        pieces = merged_shapes(self.widths.histories, self.events_per_token)
        for key, shape in pieces.items():
            self.align[key] = keras.layers.Dense(d, name=f"align_{key}", **policy)
            self.align[key].build((None, *shape))
            # The first layers of all FFN read the same, so that their matrices stand side by side in one.
            self.expand[key] = keras.layers.Dense(
                n * d, activation="relu", kernel_initializer="he_normal", name=f"expand_{key}", **policy
            )
            self.expand[key].build((None, (fields + 1) * d))
            self.contract[key] = PerTokenDense(d, name=f"contract_{key}", **policy)
            self.contract[key].build((None, n, d))
        lengths = [length for length, _ in pieces.values()]
        self.blocks = []
        for index in range(self.num_layers):
            block = QueryBlock(
                num_queries=n,
                heads=self.attention_heads,
                encoder=self.encoder,
                short_length=self.short_length,
                hidden_dim=self.hidden_dim,
                sequence_expansion=self.sequence_expansion,
                dropout=self.dropout,
                name=f"block_{index}",
                **policy,
            )
            block.build(
                (None, self.num_tokens, d),
                [(None, length, d) for length in lengths],
                [(None, length) for length in lengths],
            )
            self.blocks.append(block)
            lengths = [kept_events(length, self.encoder, self.short_length) for length in lengths]
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.norm.build((None, self.num_tokens, d))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = self.tokenizer(ops.concatenate(all_vectors(features, request_of), axis=-1))
        # (batch, fields, dim) -> (batch, fields * dim)
        flat = ops.reshape(fields, (-1, fields.shape[1] * self.dim))
        read = self.reads(histories)
        events, valid, tokens = [], [], []
        for key in read:
            items, mask = merge_adjacent(histories[key]["items"], histories[key]["mask"], self.events_per_token)
            events.append(self.align[key](items))
            valid.append(mask)
        for key, items, mask in zip(read, events, valid, strict=True):
            mean = per_candidate(masked_mean(items, mask), request_of)
            hidden = self.expand[key](ops.concatenate([flat, mean], axis=-1))
            tokens.append(self.contract[key](ops.reshape(hidden, (-1, self.num_queries, self.dim))))
        x = ops.concatenate([*tokens, fields], axis=1)
        for block in self.blocks:
            x, events, valid = block(x, events, valid, request_of=request_of, training=training)
        # (batch, num_tokens, dim) -> (batch, num_tokens * dim)
        return ops.reshape(self.norm(x), (-1, self.num_tokens * self.dim))

    def width(self, widths: Widths) -> int:
        return self.num_tokens * self.dim

    def count(self, widths: Widths) -> list[Part]:
        d, t, n, k = self.dim, self.num_tokens, self.num_queries, self.hidden_dim
        fields, read = self.num_fields(widths), merged_shapes(widths.histories, self.events_per_token).values()
        piece = -(-widths.features // fields)
        align = [(width * d, length) for length, width in read]
        generate = (fields + 1) * d * n * d + n * d * d
        attention = self.encoder != "swiglu"
        encode = (4 * d * d if attention else 0) + 3 * self.sequence_expansion * d * d
        products = {"encoders": 0, "decoding": 0}
        lengths = [length for length, _ in read]
        for _ in range(self.num_layers):
            kept = [kept_events(length, self.encoder, self.short_length) for length in lengths]
            for length, out in zip(lengths, kept, strict=True):
                # Keys and values of all, queries and output of those that go on, scores and weighted sum.
                products["encoders"] += attention * (2 * length * d * d + 2 * out * d * d + 2 * out * length * d)
                products["encoders"] += out * 3 * self.sequence_expansion * d * d
                products["decoding"] += 2 * out * d * d + 2 * n * d * d + 2 * n * out * d
            lengths = kept
        layers, histories = self.num_layers, len(read)
        norms = layers * (histories * (3 + attention) + 1) + 1
        return [
            Part("tokenizer", fields * (piece + 1) * d, 2 * fields * piece * d),
            Part("events", sum(each + d for each, _ in align), 2 * sum(each * length for each, length in align)),
            Part("queries", histories * (generate + 2 * n * d), 2 * histories * generate),
            Part("blocks: encoders", layers * histories * encode, 2 * products["encoders"]),
            Part("blocks: query decoding", layers * histories * 4 * d * d, 2 * products["decoding"]),
            Part("blocks: query boosting", layers * t * (2 * k * d + k + d), 4 * layers * t * k * d),
            Part("norms", norms * d, 0),
        ]
