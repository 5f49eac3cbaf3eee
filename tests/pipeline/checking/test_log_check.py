"""What a check finds in a log, one input per kind."""

from __future__ import annotations

import datetime

import pytest

from mixrank.pipeline.checking import log_check
from mixrank.pipeline.checking.log_sample import SampleLimits
from mixrank.schemas import Categorical, Numeric


def test_a_good_log_has_nothing_that_stops_a_run(shop):
    check = shop.write().check()
    assert check.remarks == ()
    assert check.whole
    assert (check.first, check.last) == ("2024-03-01 08:00:00+00:00", "2024-03-03 08:10:19+00:00")
    assert {name: split.rows for name, split in check.splits.items()} == {"train": 160, "eval": 40}
    assert (check.splits["train"].first, check.splits["train"].last) == ("2024-03-01", "2024-03-02")
    assert check.days == {"2024-03-01": {"train": 80}, "2024-03-02": {"train": 80}, "2024-03-03": {"eval": 40}}
    clicks = sum(row["click"] for row in shop.rows)
    counted = [found for splits in check.figures.labels["click"].values() for found in splits.values()]
    assert sum(found.positives for found in counted) == clicks


def test_a_column_is_shown_as_declared_and_as_found(shop):
    shop.rows[0]["country"] = shop.rows[1]["country"] = ""
    columns = {(column.table, column.column): column for column in shop.write().check().columns}
    country = columns["log", "country"]
    assert (country.declared, country.seen, country.rows, country.missing) == ("str", "text", 200, 2)
    assert (country.distinct, country.example) == (3, "fr")
    price = columns["item_0", "price"]
    assert (price.declared, price.seen, price.rows, price.distinct) == ("float", "text (float)", 11, 11)
    assert columns["log", "time"].declared == "time, s"
    assert columns["log", "time"].example.startswith("2024-03-0")


def test_a_label_of_one_class_stops_a_run_unless_it_is_allowed(shop, remark):
    for row in shop.rows:
        row["click"] = 0
    found = remark(shop.write().check(), "one_class_label")
    assert (found.level, found.subject, found.certain) == ("stop", "click", True)
    assert "label `click` is 0 in all 160 rows of `train`" in found.message
    assert found.message.endswith('gates: {allow: ["one_class_label:click"]}')
    allowed = remark(shop.check(gates={"allow": ["one_class_label:click"]}), "one_class_label")
    assert allowed.level == "allowed"
    assert "gates:" not in allowed.message


def test_seconds_that_were_declared_as_milliseconds_are_named(shop, remark):
    days = {"train": ("1970-01-20", "1970-01-20"), "eval": ("1970-01-21", "1970-01-21")}
    check = shop.write().check(unit="ms", splits=days)
    found = remark(check, "implausible_time")
    assert found.level == "stop"
    assert "if these were seconds" in found.message


def test_an_empty_history_is_found(shop, remark):
    shop.rows = [{**row, "user": number} for number, row in enumerate(shop.rows)]
    found = remark(shop.write().check(), "empty_history")
    assert (found.level, found.subject) == ("stop", "past")
    assert "0 of 160 rows of `train`" in found.message


def test_a_join_without_matches_names_keys_that_look_alike(shop, remark):
    shop.products = [{**product, "product": f"{100 + product['product']}"} for product in shop.products]
    check = shop.write().check()
    found = remark(check, "unmatched_join")
    assert (found.level, found.subject) == ("stop", "item_0")
    assert "0 of 200 rows" in found.message
    assert check.figures.joins["item_0"].matched == 0
    assert remark(check, "empty_feature").subject == "price"


def test_a_copy_of_a_label_is_a_leak(shop, remark):
    for row in shop.rows:
        row["bought"] = row["click"]
    found = remark(shop.write().check(Categorical("bought", group="context")), "leakage")
    assert (found.level, found.subject) == ("stop", "bought")
    assert "equals label `click`" in found.message


def test_a_column_with_a_value_only_after_the_label_is_a_leak(shop, remark):
    for number, row in enumerate(shop.rows):
        row["basket"] = number % 3 if row["click"] and number % 2 else ""
    found = remark(shop.write().check(Categorical("basket", group="context")), "leakage")
    assert (found.level, found.subject) == ("stop", "basket")
    with_value = sum(row["basket"] != "" for row in shop.rows)
    assert f"has a value in {with_value} rows, and label `click` is 1 in all of them" in found.message


def test_too_many_bad_rows_stop_a_run_and_one_of_them_is_shown(shop, remark):
    shop.rows[41]["product"] = "none"
    check = shop.write().check()
    found = remark(check, "bad_rows")
    assert (found.level, found.subject) == ("stop", "log")
    assert found.message.startswith("1 of 200 rows of table `log` are bad, but `max_bad_rows` (0.001) allows 0: ")
    assert "log.csv row 42, product: 'none' is not a number" in found.message
    (bad,) = check.bad_rows
    assert (bad.table, bad.row, bad.column, bad.value) == ("log", 42, "product", "'none'")
    assert remark(shop.check(max_bad_rows=0.01), "bad_rows").level == "doubt"


