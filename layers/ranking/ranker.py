"""The whole model of a spec: inputs, embeddings, features and histories, backbone, task heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import ops

from mixrank.layers import registry
from mixrank.layers.backbone import Backbone, backbone_of, new_heads
from mixrank.layers.base import seeded
from mixrank.layers.heads import CalibratedLogits, Heads, TaskLogits, heads_for
from mixrank.layers.losses import takes_probabilities
from mixrank.layers.ranking.inputs import field_names, histories_by_key, model_inputs, shared_fields, table_sizes
from mixrank.layers.tokens import (
    AutoDis,
    EmbeddingTables,
    HardRelevance,
    HistoryMask,
    SoftRelevance,
    SplitColumns,
    Storage,
    Table,
    TargetInterest,
    ValuePooling,
)
from mixrank.schemas import GROUPS, EventField, FeatureSpec, History, ModelFeature

# Names of the layers behind the heads of a ranker: of one with labels that have classes, and of a calibrated one.
TASK_LOGITS, CALIBRATION = "task_logits", "calibration"


@keras.saving.register_keras_serializable("mixrank")
class Ranker(keras.Model):
    """A functional model {column: tensor} -> {task: logits}, which refuses losses that take probabilities.

    Logits are (batch,), or (batch, ...) of a task whose label has classes: see `TaskLogits`.
    """

    def compile(self, optimizer="rmsprop", loss=None, **options) -> None:
        """As in Keras.

        Raises:
            ValueError: if a loss or metric expects probabilities, where a logit of any size would go unnoticed.
        """
        metrics = [options.get("metrics"), options.get("weighted_metrics")]
        for each in keras.tree.flatten([loss, metrics]):
            if takes_probabilities(each):
                name = each if isinstance(each, str) else type(each).__name__
                raise ValueError(
                    f"a ranker's outputs are logits, and `{name}` takes probabilities: give it from_logits=True, as in "
                    "mixrank.layers.task_kinds.TASK_KINDS['binary'].loss()"
                )
        super().compile(optimizer=optimizer, loss=loss, **options)

    def compile_from_config(self, config) -> None:
        # Keras leaves a model whose class has a `compile` of its own uncompiled.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)


def build_ranker(
    spec: FeatureSpec,
    sizes: Mapping[str, int],
    model: str = "hemix",
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    seed: int = 0,
    table_storage: Storage = "float32",
    heads: Mapping[str, Any] | None = None,
) -> keras.Model:
    """A functional model from the transformed columns of a spec to the logits of each task.

    Args:
        spec: the log's declaration.
        sizes: number of ids, 0 included, of each `Categorical`, `MultiCategorical`, `Cross` and `Lookup`.
        model: a model by its name, such as "hemix", or from outside by the path of its .py file or its dotted path.
        params: parameters of that model; they override the preset's.
        preset: name of one of its presets; None takes the constructor's defaults.
        seed: int. The same seed gives the same initial weights and dropout.
        table_storage: how the embedding tables are held (`EmbeddingTables`); float32 to be trained.
        heads: a `kind` of `mixrank.layers.heads.HEAD_KINDS` and its options; None takes the model's own heads.

    Returns:
        Model {column: tensor} -> {task: float32 logits}, as in `Ranker`. Inputs are those of `model_inputs`;
        `tables_of` finds its embedding tables.

    Raises:
        ValueError: unknown model, preset, parameter or heads; sizes that do not fit the spec; a value that the model or
            its heads refuse.
    """
    params = registry.check(model, params, preset)
    chosen = heads_for(heads, spec)
    with seeded(seed):
        inputs = model_inputs(spec)
        layers = _Layers(table_sizes(spec, sizes), storage=table_storage)
        backbone = registry.build(model, params, scenarios=spec.scenario.values, field_names=field_names(spec))

        scenario = inputs[spec.scenario.name]
        features, histories, interests = _vectors(spec, inputs, backbone, layers)
        representation = backbone(_with(features, interests), histories, scenario)
        logits = _logits(new_heads(backbone, spec.logits, chosen), spec, representation, scenario, features)
        if (several := _task_logits(spec)) is not None:
            logits = several(logits)
    return Ranker(inputs, logits, name="ranker")


def request_ranker(spec: FeatureSpec, model: keras.Model) -> keras.Model:
    """A ranker's layers put together for one request with many candidates.

    What depends on the request alone is computed once, whatever the number of candidates. All layers, and so all
    weights, are those of `model`.

    Args:
        spec: the declaration that `model` was built from.
        model: a model of `build_ranker` or `load`.

    Returns:
        Model {column: tensor} -> {task: float32 logits}, whose batch is that of the candidates. Columns of item
        features have one row per candidate, all others exactly one row.

    Raises:
        ValueError: a spec without features of the item, in which all candidates of a request are the same; a ranker
            saved before `EmbeddingTables` held its tables.
    """
    candidates = [feature.name for feature in spec.inputs if feature.group == "item"]
    if not candidates:
        raise ValueError(f'spec `{spec.name}` has no feature of group "item" to tell candidates of a request apart')
    inputs = model_inputs(spec, one_request=True)
    backbone = backbone_of(model)
    scenario = inputs[spec.scenario.name]
    features, histories, interests = _vectors(spec, inputs, backbone, _Layers({}, model.layers))
    # (candidates, ...) -> (candidates,)
    column = inputs[candidates[0]]
    request_of = ops.zeros_like(column if len(column.shape) == 1 else column[:, 0], dtype="int32")
    representation = backbone(_with(features, interests), histories, scenario, request_of=request_of)
    return Ranker(inputs, _logits_of(model, spec, representation, scenario, features), name="request_ranker")


def dense_ranker(spec: FeatureSpec, model: keras.Model) -> keras.Model:
    """A ranker's layers behind its embedding tables, to be compiled or differentiated without them.

    All layers, and so all weights, are those of `model`.

    Args:
        spec: the declaration that `model` was built from.
        model: a model of `build_ranker` or `load`.

    Returns:
        Model [{column: tensor}, [output of each `EmbeddingTables`, in the order of the layers]] -> {task: float32
        logits (batch,)}.
    """
    inputs = model_inputs(spec)
    backbone = backbone_of(model)
    scenario = inputs[spec.scenario.name]
    rows = {
        layer.name: keras.Input(layer.output.shape[1:], dtype=layer.compute_dtype, name=f"rows_of_{layer.name}")
        for layer in model.layers
        if isinstance(layer, EmbeddingTables)
    }
    features, histories, interests = _vectors(spec, inputs, backbone, _Layers({}, model.layers), rows)
    representation = backbone(_with(features, interests), histories, scenario)
    logits = _logits_of(model, spec, representation, scenario, features)
    return Ranker([inputs, list(rows.values())], logits, name="dense_ranker")


def calibrated(spec: FeatureSpec, model: keras.Model, curves: Mapping[str, Any]) -> keras.Model:
    """A trained ranker whose logits go through the curves of `CalibratedLogits`; all layers and weights are shared.

    Args:
        spec: the declaration that `model` was built from.
        model: a model of `build_ranker`, not calibrated yet.
        curves: as in `CalibratedLogits`.
    """
    layer = CalibratedLogits(curves=dict(curves), name=CALIBRATION)
    return Ranker(model.input, layer(model.output, model.input[spec.scenario.name]), name="ranker")


def _logits_of(
    model: keras.Model, spec: FeatureSpec, representation: Any, scenario: Any, features: Mapping[str, list]
) -> dict[str, Any]:
    """What the heads of a built model make of it, and its calibration if it has one."""
    logits = _logits(model.get_layer("heads"), spec, representation, scenario, features)
    known = {layer.name: layer for layer in model.layers}
    if TASK_LOGITS in known:
        logits = known[TASK_LOGITS](logits)
    return known[CALIBRATION](logits, scenario) if CALIBRATION in known else logits


def tables_of(model: keras.Model) -> dict[str, Table]:
    """Feature -> its embedding table, of a ranker."""
    return {
        name: layer.table(name) for layer in model.layers if isinstance(layer, EmbeddingTables) for name in layer.sizes
    }


def take_weights(model: keras.Model, trained: keras.Model) -> None:
    """Gives a ranker the weights of another that differs at most in `table_storage`.

    Args:
        model: changed in place.
        trained: its tables are float32.
    """
    for layer, source in zip(model.layers, trained.layers, strict=True):
        if isinstance(layer, EmbeddingTables):
            layer.store(source)
        else:
            layer.set_weights(source.get_weights())


def load(path: str | Path, model: str | None = None) -> keras.Model:
    """Loads a model from a `.keras` file.

    `keras.models.load_model` does the same after `import mixrank`, for models of mixrank and for those that installed
    distributions announce.

    Args:
        path: file written by `Model.save`.
        model: the model from outside that the file holds, as a configuration names it: the path of a .py file, or a
            dotted path. None if it is one of `mixrank.layers.registry.names()`, or imported already.

    Raises:
        ValueError: if there is no such file or no such model.
    """
    if not Path(path).is_file():
        raise ValueError(f"`path` must be a .keras file, {path} does not exist")
    if model is not None:
        registry.load_class(model)
    return keras.models.load_model(path)


class _Layers:
    """Layers by their names: those of a built model, others made when first asked for; all shared from then on."""

    def __init__(
        self, sizes: Mapping[str, int], built: Iterable[keras.Layer] = (), storage: Storage = "float32"
    ) -> None:
        self._sizes = sizes
        self._storage = storage
        self._known = {layer.name: layer for layer in built}

    def get(self, make: Callable[..., keras.Layer], name: str, **options: Any) -> keras.Layer:
        if name not in self._known:
            self._known[name] = make(**options, name=name)
        return self._known[name]

    def looked_up(self, columns: Mapping[str, _Column], rows: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Column -> its vectors: one lookup for all columns of one width and batch, unless `rows` holds its result."""
        found: dict[str, Any] = {}
        for tables in self._tables(columns):
            mine = {name: column for name, column in columns.items() if name in tables.columns}
            # Columns of a request have a batch of 1, those of its candidates have another.
            for batch in dict.fromkeys(column.ids.shape[0] for column in mine.values()):
                part = {name: column for name, column in mine.items() if column.ids.shape[0] == batch}
                whose = "" if len(part) == len(mine) else "_of_candidates" if batch is None else "_of_request"
                shapes = {name: list(column.shape) for name, column in part.items()}
                several = {name: column.functions for name, column in part.items() if column.functions > 1}
                split = self.get(
                    SplitColumns, f"vectors_{tables.name}{whose}", shapes=shapes, functions=several or None
                )
                ids = {name: column.ids for name, column in part.items()}
                found |= split(tables(ids) if rows is None else rows[tables.name])
        return found

    def _tables(self, columns: Mapping[str, _Column]) -> list[EmbeddingTables]:
        """The layers of a built model, or one new layer for each width, and one for the frozen tables of a width."""
        built = [layer for layer in self._known.values() if isinstance(layer, EmbeddingTables)]
        if built:
            return built
        if not self._sizes:
            raise ValueError(
                "the ranker has no layer `EmbeddingTables`: it was saved before tables of equal width became one, and "
                "can score rows but not be put together anew; train it again"
            )
        by_width: dict[tuple[int, bool], dict[str, str]] = {}
        several = {column.table: column.functions for column in columns.values() if column.functions > 1}
        for name, column in columns.items():
            by_width.setdefault((column.dim, column.frozen), {})[name] = column.table
        return [
            self.get(
                EmbeddingTables,
                f"tables_{dim}_frozen" if frozen else f"tables_{dim}",
                dim=dim,
                sizes={table: self._sizes[table] for table in dict.fromkeys(names.values())},
                columns=names,
                storage=self._storage,
                trainable=not frozen,
                functions={table: k for table, k in several.items() if table in names.values()} or None,
            )
            for (dim, frozen), names in by_width.items()
        ]


