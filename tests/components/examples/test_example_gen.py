"""The ExampleGen executor on small logs in every layout."""

import csv
import gzip
import json

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import artifact_utils, standard_artifacts

from mixrank.components.examples import example_gen as module
from mixrank.components.examples.example_gen import Executor, build_example_gen
from mixrank.components.examples.raw_tables import find_tables
from mixrank.pipeline.checking.log_sample import SampleLimits, sample_log
from mixrank.schemas import datasets
from mixrank.schemas.encode import decode
from mixrank.schemas.features import (
    Action,
    Categorical,
    EventTime,
    FeatureSpec,
    History,
    Key,
    Label,
    MultiCategorical,
    Numeric,
    Scenario,
    TimeGap,
)
from mixrank.schemas.tables import (
    Cut,
    Dataset,
    EventTable,
    Join,
    LogSource,
    Popularity,
    Sliding,
    SplitByUserTail,
    Table,
    Threshold,
)

NO_FLAG = "is not 0 or 1; a number such as a watch time becomes a label by a `Threshold` in `derive`"
SPEC = FeatureSpec(
    name="films",
    user=Key("user"),
    item=Key("film"),
    time=EventTime("when", unit="s"),
    scenario=Scenario("band", values=("young", "old")),
    labels=(Label("click"),),
    features=(
        Categorical("film", group="item"),
        Categorical("studio", group="item"),
        MultiCategorical("genre", group="item", separator="|", max_length=2),
        Numeric("age", group="user"),
        Categorical("device", group="context", dtype="str"),
        Action("action", flags=("click", "shared")),
        TimeGap("gap"),
        History("long", of=("film", "genre", "action", "gap"), length=3, window="before"),
    ),
)
# Every user has rows in each split; user 4 and film 9 are in no joined table.
LOG = [
    {
        "user": user,
        "film": (3 * user + step) % 5,
        "when": 1000 + 100 * step + user,
        "stars": (user + step) % 6,
        "shared": step % 2,
        "device": ["phone", None, "tv"][step % 3],
        "unread": step,
    }
    for user in range(4)
    for step in range(6)
]
USERS = [{"user": user, "age": [10.0, 30.0, 24.5, 25.0][user]} for user in range(4)]
FILMS = [
    {"film": film, "studio": [70, None, 72, 73, 74][film], "genre": ["a|b|c", "", None, "b", "a"][film]}
    for film in range(5)
]


def dataset(log=("log*",), **changes):
    source = {
        "log": Table(files=log),
        "joins": (
            Join(on="user", table=Table(files=("users.*",))),
            Join(on="item", table=Table(files=("films.*",))),
        ),
        "derive": {
            "click": Threshold("stars", at_least=3),
            "band": Cut("age", edges=(25,), names=("young", "old")),
        },
        "window": Sliding(seconds=50),
        "split": SplitByUserTail(valid=0.2, eval=0.2),
    }
    return Dataset(spec=SPEC, source=LogSource(**{**source, **changes}))


def write_parquet(folder, name, rows, row_group_size=5):
    table = pa.table({key: [row[key] for row in rows] for key in rows[0]})
    pa.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=row_group_size)


def write_csv(folder, name, rows, suffix="csv"):
    with open(folder / f"{name}.{suffix}", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tfrecord(folder, name, rows):
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(folder / f"{name}.tfrecord.gz"), options) as writer:
        for row in rows:
            features = tf.train.Features()
            for key, value in row.items():
                if isinstance(value, int):
                    features.feature[key].int64_list.value.append(value)
                elif isinstance(value, float):
                    features.feature[key].float_list.value.append(value)
                elif value is not None:
                    features.feature[key].bytes_list.value.append(value.encode())
            writer.write(tf.train.Example(features=features).SerializeToString())


def write_json(folder, name, rows):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = {"parquet": write_parquet, "csv": write_csv, "tfrecord": write_tfrecord, "json": write_json}


def write_all(folder, form="parquet", log=LOG):
    for name, rows in (("log", log), ("users", USERS), ("films", FILMS)):
        WRITERS[form](folder, name, rows)


