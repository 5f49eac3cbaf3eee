"""An expert per scenario, of which a token uses the few that its router prefers, its own scenario's among them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mixrank.layers.base import Part, check_least
from mixrank.layers.experts.dense import SharedDenseMoE, count_dense_moe, lead_by_row, lead_by_token
from mixrank.layers.experts.sparse import Dispatch, Experts, choose_dispatch, count_experts
from mixrank.layers.mixing import PerTokenDense

# A score no router reaches: below it nothing is chosen, above it everything is.
FAR = 1e9


@keras.saving.register_keras_serializable("mixrank")
class ScenarioSparseMoE(keras.Layer):
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
        bonus_in_gate: bool. Whether the gate is the sigmoid of the logit with the bonus, as printed, or without.
        scenario_in_gate: bool. Whether the router also reads the scenario's vector s.
        share_across_tokens: bool. Whether all tokens use the same experts and routers; by default each has its own.
        dispatch: as in `Experts`.
        activation: Name or function of the experts' activation.
        added: int in [0, scenarios). The last so many scenarios joined a trained model: their experts and router
            columns are weights of their own that only their rows can choose; the last one's alone is trainable.

    Call arguments:
        x: Tensor (batch, tokens, dim).
        vector: Tensor (batch, width), the scenario's vector s.
        scenario: int tensor (batch,): 0 is missing, i the i-th scenario, scenarios + 1 any other.

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: a size below its bound.

    Source: arXiv 2510.15286.
    """

    def __init__(
        self,
        *,
        scenarios: int,
        active: int = 2,
        shared: int = 2,
        hidden_dim: int,
        bonus: float = 4.0,
        hard_bonus: bool = True,
        bonus_in_gate: bool = True,
        scenario_in_gate: bool = True,
        share_across_tokens: bool = False,
        dispatch: Dispatch = "auto",
        activation="gelu",
        added: int = 0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_least(0, scenarios=scenarios)
        check_least(1, active=active)
        check_least(0, shared=shared)
        check_least(1, hidden_dim=hidden_dim)
        if not 0 <= added < max(1, scenarios):
            raise ValueError(f"`added` must be at least 0 and below `scenarios` = {scenarios}, received {added}")
        self.scenarios = scenarios
        self.active = active
        self.shared = shared
        self.hidden_dim = hidden_dim
        self.bonus = bonus
        self.hard_bonus = hard_bonus
        self.bonus_in_gate = bonus_in_gate
        self.scenario_in_gate = scenario_in_gate
        self.share_across_tokens = share_across_tokens
        self.dispatch = dispatch
        self.activation = keras.activations.get(activation)
        self.added = added
        self.on_routing: Any = None

    @property
    def first(self) -> int:
        """Experts that are not added."""
        return self.scenarios - self.added

    @property
    def chosen(self) -> int:
        """Experts a token uses."""
        return min(self.active, self.first)

    def build(self, x_shape, vector_shape, scenario_shape=None) -> None:
        tokens, dim = x_shape[1:]
        sets = 1 if self.share_across_tokens else tokens
        policy = {"dtype": self.dtype_policy}
        self.routers, self.experts = [], []
        for index in range(1 + self.added) if self.first else ():
            number = 1 if index else self.first
            suffix = f"_{self.first + index}" if index else ""
            # In float32: a rounded gate is small harm, a rounded choice is another expert.
            router = [PerTokenDense(number, token_leading=True, name=f"router{suffix}", dtype="float32")]
            router[0].build((sets, None, dim))
            if self.scenario_in_gate:
                by_scenario = PerTokenDense(
                    number, use_bias=False, token_leading=True, name=f"scenario_router{suffix}", dtype="float32"
                )
                by_scenario.build((sets, None, vector_shape[-1]))
                router.append(by_scenario)
            bank = Experts(
                experts=number,
                hidden_dim=self.hidden_dim,
                activation=self.activation,
                dispatch=self.dispatch,
                name=f"experts{suffix}",
                **policy,
            )
            bank.build((sets, None, dim))
            # Only now: Keras does not hand it down to weights that are made later.
            layers: list[keras.Layer] = [*router, bank]
            for layer in layers:
                layer.trainable = index == self.added
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
            self.always.trainable = not self.added

    def _by_row(self, x, tokens: int):
        """(1 or tokens, batch, width) of a row -> the leading form of its tokens, by broadcasting where possible."""
        if not self.share_across_tokens:
            return x
        # (1, batch, width) -> (1, batch * tokens, width)
        return ops.repeat(x, tokens, axis=1)

    def _route(self, lead, vector, scenario, tokens: int):
        """Gates float32 (tokens, batch, active) and the experts they belong to."""
        logits = []
        for router, *by_scenario in self.routers:
            z = router(lead)
            for each in by_scenario:
                z = z + self._by_row(each(vector[None]), tokens)
            logits.append(z)
        z = ops.concatenate(logits, axis=-1)
        # (batch,) -> (1, batch, scenarios)
        ids = ops.arange(1, self.scenarios + 1, dtype=scenario.dtype)
        own = self._by_row(ops.cast(ops.equal(scenario[:, None], ids), "float32")[None], tokens)
        score = z + self.bonus * own
        gate = score if self.bonus_in_gate else z
        if self.hard_bonus:
            score = score + FAR * own
        if self.added:
            # An added expert must not enter another scenario's choice.
            score = ops.where(ops.logical_or(ops.arange(self.scenarios) < self.first, own > 0), score, -FAR)
        chosen = ops.top_k(score, self.chosen)[1]
        places = ops.cast(ops.equal(chosen[..., None], ops.arange(self.scenarios, dtype=chosen.dtype)), "float32")
        return ops.sigmoid(ops.sum(places * gate[..., None, :], axis=-1)), chosen

    def call(self, x, vector, scenario):
        tokens = x.shape[1]
        lead = lead_by_token(x, self.share_across_tokens)
        y = ops.zeros_like(x) if self.always is None else self.always(x)
        if not self.first:
            return y
        gates, chosen = self._route(lead, vector, scenario, tokens)
        if self.on_routing is not None:
            self.on_routing(lead_by_row(chosen, tokens, self.share_across_tokens), scenario)
        trained = chosen < self.first
        # Where an added expert is chosen the bank computes expert 0 and takes nothing of it.
        found = self.experts[0](lead, gates * ops.cast(trained, "float32"), ops.where(trained, chosen, 0))
        for index in range(1, 1 + self.added):
            mine = ops.cast(ops.equal(chosen, self.first + index - 1), "float32")
            found = found + self.experts[index](lead, ops.sum(gates * mine, axis=-1, keepdims=True))
        return y + lead_by_row(found, tokens, self.share_across_tokens)

    def start_like(self, position: int) -> None:
        """Gives the last added scenario the expert and router column of another.

        Args:
            position: int. Position of the other scenario.
        """
        bank = 0 if position < self.first else 1 + position - self.first
        column = position if bank == 0 else 0
        for mine, other in zip(self.routers[-1], self.routers[bank], strict=True):
            for target, source in zip(mine.weights, other.weights, strict=True):
                target.assign(source[..., column : column + 1])
        mine, other = self.experts[-1], self.experts[bank]
        for target, source in zip(mine.weights, other.weights, strict=True):
            # (tokens * experts, ...): the expert of every token
            target.assign(source[column :: other.experts])

    def compute_output_shape(self, x_shape, vector_shape, scenario_shape=None):
        return x_shape

    def get_config(self) -> dict:
        names = (
            "scenarios active shared hidden_dim bonus hard_bonus bonus_in_gate scenario_in_gate share_across_tokens "
            "dispatch added"
        )
        values = {name: getattr(self, name) for name in names.split()}
        return {**super().get_config(), **values, "activation": keras.activations.serialize(self.activation)}


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
    added: int,
) -> Part:
    """Parameters and FLOPs of `ScenarioSparseMoE`.

    Args:
        name: name of the part.
        tokens, dim: of its input.
        vector: width of the scenario's vector.
        scenarios, active, shared, hidden_dim, scenario_in_gate, share_across_tokens, dispatch, added: as in
            `ScenarioSparseMoE`.
    """
    sets, rows = (1, tokens) if share_across_tokens else (tokens, 1)
    first = scenarios - added
    parts = []
    if first:
        active = min(active, first)
        sparse = active if choose_dispatch(dispatch, first, active, dim * hidden_dim) == "grouped" else None
        parts = [
            count_experts("", first, hidden_dim, dim, sets, rows=rows, active=sparse),
            count_experts("", added, hidden_dim, dim, sets, rows=rows),
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
