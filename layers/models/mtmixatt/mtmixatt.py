"""MTmixAtt: learned feature groups, learned token mixing, and experts shared by and special to scenarios."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from mixrank.layers.backbone import FieldBackbone, Widths, register
from mixrank.layers.base import Part, check_least, per_candidate
from mixrank.layers.experts import ScenarioSparseMoE, SharedDenseMoE, count_dense_moe, count_scenario_moe, dispatch_here
from mixrank.layers.mixing import TokenMixing
from mixrank.layers.models.mtmixatt.auto_token import AutoToken, check_groups, count_auto_token
from mixrank.layers.models.mtmixatt.learned_mixing import LearnedMixing
from mixrank.layers.models.mtmixatt.multi_mix import MultiMixBlock
from mixrank.layers.models.mtmixatt.scenario_heads import ScenarioHeads
from mixrank.layers.tokens import FieldTokens, count_field_tokens
from mixrank.schemas.naming import nearest

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
    "small": {"num_tokens": 12, "dim": 204, "num_layers": 4, "mixing_heads": 12, "base_experts": 3, "expert_dim": 62},
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
    have a low-rank adapter for every scenario but the main one.

    Args:
        num_tokens: int >= 1. Tokens n_g.
        features_per_token: int >= 1. Fields k that a token keeps, at most the number of fields.
        dim: int >= 1, a multiple of `features_per_token` and `mixing_heads`. Token width d; a field has width d / k.
        num_layers: int >= 0. Number of blocks, L.
        grouping: learned top k (G2), random (G1) or manual groups (G3).
        groups: for manual, the fields of every token, by name or by index.
        grouping_seed: int. Shuffles random groups, and the start of learned ones.
        cover: bool. Whether learned groups start from random ones, so that every field is read at first if n_g k is
            large enough; off, W starts as plain noise, which leaves fields out for good.
        aggregate: flatten puts the k weighted fields side by side; sum adds them and maps the sum to `dim`.
        gumbel: float >= 0. Scale of Gumbel noise on the grouping in training.
        align_units: widths of hidden ReLU layers per field before (2)'s linear map.
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
        bonus_in_gate: bool. Whether the gate is the sigmoid of the logit with the bonus, or without.
        gate_input: token_scenario, or token for routers that do not read the scenario's vector.
        compose: parallel adds both modules, sequential feeds the dense one's output to the sparse one.
        norm: post_r, post, pre, or pre_l: pre and a norm after the last block.
        postnorm_r_inside: bool. For post_r, whether X is added before the second norm of a block.
        final_norm: bool. Whether a norm stands before the mean, whatever `norm` is.
        activation: gelu or relu in the experts.
        dispatch: how the sparse experts are computed: auto, dense or grouped, see `Experts`.
        main_scenario: declared value of the scenario without adapter; None is the first.
        adapter: dense adapts every layer of a head, logit only its output, none has no adapters.
        adapter_ratio: int >= 1. Input width of an adapted layer over the adapter's rank.
        adapter_min_rank: int >= 1. Smallest rank of an adapter.
        esmm: pairs (task, parent task): the task's probability is the parent's times its own sigmoid.
        added_scenarios: int >= 0. The last so many scenarios joined a trained model, see `add_scenario`.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        attention_units: hidden layers of target attention.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, rows: as in `Backbone`; the first vector of "context" is the scenario's.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, an undeclared `main_scenario`, groups that do not fit the fields.

    As in the paper, except:
        experts have the hidden width `expert_dim` where the paper leaves it open;
        the router reads the scenario's feature vector, through weights of its own: `G_u u + G_s s`;
        fields pooled from histories, heads H = n_g, the mean over tokens and the adapters' rank are chosen;
        learned groups start from a deal of all fields (the paper does not say how W starts);
        `gumbel`, `final_norm` and target attention are additions, off by default.

    Source: arXiv 2510.15286.
    """

    def __init__(
        self,
        *,
        num_tokens: int = 12,
        features_per_token: int = 4,
        dim: int = 204,
        num_layers: int = 4,
        grouping: Literal["learned", "random", "manual"] = "learned",
        groups: tuple[tuple[int | str, ...], ...] = (),
        grouping_seed: int = 0,
        cover: bool = True,
        aggregate: Literal["flatten", "sum"] = "flatten",
        gumbel: float = 0.0,
        align_units: tuple[int, ...] = (),
        mixing: Literal["orthogonal", "ones", "zeros", "identity", "transpose"] = "orthogonal",
        mixing_heads: int = 12,
        base_experts: int = 3,
        shared_experts: int = 2,
        split: int = 2,
        expert_dim: int = 62,
        share_across_tokens: bool = False,
        scenario_experts: bool = True,
        active_experts: int = 2,
        scenario_shared_experts: int = 2,
        bonus: float = 4.0,
        hard_bonus: bool = True,
        bonus_in_gate: bool = True,
        gate_input: Literal["token_scenario", "token"] = "token_scenario",
        compose: Literal["parallel", "sequential"] = "parallel",
        norm: Literal["post_r", "post", "pre", "pre_l"] = "post_r",
        postnorm_r_inside: bool = False,
        final_norm: bool = False,
        activation: Literal["gelu", "relu"] = "gelu",
        dispatch: Literal["auto", "dense", "grouped"] = "auto",
        main_scenario: int | str | None = None,
        adapter: Literal["dense", "logit", "none"] = "dense",
        adapter_ratio: int = 16,
        adapter_min_rank: int = 4,
        esmm: tuple[tuple[str, str], ...] = (),
        added_scenarios: int = 0,
        pooling: Literal["mean", "target"] = "mean",
        attention_units: tuple[int, ...] = (32,),
        head_units: tuple[int, ...] = (128,),
        **kwargs,
    ) -> None:
        super().__init__(pooling=pooling, attention_units=attention_units, head_units=head_units, **kwargs)
        check_least(1, num_tokens=num_tokens, features_per_token=features_per_token, dim=dim)
        check_least(0, num_layers=num_layers)
        check_least(1, mixing_heads=mixing_heads)
        for name, divisor in (("features_per_token", features_per_token), ("mixing_heads", mixing_heads)):
            if dim % divisor:
                raise ValueError(f"`dim` must be a multiple of `{name}` = {divisor}, received {dim}")
        check_groups(grouping, tuple(groups), num_tokens, features_per_token)
        if main_scenario is not None and self.scenarios and main_scenario not in self.scenarios:
            hint = nearest(str(main_scenario), map(str, self.scenarios))
            raise ValueError(f"`main_scenario` must be a declared scenario, received {main_scenario!r}{hint}")
        if not 0 <= added_scenarios < max(1, len(self.scenarios)):
            raise ValueError(
                f"`added_scenarios` must be at least 0 and below the number of scenarios {len(self.scenarios)}, "
                f"received {added_scenarios}"
            )
        self.num_tokens = num_tokens
        self.features_per_token = features_per_token
        self.dim = dim
        self.num_layers = num_layers
        self.grouping = grouping
        self.groups = tuple(tuple(group) for group in groups)
        self.grouping_seed = grouping_seed
        self.aggregate = aggregate
        self.cover = cover
        self.gumbel = gumbel
        self.align_units = tuple(align_units)
        self.mixing = mixing
        self.mixing_heads = mixing_heads
        self.base_experts = base_experts
        self.shared_experts = shared_experts
        self.split = split
        self.expert_dim = expert_dim
        self.share_across_tokens = share_across_tokens
        self.scenario_experts = scenario_experts
        self.active_experts = active_experts
        self.scenario_shared_experts = scenario_shared_experts
        self.bonus = bonus
        self.hard_bonus = hard_bonus
        self.bonus_in_gate = bonus_in_gate
        self.gate_input = gate_input
        self.compose = compose
        self.norm = norm
        self.postnorm_r_inside = postnorm_r_inside
        self.final_norm = final_norm
        self.activation = activation
        self.dispatch = dispatch
        self.main_scenario = main_scenario
        self.adapter = adapter
        self.adapter_ratio = adapter_ratio
        self.adapter_min_rank = adapter_min_rank
        self.esmm = tuple((task, parent) for task, parent in esmm)
        self.added_scenarios = added_scenarios
        self.frozen_grouping: dict[str, list] | None = None
        # What auto means on the device that the model is built for.
        self.dispatch_here = dispatch
        # What the experts refuse is refused here, before a spec is at hand.
        self._new_dense()
        self._new_sparse()

    @property
    def main(self) -> int:
        """Position of the main scenario."""
        return 0 if self.main_scenario is None else self.scenarios.index(self.main_scenario)

    def heads(self, tasks: tuple[str, ...]) -> keras.Layer:
        return ScenarioHeads(
            tasks=tasks,
            units=self.head_units,
            scenarios=len(self.scenarios),
            main=self.main if self.scenarios else 0,
            ratio=self.adapter_ratio,
            min_rank=self.adapter_min_rank,
            adapter=self.adapter,
            esmm=self.esmm,
            added=self.added_scenarios,
            name="heads",
        )

    def name_fields(self, names: tuple[str, ...]) -> None:
        for name in (field for group in self.groups for field in group if isinstance(field, str)):
            if name not in names:
                raise ValueError(f"`groups` names {name!r}, which is no field of the log{nearest(name, names)}")
        self.groups = tuple(
            tuple(names.index(field) if isinstance(field, str) else field for field in group) for group in self.groups
        )

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
            "dispatch": self.dispatch_here,
            "added": self.added_scenarios,
        }

    def _new_dense(self) -> SharedDenseMoE | None:
        if not self.base_experts and not self.shared_experts:
            return None
        return SharedDenseMoE(
            **self._dense_options(), activation=self.activation, name="dense_experts", dtype=self.dtype_policy
        )

    def _new_sparse(self) -> ScenarioSparseMoE | None:
        if not self.scenario_experts:
            return None
        return ScenarioSparseMoE(
            **self._sparse_options(),
            bonus=self.bonus,
            hard_bonus=self.hard_bonus,
            bonus_in_gate=self.bonus_in_gate,
            activation=self.activation,
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
            inside=self.postnorm_r_inside,
            compose=self.compose,
            name=f"block_{index}",
            **policy,
        )

    def build(self, features_shape, histories_shape=None, scenario_shape=None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        self.dispatch_here = dispatch_here(self.dispatch)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        if self.features_per_token > len(widths):
            raise ValueError(
                f"`features_per_token` must be at most the number of fields {len(widths)}, "
                f"received {self.features_per_token}"
            )
        groups = tuple(tuple(field for field in group if isinstance(field, int)) for group in self.groups)
        if groups != self.groups:
            raise ValueError(f"`groups` must be indices where fields have no names, received {self.groups}")
        width = self.dim // self.features_per_token
        self.align = FieldTokens(dim=width, units=self.align_units, name="align", **policy)
        self.align.build([(None, each) for each in widths])
        self.auto_token = AutoToken(
            tokens=self.num_tokens,
            keep=self.features_per_token,
            grouping=self.grouping,
            groups=groups,
            seed=self.grouping_seed,
            aggregate=self.aggregate,
            dim=self.dim,
            cover=self.cover,
            gumbel=self.gumbel,
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
        if self._has_last_norm:
            self.last_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="last_norm", **policy)
            self.last_norm.build(shape)
        if self.added_scenarios:
            self._keep_what_was_trained()

    @property
    def _has_last_norm(self) -> bool:
        return self.final_norm or self.norm == "pre_l"

    def _keep_what_was_trained(self) -> None:
        """Freezes all but what belongs to an added scenario alone."""
        parts = [self.align, self.auto_token, self.last_norm, *self.pools.values()]
        for block in self.blocks:
            parts += [block.mixing, block.dense, block.mixing_norm, block.expert_norm]
        for part in parts:
            if part is not None:
                part.trainable = False

    def tokens(self, features, histories, rows=None, training=False):
        """Learned groups of fields X^0: alignment (2), then AutoToken.

        Returns:
            Tensor (batch, num_tokens, dim).
        """
        return self.auto_token(self.align(self.fields(features, histories, rows)), training=training)

    def call(self, features, histories, scenario, rows=None, training=False):
        x = self.tokens(features, histories, rows, training)
        vector, scenario = per_candidate(features["context"][0], rows), per_candidate(scenario, rows)
        for block in self.blocks:
            x = block(x, vector, scenario)
        if self.last_norm is not None:
            x = self.last_norm(x)
        return ops.mean(x, axis=1)

    def insights(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The grouping: field names, the weight of every field in every token, and the fields no token keeps."""
        weights = self.auto_token.weight_of_fields()
        never = [name for name, column in zip(names, weights.T, strict=True) if not column.any()]
        rounded = [[round(float(weight), 6) for weight in row] for row in weights]
        return {"grouping": {"fields": list(names), "weights": rounded, "never_selected": never}}

    def freeze(self) -> None:
        self.auto_token.freeze_grouping()
        self.frozen_grouping = self.auto_token.frozen

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
        last = [Part("last norm", 2 * d, 0)] if self._has_last_norm else []
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, width, self.align_units),
            count_auto_token(n, self.features_per_token, len(fields), width, self.aggregate, d),
            *(Part(name, layers * parameters, layers * flops) for name, parameters, flops in of_block),
            *last,
        ]

    def get_config(self) -> dict:
        names = (
            "num_tokens features_per_token dim num_layers grouping grouping_seed cover aggregate gumbel mixing "
            "mixing_heads base_experts shared_experts split expert_dim share_across_tokens scenario_experts "
            "active_experts scenario_shared_experts bonus hard_bonus bonus_in_gate gate_input compose norm "
            "postnorm_r_inside final_norm activation dispatch main_scenario adapter adapter_ratio adapter_min_rank "
            "added_scenarios frozen_grouping"
        )
        values = {name: getattr(self, name) for name in names.split()}
        lists = {"groups": self.groups, "align_units": self.align_units, "esmm": self.esmm}
        nested = {name: [list(x) if isinstance(x, tuple) else x for x in value] for name, value in lists.items()}
        return {**super().get_config(), **values, **nested}

    @classmethod
    def from_config(cls, config: dict) -> MTmixAtt:
        config = dict(config)
        frozen = config.pop("frozen_grouping", None)
        layer = cls(**config)
        layer.frozen_grouping = frozen
        return layer
