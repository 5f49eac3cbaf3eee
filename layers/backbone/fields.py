"""The frame of models that interact fields: every feature vector, and every history pooled to one, is a field."""

from __future__ import annotations

from keras import ops

from mixrank.layers.backbone.base import Backbone, Widths, all_vectors
from mixrank.layers.base import Part, check_units
from mixrank.layers.tokens import Pooling, count_pooling, history_pooling


class FieldBackbone(Backbone):
    """A backbone that sees histories only as pooled vectors, beside the feature vectors.

    Args:
        pooling: mean, or target for attention from the candidate (Deep Interest Network).
        attention_units: hidden layers of target attention.
        head_units, scenarios: as in `Backbone`.
    """

    def __init__(self, *, pooling: Pooling = "mean", attention_units: tuple[int, ...] = (32,), **kwargs) -> None:
        super().__init__(**kwargs)
        if pooling not in ("mean", "target"):
            raise ValueError(f"`pooling` must be mean or target, received {pooling!r}")
        check_units(attention_units=attention_units)
        self.pooling = pooling
        self.attention_units = tuple(attention_units)

    def build(self, features_shape, histories_shape=None, scenario_shape=None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        query = sum(self.widths.vectors["item"])
        if self.pooling == "target" and self.widths.histories and not query:
            raise ValueError(
                '`pooling` = "target" needs features of group "item" to query with; declare one or use "mean"'
            )
        self.pools = {}
        for window, (length, width) in self.widths.histories.items():
            pool = history_pooling(self.pooling, self.attention_units, name=f"pool_{window}", dtype=self.dtype_policy)
            pool.build((None, length, width), (None, length), (None, query))
            self.pools[window] = pool

    def fields(self, features, histories, rows=None) -> list:
        """Feature vectors and pooled histories.

        Returns:
            List of tensors (batch, width): user, item, context, long-term history, real-time history.
        """
        query = ops.concatenate(features["item"], axis=-1) if self.pooling == "target" and self.pools else None
        pooled = [
            pool(histories[window]["items"], histories[window]["mask"], query=query, rows=rows)
            for window, pool in self.pools.items()
        ]
        return [*all_vectors(features, rows), *pooled]

    def field_widths(self, widths: Widths) -> tuple[int, ...]:
        """Width of every field, in the order of `fields`."""
        read = [widths.histories[window][1] for window in self.windows if window in widths.histories]
        return (*widths.fields, *read)

    def count_fields(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs of `fields`."""
        query = sum(widths.vectors["item"])
        return [
            count_pooling(self.pooling, self.attention_units, *widths.histories[window], query)
            for window in self.windows
            if window in widths.histories
        ]

    def get_config(self) -> dict:
        config = {"pooling": self.pooling, "attention_units": list(self.attention_units)}
        return {**super().get_config(), **config}