class _Column(NamedTuple):
    """A column of ids.

    Args:
        table: the feature whose table it is looked up in.
        dim: width of that table.
        ids: int tensor (batch,) or (batch, values).
        shape: that of the ids without the batch.
        functions: hash functions of the table.
        frozen: whether training leaves that table as it is.
    """

    table: str
    dim: int
    ids: Any
    shape: tuple[int, ...]
    functions: int = 1
    frozen: bool = False


def _columns(spec: FeatureSpec, inputs: Mapping[str, Any], windows: tuple[str, ...]) -> dict[str, _Column]:
    frozen = {feature.name for feature in spec.model_features if feature.is_frozen}

    def column(name: str, feature: ModelFeature | EventField, shape: tuple[int, ...]) -> _Column:
        owner = feature.owner
        return _Column(owner, feature.dim, inputs[name], shape, feature.functions, owner in frozen)

    found = {spec.scenario.name: _Column(spec.scenario.name, spec.scenario.dim, inputs[spec.scenario.name], ())}
    for feature in spec.model_features:
        if not feature.is_number:
            found[feature.name] = column(feature.name, feature, feature.shape)
    for history in spec.histories:
        if history.window in windows:
            fields = [*spec.history_fields(history), *spec.added_to(history)]
            found |= {
                name: column(name, field, (history.length, *field.shape))
                for name, field in fields
                if not field.is_number
            }
    return found


