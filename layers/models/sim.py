"""SIM: a long history is searched for events like the candidate, which then weighs what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Widths, register, window_of
from mixrank.layers.base import DropoutRate, LayerWidths, Part, Tensor
from mixrank.layers.models.din import DIN
from mixrank.layers.tokens import Search, most_relevant

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"top_k": 16, "mlp_units": (128, 64)},
    # The paper's layers and a hundred events; it finds some hundreds in histories of 54,000.
    "small": {"top_k": 100, "mlp_units": (200, 80)},
}
SCALED = {"mlp_units": (8,)}


@register(
    title="Search-based User Interest Modeling with Lifelong Sequential Behavior Data for "
    "Click-Through Rate Prediction",
    arxiv="2006.05639",
)
class SIM(DIN):
    """`MLP([x; v_1; v_2])`, `v = sum_{t in S} a(c, e_t) e_t`, S the `top_k` most relevant events of a long history.

    The general search unit finds S for each candidate, by ids (`HardRelevance`) or by vectors (`SoftRelevance`) of the
    fields that candidate and event share; of events equally relevant the newest are taken. The exact search unit is
    DIN's attention a, over S and over the real-time histories as they are. x are all feature vectors side by side, c
    those of the item.

    A long-term history of which no field is an id of the candidate cannot be searched hard, one that shares neither ids
    nor vectors cannot be searched soft: S is then its newest `top_k` events.

    Args:
        search: hard for events that have a value in common with the candidate, those with the most such fields first;
            soft for those whose vectors have the largest mean cosine with the candidate's.
        top_k: int >= 1. Events that a search finds, K; a shorter history is searched as well.
        mlp_units: widths of the MLP's layers, at least one.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: target, or mean of what was found, without attention.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only. Histories
            of the window "before" are those that are searched, by their "relevance".

    Returns:
        Tensor (batch, mlp_units[-1]).

    Raises:
        ValueError: if `mlp_units` is empty or a value is out of bounds.

    As in the paper, except:
        the exact search unit is the attention of DIN, where the paper takes several heads and embeds time intervals,
            which here are a field of the events;
        hard search counts all shared fields, where the paper has one, the category;
        soft search compares the embeddings themselves, without projections and the loss that trains them;
        real-time histories are read by DIN's attention, too, where the paper takes DIEN.

    Source: arXiv 2006.05639.
    """

    def __init__(
        self,
        *,
        search: Literal["hard", "soft"] = "hard",
        top_k: PositiveInt = 100,
        mlp_units: LayerWidths = (200, 80),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "target",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def search_of(self, history: str) -> Search | None:
        return self.search if window_of(history) == "before" else None

    def pooled(
        self, key: str, history: Mapping[str, Tensor], query: Tensor | None, request_of: Tensor | None
    ) -> Tensor:
        if self.search_of(key) is None:
            return super().pooled(key, history, query, request_of)
        if "relevance" not in history:
            # The newest events are those of the request, whoever the candidate is.
            items, mask = most_relevant(history["items"], ops.cast(history["mask"], "int32"), self.top_k)
            return super().pooled(key, {"items": items, "mask": mask}, query, request_of)
        items, mask = most_relevant(history["items"], history["relevance"], self.top_k, request_of)
        return super().pooled(key, {"items": items, "mask": mask}, query, None)

    def count_fields(self, widths: Widths) -> list[Part]:
        found = {
            key: (length if self.search_of(key) is None else min(self.top_k, length), width)
            for key, (length, width) in widths.histories.items()
        }
        return super().count_fields(widths._replace(histories=found))
