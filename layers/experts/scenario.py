"""One expert per scenario. A token uses the few that its router scores highest, biased to its own scenario's."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Activation, Layer, Part, Shape, Tensor
from mixrank.layers.experts.dense import SharedDenseMoE, count_dense_moe, lead_by_row, lead_by_token
from mixrank.layers.experts.sparse import Dispatch, Experts, choose_dispatch, count_experts
from mixrank.layers.mixing import PerTokenDense

# A score that no router reaches.
FAR = 1e9


@keras.saving.register_keras_serializable("mixrank")
class ScenarioSparseMoE(Layer):
    """`sum_i g_i FFN_i(u)` + shared experts, `z_i = G_i [u; s] + gamma 1[i = own]`, `g_i = sigmoid(z_i)` for the K
    largest z_i, else 0; MTmixAtt equations (13), (14).

    There is one expert per scenario. A row whose scenario is missing or not declared has no own expert, so no bonus.

    Args:
        scenarios: int >= 0. Number of scenarios C, and of experts.
        active: int >= 1. Experts a token uses, K; with fewer experts than that, all.
        shared: int >= 0. Experts that are always active, with gates from a router of their own.
        hidden_dim: int >= 1. Hidden width of an expert.
        bonus: float. gamma, added to the own expert's logit before the choice.
        hard_bonus: bool. Whether the own expert is always among the K.
        scenario_in_gate: bool. Whether the router also reads the scenario's vector s.
        share_across_tokens: bool. Whether all tokens use the same experts and routers; by default each has its own.
        dispatch: as in `Experts`.
        activation: Name or function of the experts' activation.

    Call arguments:
        x: Tensor (batch, tokens, dim).
        vector: Tensor (batch, width), the scenario's vector s.
        scenario: int tensor (batch,): 0 is missing, i the i-th scenario, scenarios + 1 any other.

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: a size out of bounds.

    Source: arXiv 2510.15286.

    >>> layer = ScenarioSparseMoE(scenarios=3, hidden_dim=6)
    >>> layer(keras.ops.ones((5, 7, 4)), keras.ops.ones((5, 2)), keras.ops.array([0, 1, 2, 3, 4])).shape
    TensorShape([5, 7, 4])
    """

    def __init__(
        self,
        *,
        scenarios: NonNegativeInt,
        active: PositiveInt = 2,
        shared: NonNegativeInt = 2,
        hidden_dim: PositiveInt,
        bonus: float = 4.0,
        hard_bonus: bool = True,
        scenario_in_gate: bool = True,
        share_across_tokens: bool = False,
        dispatch: Dispatch = "auto",
        activation: Activation = "gelu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.on_routing: Any = None

    def build(self, x_shape: Shape, vector_shape: Shape, scenario_shape: Shape | None = None) -> None:
        tokens, dim = x_shape[1:]
        sets = 1 if self.share_across_tokens else tokens
        policy = {"dtype": self.dtype_policy}
        # Lists, because the files of saved models have them.
        self.routers, self.experts = [], []
        if self.scenarios:
            # In float32: a rounded gate is small harm, a rounded choice is another expert.
            options: dict[str, Any] = {"token_leading": True, "dtype": "float32"}
            router = [PerTokenDense(self.scenarios, name="router", **options)]
            router[0].build((sets, None, dim))
            if self.scenario_in_gate:
                router.append(PerTokenDense(self.scenarios, use_bias=False, name="scenario_router", **options))
                router[1].build((sets, None, vector_shape[-1]))
            bank = Experts(
                experts=self.scenarios,
                hidden_dim=self.hidden_dim,
                activation=self.activation,
                dispatch=self.dispatch,
                name="experts",
                **policy,
            )
            bank.build((sets, None, dim))
            self.routers.append(router)
            self.experts.append(bank)
        self.always = None
        if self.shared:
            self.always = SharedDenseMoE(
                experts=0,
                shared=self.shared,
                hidden_dim=self.hidden_dim,
                share_across_tokens=self.share_across_tokens,
                activation=self.activation,
                name="shared",
                **policy,
            )
            self.always.build(x_shape)

    def _by_row(self, x: Tensor, tokens: int) -> Tensor:
        """(1 or tokens, batch, width) of a row -> the leading form of its tokens, by broadcasting where possible."""
        if not self.share_across_tokens:
            return x
        # (1, batch, width) -> (1, batch * tokens, width)
        return ops.repeat(x, tokens, axis=1)

    def _route(self, lead: Tensor, vector: Tensor, scenario: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Gates float32 (tokens, batch, active) and the experts they belong to."""
        ((router, *by_scenario),) = self.routers
        z = router(lead)
        for each in by_scenario:
            z = z + self._by_row(each(vector[None]), tokens)
        # (batch,) -> (1, batch, scenarios)
        ids = ops.arange(1, self.scenarios + 1, dtype=scenario.dtype)
        own = self._by_row(ops.cast(ops.equal(scenario[:, None], ids), "float32")[None], tokens)
        gate = z + self.bonus * own
        score = gate + FAR * own if self.hard_bonus else gate
        chosen = ops.top_k(score, min(self.active, self.scenarios))[1]
        places = ops.cast(ops.equal(chosen[..., None], ops.arange(self.scenarios, dtype=chosen.dtype)), "float32")
        return ops.sigmoid(ops.sum(places * gate[..., None, :], axis=-1)), chosen

    def call(self, x: Tensor, vector: Tensor, scenario: Tensor) -> Tensor:
        tokens = x.shape[1]
        lead = lead_by_token(x, self.share_across_tokens)
        y = ops.zeros_like(x) if self.always is None else self.always(x)
        if not self.scenarios:
            return y
        gates, chosen = self._route(lead, vector, scenario, tokens)
        if self.on_routing is not None:
            self.on_routing(lead_by_row(chosen, tokens, self.share_across_tokens), scenario)
        return y + lead_by_row(self.experts[0](lead, gates, chosen), tokens, self.share_across_tokens)

    def compute_output_shape(self, x_shape: Shape, vector_shape: Shape, scenario_shape: Shape | None = None) -> Shape:
        return x_shape


