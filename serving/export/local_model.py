"""A SavedModel in this process, with the interface of `Client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.serving.base import find_version, load_saved_model, load_spec
from mixrank.serving.client import Inputs, Row, Scores, Unknown, stack


class LocalModel:
    """Scores with a version of a model, loaded into memory.

    Args:
        folder: one version, or a folder of versions (the newest is used).
        unknown: "refuse" fields that its spec does not know, or "drop" them.

    Raises:
        ValueError: if there is no model, or its files are damaged.
    """

    def __init__(self, folder: Path, unknown: Unknown = "refuse") -> None:
        self.folder = find_version(folder)
        spec = load_spec(self.folder)
        self._inputs, self._outputs = Inputs(spec, unknown), spec.outputs
        self._loaded = load_saved_model(self.folder)

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """As `Client.score`."""
        checked = self._inputs.rows(rows)
        return self._run("score_rows", stack(checked)) if checked else []

    def rank(self, request: Row, candidates: Sequence[Row]) -> list[Scores]:
        """As `Client.rank`."""
        return self._run("rank_candidates", self._inputs.request(request, candidates))

    def _run(self, name: str, inputs: Mapping[str, Any]) -> list[Scores]:
        if name not in self._loaded.signatures:
            raise ValueError(f"{self.folder} has no signature `{name}`; it has {sorted(self._loaded.signatures)}")
        signature = self._loaded.signatures[name]
        wanted = signature.structured_input_signature[1]
        arrays = {column: np.array(values, wanted[column].dtype.as_numpy_dtype) for column, values in inputs.items()}
        try:
            answer = signature(**{column: tf.constant(values) for column, values in arrays.items()})
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"{self.folder}: {error.message}") from None
        columns = [answer[name].numpy()[:, 0].tolist() for name in self._outputs]
        return [dict(zip(self._outputs, row, strict=True)) for row in zip(*columns, strict=True)]
