"""MTmixAtt: learned feature groups, learned token mixing, and experts shared by and special to scenarios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import (
    FieldName,
    Part,
    Shape,
    TaskName,
    Tensor,
    check_divides,
    check_named,
    per_candidate,
)
from mixrank.layers.experts import (
    Dispatch,
    ScenarioSparseMoE,
    SharedDenseMoE,
    count_dense_moe,
    count_scenario_moe,
    dispatch_here,
)
from mixrank.layers.heads import Heads
from mixrank.layers.mixing import TokenMixing
from mixrank.layers.models.mtmixatt.auto_token import AutoToken, check_groups, count_auto_token
from mixrank.layers.models.mtmixatt.learned_mixing import LearnedMixing
from mixrank.layers.models.mtmixatt.multi_mix import MultiMixBlock
from mixrank.layers.models.mtmixatt.routing import routing_report
from mixrank.layers.models.mtmixatt.scenario_heads import ScenarioHeads
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "num_tokens": 12,
        "features_per_token": 4,
        "dim": 36,
        "num_layers": 2,
        "mixing_heads": 12,
        "base_experts": 2,
        "shared_experts": 1,
        "scenario_shared_experts": 1,
        "expert_dim": 8,
        "head_units": (32,),
    },
    # Blocks, tokens, width and experts as published; the hidden width of an expert is what 15 M and 1 B leave for five
    # scenarios, see docs/models/mtmixatt.md.
    "small": {
        "num_tokens": 12,
        "dim": 204,
        "num_layers": 4,
        "mixing_heads": 12,
        "base_experts": 3,
        "split": 2,
        "expert_dim": 62,
        "active_experts": 2,
        "adapter_ratio": 16,
    },
    "large": {"num_tokens": 27, "dim": 756, "num_layers": 8, "mixing_heads": 27, "base_experts": 4, "expert_dim": 234},
}
SCALED = {"dim": ("features_per_token", "mixing_heads"), "expert_dim": ("split",)}


@register(
    title="MTmixAtt: Integrating Mixture-of-Experts with Multi-Mix Attention for Large-Scale Recommendation",
    arxiv="2510.15286",
)
class MTmixAtt(FieldBackbone):
    """`X^0 = AutoToken(f)`, then L times `U = LN(X + Mix(X))`, `X' = LN(U + Dense(U) + Sparse(U, c)) + X`; mean.

    Every field, a feature vector or a pooled history, is mapped to one width (2). AutoToken makes each of n_g tokens
    of the k fields that a learned matrix ranks first. Mix multiplies the tokens by a learned matrix per head. Dense are
    experts that are always active (11)-(12), Sparse one expert per scenario c of which K are active (13)-(14). Heads
    have a low-rank adapter for every scenario but the main one, which is the first that is declared.

    Args:
        num_tokens: int >= 1. Tokens n_g.
        features_per_token: int >= 1. Fields k that a token keeps, at most the number of fields.
        dim: int >= 1, a multiple of `features_per_token` and `mixing_heads`. Token width d; a field has width d / k.
        num_layers: int >= 0. Number of blocks, L.
        grouping: learned top k (G2), random (G1) or manual groups (G3).
        groups: for manual, the fields of every token, by name or by index.
        head_start: float >= 0. How far ahead the fields of random groups start in learned ones, so that every field is
            read at first if n_g k is large enough; with 0 W starts as plain noise, which leaves fields out for good.
        mixing: start of the mixing matrices: orthogonal with determinant +1 (M3), ones, zeros (M2) or identity; or
            transpose, RankMixer's fixed shuffle (M1), which needs `dim` divisible by `num_tokens`.
        mixing_heads: int >= 1, a divisor of `dim`. Heads H of the mixing.
        base_experts: int >= 0. Base experts E of the dense module; 0 beside 0 shared ones leaves it out.
        shared_experts: int >= 0. Shared experts Ks of the dense module.
        split: int >= 1. Fine-grained experts m that a base expert is cut into.
        expert_dim: int >= 1, a multiple of `split`. Hidden width h of an expert.
        share_across_tokens: bool. Whether tokens share experts and routers; by default each token has its own.
        scenario_experts: bool. Whether there is an expert per scenario; off is an ablation.
        active_experts: int >= 1. Scenario experts K that a token uses; with fewer scenarios, all.
        scenario_shared_experts: int >= 0. Shared experts of the sparse module, with a router of their own.
        bonus: float. gamma, added to the own scenario's logit before the top K.
        hard_bonus: bool. Whether the own scenario's expert is always among the K.
        gate_input: token_scenario, or token for routers that do not read the scenario's vector.
        compose: parallel adds both modules, sequential feeds the dense one's output to the sparse one.
        norm: post_r, post, pre, or pre_l: pre and a norm after the last block.
        adapter: dense adapts every layer of a head, logit only its output, none has no adapters.
        adapter_ratio: int >= 1. Input width of an adapted layer over the adapter's rank, which is at least 4.
        esmm: pairs (task, parent task): the task's probability is the parent's times its own sigmoid.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the first vector of "context" is the scenario's.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or groups that do not fit the fields.

    As in the paper, except:
        experts have the hidden width `expert_dim` where the paper leaves it open;
        the router reads the scenario's feature vector, through weights of its own: `G_u u + G_s s`;
        fields pooled from histories, heads H = n_g, the mean over tokens and the adapters' rank are chosen;
        learned groups start from a deal of all fields (the paper does not say how W starts);
        target attention is an addition, off by default.

    Source: arXiv 2510.15286.
    """

    removed: ClassVar = {
        "grouping_seed": 0,
        "aggregate": "flatten",
        "gumbel": 0.0,
        "align_units": (),
        "bonus_in_gate": True,
        "postnorm_r_inside": False,
        "final_norm": False,
        "activation": "gelu",
        "dispatch": "auto",
        "main_scenario": None,
        "adapter_min_rank": 4,
        "added_scenarios": 0,
    }

    def __init__(
        self,
        *,
        num_tokens: PositiveInt = 12,
        features_per_token: PositiveInt = 4,
        dim: PositiveInt = 204,
        num_layers: NonNegativeInt = 4,
        grouping: Literal["learned", "random", "manual"] = "learned",
        groups: tuple[tuple[int | FieldName, ...], ...] = (),
        head_start: NonNegativeFloat = 0.05,
        mixing: Literal["orthogonal", "ones", "zeros", "identity", "transpose"] = "orthogonal",
        mixing_heads: PositiveInt = 12,
        base_experts: NonNegativeInt = 3,
        shared_experts: NonNegativeInt = 2,
        split: PositiveInt = 2,
        expert_dim: PositiveInt = 62,
        share_across_tokens: bool = False,
        scenario_experts: bool = True,
        active_experts: PositiveInt = 2,
        scenario_shared_experts: NonNegativeInt = 2,
        bonus: float = 4.0,
        hard_bonus: bool = True,
        gate_input: Literal["token_scenario", "token"] = "token_scenario",
        compose: Literal["parallel", "sequential"] = "parallel",
        norm: Literal["post_r", "post", "pre", "pre_l"] = "post_r",
        adapter: Literal["dense", "logit", "none"] = "dense",
        adapter_ratio: PositiveInt = 16,
        esmm: tuple[tuple[TaskName, TaskName], ...] = (),
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", features_per_token=features_per_token, mixing_heads=mixing_heads)
        check_divides(expert_dim, "`expert_dim`", split=split)
        check_groups(grouping, self.groups, num_tokens, features_per_token)
        self.frozen_grouping: dict[str, list] | None = None
        # Where the model is built, the device decides.
        self.dispatch: Dispatch = "auto"

    def heads(self, tasks: tuple[str, ...]) -> Heads:
        return ScenarioHeads(
            tasks=tasks,
            units=self.head_units,
            scenarios=len(self.scenarios),
            ratio=self.adapter_ratio,
            adapter=self.adapter,
            esmm=self.esmm,
            name="heads",
        )

    def _groups_by_index(self) -> tuple[tuple[int, ...], ...]:
        """Manual groups with the index of each field in place of its name."""
        names = self.field_names
        check_named("groups", self.groups, names, "a field of the log")
        return tuple(tuple(names.index(f) if isinstance(f, str) else f for f in group) for group in self.groups)

    def _dense_options(self) -> dict[str, Any]:
        return {
            "experts": self.base_experts,
            "shared": self.shared_experts,
            "split": self.split,
            "hidden_dim": self.expert_dim,
            "share_across_tokens": self.share_across_tokens,
        }

    def _sparse_options(self) -> dict[str, Any]:
        return {
            "scenarios": len(self.scenarios),
            "active": self.active_experts,
            "shared": self.scenario_shared_experts,
            "hidden_dim": self.expert_dim,
            "scenario_in_gate": self.gate_input == "token_scenario",
            "share_across_tokens": self.share_across_tokens,
            "dispatch": self.dispatch,
        }

    def _new_dense(self) -> SharedDenseMoE | None:
        if not self.base_experts and not self.shared_experts:
            return None
        return SharedDenseMoE(**self._dense_options(), name="dense_experts", dtype=self.dtype_policy)

    def _new_sparse(self) -> ScenarioSparseMoE | None:
        if not self.scenario_experts:
            return None
        return ScenarioSparseMoE(
            **self._sparse_options(),
            bonus=self.bonus,
            hard_bonus=self.hard_bonus,
            name="scenario_experts",
            dtype=self.dtype_policy,
        )

    def _new_block(self, index: int) -> MultiMixBlock:
        policy = {"dtype": self.dtype_policy}
        mixing: keras.Layer
        if self.mixing == "transpose":
            mixing = TokenMixing(name="mixing", **policy)
        else:
            mixing = LearnedMixing(heads=self.mixing_heads, start=self.mixing, name="mixing", **policy)
        return MultiMixBlock(
            mixing=mixing,
            dense=self._new_dense(),
            sparse=self._new_sparse(),
            norm=self.norm,
            compose=self.compose,
            name=f"block_{index}",
            **policy,
        )

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        self.dispatch = dispatch_here()
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        if self.features_per_token > len(widths):
            raise ValueError(
                f"`features_per_token` must be at most the number of fields {len(widths)}, "
                f"received {self.features_per_token}"
            )
        width = self.dim // self.features_per_token
        self.align = FieldTokens(dim=width, name="align", **policy)
        self.align.build([(None, each) for each in widths])
        self.auto_token = AutoToken(
            tokens=self.num_tokens,
            keep=self.features_per_token,
            grouping=self.grouping,
            groups=self._groups_by_index(),
            head_start=self.head_start,
            frozen=self.frozen_grouping,
            name="auto_token",
            **policy,
        )
        self.auto_token.build((None, len(widths), width))
        shape = (None, self.num_tokens, self.dim)
        self.blocks = [self._new_block(index) for index in range(self.num_layers)]
        for block in self.blocks:
            block.build(shape, (None, self.widths.vectors["context"][0]), (None,))
        self.last_norm = None
        if self.norm == "pre_l":
            self.last_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="last_norm", **policy)
            self.last_norm.build(shape)

    def tokens(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> Tensor:
        """Learned groups of fields X^0: alignment (2), then AutoToken.

        Returns:
            Tensor (batch, num_tokens, dim).
        """
        return self.auto_token(self.align(self.fields(features, histories, request_of)))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokens(features, histories, request_of)
        vector, scenario = per_candidate(features["context"][0], request_of), per_candidate(scenario, request_of)
        for block in self.blocks:
            x = block(x, vector, scenario)
        if self.last_norm is not None:
            x = self.last_norm(x)
        return ops.mean(x, axis=1)

    def insights(self, ranker: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Grouping and routing.

        Returns:
            grouping: field names, the weight of every field in every token, the fields no token keeps, and how many
            of the fields dealt at the start were replaced, of how many; routing: as from `routing_report`, if there are
            scenario experts.
        """
        weights, names = self.auto_token.weight_of_fields(), self.field_names
        never = [name for name, column in zip(names, weights.T, strict=True) if not column.any()]
        rounded = [[round(float(weight), 6) for weight in row] for row in weights]
        found: dict[str, Any] = {"grouping": {"fields": list(names), "weights": rounded, "never_selected": never}}
        if (replaced := self.auto_token.replaced()) is not None:
            found["grouping"] |= {"replaced": replaced, "dealt": self.num_tokens * self.features_per_token}
        routing = routing_report(ranker, batches)
        return {**found, "routing": routing} if routing else found

    def width(self, widths: Widths) -> int:
        return self.dim

    def count(self, widths: Widths) -> list[Part]:
        fields, width = self.field_widths(widths), self.dim // self.features_per_token
        n, d, layers = self.num_tokens, self.dim, self.num_layers
        of_block = [Part("blocks: mixing", 0, 0)]
        if self.mixing != "transpose":
            of_block = [Part("blocks: mixing", self.mixing_heads * n * n, 2 * n * n * d)]
        if self.base_experts or self.shared_experts:
            of_block.append(count_dense_moe("blocks: dense experts", tokens=n, dim=d, **self._dense_options()))
        if self.scenario_experts:
            vector = widths.vectors["context"][0]
            options = self._sparse_options()
            of_block.append(count_scenario_moe("blocks: scenario experts", tokens=n, dim=d, vector=vector, **options))
        of_block.append(Part("blocks: norms", 4 * d, 0))
        last = [Part("last norm", 2 * d, 0)] if self.norm == "pre_l" else []
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, width),
            count_auto_token(n, len(fields)),
            *(Part(name, layers * parameters, layers * flops) for name, parameters, flops in of_block),
            *last,
        ]

    def get_config(self) -> dict[str, Any]:
        frozen = self.auto_token.frozen if self.built else self.frozen_grouping
        return {**super().get_config(), "frozen_grouping": frozen}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MTmixAtt:
        config = dict(config)
        frozen = config.pop("frozen_grouping", None)
        layer = super().from_config(config)
        layer.frozen_grouping = frozen
        return layer