def execute(data, folder, output, num_shards=3):
    """The artifact that the executor wrote."""
    output.mkdir(parents=True)
    artifact = standard_artifacts.Examples()
    artifact.uri = str(output)
    component = build_example_gen(data, str(folder), num_shards)
    context = BaseBeamExecutor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=["--runner=FnApiRunner"]))
    Executor(context).Do({}, {"examples": [artifact]}, dict(component.exec_properties))
    return artifact


def records(artifact, split):
    files = sorted(tf.io.gfile.glob(f"{artifact_utils.get_split_uri([artifact], split)}/*"))
    return list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())


def rows_of(artifact, spec):
    """split -> its rows, by user and time."""
    splits = artifact_utils.decode_split_names(artifact.split_names)
    found = {split: [decode(spec, record) for record in records(artifact, split)] for split in splits}
    return {s: sorted(rows, key=lambda r: (r[spec.user.name], r[spec.time.name])) for s, rows in found.items()}


def report_of(artifact):
    with open(f"{artifact.uri}/report.json") as file:
        return json.load(file)


def dead_letters(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def test_a_check_of_all_rows_finds_the_figures_of_the_run(tmp_path):
    write_all(tmp_path, "csv", [*LOG, {**LOG[0], "film": "none"}, {**LOG[7], "stars": "-"}])
    data = dataset(max_bad_rows=0.2)
    expected = report_of(execute(data, tmp_path, tmp_path / "out"))
    sample = sample_log(data, str(tmp_path), SampleLimits(None, None))
    found = sample.figures.model_dump(mode="json")
    for figures in (expected, found):
        del figures["num_shards"]
        for labels in figures["alone"].values():
            for each in labels.values():
                # Rows are ordered within a shard.
                del each["pairs"], each["ordered"]
    assert found == expected
    assert sample.whole
    letters = [{name: value for name, value in letter.items() if name != "table"} for letter in sample.letters]
    assert letters == dead_letters(tmp_path / "out" / "dead_letter.jsonl")


def test_a_row_is_joined_derived_and_given_its_history(tmp_path):
    write_all(tmp_path)
    artifact = execute(dataset(), tmp_path, tmp_path / "out")
    rows = rows_of(artifact, SPEC)
    assert {split: len(found) for split, found in rows.items()} == {"train": 16, "valid": 4, "eval": 4}
    # User 2 in step 4: film 0, four stars-of-six events before it, the last 100 s ago.
    assert next(row for row in rows["valid"] if row["user"] == 2) == {
        "user": 2,
        "film": 0,
        "when": 1_402_000,
        "band": "young",
        "click": 0,
        "studio": 70,
        "genre": ["a", "b"],
        "age": 24.5,
        "device": None,
        "long_film": [4, 3, 2],
        "long_genre": ["a", "", "b", "", "", ""],
        "long_action": [1 + 2, 1, 1 + 2],
        "long_gap": [100, 200, 300],
    }
    report = report_of(artifact)
    assert report["rows_read"] == {"log": 24, "user_0": 4, "item_1": 5}
    assert report["rows"] == {"train": 16, "valid": 4, "eval": 4}
    joins = {name: (join["rows"], join["matched"]) for name, join in report["joins"].items()}
    assert joins == {"user_0": (24, 24), "item_1": (24, 24)}
    histories = report["histories"]["long"]
    assert sum(split["events"] for split in histories.values()) == 4 * (0 + 1 + 2 + 3 * 3)
    assert histories["train"]["empty"] == 4
    # Each has five events, of which the newest three are kept.
    assert histories["eval"] == {"rows": 4, "empty": 0, "events": 12, "cut_rows": 4, "cut_events": 8}
    assert (report["first_ms"], report["last_ms"], report["years"]) == (1_000_000, 1_503_000, {"1970": 24})
    present = {name: feature["present"]["train"] for name, feature in report["features"].items()}
    assert present == {"film": 16, "studio": 12, "genre": 9, "age": 16, "device": 12}
    assert (report["features"]["genre"]["cut_rows"], report["features"]["genre"]["cut_values"]) == (5, 5)
    assert dead_letters(f"{artifact.uri}/dead_letter.jsonl") == []


ORDERS = [
    {"user": user, "film": user, "paid_at": f"1970-01-01T00:{20 + step:02d}:00", "paid": 1.5 * step, "kept": step % 2}
    for user in (0, 2, 9)
    for step in range(5)
]


def with_orders(**changes):
    """Orders of films, some of which are sent back: their own price, the genre of the film."""
    history = History("orders", of=("film", "genre", "paid", "gap"), length=2, window="before", **changes)
    spec = SPEC.model_copy(
        update={"features": (*SPEC.features, Numeric("paid", group="event"), history.model_copy())},
    )
    orders = EventTable(table=Table(files=("orders.*",)), time=EventTime("paid_at", format="iso"))
    return Dataset(spec=spec, source=dataset(events={"orders": orders}, max_bad_rows=0.1).source)


def test_orders_of_a_table_of_their_own_are_histories(tmp_path):
    write_all(tmp_path, "csv")
    write_csv(tmp_path, "orders", [*ORDERS, {**ORDERS[0], "paid": "free"}, ORDERS[1]])
    data = with_orders(events="orders")
    artifact = execute(data, tmp_path, tmp_path / "out")
    rows = [row for split in rows_of(artifact, data.spec).values() for row in split]
    # User 2 in step 4, 1402 s after the epoch: orders at 1200, 1260, 1320 and 1380 s, of which the last is within 50 s.
    (row,) = [row for row in rows if (row["user"], row["when"]) == (2, 1_402_000)]
    assert row["orders_film"] == [2, 2] and row["orders_genre"] == ["", "", "", ""]
    assert row["orders_paid"] == [3.0, 1.5] and row["orders_gap"] == [82, 142]
    # User 0 at 1200 s exactly: the order of that second is not known yet.
    assert all(not row["orders_film"] for row in rows if row["when"] <= 1_200_000 or row["user"] in (1, 3))
    report = report_of(artifact)
    found = report["event_tables"]["orders"]
    assert (found["rows"], found["matched"]) == (15, 10)
    assert report["rows_read"]["events_orders"] == 17 and report["bad_rows"]["events_orders"] == 1
    (letter,) = dead_letters(f"{artifact.uri}/dead_letter.jsonl")
    assert (letter["row"], letter["column"], letter["reason"]) == (16, "paid", "is not a number")
    # All else is as without orders.
    alone = rows_of(execute(dataset(), tmp_path, tmp_path / "alone"), SPEC)
    assert sorted((r["user"], r["when"], r["click"]) for r in rows) == sorted(
        (r["user"], r["when"], r["click"]) for split in alone.values() for r in split
    )
    sampled = sample_log(data, str(tmp_path), SampleLimits(None, None)).figures
    assert sampled.model_dump(mode="json")["event_tables"] == report["event_tables"]
    assert sampled.model_dump(mode="json")["histories"] == report["histories"]


def test_only_takes_any_flag_of_an_event_table(tmp_path):
    write_all(tmp_path)
    write_parquet(tmp_path, "orders", ORDERS)
    data = with_orders(events="orders", only="kept")
    rows = [row for split in rows_of(execute(data, tmp_path, tmp_path / "out"), data.spec).values() for row in split]
    (row,) = [row for row in rows if (row["user"], row["when"]) == (2, 1_402_000)]
    assert row["orders_gap"] == [142]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"users": row["user"], **row}, None),
        (lambda row: {k: v for k, v in row.items() if k != "user"}, r"orders.parquet has no column `user`"),
        (lambda row: {k: v for k, v in row.items() if k != "film"}, r"orders.parquet has no column `film`"),
        (
            lambda row: {("price" if k == "paid" else k): v for k, v in row.items()},
            r"history of `orders`: neither the event table nor a table of items has column `paid` \(.*orders.parquet, ",
        ),
    ],
)
def test_what_an_event_table_lacks_is_named(tmp_path, change, message):
    write_all(tmp_path)
    write_parquet(tmp_path, "orders", [change(row) for row in ORDERS])
    if message is None:
        assert find_tables(with_orders(events="orders"), str(tmp_path))["events_orders"].key == "user"
        return
    with pytest.raises(ValueError, match=message):
        find_tables(with_orders(events="orders"), str(tmp_path))