def count_scenario_moe(
    name: str,
    *,
    tokens: int,
    dim: int,
    vector: int,
    scenarios: int,
    active: int,
    shared: int,
    hidden_dim: int,
    scenario_in_gate: bool,
    share_across_tokens: bool,
    dispatch: Dispatch,
) -> Part:
    """Parameters and FLOPs of `ScenarioSparseMoE`.

    Args:
        name: name of the part.
        tokens, dim: of its input.
        vector: width of the scenario's vector.
        scenarios, active, shared, hidden_dim, scenario_in_gate, share_across_tokens, dispatch: as in
            `ScenarioSparseMoE`.
    """
    sets, rows = (1, tokens) if share_across_tokens else (tokens, 1)
    parts = []
    if scenarios:
        active = min(active, scenarios)
        sparse = active if choose_dispatch(dispatch, scenarios, active, dim * hidden_dim) == "grouped" else None
        parts = [
            count_experts("", scenarios, hidden_dim, dim, sets, rows=rows, active=sparse),
            Part("", sets * (dim + 1) * scenarios, 2 * tokens * dim * scenarios),
        ]
        if scenario_in_gate:
            parts.append(Part("", sets * vector * scenarios, 2 * sets * vector * scenarios))
    if shared:
        parts.append(
            count_dense_moe(
                "",
                tokens=tokens,
                dim=dim,
                experts=0,
                shared=shared,
                split=1,
                hidden_dim=hidden_dim,
                share_across_tokens=share_across_tokens,
            )
        )
    return Part(name, sum(part.parameters for part in parts), sum(part.flops for part in parts))