def _vectors(
    spec: FeatureSpec,
    inputs: Mapping[str, Any],
    backbone: Backbone,
    layers: _Layers,
    rows: Mapping[str, Any] | None = None,
) -> tuple[dict[str, list], dict[str, dict[str, Any]], list]:
    """Inputs of a backbone: group -> feature vectors, key -> history, and the candidate's interest in each history."""
    windows = backbone.windows
    vectors = layers.looked_up(_columns(spec, inputs, windows), rows)
    features: dict[str, list] = {group: [] for group in GROUPS}
    features["context"].append(vectors[spec.scenario.name])
    weights_of = {feature.name: column for column, feature in spec.weights.items()}
    for feature in spec.model_features:
        weights = inputs[weights_of[feature.name]] if feature.name in weights_of else None
        features[feature.group].append(_vector(feature, inputs[feature.name], vectors, layers, weights))
    read = {key: history for key, history in histories_by_key(spec).items() if history.window in windows}
    histories, interests, of_item = {}, [], [feature.name for feature in spec.model_features if feature.group == "item"]
    for key, history in read.items():
        events, ids, histories[key] = _events(spec, history, inputs, vectors, layers)
        shared, search, mask = shared_fields(spec, history), backbone.search_of(key), histories[key]["mask"]
        with_ids = {column: name for column, name in shared.items() if column in ids}
        if search == "hard" and with_ids:
            layer = layers.get(HardRelevance, f"relevance_{history.name}")
            own, theirs = [inputs[name] for name in with_ids.values()], [ids[column] for column in with_ids]
            histories[key]["relevance"] = layer(own, theirs, mask)
        if not shared or not (backbone.target_interest or search == "soft"):
            continue
        # The id 0 of a candidate and of an event have one row of the table, and are not alike for that.
        known = [
            layers.get(HistoryMask, f"known_{column}")([ids[column]], mask) if column in ids else mask
            for column in shared
        ]
        alike = [features["item"][of_item.index(name)] for name in shared.values()], [events[each] for each in shared]
        if backbone.target_interest:
            interests.append(layers.get(TargetInterest, f"interest_{history.name}")(*alike, known))
        if search == "soft":
            histories[key]["relevance"] = layers.get(SoftRelevance, f"relevance_{history.name}")(*alike, known)
    return features, histories, interests


