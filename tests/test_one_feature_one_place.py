"""A feature is one line of a spec: every room finds it there, and no room knows its name.

Each case adds one feature to the toy spec and asks every fold over the spec what it holds more than before.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest

from mixrank.layers.ranking import model_inputs, table_sizes
from mixrank.schemas import (
    Action,
    Categorical,
    Cross,
    Expression,
    FeatureSpec,
    Hash,
    History,
    Lookup,
    Match,
    MultiCategorical,
    Numeric,
    NumericLookup,
    TimeGap,
    Vector,
    VectorTable,
    Vocab,
)
from mixrank.schemas.describe import describe
from mixrank.schemas.encode import columns, decode, encode, to_instance
from mixrank.schemas.synthetic import toy_rows
from mixrank.schemas.tfmd import parsing_spec, schema

NAME = "mood"
HISTORIES = ("global", "realtime")
IN_HISTORIES = {f"{history}_{NAME}" for history in HISTORIES}


@dataclass(frozen=True)
class Case:
    """A feature, the columns of a row it adds, the rows of its embedding table (None: it has none).

    Args:
        feature: what is added.
        columns: raw columns that appear with it, and model inputs of the same names.
        inputs: model inputs that Transform computes from other columns.
        table: rows of its embedding table where the vocabulary has 10 ids, or None.
        listed: whether the two histories list it, so that it is read from there.
    """

    feature: object
    columns: set[str]
    table: int | None
    listed: bool = False
    inputs: frozenset[str] = frozenset()

    @property
    def read(self) -> set[str]:
        """Model inputs that appear with it."""
        return self.columns | self.inputs


CASES = {
    "categorical": Case(Categorical(NAME, group="user", dtype="str", vocab=Vocab(oov=2)), {NAME}, 10),
    "hashed": Case(Categorical(NAME, group="context", vocab=Hash(size=5)), {NAME}, 10),
    "hashed twice in histories": Case(
        MultiCategorical(NAME, group="item", max_length=2, vocab=Hash(size=9, functions=2)),
        {NAME, f"global_{NAME}", f"realtime_{NAME}"},
        10,
        listed=True,
    ),
    "item attribute": Case(
        Categorical(NAME, group="item"), {NAME, f"global_{NAME}", f"realtime_{NAME}"}, 10, listed=True
    ),
    "item of the user": Case(
        Categorical(NAME, group="user", dtype="str", vocab=Vocab(oov=2), dim=5, table="clip"), {NAME}, None
    ),
    "multi_categorical": Case(MultiCategorical(NAME, group="item", max_length=2, pooling="max"), {NAME}, 10),
    "weighted multi_categorical": Case(
        MultiCategorical(NAME, group="user", max_length=2, weights=f"{NAME}_weight"), {NAME, f"{NAME}_weight"}, 10
    ),
    "multi_categorical in histories": Case(
        MultiCategorical(NAME, group="item", max_length=2), {NAME, f"global_{NAME}", f"realtime_{NAME}"}, 10, True
    ),
    "number": Case(Numeric(NAME, group="context"), {NAME}, None),
    "bucketized number": Case(Numeric(NAME, group="user", transform="bucketize", buckets=6), {NAME}, 7),
    "number with edges": Case(
        Numeric(NAME, group="item", transform="bucketize", edges=(0, 1.5), clip=(-1, 9)), {NAME}, 4
    ),
    "piecewise linear number": Case(Numeric(NAME, group="item", transform="piecewise_linear", buckets=3), {NAME}, None),
    "vector": Case(Vector(NAME, group="context", dim=3, normalize=True), {NAME}, None),
    "number in histories": Case(
        Numeric(NAME, group="item", transform="piecewise_linear", buckets=3), {NAME, *IN_HISTORIES}, None, listed=True
    ),
    "bucketized number of events": Case(
        Numeric(NAME, group="event", transform="bucketize", buckets=6), IN_HISTORIES, 7, listed=True
    ),
    "vector in histories": Case(Vector(NAME, group="item", dim=3), {NAME, *IN_HISTORIES}, None, listed=True),
    "vector of events": Case(Vector(NAME, group="event", dim=2, normalize=True), IN_HISTORIES, None, listed=True),
    "hashed of events": Case(
        MultiCategorical(NAME, group="event", max_length=2, vocab=Hash(size=9)), IN_HISTORIES, 10, listed=True
    ),
    "action": Case(Action(NAME, flags=("buy", "share", "click")), {f"global_{NAME}", f"realtime_{NAME}"}, 9, True),
    "time gap": Case(TimeGap(NAME, buckets=9), {f"global_{NAME}", f"realtime_{NAME}"}, 10, True),
    "history": Case(
        History(NAME, of=("clip", "action", "gap"), length=5, window="within", only="buy"),
        {f"{NAME}_clip", f"{NAME}_action", f"{NAME}_gap"},
        None,
    ),
    "cross": Case(
        Cross(NAME, of=("person", "page", "clip"), group="item", vocab=Hash(size=9)),
        set(),
        10,
        inputs=frozenset({NAME}),
    ),
    "expression": Case(
        Expression(NAME, formula="price / (age + 1)", group="item"), set(), None, inputs=frozenset({NAME})
    ),
    "bucketized expression": Case(
        Expression(NAME, formula="-age", group="user", transform="bucketize", buckets=3),
        set(),
        4,
        inputs=frozenset({NAME}),
    ),
    "lookup": Case(
        Lookup(NAME, of="clip", file="clips.parquet", value="maker", group="item", histories=("global",)),
        set(),
        10,
        inputs=frozenset({NAME, f"global_{NAME}"}),
    ),
    "numeric lookup": Case(
        NumericLookup(NAME, of="person", file="people.csv", key="id", value="friends", group="user", transform="none"),
        set(),
        None,
        inputs=frozenset({NAME}),
    ),
    "numeric lookup in a history": Case(
        NumericLookup(NAME, of="clip", file="clips.parquet", value="weight", group="item", histories=("global",)),
        set(),
        None,
        inputs=frozenset({NAME, f"global_{NAME}"}),
    ),
    "vector table": Case(
        VectorTable(NAME, of="clip", file="clips.parquet", value="words", group="item", dim=5, histories=HISTORIES),
        set(),
        46,
        inputs=frozenset({NAME, f"global_{NAME}", f"realtime_{NAME}"}),
    ),
    "match": Case(Match(NAME, of="tag", flags=("click",)), set(), None, inputs=frozenset({NAME})),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def before(toy_spec):
    return toy_spec


@pytest.fixture(scope="module")
def after(before, case, toy_spec):
    def listed(feature):
        if case.listed and feature.name in HISTORIES:
            return feature.model_copy(update={"of": (*feature.of, NAME)})
        return feature

    # What is looked up in a file of the toy log.
    files = {feature.file: feature.found for feature in toy_spec.from_files}
    feature = case.feature
    if getattr(feature, "file", None) in files:
        feature = feature.model_copy(update={"found": files[feature.file]})
    return FeatureSpec(**{**dict(before), "features": (*map(listed, before.features), feature)})


def row_of(spec):
    return next(toy_rows(spec, 1, seed=8, missing=0.0))


def ids(spec):
    """Ten ids for every feature with a vocabulary or hash."""
    return {feature.name: 10 for feature in spec.looked_up}


def test_schema_and_parsing_hold_its_columns(before, after, case):
    def names(spec):
        return {feature.name for feature in schema(spec).feature}

    assert names(after) - names(before) == case.columns
    for labels in (True, False):
        assert set(parsing_spec(after, labels)) - set(parsing_spec(before, labels)) == case.columns


def test_rows_examples_and_requests_hold_its_columns(before, after, case):
    assert {c.name for c in columns(after)} - {c.name for c in columns(before)} == case.columns
    assert set(row_of(after)) - set(row_of(before)) == case.columns
    assert set(to_instance(after, row_of(after))) - set(to_instance(before, row_of(before))) == case.columns


def test_its_values_survive_an_example(after, case):
    row = row_of(after)
    copy = decode(after, encode(after, row))
    for name in case.columns:
        values = row[name] if isinstance(row[name], list) else [row[name]]
        number = any(isinstance(value, float) for value in values)
        assert copy[name] == (pytest.approx(row[name]) if number else row[name])


def test_the_table_for_people_names_it(before, after, case):
    assert NAME not in {row[0] for row in describe(before)}
    (row,) = [row for row in describe(after) if row[0] == NAME]
    assert set(row[5].split(", ")) >= case.read - {NAME} or isinstance(case.feature, History)


def test_requests_by_column_carry_it(before, after, case):
    from mixrank.serving.export.signatures import row_columns

    assert set(row_columns(after)) - set(row_columns(before)) == case.columns


@pytest.mark.slow
def test_the_model_reads_what_transform_writes(before, after, case):
    import tensorflow as tf
    import tensorflow_transform as tft

    from mixrank.components.transform import transform

    written = {}

    def preprocessing_fn(inputs):
        written.update(transform(after, inputs))
        return written

    raw = {
        name: tf.RaggedTensorSpec([None, None], feature.dtype, row_splits_dtype=tf.int64)
        for name, feature in parsing_spec(after, labels=True).items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Tables of functions outlive their trace and are shared by name; those of a graph are not.
        read = tft.get_transform_input_columns(preprocessing_fn, raw, force_tf_compat_v1=True)
    assert case.columns <= set(read)
    inputs = model_inputs(after)
    assert set(inputs) - set(model_inputs(before)) == case.read
    for name in case.read:
        assert tuple(written[name].shape) == inputs[name].shape
        assert written[name].dtype.name == inputs[name].dtype


def test_its_table_has_a_row_per_id(before, after, case):
    tables = table_sizes(after, ids(after))
    assert set(tables) - set(table_sizes(before, ids(before))) == ({NAME} if case.table else set())
    assert tables.get(NAME) == case.table


@pytest.mark.slow
def test_the_score_depends_on_it(after, case):
    import keras
    import numpy as np

    from mixrank.layers.ranking import build_ranker, tables_of

    small = {"dim": 8, "attention_heads": 2, "mixing_heads": 2, "rank": 2, "num_layers": 1}
    model = build_ranker(after, ids(after), preset="tiny", params=small)
    assert set(model.input) == set(model_inputs(after))
    shapes = {name: table.read().shape for name, table in tables_of(model).items()}
    assert shapes.get(NAME) == ((case.table, case.feature.dim) if case.table else None)
    rows = {name: np.ones((2, *tensor.shape[1:]), tensor.dtype) for name, tensor in model.input.items()}
    changed = {name: values + (name in case.read) for name, values in rows.items()}
    one, other = (keras.ops.convert_to_numpy(model(r, training=False)["click"]) for r in (rows, changed))
    assert not np.array_equal(one, other), f"the score does not depend on {case.read}"
