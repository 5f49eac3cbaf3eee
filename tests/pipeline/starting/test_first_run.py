"""Logs as people have them are declared without a question that matters, and the files load."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

from mixrank.pipeline.config import load_config
from mixrank.pipeline.starting import Answers, Question, look, start
from mixrank.schemas import CalendarDay, Sliding, SplitByDay, SplitByUserTail

TODAY = datetime.date(2025, 1, 1)


def begin(*logs, name="my_log", told=None, ask=None):
    started = start(look(logs or ("log",)), name, Path(), Answers(told or {}, ask), today=TODAY)
    config = load_config(str(started.config))
    dataset = config.load_dataset()
    assert dataset == started.plan.dataset
    return dataset.spec, dataset.source, config, started.declaration.read_text()


def groups(spec):
    return {
        group: {feature.name for feature in spec.inputs if feature.group == group}
        for group in ("user", "item", "context")
    }


def test_videos_with_users_and_items_in_tables_of_their_own(log):
    log("videos")
    spec, source, config, text = begin()
    assert (spec.user.name, spec.item.name, spec.time.name, spec.time.unit) == ("user_id", "video_id", "time_ms", "ms")
    assert (spec.scenario.name, spec.scenario.values) == ("tab", (0, 1, 2, 4))
    assert spec.tasks == ("is_click", "long_view")
    assert groups(spec) == {
        "user": {"user_id", "user_active_degree", "is_video_author", "follow_user_num", "onehot_feat0"},
        "item": {"video_id", "duration_ms", "author_id", "video_type", "video_duration", "tag"}
        | {"video_id_is_click_rate", "video_id_long_view_rate"},
        "context": {"hourmin"},
    }
    assert [(join.on, join.table.files) for join in source.joins] == [
        ("user", ("user_features_pure.csv",)),
        ("item", ("video_features_basic_pure.csv",)),
        ("item", ("video_features_statistic_pure.csv",)),
    ]
    assert source.log.files == ("log_standard_4_*_pure.csv",)
    assert isinstance(source.window, CalendarDay)
    assert isinstance(source.split, SplitByDay)
    assert {history.window: history.of for history in spec.histories}["within"][:3] == ("video_id", "author_id", "tag")
    for left_out in ("date", "play_time_ms", "profile_stay_time", "upload_dt of", "like_cnt of"):
        assert f"# left out: {left_out}" in text
    assert config.model.name == "hemix"


def test_films_with_ratings_are_liked_above_a_threshold(log):
    log("films")
    spec, source, _, text = begin()
    assert (spec.user.name, spec.item.name, spec.time.unit) == ("userId", "movieId", "s")
    assert spec.tasks == ("liked",)
    assert source.derive["liked"].column == "rating"
    assert groups(spec)["item"] == {"movieId", "genres", "movieId_liked_rate"}
    assert spec.get("genres").separator == "|"
    assert spec.scenario.values == ("all",)
    assert isinstance(source.window, Sliding)
    assert isinstance(source.split, SplitByUserTail)
    assert "# left out: title of movies.csv" in text
    assert "# ? is this what should be predicted? `rating` >= 4 is in `derive`" in text


def test_a_file_without_names_of_columns_gets_those_of_their_roles(log):
    log("film_lines")
    spec, source, _, text = begin()
    assert source.log.columns == ("user_id", "item_id", "rating", "timestamp")
    assert 'every step is learned by Label("rating", kind="ordinal", classes=(' in " ".join(
        text.replace("#", "").split()
    )
    assert source.log.separator == "\t" or source.log.format == "tsv"
    assert spec.tasks == ("liked",)


def test_a_bandit_log_has_no_user_and_so_no_history(log):
    log("bandit")
    spec, source, config, text = begin()
    assert spec.user.per_row
    assert (spec.item.name, spec.time.name, spec.tasks) == ("item_id", "timestamp", ("click",))
    assert spec.histories == ()
    assert groups(spec)["context"] == {"position", "user_feature_0", "user_feature_1", "user_item_affinity_0"}
    assert source.log.rename == {"user-item_affinity_0": "user_item_affinity_0"}
    assert config.model.name == "dcnv2"
    assert "# left out: propensity_score" in text


def test_a_grocery_log_joins_products_and_customers(log):
    log("grocery")
    spec, source, _, text = begin()
    assert (spec.user.name, spec.item.name, spec.time.name) == ("customer_id", "product_id", "ordered_at")
    assert (spec.time.format, spec.time.timezone) == ("iso", "UTC")
    assert spec.scenario.name == "channel"
    assert spec.tasks == ("reordered",)
    assert [(join.on, join.table.files) for join in source.joins] == [
        ("user", ("customers.csv",)),
        ("item", ("products.csv",)),
    ]
    assert source.joins[0].table.rename == {"id": "customer_id"}
    assert source.joins[1].table.decimal == ","
    assert groups(spec)["item"] == {"product_id", "department_id", "price", "product_id_reordered_rate"}
    assert "# not used: departments.csv" in text
    assert "# left out: order_id" in text


def test_a_messy_log_is_read_with_its_words_and_folders(log):
    log("messy")
    spec, source, _, text = begin()
    assert (spec.user.dtype, spec.item.dtype) == ("int", "str")
    assert spec.tasks == ("clicked", "bought")
    assert spec.scenario.name == "page"
    assert groups(spec)["item"] == {"sku", "brand", "price_dot", "sku_clicked_rate", "sku_bought_rate"}
    assert groups(spec)["context"] == {"position", "tags", "city", "age"}
    assert (source.log.decimal, source.log.missing) == (".", ("N/A",))
    assert spec.get("age").kind == "int"
    for left_out in ("price", "emb", "weight", "watch", "dt"):
        assert f"# left out: {left_out}, " in text


@pytest.mark.parametrize("name", ["videos", "films", "bandit", "grocery", "messy"])
def test_the_declaration_is_formatted(log, name):
    log(name)
    begin()
    options = ["--isolated", "--line-length=120", "--target-version=py311"]
    ruff = [sys.executable, "-m", "ruff", "format", "--diff", *options, "my_log.py"]
    assert subprocess.run(ruff, capture_output=True, text=True).stdout == ""


def test_columns_can_be_told(log):
    log("videos")
    spec, *_ = begin(told={"label": ("is_like",), "scenario": ("none",), "user": ("none",)})
    assert spec.tasks == ("is_like",)
    assert spec.scenario.values == ("all",)
    assert spec.user.per_row


def test_only_what_is_in_doubt_is_asked(log):
    log("films")
    asked: list[Question] = []

    def ask(question: Question) -> str:
        asked.append(question)
        return question.guess

    spec, *_ = begin(ask=ask)
    assert [question.about for question in asked] == ["label"]
    assert spec.tasks == ("liked",)


def test_nothing_is_written_over(log):
    log("films")
    Path("my_log.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"my_log.yaml exists, and nothing is written over: give another --name"):
        begin()
    assert Path("my_log.yaml").read_text() == "mine"
    assert not Path("my_log.py").exists()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id,item_id,clicked,n",
            "no column of log.csv looks like a time .user_id, item_id, clicked, n.; name it by",
        ),
        ("user_id,item_id,n,timestamp", "no column of log.csv looks like a label"),
        (
            "user_id,n,clicked,timestamp",
            "no column looks like the key of an item in log.csv .*name it by --item COLUMN",
        ),
    ],
)
def test_a_log_that_lacks_a_role_is_refused_with_its_columns(tmp_path, monkeypatch, header, message):
    monkeypatch.chdir(tmp_path)
    Path("log").mkdir()
    values = {"user_id": lambda i: i % 9, "item_id": lambda i: i % 7, "clicked": lambda i: i % 2}
    values |= {"n": lambda i: 1 + i % 5 / 7, "timestamp": lambda i: 1_704_067_200 + i * 3600}
    rows = [",".join(str(values[name](i)) for name in header.split(",")) for i in range(300)]
    Path("log/log.csv").write_text("\n".join([header, *rows, ""]))
    with pytest.raises(ValueError, match=message):
        begin()
    assert not Path("my_log.py").exists()


def test_a_told_column_that_is_not_there_is_named(log):
    log("films")
    with pytest.raises(ValueError, match="--item names column `film`, which ratings.csv does not have; it has userId"):
        begin(told={"item": ("film",)})