def _with(features: Mapping[str, list], interests: list) -> dict[str, list]:
    """What the backbone reads: interests are features of the item; heads do not know them."""
    return {**features, "item": [*features["item"], *interests]}


def _logits(
    heads: Heads, spec: FeatureSpec, representation: Any, scenario: Any, features: Mapping[str, list]
) -> dict[str, Any]:
    """Name of each of `spec.logits` -> logits (batch,), from what the heads read."""
    if not heads.reads:
        return heads(representation, scenario)
    vectors = [vector for group in GROUPS for vector in features[group]]
    # Names of histories, which have no vector, come last.
    named = dict(zip(field_names(spec), vectors, strict=False))
    return heads(representation, scenario, {name: named[name] for name in heads.reads})


def _task_logits(spec: FeatureSpec) -> TaskLogits | None:
    """The layer behind the heads, if a task has several logits."""
    levels, classes = {}, {}
    for label in (label for label in spec.labels if label.classes):
        if label.values.logit_per_class:
            classes[label.name] = label.logits
        else:
            levels[label.name] = len(label.classes)
    if not levels and not classes:
        return None
    return TaskLogits(tasks=spec.tasks, levels=levels, classes=classes, name=TASK_LOGITS)


def _vector(feature, column, vectors: Mapping[str, Any], layers: _Layers, weights=None):
    if feature.is_embedded_number:
        options = {"dim": feature.dim, "buckets": feature.buckets, "temperature": feature.temperature}
        return layers.get(AutoDis, f"autodis_{feature.name}", **options)(column)
    if feature.is_number:
        # (batch,) -> (batch, 1)
        return layers.get(keras.layers.Reshape, f"number_{feature.name}", target_shape=(feature.width,))(column)
    if feature.max_values is not None:
        return _pooled(feature, feature.name, vectors[feature.name], column, layers, weights)
    return vectors[feature.name]