def test_later_events_of_other_tables_make_no_label_mature(tmp_path):
    write_all(tmp_path)
    write_parquet(tmp_path, "orders", [{**ORDERS[0], "paid_at": "1970-01-02T00:00:00"}])
    data = with_orders(events="orders")
    spec = data.spec.model_copy(update={"labels": (Label("click", matures_after="250s"),)})
    rows = rows_of(execute(Dataset(spec=spec, source=data.source), tmp_path, tmp_path / "out"), spec)
    newest = max(row["when"] for row in LOG) * 1000
    for row in (row for split in rows.values() for row in split):
        assert bool(row["click_is_mature"]) == (row["when"] <= newest - 250_000)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "tfrecord", "json"])
def test_every_format_gives_the_same_files_as_parquet(tmp_path, form):
    found = {}
    for name in ("parquet", form):
        (tmp_path / name).mkdir()
        write_all(tmp_path / name, name)
        artifact = execute(dataset(), tmp_path / name, tmp_path / name / "out")
        found[name] = [records(artifact, split) for split in ("train", "valid", "eval")]
    assert found["parquet"] == found[form]


def test_number_of_shards_and_files_does_not_change_the_rows(tmp_path):
    write_all(tmp_path)
    one = execute(dataset(), tmp_path, tmp_path / "one", num_shards=1)
    (tmp_path / "parts").mkdir()
    write_all(tmp_path / "parts")
    (tmp_path / "parts" / "log.parquet").unlink()
    write_parquet(tmp_path / "parts", "log_0", LOG[:11])
    write_parquet(tmp_path / "parts", "log_1", LOG[11:], row_group_size=2)
    many = execute(dataset(), tmp_path / "parts", tmp_path / "many", num_shards=9)
    assert rows_of(one, SPEC) == rows_of(many, SPEC)
    assert len(tf.io.gfile.glob(f"{many.uri}/Split-train/data_tfrecord-*-of-00009.gz")) == 9
    assert sorted(tf.io.gfile.listdir(many.uri)) == [
        "Split-eval", "Split-train", "Split-valid", "dead_letter.jsonl", "report.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_two_runs_write_the_same_bytes_and_rows_are_shuffled(tmp_path):
    write_all(tmp_path)
    first, second = (execute(dataset(), tmp_path, tmp_path / name, num_shards=1) for name in ("a", "b"))
    assert records(first, "train") == records(second, "train")
    order = [decode(SPEC, record)["user"] for record in records(first, "train")]
    assert order != sorted(order)


@pytest.mark.slow
def test_duplicates_are_dropped_and_counted(tmp_path):
    write_all(tmp_path, log=[*LOG, LOG[3], LOG[3] | {"unread": -1}, LOG[8]])
    artifact = execute(dataset(), tmp_path, tmp_path / "out")
    assert report_of(artifact)["duplicates"] == 3
    write_all(tmp_path)
    assert rows_of(artifact, SPEC) == rows_of(execute(dataset(), tmp_path, tmp_path / "clean"), SPEC)


def test_what_no_table_has_is_missing_and_counted(tmp_path):
    strangers = [row | {"film": 9} for row in LOG[:6]] + LOG[6:]
    write_all(tmp_path, log=strangers)
    artifact = execute(dataset(), tmp_path, tmp_path / "out")
    joins = report_of(artifact)["joins"]
    assert {name: join["matched"] for name, join in joins.items()} == {"user_0": 24, "item_1": 18}
    assert list(joins["item_1"]["log_keys"].values()) == ["9"]
    first = rows_of(artifact, SPEC)["train"][1]
    assert (first["film"], first["studio"], first["genre"]) == (9, None, [])
    assert (first["long_film"], first["long_genre"]) == ([9], ["", ""])


def test_bad_rows_go_to_the_dead_letter_file_with_their_reason(tmp_path):
    write_all(tmp_path, "csv", log=[*LOG, LOG[0] | {"shared": 2}, LOG[1] | {"when": "noon"}, LOG[2] | {"stars": ""}])
    lines = (tmp_path / "log.csv").read_text().splitlines()
    lines.insert(3, "1,2,3")
    (tmp_path / "log.csv").write_text("\n".join([*lines, "1,2,3,4,5,6,7,8", ""]))
    artifact = execute(dataset(max_bad_rows=0.2), tmp_path, tmp_path / "out")
    found = dead_letters(f"{artifact.uri}/dead_letter.jsonl")
    assert {letter.pop("file") for letter in found} == {str(tmp_path / "log.csv")}
    columns = "has {} columns instead of 7"
    assert sorted(found, key=lambda letter: letter["row"]) == [
        {"row": 3, "column": None, "value": "1,2,3", "reason": columns.format(3)},
        {"row": 26, "column": "shared", "value": "2", "reason": NO_FLAG},
        {"row": 27, "column": "when", "value": "noon", "reason": "is not a number"},
        {
            "row": 28,
            "column": "click",
            "value": None,
            "reason": "is missing: it is derived from `stars`, which is missing",
        },
        {"row": 29, "column": None, "value": "1,2,3,4,5,6,7,8", "reason": columns.format(8)},
    ]
    report = report_of(artifact)
    assert report["rows_read"]["log"] == 29 and report["bad_rows"] == {"log": 5, "user_0": 0, "item_1": 0}
    assert sum(report["rows"].values()) == 24


def test_a_label_that_is_given_another_may_be_missing_without_it(tmp_path):
    spec = SPEC.model_copy(update={"labels": (Label("click"), Label("shared", given="click"))})
    given = Dataset(spec=spec, source=dataset(max_bad_rows=0.5).source)
    # With and without the click: one may lack the label, the other is bad.
    clicked, passed = (next(n for n, row in enumerate(LOG) if (row["stars"] >= 3) is liked) for liked in (True, False))
    log = [{**row, "shared": None} if number in (clicked, passed) else row for number, row in enumerate(LOG)]
    write_all(tmp_path, log=log)
    artifact = execute(given, tmp_path, tmp_path / "out")
    (letter,) = dead_letters(f"{artifact.uri}/dead_letter.jsonl")
    assert letter["row"] == clicked + 1 and letter["column"] == "shared"
    assert letter["reason"] == "is missing, in a row with `click`"
    rows = [row for split in rows_of(artifact, spec).values() for row in split]
    key = LOG[passed]["user"], LOG[passed]["when"] * 1000
    (lacking,) = [row for row in rows if (row["user"], row["when"]) == key]
    assert lacking["shared"] == 0 and len(rows) == len(LOG) - 1
    figures = [each for split in report_of(artifact)["labels"]["shared"].values() for each in split.values()]
    assert sum(each["rows"] for each in figures) == sum(row["click"] for row in rows)
    assert sum(each["positives"] for each in figures) == sum(row["click"] and row["shared"] for row in rows)


def test_a_row_weight_is_read_and_must_be_a_number_of_0_or_more(tmp_path):
    spec = SPEC.model_copy(update={"row_weight": "worth"})
    given = Dataset(spec=spec, source=dataset(max_bad_rows=0.5).source)
    wrong = {2: -0.5, 5: None, 7: float("nan")}
    write_all(tmp_path, log=[row | {"worth": wrong.get(number, number / 4)} for number, row in enumerate(LOG)])
    artifact = execute(given, tmp_path, tmp_path / "out")
    letters = dead_letters(f"{artifact.uri}/dead_letter.jsonl")
    found = sorted((letter["row"] - 1, letter["column"], letter["reason"]) for letter in letters)
    assert found == [(2, "worth", "is not a number >= 0"), (5, "worth", "is missing"), (7, "worth", "is missing")]
    rows = [row for split in rows_of(artifact, spec).values() for row in split]
    assert sorted(row["worth"] for row in rows) == [n / 4 for n in range(len(LOG)) if n not in wrong]


def test_a_young_row_is_no_negative_yet(tmp_path):
    # Times are seconds from 1000 to 1503; the last 250 seconds are too young.
    spec = SPEC.model_copy(update={"labels": (Label("click", matures_after="250s"),)})
    write_all(tmp_path)
    artifact = execute(Dataset(spec=spec, source=dataset().source), tmp_path, tmp_path / "out")
    rows = [row for split in rows_of(artifact, spec).values() for row in split]
    newest = max(row["when"] for row in LOG) * 1000
    mature = [row for row in rows if row["click_is_mature"]]
    assert all((row["when"] <= newest - 250_000) == bool(row["click_is_mature"]) for row in rows)
    assert 0 < len(mature) < len(rows) == len(LOG)
    figures = [each for split in report_of(artifact)["labels"]["click"].values() for each in split.values()]
    assert sum(each["rows"] for each in figures) == len(mature)
    assert sum(each["positives"] for each in figures) == sum(row["click"] for row in mature)


def test_a_share_of_the_negatives_is_kept_for_training(tmp_path):
    write_all(tmp_path)
    whole = execute(dataset(), tmp_path, tmp_path / "whole")
    spec = SPEC.model_copy(update={"labels": (Label("click", keep_negatives=0.4),)})
    artifact = execute(Dataset(spec=spec, source=dataset().source), tmp_path, tmp_path / "out")
    before, after = rows_of(whole, SPEC), rows_of(artifact, spec)
    assert before["valid"] == after["valid"] and before["eval"] == after["eval"]
    # Rows that are kept know all earlier ones.
    kept = [row for row in before["train"] if row in after["train"]]
    assert kept == after["train"]
    gone = [row for row in before["train"] if row not in kept]
    negatives = sum(not row["click"] for row in before["train"])
    assert 0 < len(gone) < negatives and not any(row["click"] for row in gone)
    report = report_of(artifact)
    assert report["negatives_left_out"] == len(gone) and report["rows_in_no_split"] == 0
    assert report["rows"]["train"] == len(kept)


def test_too_many_bad_rows_stop_the_run_and_survive_it(tmp_path):
    write_all(tmp_path, log=[*LOG, *(row | {"shared": 7} for row in LOG[:4])])
    with pytest.raises(
        ValueError, match=r"4 of 28 rows of table `log` are bad.* \(0.1\) allows 2: .*row 25, shared: 7"
    ):
        execute(dataset(max_bad_rows=0.1), tmp_path, tmp_path / "examples" / "12")
    letters = dead_letters(tmp_path / "examples" / "dead_letter_12.jsonl")
    assert [letter["row"] for letter in letters] == [25, 26, 27, 28]


def test_a_user_without_a_scenario_makes_bad_rows(tmp_path):
    write_all(tmp_path)
    write_parquet(tmp_path, "users", USERS[1:])
    with pytest.raises(ValueError, match=r"6 of 24 rows of table `log` .*derived from `age`, which is missing"):
        execute(dataset(), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "users.parquet").unlink(), r"no file matches 'users.\*' in "),
        (
            lambda folder: write_parquet(
                folder, "log", [{k: v for k, v in row.items() if k != "shared"} | {"share": 0} for row in LOG]
            ),
            r"log.parquet has no column `shared`; did you mean `share`\?",
        ),
        (
            lambda folder: write_parquet(folder, "films", [{"film": 1, "genres": "a", "studio": 1}]),
            r"no table has column `genre` \(.*films.parquet\); did you mean `genres`\?",
        ),
        (
            lambda folder: write_parquet(folder, "users", [*USERS, {"user": 2, "age": 99.0}]),
            "table `user_0` has 2 different rows with user=2; at most one per key",
        ),
        (
            lambda folder: write_parquet(folder, "log", [row | {"film": {"id": 1}} for row in LOG]),
            "log.parquet, column `film`: cannot read type struct",
        ),
        (
            lambda folder: (folder / "log.parquet").write_bytes(b"no parquet"),
            "log.parquet cannot be read as parquet",
        ),
    ],
)
def test_what_is_wrong_with_the_files_is_said_in_one_line(tmp_path, break_it, message):
    write_all(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        execute(dataset(), tmp_path, tmp_path / "out")
    assert "Traceback" not in str(caught.value)


def test_a_split_without_rows_names_the_days_there_are(tmp_path):
    write_all(tmp_path)
    split = {"type": "by_day", "splits": {"train": ("1970-01-01", "1970-01-01"), "eval": ("1971-01-01", "1971-01-02")}}
    with pytest.raises(ValueError, match=r"split `eval` got no rows; .* from 1970-01-01 to 1970-01-01"):
        execute(dataset(split=split), tmp_path, tmp_path / "out")


def test_one_user_shard_is_held_at_a_time(tmp_path, monkeypatch):
    write_all(tmp_path)
    seen = []
    build = module.stages.build

    def watched(data, tables, *others):
        seen.append((set(tables["log"]["user"].tolist()), set(tables["user_0"]["user"].tolist())))
        return build(data, tables, *others)

    monkeypatch.setattr(module.stages, "build", watched)
    execute(dataset(), tmp_path, tmp_path / "out", num_shards=4)
    assert len(seen) == 4
    assert sorted(user for users, _ in seen for user in users) == [0, 1, 2, 3]
    assert all(joined == users for users, joined in seen)


@pytest.mark.slow
def test_popularity_is_over_all_users_and_stands_in_the_artifact(tmp_path):
    # One day per step: the rows of earlier steps are those of earlier days. More shards than users.
    log = [{**row, "when": row["when"] + 86_400 * ((row["when"] - 1000) // 100)} for row in LOG]
    write_all(tmp_path, log=log)
    features = (*SPEC.features, Numeric("film_rows", group="item", transform="none"))
    spec = FeatureSpec(**{**dict(SPEC), "features": features})
    source = LogSource(**{**dict(dataset().source), "popularity": {"film_rows": Popularity(of="film")}})
    artifact = execute(Dataset(spec=spec, source=source), tmp_path, tmp_path / "out", num_shards=7)
    rows = [row for split in rows_of(artifact, spec).values() for row in split]
    assert len(rows) == len(log)
    day = {(row["user"], row["when"] * 1000): row["when"] // 86_400 for row in log}
    for row in rows:
        today = day[row["user"], row["when"]]
        expected = sum(other["film"] == row["film"] and other["when"] // 86_400 < today for other in log)
        assert row["film_rows"] == expected
    assert max(row["film_rows"] for row in rows) > 0
    counts = pa.parquet.read_table(f"{artifact.uri}/popularity.parquet").to_pandas()
    assert counts[counts.value != ""]["rows"].sum() == counts[counts.value == ""]["rows"].sum() == len(log)


def test_the_component_lists_every_raw_pattern_and_the_splits():
    component = build_example_gen(datasets.load("kuairand"), "/data", 5, source_hash="abc")
    text = component.exec_properties["input_config"]
    for pattern in ("log_standard_*_pure.csv", "user_features.parquet", "history_until_0424.parquet"):
        assert pattern in text
    assert all(f'"{split}"' in component.exec_properties["output_config"] for split in ("train", "valid", "eval"))
    assert "abc" in component.exec_properties["custom_config"]
    with pytest.raises(ValueError, match="`num_shards` must be at least 1, received 0"):
        build_example_gen(datasets.load("kuairand"), "/data", 0)


KUAIRAND = datasets.load("kuairand")


def kuairand_tables():
    """Rows with the columns of the official files."""
    flags = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate")
    log = [
        {"user_id": user, "video_id": 10 + (user + day) % 3, "date": 20220425 + day, "hourmin": 1200,
         "time_ms": 1650859200000 + day * 86_400_000 + 1000 * user, "tab": 1, "play_time_ms": 5}
        | {flag: int((user + day + number) % 3 == 0) for number, flag in enumerate(flags)}
        for day in range(-1, 12)
        for user in range(3)
    ]  # fmt: skip
    texts = ("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
             "register_days_range")  # fmt: skip
    users = [
        {"user_id": user, "is_live_streamer": -124, "is_video_author": 1, **dict.fromkeys(texts, "(0,10]")}
        | {f"onehot_feat{i}": (None if i in (4, 12) and user == 1 else float(i)) for i in range(18)}
        for user in range(3)
    ]
    videos = [
        {"video_id": video, "author_id": 7349781, "video_type": "NORMAL", "upload_type": "LongImport",
         "video_duration": [87433.0, None, 9233.0][video - 10], "music_id": 9155697141,
         "music_type": [9.0, 4.0, None][video - 10], "tag": ["39", "2,1", None][video - 10]}
        for video in (10, 11, 12)
    ]  # fmt: skip
    return log, users, videos


@pytest.mark.slow
def test_kuairand_official_csv_files_give_the_rows_of_the_parquet_files(tmp_path):
    log, users, videos = kuairand_tables()
    layouts = {
        "parquet": [("log_standard_0425_0506", log), ("user_features", users), ("video_features_basic", videos)],
        "csv": [
            ("log_standard_4_08_to_4_21_pure", log[:9]),
            ("log_standard_4_22_to_5_08_pure", log[9:]),
            ("user_features_pure", users),
            ("video_features_basic_pure", videos),
        ],
    }
    found = {}
    for form, tables in layouts.items():
        (tmp_path / form).mkdir()
        for name, rows in tables:
            WRITERS[form](tmp_path / form, name, rows)
        artifact = execute(KUAIRAND, tmp_path / form, tmp_path / form / "out", num_shards=2)
        found[form] = [records(artifact, split) for split in ("train", "valid", "eval")]
        assert report_of(artifact)["rows"] == {"train": 27, "valid": 3, "eval": 6}
    assert found["parquet"] == found["csv"]
    row = decode(KUAIRAND.spec, found["csv"][2][0])
    assert row["author_id"] == 7349781 and row["onehot_feat3"] == 3 and len(row["global_video_id"]) >= 11


def test_files_that_cannot_be_read_to_their_end_are_all_named(tmp_path):
    write_all(tmp_path, "csv")
    whole = (tmp_path / "log.csv").read_bytes()
    for name in ("log_b", "log_c"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(ValueError, match=r"2 of 3 files of table `log` .*log_b.csv.gz is cut off.*; .*log_c.csv.gz is"):
        execute(dataset(), tmp_path, tmp_path / "out")


def test_the_driver_sees_every_file_that_is_read_and_no_other(tmp_path):
    folder = tmp_path / "shop [v2]"
    folder.mkdir()
    write_all(folder, "csv")
    properties = dict(build_example_gen(dataset(), str(folder), 3).exec_properties)

    def fingerprint():
        return module.Driver(None).resolve_exec_properties(dict(properties), None, None)["input_fingerprint"]

    first = fingerprint()
    (folder / "unread.csv").write_text("x")
    assert fingerprint() == first
    (folder / "log_2.csv").write_bytes((folder / "log.csv").read_bytes())
    assert fingerprint() != first


def test_a_record_that_is_no_example_is_a_dead_letter(tmp_path):
    write_all(tmp_path, "tfrecord")
    serialized = list(tf.data.TFRecordDataset(str(tmp_path / "log.tfrecord.gz"), "GZIP").as_numpy_iterator())
    with tf.io.TFRecordWriter(str(tmp_path / "log.tfrecord.gz"), tf.io.TFRecordOptions("GZIP")) as writer:
        for record in [*serialized[:5], b"\x0a\xff", *serialized[5:]]:
            writer.write(record)
    artifact = execute(dataset(max_bad_rows=0.1), tmp_path, tmp_path / "out")
    (letter,) = dead_letters(f"{artifact.uri}/dead_letter.jsonl")
    assert (letter["row"], letter["reason"]) == (6, "is not a tf.Example")
    assert sum(report_of(artifact)["rows"].values()) == 24
