"""DIEN: a GRU extracts interests from a history, a second one follows those that the candidate is about."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeFloat, PositiveInt

from mixrank.layers.backbone import Backbone, Features, Histories, Widths, all_vectors, register
from mixrank.layers.base import DropoutRate, LayerWidths, Part, Shape, Tensor, dense_part, shared_by_candidates
from mixrank.layers.mixing import MLP, masked_softmax
from mixrank.layers.models.dien.attentional_gru import AttentionalGRU
from mixrank.layers.models.dien.next_event import NextEventLoss

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 32, "mlp_units": (128, 64)},
    # The layers of the authors' code; the state is as wide as an event of theirs.
    "small": {"dim": 36, "mlp_units": (200, 80)},
}
SCALED = {"dim": (4,), "mlp_units": (8,)}
# The candidate is what the second GRU attends with.
NEEDS: dict = {"item": {}}


@register(title="Deep Interest Evolution Network for Click-Through Rate Prediction", arxiv="1809.03672")
class DIEN(Backbone):
    """`MLP([x; h'_1; h'_2])`, `h'` the last state of `AUGRU(h_t, a_t)`, `h_t = GRU(e_t)`, of each history.

    x are all feature vectors side by side, e_t a history's events from the oldest to the newest. The GRU extracts an
    interest h_t at every event; `a_t = softmax_t(h_t W c)`, c the candidate's features, says how much it is about the
    candidate, and scales the update gate of the second GRU. In training an auxiliary loss asks every h_t for the next
    event: `L = L_target + alpha sum_histories L_aux`.

    Args:
        dim: int >= 1. Width of the states of both GRUs.
        mlp_units: widths of the MLP's layers, at least one.
        auxiliary_weight: float >= 0. Weight alpha of the auxiliary loss; 0 leaves it out.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only. The first
            GRU runs once per request, the second once per candidate.

    Returns:
        Tensor (batch, mlp_units[-1]).

    Raises:
        ValueError: if `mlp_units` is empty, a value is out of bounds, or there are no features of the item.

    As in the paper, except:
        ReLU takes the place of Dice, whose statistics over a batch would make a row's score depend on other rows;
        the auxiliary loss compares h_t with a linear map of an event, which brings it to `dim`, takes its negatives
            from the events of the batch, and is a mean over events where the paper has a sum;
        every history has GRUs of its own.

    Source: arXiv 1809.03672.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 36,
        mlp_units: LayerWidths = (200, 80),
        auxiliary_weight: NonNegativeFloat = 1.0,
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        candidate = sum(self.widths.vectors["item"])
        self.extract, self.attend, self.evolve, self.supervise = {}, {}, {}, {}
        for key, (length, width) in self.widths.histories.items():
            self.extract[key] = AttentionalGRU(units=self.dim, sequences=True, name=f"extract_{key}", **policy)
            self.extract[key].build((None, length, width), (None, length))
            self.attend[key] = keras.layers.Dense(self.dim, use_bias=False, name=f"attend_{key}", **policy)
            self.attend[key].build((None, candidate))
            self.evolve[key] = AttentionalGRU(units=self.dim, name=f"evolve_{key}", **policy)
            self.evolve[key].build((None, length, self.dim), (None, length))
            # One event has none after it.
            if self.auxiliary_weight and length > 1:
                self.supervise[key] = NextEventLoss(name=f"supervise_{key}", **policy)
                self.supervise[key].build((None, length, self.dim), (None, length, width), (None, length))
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
        self.mlp.build((None, self._mlp_input(self.widths)))

    def _mlp_input(self, widths: Widths) -> int:
        return widths.features + self.dim * len(self.reads(widths.histories))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        candidate = ops.concatenate(features["item"], axis=-1)
        found = all_vectors(features, request_of)
        for key in self.reads(histories):
            # Histories come newest first.
            events, valid = (ops.flip(histories[key][part], axis=1) for part in ("items", "mask"))
            interests = self.extract[key](events, valid)
            if training and key in self.supervise:
                self.add_loss(self.auxiliary_weight * self.supervise[key](interests, events, valid))
            # (batch, length, dim) by (batch, dim, 1) -> (batch, length)
            query = self.attend[key](candidate)[:, :, None]
            scores = ops.squeeze(ops.matmul(shared_by_candidates(interests, request_of), query), axis=-1)
            weights = masked_softmax(scores, shared_by_candidates(valid, request_of))
            found.append(self.evolve[key](interests, weights, request_of=request_of))
        return self.mlp(ops.concatenate(found, axis=-1), training=training)

    def width(self, widths: Widths) -> int:
        return self.mlp_units[-1]

    def count(self, widths: Widths) -> list[Part]:
        d, candidate, parts = self.dim, sum(widths.vectors["item"]), []
        for key in self.reads(widths.histories):
            length, width = widths.histories[key]
            state = 3 * d * d
            extract, evolve = (dense_part("", [each, 3 * d], rows=length) for each in (width, d))
            supervised = width * d + d if self.auxiliary_weight and length > 1 else 0
            parts += [
                Part("interest extractors", extract.parameters + state, extract.flops + 2 * length * state),
                Part("attention", candidate * d, 2 * (candidate * d + length * d)),
                Part("interest evolution", evolve.parameters + state, evolve.flops + 2 * length * state),
                Part("auxiliary loss", supervised, 0),
            ]
        return [*parts, dense_part("MLP", [self._mlp_input(widths), *self.mlp_units])]