def _pooled(feature, column: str, vectors, ids, layers: _Layers, weights=None):
    pool = layers.get(ValuePooling, f"{feature.pooling}_{column}", pooling=feature.pooling)
    return pool(vectors, ids) if weights is None else pool(vectors, ids, weights)


def _events(
    spec: FeatureSpec, history: History, inputs: Mapping[str, Any], looked_up: Mapping[str, Any], layers: _Layers
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Column -> its vectors (batch, length, width), column -> its ids, and the history as a backbone reads it."""
    vectors: dict[str, Any] = {}
    ids: dict[str, Any] = {}
    never_zero = []

    def numbers(column: str, width: int) -> Any:
        # (batch, length * width) -> (batch, length, width)
        shape = (history.length, width)
        return layers.get(keras.layers.Reshape, f"numbers_{column}", target_shape=shape)(inputs[column])

    weights_of = {field.name: column for column, field in spec.weights_in(history)}
    for column, field in spec.history_fields(history):
        values = inputs[column]
        if field.is_number:
            vectors[column] = numbers(column, field.width)
            continue
        vector = looked_up[column]
        if field.max_values is not None:
            # (batch, length * max_length) -> (batch, length, max_length)
            shape = (history.length, field.max_values)
            values = layers.get(keras.layers.Reshape, f"values_{column}", target_shape=shape, dtype="int64")(values)
            weights = None
            if field.name in weights_of:
                name = weights_of[field.name]
                weights = layers.get(keras.layers.Reshape, f"numbers_{name}", target_shape=shape)(inputs[name])
            vector = _pooled(field, column, vector, values, layers, weights)
        vectors[column] = vector
        ids[column] = values
        if field.never_missing:
            never_zero.append(values)
    # An unknown item attribute may be 0 in a real event, an action or a time gap never is.
    mask = layers.get(HistoryMask, f"mask_{history.name}")(never_zero[:1] or list(ids.values()))
    # What is looked up for an event is 0 where the file lacks it, and says nothing about whether there is one.
    for column, each in spec.added_to(history):
        vectors[column] = numbers(column, each.width) if each.is_number else looked_up[column]
        if not each.is_number:
            ids[column] = inputs[column]
    items = list(vectors.values())
    joined = layers.get(keras.layers.Concatenate, f"items_{history.name}")(items) if len(items) > 1 else items[0]
    return vectors, ids, {"items": joined, "mask": mask}