def test_a_split_without_rows_stops_a_run(shop, remark):
    days = {
        "train": ("2024-03-01", "2024-03-02"),
        "valid": ("2024-03-04", "2024-03-05"),
        "eval": ("2024-03-03", "2024-03-03"),
    }
    found = remark(shop.write().check(splits=days), "empty_split")
    assert (found.level, found.subject) == ("stop", "valid")
    assert found.message == (
        "split `valid` got no rows; good rows of the log run from 2024-03-01 to 2024-03-03 (UTC): check `split` of the "
        "source"
    )


def test_a_log_without_a_row_has_empty_splits(shop):
    (shop.write().folder / "log.csv").write_text("user,product,time,page,click,country\n")
    check = shop.check()
    found = [(remark.kind, remark.subject, remark.level) for remark in check.remarks]
    assert found == [("empty_split", "train", "stop"), ("empty_split", "eval", "stop")]
    assert "got no rows; the log has no good rows" in check.remarks[0].message


def test_a_drift_above_the_limit_of_its_feature_stops_a_run(shop, remark, monkeypatch):
    monkeypatch.setattr(log_check, "LEAST_ROWS", 10)
    for row in shop.rows:
        row["price_paid"] = 1.0 if row["time"] < shop.rows[8]["time"] else 2.0
    check = shop.write().check(Numeric("price_paid", group="context", drift=0.2))
    found = remark(check, "drift")
    assert (found.level, found.subject) == ("stop", "price_paid")
    assert "between `train` and `eval` by 1.000 (Jensen-Shannon), more than its `drift` of 0.2" in found.message
    assert check.drift[0].feature == "price_paid"


def test_scenarios_that_the_spec_does_not_list_are_a_doubt(shop, remark):
    for row in shop.rows[:10]:
        row["page"] = "mail"
    check = shop.write().check()
    found = remark(check, "unknown_scenario")
    assert found.level == "doubt"
    assert "5.0% of the rows have a `page` that the spec does not list, such as 'mail'" in found.message


def test_fewer_rows_than_a_batch_stop_a_run(shop, remark):
    shop.rows = [row for row in shop.rows if row["user"] < 1]
    found = remark(shop.write().check(), "few_rows")
    assert "there are 8 training rows, fewer than one batch of 16" in found.message


def test_a_share_of_the_users_keeps_all_of_their_rows(shop, monkeypatch):
    monkeypatch.setattr(log_check, "SampleLimits", lambda *limits: SampleLimits(*limits or (100, 2**20)))
    check = shop.write().check()
    assert check.share == 0.5
    assert not check.whole
    rows = sum(split.rows for split in check.splits.values())
    assert 0 < rows < 200
    # Eight rows of each user train, two are for evaluation, and every one of the latter has a history.
    assert check.splits["train"].rows == 4 * check.splits["eval"].rows
    assert check.figures.histories["past"]["eval"].empty == 0
    joined = check.figures.joins["item_0"]
    assert joined.matched == joined.rows == rows
    whole = shop.check(full=True)
    assert whole.whole
    assert whole.figures.rows == {"train": 160, "eval": 40}


def test_a_large_file_is_read_at_places_from_its_first_to_its_last_rows(shop, remark, monkeypatch):
    shop.rows = [
        {**row, "user": row["user"] + 20 * copy, "time": row["time"] + copy} for copy in range(40) for row in shop.rows
    ]
    shop.rows.sort(key=lambda row: row["time"])
    shop.write()
    size = (shop.folder / "log.csv").stat().st_size
    monkeypatch.setattr(log_check, "SampleLimits", lambda *limits: SampleLimits(*limits or (None, size // 4)))
    check = shop.check()
    (log, _) = check.tables
    assert not log.whole
    assert 0.2 < log.rows / 8000 < 0.3
    assert abs(log.all_rows / 8000 - 1) < 0.05
    assert check.figures.bad_rows["log"] == 0
    assert check.first.startswith("2024-03-01 08:00:00")
    last = datetime.datetime.fromtimestamp(max(row["time"] for row in shop.rows), datetime.UTC)
    assert check.last == last.isoformat(sep=" ")
    assert "of about" in remark(check, "sample").message


@pytest.mark.parametrize("ending", ["missing", "twice"])
def test_a_join_with_two_rows_of_one_key_is_an_error(shop, ending):
    shop.products.append({"product": 3, "price": 99.0 if ending == "twice" else ""})
    with pytest.raises(ValueError, match="table `item_0` has 2 different rows with product=3; at most one per key"):
        shop.write().check()
