"""Requests are scored and logged, outcomes come, and what is trained on is what was served."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.feedback import compare_rows, join_feedback
from mixrank.components.gates import Figures
from mixrank.schemas.encode import columns, decode, to_instance
from mixrank.schemas.raw import files_at
from mixrank.serving.client import Client, RequestLog
from mixrank.serving.dev_server import running

pytestmark = pytest.mark.slow

HOUR_MS = 3_600_000
LABELS = ("click", "buy", "worth", "rank", "buy_is_mature")


def examples(folder):
    files = sorted(str(path) for path in (folder / "Split-train").glob("*.gz"))
    return [each.numpy() for each in tf.data.TFRecordDataset(files, "GZIP")]


def trimmed(spec, row):
    """What a model reads of a row: padding after the oldest event of a history says nothing."""
    return {name: np.array(value) for name, value in to_instance(spec, row).items()}


def assert_same_features(spec, left, right):
    one, other = trimmed(spec, left), trimmed(spec, right)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, other[name], rtol=1e-6, equal_nan=True, err_msg=name)
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def rows(toy_data):
    return toy_data.rows["eval"][:60]


@pytest.fixture(scope="module")
def logs(toy_spec, toy_export, rows, tmp_path_factory):
    """Rows by REST and gRPC, alone and ranked, logged by the client and by the server."""
    root = tmp_path_factory.mktemp("logs")
    sent = [{name: row[name] for name in row if name not in LABELS} for row in rows]
    items = {column.name for column in columns(toy_spec) if column.candidate}
    with running({"toy": toy_export.base}, log=root / "server") as server, RequestLog(root / "client") as log:
        target = f"grpc://{server.grpc_target}"
        with Client(target, "toy", spec=toy_spec, log=log, max_rows=8, deadline=60) as client:
            scores = client.score(sent[:30], [f"i{number}" for number in range(30)])
        with Client(server.rest_url, "toy", spec=toy_spec, log=log, deadline=60) as client:
            scores += client.score(sent[30:50], range(30, 50))
            # Ids of the second client are numbers, those of the first have a letter.
            for number in range(50, 60):
                request = {name: value for name, value in sent[number].items() if name not in items}
                item = {name: value for name, value in sent[number].items() if name in items}
                scores += client.rank(request, [item], [number])
    ids = [f"i{number}" if number < 30 else str(number) for number in range(60)]
    return root, ids, scores


def outcomes_of(rows, ids, path, missing=()):
    frame = pd.DataFrame(
        {
            "impression_id": ids,
            "at": [row["at"] + 1000 for row in rows],
            **{name: [row[name] for row in rows] for name in ("click", "buy", "worth", "rank")},
        }
    )
    frame.drop(index=list(missing)).to_csv(path, index=False)
    return str(path)


def join(spec, logs, outcomes, out, **options):
    options = {"within_hours": 1.0, "until_ms": 2**42} | options
    return join_feedback(spec, logs, outcomes, out, **options)


def test_rows_train_as_they_were_sent_and_score_as_they_were_scored(toy_spec, toy_export, rows, logs, tmp_path):
    root, ids, scores = logs
    outcomes = outcomes_of(rows, ids, tmp_path / "outcomes.csv", missing=[4, 7])
    found = join(toy_spec, [root / "client"], [outcomes], tmp_path / "out")
    # A row without an outcome has no weight, which rows of this log must have.
    assert found.served["joined"] == 58 and found.missing == {"worth": 2}
    assert found.outcomes == {**dict.fromkeys(found.outcomes, 0), "used": 58}
    made = examples(tmp_path / "out")
    by_time = {row["at"]: row for row in (decode(toy_spec, each) for each in made)}
    assert len(by_time) == len(made) == found.rows == 58
    for number, row in enumerate(rows):
        if number in (4, 7):
            assert row["at"] not in by_time
            continue
        got = by_time[row["at"]]
        assert_same_features(toy_spec, got, row)
        for name in ("person", "clip", "at", "click", "rank", "worth"):
            assert got[name] == (pytest.approx(row[name]) if name == "worth" else row[name]), name
        assert got["buy"] == (row["buy"] or 0) and got["buy_is_mature"] == 1
    again = toy_export.signatures["serving_default"](examples=tf.constant(made))
    position = {row["at"]: number for number, row in enumerate(rows)}
    for place, each in enumerate(made):
        own = scores[position[decode(toy_spec, each)["at"]]]
        for task in toy_spec.tasks:
            assert float(again[task][place, 0]) == pytest.approx(own[task], abs=1e-5)


def test_the_figures_beside_the_rows_are_those_that_a_days_gates_read(toy_spec, rows, logs, tmp_path):
    root, ids, _ = logs
    outcomes = outcomes_of(rows, ids, tmp_path / "outcomes.csv")
    join(toy_spec, [root / "client"], [outcomes], tmp_path / "out")
    figures = Figures.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert figures.rows == {"train": 60}
    clicks = figures.in_split("click", "train")
    assert (clicks.rows, clicks.positives) == (60, sum(row["click"] for row in rows))
    bought = figures.in_split("buy", "train")
    assert bought.rows == clicks.positives
    assert bought.positives == sum(bool(row["buy"]) for row in rows if row["click"])


def test_a_servers_prediction_logs_are_joined_by_user_and_item_and_their_own_time(toy_spec, rows, logs, tmp_path):
    root, _, _ = logs
    # A PredictionLog has whole seconds, no keys that are no features, and no time of the row.
    (file,) = files_at(root / "server").files
    assert file.format == "tfrecord"
    now = 1000 * int(pd.Timestamp.now().timestamp())
    # Of the same person and clip the latest impression gets the outcome; so one outcome for each pair.
    pairs = {(row["person"], row["clip"]): row for row in rows}
    frame = pd.DataFrame(
        [{"person": p, "clip": c, "at": now + 60_000, "click": 1, "buy": 0, "worth": 2.0} for p, c in pairs]
    )
    frame.to_parquet(tmp_path / "outcomes.parquet")
    found = join(toy_spec, [root / "server"], [str(tmp_path / "outcomes.parquet")], tmp_path / "out")
    assert found.joined_by == ("person", "clip")
    assert found.outcomes["used"] == len(pairs) and found.rows == len(pairs)
    sent = [{name: to_instance(toy_spec, row)[name] for name in to_instance(toy_spec, row)} for row in rows]
    for each in examples(tmp_path / "out"):
        row = decode(toy_spec, each)
        assert abs(row["at"] - now) < 600_000 and row["click"] == 1
        mine = [other for other in sent if (other["person"], other["clip"]) == (row["person"], row["clip"])]
        assert any(_equal(toy_spec, row, other) for other in mine)


def _equal(spec, row, other):
    try:
        assert_same_features(spec, row, other)
    except AssertionError:
        return False
    return True


def test_what_waits_is_joined_once_when_its_window_has_passed(toy_spec, rows, logs, tmp_path):
    root, ids, _ = logs
    middle = sorted(row["at"] for row in rows)[29]
    outcomes = outcomes_of(rows, ids, tmp_path / "outcomes.csv")
    first = join(
        toy_spec, [root / "client"], [outcomes], tmp_path / "one", within_hours=2000 / HOUR_MS, until_ms=middle + 2000
    )
    assert first.served["joined"] == 30 and first.served["its window has not passed"] == 30
    assert first.outcomes["the window of its impression has not passed"] == 30
    waiting = tmp_path / "one" / "waiting"
    second = join(
        toy_spec,
        [waiting / "served"],
        [str(waiting / "outcomes")],
        tmp_path / "two",
        within_hours=2000 / HOUR_MS,
    )
    assert second.served["joined"] == 30 == second.outcomes["used"]
    found = [decode(toy_spec, each) for name in ("one", "two") for each in examples(tmp_path / name)]
    assert sorted(row["at"] for row in found) == sorted(row["at"] for row in rows)
    by_time = {row["at"]: row for row in rows}
    for row in found:
        assert_same_features(toy_spec, row, by_time[row["at"]])
        assert (row["click"], row["rank"]) == (by_time[row["at"]]["click"], by_time[row["at"]]["rank"])


def test_what_was_not_shown_and_what_came_late_is_left_over_with_its_reason(toy_spec, rows, logs, tmp_path):
    root, ids, _ = logs
    outcomes = pd.read_csv(outcomes_of(rows, ids, tmp_path / "outcomes.csv"))
    outcomes.loc[3, "at"] += 2 * HOUR_MS
    outcomes.loc[5, "impression_id"] = "nobody's"
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    pd.DataFrame({"impression_id": ids[:40]}).to_parquet(tmp_path / "shown.parquet")
    found = join(
        toy_spec,
        [root / "client"],
        [str(tmp_path / "outcomes.csv")],
        tmp_path / "out",
        shown=[str(tmp_path / "shown.parquet")],
    )
    assert found.served["was not shown"] == 20
    assert found.outcomes["came after the window"] == 1 and found.outcomes["no impression"] == 1
    assert found.outcomes["its impression is left over"] == 20
    left = pd.read_parquet(tmp_path / "out" / "left_over" / "outcomes" / "part-00000.parquet")
    assert left["left_over_reason"].value_counts().to_dict() == {
        "its impression is left over": 20, "came after the window": 1, "no impression": 1,
    }  # fmt: skip
    assert left.set_index("left_over_reason").loc["no impression", "outcome_row"] == 6
    served = pd.concat(map(pd.read_parquet, (tmp_path / "out" / "left_over" / "served").glob("*")))
    assert len(served) == 22 and set(served["impression_id"]) == {*ids[40:], ids[3], ids[5]}
    assert json.loads((tmp_path / "out" / "feedback.json").read_text())["rows"] == 38


def test_served_and_recomputed_features_are_compared_column_by_column(toy_spec, toy_data, rows, logs, tmp_path):
    root, ids, _ = logs
    join(toy_spec, [root / "client"], [outcomes_of(rows, ids, tmp_path / "outcomes.csv")], tmp_path / "out")
    raw = toy_data.examples / "Split-eval"
    same = compare_rows(toy_spec, tmp_path / "out", raw, within_hours=1)
    assert (same.served, same.matched, same.same_time) == (60, 60, 60)
    assert {each.name for each in same.columns} == {column.name for column in columns(toy_spec) if column.serving}
    assert [each for each in same.columns if each.equal != each.rows] == []
    # Another price in a third of the rows.
    changed = tmp_path / "changed"
    changed.mkdir()
    from mixrank.schemas.encode import encode

    with tf.io.TFRecordWriter(str(changed / "rows.gz"), "GZIP") as writer:
        for number, row in enumerate(rows):
            writer.write(encode(toy_spec, {**row, "price": 1e6} if number % 3 == 0 else row))
    skewed = compare_rows(toy_spec, tmp_path / "out", changed, within_hours=1)
    (price,) = [each for each in skewed.columns if each.equal != each.rows]
    assert (price.name, price.equal, price.rows) == ("price", 40, 60)
    assert len(price.first) == 3 and price.first[0].recomputed == "1e+06"
    assert "person " in price.first[0].row and "clip v" in price.first[0].row


def test_an_example_sent_to_serving_default_brings_its_id_through_a_prediction_log(
    toy_spec, toy_export, rows, tmp_path
):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from mixrank.schemas.encode import encode
    from mixrank.schemas.wire import entry

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    sent = []
    for number, row in enumerate(rows[:9]):
        known = {name: row[name] for name in row if name not in LABELS}
        example = tf.train.Example.FromString(encode(toy_spec, known))
        example.features.MergeFromString(entry("impression_id", "str", [f"i{number}"]))
        sent.append(example.SerializeToString())
    request.inputs["examples"].CopyFrom(tf.make_tensor_proto(sent))
    with (
        running({"toy": toy_export.base}, log=tmp_path / "log") as server,
        grpc.insecure_channel(server.grpc_target) as channel,
    ):
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    scores = tf.make_ndarray(answer.outputs["click"]).reshape(-1)
    # The graph passes over what it does not know.
    plain = [encode(toy_spec, {name: row[name] for name in row if name not in LABELS}) for row in rows[:9]]
    same = toy_export.signatures["serving_default"](examples=tf.constant(plain))["click"].numpy().reshape(-1)
    np.testing.assert_allclose(scores, same, atol=1e-6)
    outcomes = outcomes_of(rows[:9], [f"i{number}" for number in range(9)], tmp_path / "outcomes.csv")
    found = join(toy_spec, [tmp_path / "log"], [outcomes], tmp_path / "out")
    assert found.joined_by == ("impression_id",) and found.rows == found.with_outcome == 9
    by_time = {row["at"]: row for row in rows}
    for each in examples(tmp_path / "out"):
        row = decode(toy_spec, each)
        assert_same_features(toy_spec, row, by_time[row["at"]])
        assert (row["click"], row["rank"]) == (by_time[row["at"]]["click"], by_time[row["at"]]["rank"])
