"""Data that breaks the promise of the spec stops the run, and the message names split and column."""

from __future__ import annotations

import copy
import json

import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tfx.types import artifact_utils, standard_artifacts

from mixrank.components.gates import Figures, GateSettings, LabelFigures
from mixrank.components.validation import Executor
from mixrank.schemas import Dataset, FeatureSpec, LogSource, Table
from mixrank.schemas.encode import columns
from mixrank.schemas.synthetic import toy_rows
from mixrank.schemas.tfmd import as_text, schema

COLUMNS = {"country": 0.2, "person": 0.3, "price": 0.3}


@pytest.fixture(scope="module")
def spec(toy_spec):
    """The toy spec with drift limits on a text, an int and a number."""
    features = [f.model_dump() | ({"drift": COLUMNS[f.name]} if f.name in COLUMNS else {}) for f in toy_spec.features]
    return FeatureSpec(**{**dict(toy_spec), "features": features})


@pytest.fixture(scope="module")
def rows(spec):
    return {split: list(toy_rows(spec, 400, seed=number)) for number, split in enumerate(("train", "eval"))}


@pytest.fixture
def validate(spec, toy_events, tmp_path):
    """Runs the component's executor on statistics as StatisticsGen makes them."""

    def run(rows, gates=None, **changes):
        statistics, text, anomalies = (
            kind()
            for kind in (
                standard_artifacts.ExampleStatistics,
                standard_artifacts.Schema,
                standard_artifacts.ExampleAnomalies,
            )
        )
        for artifact, name in ((statistics, "statistics"), (text, "schema"), (anomalies, "anomalies")):
            artifact.uri = str(tmp_path / name)
        (tmp_path / "schema").mkdir()
        (tmp_path / "schema" / "schema.pbtxt").write_text(as_text(spec))
        statistics.split_names = artifact_utils.encode_split_names(list(rows))
        for split, part in rows.items():
            folder = tmp_path / "statistics" / f"Split-{split}"
            folder.mkdir(parents=True)
            (folder / "FeatureStats.pb").write_bytes(count(spec, part).SerializeToString())
        examples = standard_artifacts.Examples()
        examples.uri = str(tmp_path)
        (tmp_path / "report.json").write_text(Figures(rows={"train": 9}, **changes).model_dump_json())
        source = LogSource(log=Table(files=("log.csv",)), events=toy_events)
        properties = {
            "dataset": Dataset(spec=spec, source=source).model_dump_json(),
            "gates": (gates or GateSettings()).model_dump_json(),
        }
        inputs = {"statistics": [statistics], "schema": [text], "examples": [examples]}
        Executor().Do(inputs, {"anomalies": [anomalies]}, properties)
        return json.loads((tmp_path / "anomalies" / "allowed.json").read_text())

    return run


def count(spec, rows):
    arrays = {}
    for column in columns(spec):
        kind = {"int": pa.int64(), "float": pa.float32(), "str": pa.large_binary()}[column.kind]
        values = [row.get(column.name) for row in rows]
        lists = [[] if v is None else v if isinstance(v, list) else [v] for v in values]
        if column.kind == "str":
            lists = [[text.encode() for text in texts] for texts in lists]
        arrays[column.name] = pa.array(lists, pa.large_list(kind))
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
    return stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions(schema=schema(spec)))


def changed(rows, split, column, value):
    """The rows with another value in one column of one split; `value` may be a function of the row's number."""
    rows = copy.deepcopy(rows)
    for number, row in enumerate(rows[split]):
        row[column] = value(number) if callable(value) else value
    return rows


def test_clean_rows_pass(validate, rows):
    assert validate(rows) == []


ONE_CLASS = {"labels": {"buy": {"train": {"home": LabelFigures(rows=9)}}}}


def test_a_finding_of_the_gates_stops_the_run_beside_the_anomalies(validate, rows):
    with pytest.raises(ValueError) as caught:
        validate(changed(rows, "eval", "global_action", [4]), **ONE_CLASS)
    _, finding, anomaly = str(caught.value).splitlines()
    assert finding.startswith("  label `buy` is 0 in all 9 rows of `train`")
    assert finding.endswith('gates: {allow: ["one_class_label:buy"]}')
    assert anomaly.startswith("  eval: global_action: ")


def test_a_finding_that_the_config_allows_is_kept_and_does_not_stop(validate, rows):
    (allowed,) = validate(rows, GateSettings(allow=("one_class_label:buy",)), **ONE_CLASS)
    assert allowed.startswith("label `buy` is 0 in all 9 rows of `train`")


@pytest.mark.parametrize(
    ("split", "column", "value", "message"),
    [
        ("train", "click", 2, "  train: click: .*Unexpectedly large value: 2"),
        ("eval", "clip", None, "  eval: clip: .*"),
        ("eval", "global_action", [4], "  eval: global_action: .*Unexpectedly large value: 4"),
        ("train", "tag", ["a"] * 4, "  train: tag: .*"),
        ("eval", "country", lambda row: f"v{60 + row % 2}", "  eval: country: High Linfty distance .*threshold 0.2"),
        ("eval", "person", lambda row: 60 + row % 2, "  eval: person: High Linfty distance .*threshold 0.3"),
        ("eval", "price", lambda row: 500.0 + row, "  eval: price: High approximate Jensen-Shannon divergence"),
    ],
)
def test_an_anomaly_stops_the_run_and_is_named(validate, rows, split, column, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        validate(changed(rows, split, column, value))
    text = str(caught.value)
    assert text.startswith("the data does not fit what was declared:\n")
    assert len(text.splitlines()) == 2, "only the column that was changed is named"


def test_every_anomaly_has_a_line(validate, rows):
    broken = changed(changed(rows, "eval", "global_action", [4]), "train", "buy", -1)
    with pytest.raises(ValueError) as caught:
        validate(broken)
    _, *lines = str(caught.value).splitlines()
    assert [line.split(":")[:2] for line in lines] == [["  train", " buy"], ["  eval", " global_action"]]


def test_without_a_training_split_nothing_can_drift(validate, rows):
    validate({"eval": changed(rows, "eval", "country", "v60")["eval"]})
