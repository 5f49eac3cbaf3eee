"""HeMix: interest tokens by mixed queries, then low-rank mixing of heterogeneous tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, all_vectors, register, window_of
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, dense_part, per_candidate
from mixrank.layers.mixing import (
    HeteroMixing,
    PerTokenFFN,
    PostNormBlock,
    SelfAttention,
    SharedFFN,
    TokenMixing,
    attention_report,
)
from mixrank.layers.models.hemix.interest_extraction import MixedQueryAttention
from mixrank.layers.tokens import InteractThenSplit, masked_mean

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "num_global": 4,
        "num_realtime": 2,
        "num_layers": 2,
        "mixing_heads": 8,
        "rank": 8,
        "expansion": 2,
        "attention_heads": 2,
        "head_units": (32,),
    },
    # Sizes derived from the published 101 M and 1484 M dense parameters, see docs/models/hemix.md.
    "small": {"dim": 256, "num_layers": 3, "mixing_heads": 16, "rank": 16, "tokenizer_units": (320,)},
    "large": {"dim": 768, "num_layers": 5, "mixing_heads": 16, "rank": 64, "tokenizer_units": (640,)},
}
SCALED = {"dim": ("pieces", "attention_heads")}
NEEDS = {"before": {"global_sequence": False}, "within": {"realtime_sequence": False}}


@register(title="HeMix: Scaling Industrial Ranking Models with Heterogeneous Token Mixing", arxiv="2602.09387")
class HeMix(Backbone):
    """`X^0 = [X_ns; O_g; O_r]`, L mixing blocks, mean over tokens; equations (2) to (22).

    X_ns are feature tokens (2); O_g and O_r are interest tokens (4)-(9), in which the first `num_global` feature tokens
    and as many fixed queries read the long-term history, the last `num_realtime` and as many the real-time one. A block
    is HeteroMixing (13)-(18) and HeteroFFN (19)-(21) with residual and norm after each.

    Args:
        dim: int >= 1. Token width D.
        num_global: int >= 1. Feature tokens that query the long-term history, N_g.
        num_realtime: int >= 1. Feature tokens that query the real-time history, N_r.
        tokenizer_units: widths of the feature tokenizer's hidden layers.
        attention_heads: int >= 1, a divisor of `dim`. Heads of interest extraction and of the transformer block.
        fixed_queries: bool. Whether learned queries join the feature tokens; off is an ablation.
        mixed_queries: bool. Whether queries read the histories; off is an ablation in which one tokenizer cuts
            features and mean-pooled histories into the same number of tokens.
        global_sequence: bool. Whether the long-term history is read; off is an ablation.
        realtime_sequence: bool. Whether the real-time history is read; off is an ablation.
        attention_norm: bool. Whether queries and aligned items are normalized before the scores of the attention.
        query_residual: bool. Whether a query is added to the interest it found.
        position_embedding: bool. Whether a learned vector per position is added to history items.
        null_key: bool. Whether a learned key and value join every history.
        target_interest: bool. Whether the feature tokenizer also reads what each history says about the candidate, as
            `TargetInterest` finds it.
        num_layers: int >= 0. Number of blocks, L.
        loops: int >= 1. Times that the L blocks are gone through, with the same weights; more is an addition.
        block: heteromixer, or another block on the same tokens for comparison.
        mixing_heads: int >= 1, a divisor of `dim`. Mixed tokens H of HeteroMixing.
        rank: int >= 1, below tokens * dim / mixing_heads. Inner width r of HeteroMixing.
        expansion: int >= 1. Hidden width of the FFN over `dim`, k.
        activation: relu or gelu in the FFN; None takes the block's own paper: relu for heteromixer, gelu otherwise.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or a history that is read but not declared.

    As in the paper, except:
        item alignment is one linear map to `dim` per history, before W_k and W_v (the paper gives no widths);
        of several histories with one window, each is aligned by itself and all are read as one sequence;
        `loops` (LoopCTR's, arXiv 2604.19550, without its losses after each), `position_embedding`, `null_key` and
            `dropout` are additions, off by default.

    Source: arXiv 2602.09387.
    """

    removed: ClassVar = {"mixing_bias": True}

    def __init__(
        self,
        *,
        dim: PositiveInt = 256,
        num_global: PositiveInt = 16,
        num_realtime: PositiveInt = 4,
        tokenizer_units: tuple[PositiveInt, ...] = (),
        attention_heads: PositiveInt = 4,
        fixed_queries: bool = True,
        mixed_queries: bool = True,
        global_sequence: bool = True,
        realtime_sequence: bool = True,
        attention_norm: bool = True,
        query_residual: bool = False,
        position_embedding: bool = False,
        null_key: bool = False,
        target_interest: bool = True,
        num_layers: NonNegativeInt = 3,
        loops: PositiveInt = 1,
        block: Literal["heteromixer", "rankmixer", "transformer"] = "heteromixer",
        mixing_heads: PositiveInt = 16,
        rank: PositiveInt = 16,
        expansion: PositiveInt = 4,
        activation: Literal["relu", "gelu"] | None = None,
        dropout: DropoutRate = 0.0,
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = activation or ("relu" if block == "heteromixer" else "gelu")

    @property
    def windows(self) -> tuple[str, ...]:
        used = {"before": self.global_sequence, "within": self.realtime_sequence}
        return tuple(window for window in used if used[window])

    @property
    def num_features(self) -> int:
        """Feature tokens, N_ns."""
        return self.num_global + self.num_realtime

    def num_queries(self, window: str) -> tuple[int, int]:
        """Dynamic and fixed queries that read a window's history."""
        count = {"before": self.num_global, "within": self.num_realtime}[window]
        return count, count if self.fixed_queries else 0

    @property
    def num_tokens(self) -> int:
        """All tokens, N = N_ns + 2 N_g + 2 N_r; equation (10)."""
        return self.num_features + sum(sum(self.num_queries(window)) for window in self.windows)

    @property
    def pieces(self) -> int:
        """Equal parts that a block cuts a token into; a divisor of `dim`."""
        return {"heteromixer": self.mixing_heads, "rankmixer": self.num_tokens, "transformer": 1}[self.block]

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        width, tokens = self._tokenizer_widths(self.widths)
        self.tokenizer = InteractThenSplit(
            tokens=tokens, dim=self.dim, units=self.tokenizer_units, name="tokenizer", **policy
        )
        self.tokenizer.build((None, width))
        self.align, self.extract, self.positions = {}, {}, {}
        for window in self.windows if self.mixed_queries else ():
            sizes = self._of_window(window, self.widths)
            for key, (items, item_width) in sizes.items():
                self.align[key] = keras.layers.Dense(self.dim, use_bias=False, name=f"align_{key}", **policy)
                self.align[key].build((None, items, item_width))
            length = sum(items for items, _ in sizes.values())
            dynamic, fixed = self.num_queries(window)
            self.extract[window] = MixedQueryAttention(
                num_fixed=fixed,
                heads=self.attention_heads,
                norm=self.attention_norm,
                residual=self.query_residual,
                null_key=self.null_key,
                name=f"extract_{window}",
                **policy,
            )
            self.extract[window].build((None, dynamic, self.dim), (None, length, self.dim), (None, length))
            for key, (items, _) in sizes.items() if self.position_embedding else ():
                self.positions[key] = self.add_weight(
                    shape=(items, self.dim),
                    initializer=keras.initializers.RandomNormal(stddev=0.02),
                    name=f"positions_{key}",
                )
        self.blocks = [self._new_block(index) for index in range(self.num_layers)]
        for block in self.blocks:
            block.build((None, self.num_tokens, self.dim))

    def _tokenizer_widths(self, widths: Widths) -> tuple[int, int]:
        """Width of the tokenizer's input, number of its tokens."""
        if self.mixed_queries:
            return widths.features, self.num_features
        read = (widths.histories[key][1] for key in self.reads(widths.histories))
        return widths.features + sum(read), self.num_tokens

    def _of_window(self, window: str, widths: Widths) -> dict[str, tuple[int, int]]:
        """Key -> (length, width of an item) of each history that the queries of a window read."""
        return {key: widths.histories[key] for key in self.reads(widths.histories) if window_of(key) == window}

    def _new_block(self, index: int) -> PostNormBlock:
        policy = {"dtype": self.dtype_policy}
        mixing: keras.Layer
        if self.block == "heteromixer":
            mixing = HeteroMixing(heads=self.mixing_heads, rank=self.rank, name="mixing", **policy)
        elif self.block == "rankmixer":
            mixing = TokenMixing(name="mixing", **policy)
        else:
            mixing = SelfAttention(heads=self.attention_heads, name="mixing", **policy)
        kind = SharedFFN if self.block == "transformer" else PerTokenFFN
        ffn = kind(expansion=self.expansion, activation=self.activation, name="ffn", **policy)
        return PostNormBlock(mixing=mixing, ffn=ffn, dropout=self.dropout, name=f"block_{index}", **policy)

    def tokens(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> Tensor:
        """Feature and interest tokens X^0, equations (2) to (10).

        Returns:
            Tensor (batch, num_tokens, dim).
        """
        vectors = all_vectors(features, request_of)
        if not self.mixed_queries:
            read = [histories[key] for key in self.reads(histories)]
            pooled = [per_candidate(masked_mean(each["items"], each["mask"]), request_of) for each in read]
            return self.tokenizer(ops.concatenate(vectors + pooled, axis=-1))
        feature_tokens = self.tokenizer(ops.concatenate(vectors, axis=-1))
        queries = {
            "before": feature_tokens[:, : self.num_global],
            "within": feature_tokens[:, self.num_global :],
        }
        interests = []
        for window in self.windows:
            items, valid = self._items(window, histories)
            interests.append(self.extract[window](queries[window], items, valid, request_of=request_of))
        return ops.concatenate([feature_tokens, *interests], axis=1)

    def _items(self, window: str, histories: Histories) -> tuple[Tensor, Tensor]:
        """Aligned items of all histories of a window, one history after the other, and which of them are valid."""
        keys = [key for key in self.reads(histories) if window_of(key) == window]
        items = [self.align[key](histories[key]["items"]) for key in keys]
        if self.position_embedding:
            items = [each + self.positions[key] for key, each in zip(keys, items, strict=True)]
        valid = [histories[key]["mask"] for key in keys]
        return (items[0], valid[0]) if len(keys) == 1 else (ops.concatenate(items, 1), ops.concatenate(valid, 1))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokens(features, histories, request_of)
        for block in self.loops * self.blocks:
            x = block(x, training=training)
        return ops.mean(x, axis=1)

    def insights(self, ranker: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """`attention` of every query to the histories of each window; empty without mixed queries."""
        watched = {}
        for window, layer in self.extract.items():
            counts = zip(("dynamic", "fixed"), self.num_queries(window), strict=True)
            watched[window] = layer, [f"{kind} {i + 1}" for kind, count in counts for i in range(count)]
        return attention_report(ranker, batches, watched)

    def width(self, widths: Widths) -> int:
        return self.dim

    def count(self, widths: Widths) -> list[Part]:
        windows = self.windows if self.mixed_queries else ()
        width, tokens = self._tokenizer_widths(widths)
        return [
            dense_part("tokenizer", [width, *self.tokenizer_units, tokens * self.dim]),
            *(self._count_extraction(window, self._of_window(window, widths).values()) for window in windows),
            *self._count_blocks(),
        ]

    def _count_extraction(self, window: str, histories: Collection[tuple[int, int]]) -> Part:
        (dynamic, fixed), d = self.num_queries(window), self.dim
        length = sum(items for items, _ in histories)
        queries, keys = dynamic + fixed, length + self.null_key
        parameters = sum(width for _, width in histories) * d + (queries + 3) * d * d + fixed * d
        parameters += self.attention_norm * 4 * d + self.null_key * 2 * d + self.position_embedding * length * d
        # Alignment, keys and values; dynamic queries and output; scores and weighted sum. Fixed queries are projected
        # once per batch, which is nothing per sample.
        products = (
            sum(items * width for items, width in histories) * d
            + 2 * length * d * d
            + (dynamic + queries) * d * d
            + 2 * queries * keys * d
        )
        return Part("interest extraction", parameters, 2 * products)

    def _count_blocks(self) -> list[Part]:
        n, d, k, r = self.num_tokens, self.dim, self.expansion, self.rank
        mixing, products = {
            "heteromixer": (2 * n * d * r + self.mixing_heads * r + n * d, 2 * n * d * r),
            "rankmixer": (0, 0),
            "transformer": (4 * d * d, 4 * n * d * d + 2 * n * n * d),
        }[self.block]
        ffn = (1 if self.block == "transformer" else n) * (2 * k * d * d + k * d + d)
        gone = self.loops * self.num_layers
        return [
            Part("blocks: mixing", self.num_layers * mixing, gone * 2 * products),
            Part("blocks: FFN", self.num_layers * ffn, gone * 4 * n * k * d * d),
            Part("blocks: norms", self.num_layers * 4 * d, 0),
        ]
