"""The frame of models that interact fields: every feature vector, and every history pooled to one, is a field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops

from mixrank.layers.backbone.base import Backbone, Features, Histories, Widths, all_vectors
from mixrank.layers.base import Part, Shape, Tensor
from mixrank.layers.tokens import Pooling, count_pooling, history_pooling


class FieldBackbone(Backbone):
    """A backbone that sees histories only as pooled vectors, beside the feature vectors.

    Args:
        pooling: mean, or target for attention from the candidate (Deep Interest Network).
        head_units, scenarios, field_names: as in `Backbone`.
    """

    removed: ClassVar = {"attention_units": (32,)}

    def __init__(self, *, pooling: Pooling = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        query = sum(self.widths.vectors["item"])
        if self.pooling == "target" and self.widths.histories and not query:
            raise ValueError(
                '`pooling` = "target" needs features of group "item" to query with; declare one or use "mean"'
            )
        self.pools = {}
        for key, (length, width) in self.widths.histories.items():
            pool = history_pooling(self.pooling, name=f"pool_{key}", dtype=self.dtype_policy)
            pool.build((None, length, width), (None, length), (None, query))
            self.pools[key] = pool

    def fields(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> list[Tensor]:
        """Feature vectors and pooled histories.

        Returns:
            List of tensors (batch, width): user, item, context, long-term histories, real-time histories.
        """
        query = ops.concatenate(features["item"], axis=-1) if self.pooling == "target" and self.pools else None
        pooled = [self.pooled(key, histories[key], query, request_of) for key in self.pools]
        return [*all_vectors(features, request_of), *pooled]

    def pooled(
        self, key: str, history: Mapping[str, Tensor], query: Tensor | None, request_of: Tensor | None
    ) -> Tensor:
        """One history as a vector (batch, width).

        Args:
            key, history: of `histories`.
            query: Tensor (batch, query width), the candidate's vectors side by side; None if the pooling is the mean.
            request_of: as in `Backbone`.
        """
        return self.pools[key](history["items"], history["mask"], query=query, request_of=request_of)

    def field_widths(self, widths: Widths) -> tuple[int, ...]:
        """Width of every field, in the order of `fields`."""
        read = [widths.histories[key][1] for key in self.reads(widths.histories)]
        return (*widths.fields, *read)

    def count_fields(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs of `fields`."""
        query = sum(widths.vectors["item"])
        return [count_pooling(self.pooling, *widths.histories[key], query) for key in self.reads(widths.histories)]
