"""OneTrans: one causal Transformer over all events and all features, whose events are computed once per request."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, all_vectors, register, window_of
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, check_divides, dense_part
from mixrank.layers.mixing import MLP
from mixrank.layers.models.onetrans.mixed_block import MixedBlock
from mixrank.layers.tokens import InteractThenSplit, merge_adjacent, merged_shapes

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "num_tokens": 6,
        "num_layers": 3,
        "attention_heads": 2,
        "expansion": 2,
        "tokenizer_units": (64,),
        "token_units": (32,),
        "head_units": (32,),
    },
    # Layers, width, heads and tokens as published; see docs/models/onetrans.md for the rest of 91 M and 330 M.
    "small": {
        "dim": 256,
        "num_tokens": 12,
        "num_layers": 6,
        "attention_heads": 4,
        "tokenizer_units": (3072,),
        "token_units": (256,),
    },
    "large": {
        "dim": 384,
        "num_tokens": 16,
        "num_layers": 8,
        "attention_heads": 4,
        "tokenizer_units": (6144,),
        "token_units": (384,),
    },
}
SCALED = {"dim": ("attention_heads", 4), "tokenizer_units": (8,), "token_units": (8,)}


@register(
    title="OneTrans: Unified Feature Interaction and Sequence Modeling with One Transformer in Industrial Recommender",
    arxiv="2510.26104",
)
class OneTrans(Backbone):
    """`X^0 = [S; NS]`, L causal blocks with weights shared by events S and own ones of each feature token NS.

    `S` are the events of all histories, oldest first, each history with an MLP of its own; `NS = split(MLP(x))` of all
    feature vectors side by side. A block is `Z = MixedMHA(RMSNorm(X)) + X`, `X' = MixedFFN(RMSNorm(Z)) + Z`. An event
    sees older ones, a feature token all events and the feature tokens before it, so that with `request_of` events are
    computed once per request. The stack is a pyramid: each block hands on fewer of the newest events, the last one
    none. The representation is the feature tokens side by side, after an RMSNorm.

    Args:
        dim: int >= 1. Token width d.
        num_tokens: int >= 1. Feature tokens NS.
        num_layers: int >= 1. Blocks, L.
        attention_heads: int >= 1, a divisor of `dim`. Attention heads.
        expansion: int >= 1. Hidden width of every FFN over `dim`.
        tokenizer_units: widths of the hidden ReLU layers that the features go through before they are split.
        token_units: widths of the hidden ReLU layers that make an event's token.
        events_per_token: int >= 1. Adjacent events of a history that make one token, newest first.
        merge: time for histories in the order of time, events told apart by a vector of their history; intent for one
            history after the other, with a learned token between; an ablation.
        pyramid: bool. Whether each block hands on fewer events; off is an ablation.
        ns_parameters: own for each feature token, or shared with the events; an ablation.
        position_embedding: bool. Whether a learned vector per place, counted from the newest event, is added.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        target_interest: bool. Whether the feature tokens are also cut from what each history says about the candidate,
            as `TargetInterest` finds it.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, num_tokens * dim).

    Raises:
        ValueError: a value out of bounds, or heads that do not divide `dim`.

    As in the paper, except:
        events carry no exact times: long-term histories come before real-time ones, which is the order of time, and of
            two histories with one window one comes after the other, with a learned token between;
        lengths of the pyramid are not rounded to multiples of 32;
        keys and values are kept within a request, not from one request to the next;
        `events_per_token` (LONGER's token merge), `position_embedding` and `dropout` are additions, off by default.

    Source: arXiv 2510.26104.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 256,
        num_tokens: PositiveInt = 12,
        num_layers: PositiveInt = 6,
        attention_heads: PositiveInt = 4,
        expansion: PositiveInt = 4,
        tokenizer_units: tuple[PositiveInt, ...] = (3072,),
        token_units: tuple[PositiveInt, ...] = (256,),
        events_per_token: PositiveInt = 1,
        merge: Literal["time", "intent"] = "time",
        pyramid: bool = True,
        ns_parameters: Literal["own", "shared"] = "own",
        position_embedding: bool = False,
        dropout: DropoutRate = 0.0,
        target_interest: bool = True,
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", attention_heads=attention_heads)

    def lengths(self, widths: Widths) -> list[int]:
        """Events' tokens that go into each block, and 0, which the last one hands on.

        Linear from all to none, rounded up.
        """
        pieces = merged_shapes(widths.histories, self.events_per_token)
        events = sum(length for length, _ in pieces.values()) + len(self._separated(tuple(pieces)))
        steps = max(self.num_layers - 1, 1)
        kept = [-(-events * (steps - index) // steps) if self.pyramid else events for index in range(self.num_layers)]
        return [events, *kept[: self.num_layers - 1], 0]

    def _separated(self, read: tuple[str, ...]) -> tuple[str, ...]:
        """Histories with a learned token before them, since their order in time is not known or not used."""
        windows = [window_of(key) for key in read]
        return tuple(
            key
            for index, key in enumerate(read)
            if index and (self.merge == "intent" or windows[index - 1] == windows[index])
        )

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        self.tokenizer = InteractThenSplit(
            tokens=self.num_tokens, dim=self.dim, units=self.tokenizer_units, name="tokenizer", **policy
        )
        self.tokenizer.build((None, self.widths.features))
        read = self.reads(self.widths.histories)
        self.hidden, self.align = {}, {}
        for key, shape in merged_shapes(self.widths.histories, self.events_per_token).items():
            self.hidden[key] = MLP(units=self.token_units, name=f"hidden_{key}", **policy)
            self.hidden[key].build((None, *shape))
            self.align[key] = keras.layers.Dense(self.dim, name=f"align_{key}", **policy)
            self.align[key].build(self.hidden[key].compute_output_shape((None, *shape)))
        lengths = self.lengths(self.widths)
        rows = {
            "types": len(read) if self.merge == "time" else 0,
            "separators": len(self._separated(read)),
            "positions": lengths[0] if self.position_embedding else 0,
        }
        for name, number in rows.items():
            normal = keras.initializers.RandomNormal(stddev=0.02)
            weight = self.add_weight(shape=(number, self.dim), initializer=normal, name=name) if number else None
            setattr(self, name, weight)
        tokens = (None, self.num_tokens, self.dim)
        self.blocks = []
        for index in range(self.num_layers):
            block = MixedBlock(
                heads=self.attention_heads,
                keep=lengths[index + 1],
                expansion=self.expansion,
                ns_parameters=self.ns_parameters,
                dropout=self.dropout,
                name=f"block_{index}",
                **policy,
            )
            if lengths[index]:
                block.build(tokens, (None, lengths[index], self.dim), (None, lengths[index]))
            else:
                block.build(tokens)
            self.blocks.append(block)
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.norm.build(tokens)

    def events(self, histories: Histories) -> tuple[Tensor, Tensor]:
        """Events S, oldest first, with all padding before them, and which places are events.

        The newest event of each request stands in the last place, because the pyramid hands on the last places.

        Returns:
            Tensor (requests, length, dim) and bool tensor (requests, length).
        """
        read = self.reads(histories)
        separated = self._separated(read)
        tokens, valid = [], []
        for index, key in enumerate(read):
            items, mask = merge_adjacent(histories[key]["items"], histories[key]["mask"], self.events_per_token)
            if key in separated:
                requests = ops.shape(items)[0]
                tokens.append(ops.broadcast_to(self.separators[separated.index(key)], (requests, 1, self.dim)))
                valid.append(ops.ones((requests, 1), "bool"))
            token = ops.flip(self.align[key](self.hidden[key](items)), axis=1)
            if self.types is not None:
                token = token + self.types[index]
            tokens.append(token)
            valid.append(ops.flip(mask, axis=1))
        joined, kept = padding_first(ops.concatenate(tokens, axis=1), ops.concatenate(valid, axis=1))
        return (joined if self.positions is None else joined + self.positions), kept

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        ns = self.tokenizer(ops.concatenate(all_vectors(features, request_of), axis=-1))
        s, valid = self.events(histories) if self.reads(histories) else (None, None)
        for block in self.blocks:
            ns, s, valid = block(ns, s, valid, request_of=request_of, training=training)
        # (batch, num_tokens, dim) -> (batch, num_tokens * dim)
        return ops.reshape(self.norm(ns), (-1, self.num_tokens * self.dim))

    def width(self, widths: Widths) -> int:
        return self.num_tokens * self.dim

    def count(self, widths: Widths) -> list[Part]:
        d, tokens, k = self.dim, self.num_tokens, self.expansion
        read = self.reads(widths.histories)
        lengths = self.lengths(widths)
        events = [
            dense_part("events", [width, *self.token_units, d], rows=number)
            for number, width in merged_shapes(widths.histories, self.events_per_token).values()
        ]
        rows = (len(read) if self.merge == "time" else 0) + len(self._separated(read))
        rows += lengths[0] if self.position_embedding else 0
        # Queries, keys, values and output; both layers of an FFN with their biases.
        attention, ffn, biases = 4 * d * d, 2 * k * d * d, k * d + d
        parameters = products = 0
        for length, keep in itertools.pairwise(lengths):
            sides = tokens if self.ns_parameters == "own" else 1
            whole = self.ns_parameters == "own" and keep > 0
            parameters += (sides + whole) * (attention + ffn + biases)
            parameters += 2 * d * d if self.ns_parameters == "own" and length and not keep else 0
            products += tokens * (attention + ffn) + 2 * tokens * (length + tokens) * d
            products += length * 2 * d * d + keep * (2 * d * d + ffn) + 2 * keep * length * d
        return [
            dense_part("tokenizer", [widths.features, *self.tokenizer_units, tokens * d]),
            *events,
            Part("events", rows * d, 0),
            Part("blocks", parameters, 2 * products),
            Part("norms", (2 * self.num_layers + 1) * d, 0),
        ]


def padding_first(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Moves padding before all else, in each row by itself; the order of what is valid stays.

    Args:
        x: Tensor (batch, length, dim).
        valid: bool tensor (batch, length).

    Returns:
        Tensor and bool tensor of the same shapes.
    """
    batch, length, dim = ops.shape(x)[0], x.shape[1], x.shape[2]
    # All different, so that no sort can exchange two of them.
    places = ops.arange(length, dtype="int32")
    order = ops.argsort(places + length * ops.cast(valid, "int32"), axis=1)
    rows = ops.reshape(order + length * ops.arange(batch, dtype="int32")[:, None], (-1,))
    # (batch, length, dim) -> (batch * length, dim), and back
    moved = ops.take(ops.reshape(x, (-1, dim)), rows, axis=0)
    return (
        ops.reshape(moved, (-1, length, dim)),
        ops.reshape(ops.take(ops.reshape(valid, (-1,)), rows, axis=0), (-1, length)),
    )
