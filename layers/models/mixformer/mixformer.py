"""MixFormer: feature heads mix and read the history in every block; UI-MixFormer: user heads once per request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, all_vectors, register
from mixrank.layers.base import Part, Shape, Tensor, per_candidate
from mixrank.layers.mixing import SwiGLU, attention_report
from mixrank.layers.models.mixformer.block import MixFormerBlock, each, new_norm, residual
from mixrank.layers.tokens import EvenSplit

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "num_heads": 4,
        "num_layers": 2,
        "query_expansion": 4,
        "sequence_dim": 64,
        "attention_heads": 2,
        "head_units": (32,),
    },
    # 282 M and, as the paper's "medium", 1226 M dense parameters; see docs/models/mixformer.md for 368 and the FFNs.
    "small": {"dim": 368, "num_heads": 16, "num_layers": 4, "query_expansion": 5, "sequence_dim": 12},
    "large": {"dim": 768, "num_heads": 16, "num_layers": 4, "query_expansion": 5, "sequence_dim": 24},
}
SCALED = {"dim": ("num_heads", "attention_heads")}
NEEDS = {"before": {"history": "within"}, "within": {"history": "before"}, "item": {"user_heads": None}}

_NEWEST_FIRST = ("within", "before")


@register(title="MixFormer: Co-Scaling Up Dense and Sequence in Industrial Recommenders", arxiv="2602.14110")
class MixFormer(Backbone):
    """`P = HeadMixing(Norm(X)) + X`, `Q = FFN(Norm(P)) + P`, `Z = Attention(Q, H^l) + Q`, `X' = FFN(Norm(Z)) + Z`.

    Equations (2) to (9). X holds N heads cut from the feature vectors (2); every block mixes them (3), transforms each
    with a SwiGLU of its own (4), lets each read the history (6)-(8), and transforms each again (9). The history of
    block l is `H^l = SwiGLU^l(Norm(S)) + S` (5), always from the original items S, each mapped to N * dim.

    With `user_heads` it is UI-MixFormer: features of user and context fill the first N_U heads, those of the item the
    rest, and a user head mixes with user heads only (10), (11). All of its work is then done once per request.

    Args:
        dim: int >= 1. Width of a head, D.
        num_heads: int >= 1, a divisor of `dim`. Heads, N.
        num_layers: int >= 1. Blocks, L.
        user_heads: int in [1, num_heads) or None. Heads of the user's side, N_U; None is MixFormer with one side.
        history: which history is read: both, one after the other with the newest first, or one of them.
        position_embedding: bool. Whether a learned vector per position is added to history items.
        query_expansion: int >= 1. Hidden width of the SwiGLUs per head over `dim`, h_q / D.
        sequence_dim: int >= 1. Hidden width of the history's SwiGLU, h_s; it acts on all heads of every event, and so
            decides the cost of a long history.
        head_mixing: block for HeadMixing; none and self_attention are ablations.
        attention_heads: int >= 1, a divisor of `dim`. Heads of self-attention in place of HeadMixing.
        query_ffn: bool. Whether a SwiGLU precedes the attention (4); off is an ablation.
        seq_ffn: per_layer, or shared for one SwiGLU in (5) for all layers, with norms per layer; an ablation.
        fusion: per_head, or shared for one SwiGLU in (9) for all heads; an ablation.
        attention_norm: bool. Whether queries and items are normalized before the scores of the cross attention.
        target_interest: bool. Whether the heads are also cut from what each history says about the candidate, as
            `TargetInterest` finds it.
        norm: pre_rms for RMSNorm before each sub-layer, or post_ln for LayerNorm after its residual; an ablation.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, num_heads * dim).

    Raises:
        ValueError: a value out of bounds, a history that is read but not declared, or no item features for
            UI-MixFormer.

    As in the paper, except:
        sizes the paper leaves open are arguments; context features count as the user's side; a width that the heads
            do not divide is padded with zeros; a history is aligned by one linear map; a final norm; an optional
            position embedding.

    Source: arXiv 2602.14110 v2.
    """

    removed: ClassVar = {"align": True, "attention_order": "auto", "readout": "flatten", "final_norm": True}

    def __init__(
        self,
        *,
        dim: PositiveInt = 368,
        num_heads: PositiveInt = 16,
        num_layers: PositiveInt = 4,
        user_heads: PositiveInt | None = None,
        history: Literal["both", "before", "within"] = "both",
        position_embedding: bool = False,
        query_expansion: PositiveInt = 5,
        sequence_dim: PositiveInt = 12,
        head_mixing: Literal["block", "none", "self_attention"] = "block",
        attention_heads: PositiveInt = 4,
        query_ffn: bool = True,
        seq_ffn: Literal["per_layer", "shared"] = "per_layer",
        fusion: Literal["per_head", "shared"] = "per_head",
        attention_norm: bool = False,
        target_interest: bool = True,
        norm: Literal["pre_rms", "post_ln"] = "pre_rms",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if user_heads is not None and user_heads >= num_heads:
            raise ValueError(
                f"`user_heads` must leave heads to both sides, from 1 to `num_heads` - 1 = {num_heads - 1}, "
                f"received {user_heads}"
            )

    @property
    def windows(self) -> tuple[str, ...]:
        return _NEWEST_FIRST if self.history == "both" else (self.history,)

    @property
    def side_heads(self) -> tuple[int, ...]:
        """Heads of each side: (N,), or (N_U, N - N_U)."""
        return (self.num_heads,) if self.user_heads is None else (self.user_heads, self.num_heads - self.user_heads)

    def _side_widths(self, widths: Widths) -> tuple[int, ...]:
        if self.user_heads is None:
            return (widths.features,)
        return (sum(widths.vectors["user"]) + sum(widths.vectors["context"]), sum(widths.vectors["item"]))

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        names = ["tokenizer"] if self.user_heads is None else ["user_tokenizer", "item_tokenizer"]
        self.tokenizers = []
        for name, heads, width in zip(names, self.side_heads, self._side_widths(self.widths), strict=True):
            tokenizer = EvenSplit(tokens=heads, dim=self.dim, use_bias=False, name=name, **policy)
            tokenizer.build((None, width))
            self.tokenizers.append(tokenizer)

        wide = self.num_heads * self.dim
        self.alignment = {}
        read = self.reads(self.widths.histories)
        for key in read:
            length, width = self.widths.histories[key]
            self.alignment[key] = keras.layers.Dense(wide, use_bias=False, name=f"align_{key}", **policy)
            self.alignment[key].build((None, length, width))
        items = (None, sum(self.widths.histories[key][0] for key in read), wide)
        if self.position_embedding:
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.positions = self.add_weight(shape=items[1:], initializer=normal, name="positions")

        self.sequence_ffns, self.sequence_norms, self.blocks = [], [], []
        for index in range(self.num_layers):
            if index == 0 or self.seq_ffn == "per_layer":
                self.sequence_ffns.append(SwiGLU(units=self.sequence_dim, name=f"sequence_ffn_{index}", **policy))
                self.sequence_ffns[-1].build(items)
            self.sequence_norms.append(new_norm(self.norm, name=f"sequence_norm_{index}", **policy))
            self.sequence_norms[-1].build(items)
            self.blocks.append(self._new_block(index))
            self.blocks[-1].build(
                [(None, heads, self.dim) for heads in self.side_heads],
                (None, items[1], self.num_heads, self.dim),
                items[:2],
            )
        self.last_norm = None
        if self.norm == "pre_rms":
            self.last_norm = new_norm(self.norm, name="final_norm", **policy)
            self.last_norm.build((None, self.num_heads, self.dim))

    def _new_block(self, index: int) -> MixFormerBlock:
        units = self.query_expansion * self.dim
        return MixFormerBlock(
            query_units=units if self.query_ffn else None,
            fusion_units=units,
            head_mixing=self.head_mixing,
            attention_heads=self.attention_heads,
            fusion=self.fusion,
            attention_norm=self.attention_norm,
            norm=self.norm,
            name=f"block_{index}",
            dtype=self.dtype_policy,
        )

    def sides(self, features: Features, request_of: Tensor | None = None) -> list[Tensor]:
        """Heads X before the first block, equation (2).

        Returns:
            List of one tensor (batch, num_heads, dim), or of the user's (requests, user_heads, dim) and the item's
            (batch, num_heads - user_heads, dim).
        """
        if self.user_heads is None:
            vectors = [all_vectors(features, request_of)]
        else:
            vectors = [[*features["user"], *features["context"]], list(features["item"])]
        return [split(ops.concatenate(x, axis=-1)) for split, x in zip(self.tokenizers, vectors, strict=True)]

    def sequence(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """History items S, aligned, and which of them are valid.

        Returns:
            Tensor (requests, length, num_heads * dim) and bool tensor (requests, length).
        """
        read = self.reads(histories)
        items = [self.alignment[key](histories[key]["items"]) for key in read]
        joined = ops.concatenate(items, axis=1)
        if self.position_embedding:
            joined = joined + self.positions
        return joined, ops.concatenate([histories[key]["mask"] for key in read], axis=1)

    def transform(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> list[Tensor]:
        """Heads after the last block and the final norm, as `sides`."""
        sides, (items, valid) = self.sides(features, request_of), self.sequence(histories)
        for index, block in enumerate(self.blocks):
            ffn = self.sequence_ffns[index if self.seq_ffn == "per_layer" else 0]
            (refined,) = residual(self.norm, self.sequence_norms[index], partial(each, [ffn]), [items])
            # (requests, length, num_heads * dim) -> (requests, length, num_heads, dim)
            refined = ops.reshape(refined, (-1, items.shape[1], self.num_heads, self.dim))
            sides = block(sides, refined, valid, request_of)
        return sides if self.last_norm is None else [self.last_norm(x) for x in sides]

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        *user, last = self.transform(features, histories, request_of)
        x = ops.concatenate([*(per_candidate(side, request_of) for side in user), last], axis=1)
        # (batch, num_heads, dim) -> (batch, num_heads * dim)
        return ops.reshape(x, (-1, self.num_heads * self.dim))

    def insights(self, ranker: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """`attention` of every head to the history, in each block."""
        sides, start = [], 0
        for place, heads in enumerate(self.side_heads):
            sides.append((place, [f"head {start + i + 1}" for i in range(heads)]))
            start += heads
        several = len(sides) > 1
        watched = {
            f"block {index + 1}" + (f", {('user', 'item')[place]}" if several else ""): (block.attention[place], names)
            for index, block in enumerate(self.blocks)
            for place, names in sides
        }
        return attention_report(ranker, batches, watched)

    def width(self, widths: Widths) -> int:
        return self.num_heads * self.dim

    def count(self, widths: Widths) -> list[Part]:
        n, d, layers = self.num_heads, self.dim, self.num_layers
        split = sum(
            heads * -(-width // heads) * d
            for heads, width in zip(self.side_heads, self._side_widths(widths), strict=True)
        )
        read = [widths.histories[key] for key in self.reads(widths.histories)]
        length = sum(items for items, _ in read)
        align = n * d * sum(width for _, width in read)
        align_products = n * d * sum(items * width for items, width in read)
        positions = self.position_embedding * length * n * d
        sequence = 3 * n * d * self.sequence_dim
        sequences = layers if self.seq_ffn == "per_layer" else 1
        mixing, mixing_products = self._count_mixing()
        # One matrix before and one after the items; then scores and weighted sum.
        attention_products = 2 * n * d * d + 2 * n * length * d
        ffn = 3 * self.query_expansion * d * d
        norms = (self.head_mixing != "none") + self.query_ffn + 1 + n
        weights = 1 if self.norm == "pre_rms" else 2
        of_attention = 2 * d * len(self.side_heads) * self.attention_norm
        final = d if self.norm == "pre_rms" else 0
        return [
            Part("head projections", split, 2 * split),
            Part("history alignment", align + positions, 2 * align_products),
            Part("blocks: head mixing", layers * mixing, 2 * layers * mixing_products),
            Part("blocks: query FFN", self.query_ffn * layers * n * ffn, self.query_ffn * 2 * layers * n * ffn),
            Part("blocks: sequence FFN", sequences * sequence, 2 * layers * length * sequence),
            Part("blocks: attention", layers * 2 * n * d * d, 2 * layers * attention_products),
            Part("blocks: fusion FFN", layers * (1 if self.fusion == "shared" else n) * ffn, 2 * layers * n * ffn),
            Part("blocks: norms", layers * (norms * d * weights + of_attention) + final, 0),
        ]

    def _count_mixing(self) -> tuple[int, int]:
        if self.head_mixing != "self_attention":
            return 0, 0
        n, d = self.num_heads, self.dim
        pairs = n * n if self.user_heads is None else self.user_heads**2 + (n - self.user_heads) * n
        return 4 * d * d, 4 * n * d * d + 2 * pairs * d
