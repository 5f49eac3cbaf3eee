"""The whole model of a spec: inputs, embeddings, features and histories, backbone, task heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from layers import registry
from layers.embedding import HistoryMask, IdEmbedding, MaskedMean
from layers.initializers import seeded
from layers.inputs import field_names, is_number, model_inputs, table_sizes
from schemas.features import GROUPS, Action, FeatureSpec, History, MultiCategorical, TimeGap


def build_ranker(
    spec: FeatureSpec,
    sizes: Mapping[str, int],
    model: str = "hemix",
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    seed: int = 0,
) -> keras.Model:
    """A functional model from the transformed columns of a spec to one logit per task.

    Args:
        spec: the log's declaration.
        sizes: number of ids, 0 included, of each `Categorical` and `MultiCategorical`.
        model: name of a model of `layers.registry`.
        params: parameters of that model; they override the preset's.
        preset: name of one of its presets; None takes the constructor's defaults.
        seed: int. The same seed gives the same initial weights and dropout.

    Returns:
        Model {column: tensor} -> {task: float32 logits (batch,)}. Inputs are those of `layers.inputs.model_inputs`;
        the table of feature f is the layer `embedding_f`.

    Raises:
        ValueError: unknown model, preset or parameter; sizes that do not fit the spec; a value the model refuses.
    """
    params = registry.check(model, params, preset)
    with seeded(seed):
        inputs = model_inputs(spec)
        tables = _Tables(spec, sizes)
        backbone = registry.build(model, params, scenarios=spec.scenario.values)
        backbone.name_fields(field_names(spec))

        scenario = inputs[spec.scenario.name]
        features: dict[str, list] = {group: [] for group in GROUPS}
        features["context"].append(tables.lookup(spec.scenario, scenario))
        for feature in spec.inputs:
            features[feature.group].append(_vector(feature, inputs[feature.name], tables))
        histories = {
            history.window: _items(spec, history, inputs, tables)
            for history in spec.histories
            if history.window in backbone.windows
        }
        representation = backbone(features, histories, scenario)
        logits = backbone.heads(spec.tasks)(representation, scenario)
    return keras.Model(inputs, logits, name="ranker")


def load_ranker(path: str | Path) -> keras.Model:
    """Loads a ranker from a `.keras` file, whichever model of the registry it holds.

    Args:
        path: file written by `Model.save`.
    """
    registry.import_all()
    return keras.models.load_model(path)


class _Tables:
    """One embedding layer per feature, made when it is first looked up and shared from then on."""

    def __init__(self, spec: FeatureSpec, sizes: Mapping[str, int]) -> None:
        self._sizes = table_sizes(spec, sizes)
        self._layers: dict[str, IdEmbedding] = {}

    def lookup(self, feature, ids):
        name = feature.name
        if name not in self._layers:
            self._layers[name] = IdEmbedding(size=self._sizes[name], dim=feature.dim, name=f"embedding_{name}")
        return self._layers[name](ids)


def _vector(feature, column, tables: _Tables):
    if is_number(feature):
        # (batch,) -> (batch, 1)
        return keras.layers.Reshape((1,), name=f"number_{feature.name}")(column)
    vector = tables.lookup(feature, column)
    if isinstance(feature, MultiCategorical):
        vector = MaskedMean(name=f"mean_{feature.name}")(vector, column)
    return vector


def _items(spec: FeatureSpec, history: History, inputs: Mapping[str, Any], tables: _Tables) -> dict[str, Any]:
    vectors, ids, never_zero = [], [], []
    for column, field in spec.history_fields(history):
        values = inputs[column]
        if isinstance(field, MultiCategorical):
            # (batch, length * max_length) -> (batch, length, max_length)
            shape = (history.length, field.max_length)
            values = keras.layers.Reshape(shape, name=f"values_{column}", dtype="int64")(values)
            vectors.append(MaskedMean(name=f"mean_{column}")(tables.lookup(field, values), values))
        else:
            vectors.append(tables.lookup(field, values))
        ids.append(values)
        if isinstance(field, Action | TimeGap):
            never_zero.append(values)
    # An unknown item attribute may be 0 in a real event, an action or a time gap never is.
    mask = HistoryMask(name=f"mask_{history.name}")(never_zero[:1] or ids)
    items = keras.layers.Concatenate(name=f"items_{history.name}")(vectors) if len(vectors) > 1 else vectors[0]
    return {"items": items, "mask": mask}
