"""MTGR: one sequence of fields, histories and candidates, under a mask that lets a request be computed once."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, register, window_of
from mixrank.layers.base import Part, Shape, Tensor, check_divides, dense_part
from mixrank.layers.mixing import MLP
from mixrank.layers.models.mtgr.silu_attention import SiluAttentionBlock
from mixrank.layers.tokens import FieldTokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 64, "num_layers": 3, "attention_heads": 2, "token_units": (64,), "head_units": (32,)},
    # Layers, width and heads as published.
    "small": {"dim": 512, "num_layers": 3, "attention_heads": 2, "token_units": (512,)},
    "medium": {"dim": 768, "num_layers": 5, "attention_heads": 3, "token_units": (768,)},
    "large": {"dim": 768, "num_layers": 15, "attention_heads": 3, "token_units": (768,)},
}
SCALED = {"dim": ("attention_heads", 8), "token_units": (8,)}
# A candidate is made of features of the item.
NEEDS: dict = {"item": {}}


@register(title="MTGR: Industrial-Scale Generative Recommendation Framework in Meituan", arxiv="2505.18654")
class MTGR(Backbone):
    """`X' = W_o GLN(A V * U) + X`, `A = SiLU(Q K^T) / n * mask`, L times; the candidate is the representation.

    Tokens are the user's and context's fields, the items of the long-term and of the real-time history, and the
    candidate, made of all its features. Fields and long-term items are visible to all tokens. A real-time item is
    visible to newer ones of its history and to candidates. Nothing but a candidate itself sees a candidate, so that
    with `request_of` everything else is computed once per request. GLN has gain and bias of each group: fields, each
    history, candidates.

    Args:
        dim: int >= 1. Token width d.
        num_layers: int >= 1. Blocks.
        attention_heads: int >= 1, a divisor of `dim`. Attention heads.
        token_units: widths of the hidden ReLU layers that make a candidate's or a history item's token.
        group_norm: bool. Whether GLN has parameters per group; off is an ablation.
        dynamic_mask: bool. Whether the real-time history is masked by order; off is an ablation in which fields and
            histories all see each other.
        target_interest: bool. Whether a candidate's token also holds what each history says about it, as
            `TargetInterest` finds it.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or no features of the item.

    As in the paper, except:
        each sample is one candidate in training; a request with many candidates is scored in one pass;
        candidates have no cross features beyond those that a spec declares in group "item";
        the MLPs inside a block are one layer each, with SiLU before the attention and none after it, as in HSTU;
        n counts padding, so that it is a constant;
        in the last block only candidates are computed; a last norm is applied to them.

    Source: arXiv 2505.18654.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 512,
        num_layers: PositiveInt = 3,
        attention_heads: PositiveInt = 2,
        token_units: tuple[PositiveInt, ...] = (512,),
        group_norm: bool = True,
        dynamic_mask: bool = True,
        target_interest: bool = True,
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", attention_heads=attention_heads)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        vectors = self.widths.vectors
        policy = {"dtype": self.dtype_policy}
        fields = (*vectors["user"], *vectors["context"])
        self.user_tokens = FieldTokens(dim=self.dim, name="user_tokens", **policy)
        self.user_tokens.build([(None, width) for width in fields])
        inputs = {key: width for key, (_, width) in self.widths.histories.items()}
        self.hidden, self.align = {}, {}
        for name, width in {**inputs, "candidate": sum(vectors["item"])}.items():
            self.hidden[name] = MLP(units=self.token_units, name=f"hidden_{name}", **policy)
            self.hidden[name].build((None, width))
            self.align[name] = keras.layers.Dense(self.dim, name=f"align_{name}", **policy)
            self.align[name].build(self.hidden[name].compute_output_shape((None, width)))
        sizes = self._sizes(self.widths)
        tokens = sum(sizes.values())
        self.blocks = []
        for index in range(self.num_layers):
            block = SiluAttentionBlock(
                heads=self.attention_heads,
                sizes=tuple(sizes.values()),
                ordered=tuple(self.dynamic_mask and window_of(group) == "within" for group in sizes),
                group_norm=self.group_norm,
                last=index == self.num_layers - 1,
                name=f"block_{index}",
                **policy,
            )
            block.build((None, tokens, self.dim), (None, tokens), (None, self.dim))
            self.blocks.append(block)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.norm.build((None, self.dim))

    def _sizes(self, widths: Widths) -> dict[str, int]:
        """Context tokens of each group: fields, long-term histories, real-time histories."""
        fields = len(widths.vectors["user"]) + len(widths.vectors["context"])
        return {"fields": fields, **{key: widths.histories[key][0] for key in self.reads(widths.histories)}}

    def _token(self, name: str, x: Tensor) -> Tensor:
        return self.align[name](self.hidden[name](x))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = self.user_tokens([*features["user"], *features["context"]])
        read = self.reads(histories)
        context = [fields, *(self._token(key, histories[key]["items"]) for key in read)]
        valid = [ops.ones(ops.shape(fields)[:2], "bool"), *(histories[key]["mask"] for key in read)]
        context, valid = ops.concatenate(context, axis=1), ops.concatenate(valid, axis=1)
        candidates = self._token("candidate", ops.concatenate(features["item"], axis=-1))
        for block in self.blocks:
            context, candidates = block(context, valid, candidates, request_of=request_of)
        return self.norm(candidates)

    def width(self, widths: Widths) -> int:
        return self.dim

    def count(self, widths: Widths) -> list[Part]:
        d, sizes = self.dim, self._sizes(widths)
        n, fields = sum(sizes.values()), (*widths.vectors["user"], *widths.vectors["context"])
        chain = [*self.token_units, d]
        parts = [Part("tokens", (sum(fields) + len(fields)) * d, 2 * sum(fields) * d)]
        parts += [
            dense_part("tokens", [widths.histories[key][1], *chain], rows=sizes[key])
            for key in sizes
            if key != "fields"
        ]
        parts.append(dense_part("tokens", [sum(widths.vectors["item"]), *chain]))
        # A candidate in every block, and a context token, of whose products the last block needs only keys and values.
        candidate = 5 * d * d + 2 * n * d
        inner, last = n * (5 * d * d + 2 * n * d), n * 2 * d * d
        products = self.num_layers * candidate + (self.num_layers - 1) * inner + last
        groups = len(sizes) + 1 if self.group_norm else 1
        norms = (2 * self.num_layers - 1) * groups + 1 + 1
        return [
            *parts,
            Part("blocks: attention", self.num_layers * (5 * d * d + 5 * d), 2 * products),
            Part("blocks: norms", norms * 2 * d, 0),
        ]
