"""The base class of all heads: representation to a logit per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from mixrank.layers.base import Layer, Part, Shape, Tensor

NO_FIELDS: Mapping[str, int] = {}


class Heads(Layer):
    """Representation to a logit per task; all weights and products in float32, in mixed precision too.

    A subclass overrides `call` and `count`; `reads`, if it reads more than the representation; and it hands the weights
    of its gates to `saw`, for `insights`.

    Args:
        tasks: names of the tasks, of a multiclass one those of its classes: `spec.logits`; no configuration has them.

    Call arguments:
        x: Tensor (batch, width), a backbone's representation.
        scenario: int tensor (batch,), or (1,) for the candidates of one request.
        fields: None, or feature -> its vector, tensor (batch, width), for each feature of `reads`. For the candidates
            of one request those of the user and the context are (1, width).

    Returns:
        task -> float32 tensor (batch,).
    """

    def __init__(self, *, tasks: tuple[str, ...], dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        # Called with every gate while `insights` looks.
        self.on_gate: Any = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Features whose vectors the heads read beside the representation."""
        return ()

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        self.input_width = x_shape[-1]
        self.field_widths = {name: fields_shape[name][-1] for name in self.reads}

    def compute_output_shape(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> dict[str, Shape]:
        return dict.fromkeys(self.tasks, (x_shape[0],))

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        """Parameters and FLOPs; works before `build`.

        Args:
            width: of the representation.
            fields: feature -> width of its vector, for each feature of `reads`; others do not matter.
        """
        raise NotImplementedError(f"{type(self).__name__} has no count()")

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of the layer as it was built."""
        return self.count(self.input_width, self.field_widths)

    def saw(self, gate: str, row: str, columns: Sequence[str], values: Tensor) -> None:
        """Tells `insights` what a gate gave.

        Args:
            gate: its name, the title of a table.
            row: whose gate it is, such as a task.
            columns: what it weighs, such as experts.
            values: Tensor (batch, columns).
        """
        if self.on_gate is not None:
            self.on_gate(gate, row, columns, values)

    def insights(self, ranker: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Mean over rows of every gate.

        Args:
            ranker: the model that these heads belong to.
            batches: rows, each batch a dictionary of the model's inputs.

        Returns:
            Empty without gates or rows; otherwise `gates`, for JSON: `examined`, the number of rows, and `tables`, for
            each gate a title, columns, and rows with a name and a weight for each column, None where it has none.
        """
        sums: dict[str, dict[str, dict[str, float]]] = {}
        examined = 0

        def record(gate: str, row: str, columns: Sequence[str], values: Tensor) -> None:
            values = np.array(ops.convert_to_numpy(values), "float64")
            cells = sums.setdefault(gate, {}).setdefault(row, {})
            for column, total in zip(columns, values.sum(axis=0), strict=True):
                cells[column] = cells.get(column, 0.0) + float(total)

        self.on_gate = record
        try:
            for batch in batches:
                before = bool(sums)
                found = ranker({name: batch[name] for name in ranker.input}, training=False)
                examined += int(next(iter(found.values())).shape[0])
                if not before and not sums:
                    return {}
        finally:
            self.on_gate = None
        if not examined:
            return {}
        return {"gates": {"examined": examined, "tables": [_table(gate, sums[gate], examined) for gate in sums]}}


def _table(gate: str, rows: Mapping[str, Mapping[str, float]], examined: int) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    return {
        "title": gate,
        "columns": columns,
        "rows": [
            {"name": row, "weights": [round(cells[c] / examined, 4) if c in cells else None for c in columns]}
            for row, cells in rows.items()
        ],
    }
