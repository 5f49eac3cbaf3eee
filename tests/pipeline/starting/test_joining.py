"""A table is joined by the column that holds the keys of the log, once each."""

from __future__ import annotations

import numpy as np

from mixrank.pipeline.starting.columns import profile
from mixrank.pipeline.starting.joining import join_tables
from mixrank.pipeline.starting.tables import Found
from mixrank.schemas import Table
from mixrank.schemas.arrow import pa


def table(name, **columns):
    found = {key: profile(key, pa.array(values)) for key, values in columns.items()}
    rows = next(iter(found.values())).rows
    return Found(name, (name,), Table(files=(name,)), found, {key: key for key in found}, rows, rows)


LOG = table("log.csv", user_id=np.arange(200) % 40, item_id=np.arange(200) % 30, click=np.arange(200) % 2)


def joined(*tables):
    found, unused = join_tables(LOG, tables, "user_id", "item_id")
    return [(each.table.name, each.on, each.column) for each in found], [(each.table.name, each.why) for each in unused]


def test_tables_are_joined_by_the_column_of_the_same_name():
    users = table("people.csv", user_id=np.arange(40), age=np.arange(40))
    items = table("things.csv", item_id=np.arange(30), price=np.arange(30))
    assert joined(items, users) == (
        [("people.csv", "user", "user_id"), ("things.csv", "item", "item_id")],
        [],
    )


def test_a_key_of_another_name_is_found_by_its_values():
    users = table("users.csv", id=np.arange(40), age=np.arange(40))
    movies = table("movies.csv", movieId=np.arange(30))
    assert joined(users, movies)[0] == [("users.csv", "user", "id"), ("movies.csv", "item", "movieId")]


def test_numbers_in_a_text_file_match_numbers():
    users = table("users.csv", user_id=[str(n) for n in range(40)])
    assert joined(users)[0] == [("users.csv", "user", "user_id")]


def test_a_table_that_does_not_fit_is_named_with_the_reason():
    several = table("visits.csv", user_id=np.arange(80) % 40)
    others = table("users.csv", user_id=np.arange(1000, 1040))
    away = table("shops.csv", town=["a", "b"])
    found, unused = joined(several, others, away)
    assert found == []
    assert unused == [
        ("visits.csv", "it has several rows per `user_id` (40 in 80 rows)"),
        ("users.csv", "`user_id` has the keys of 0% of the log's rows only"),
        ("shops.csv", "no column of it holds the keys of the log"),
    ]


def test_a_table_that_belongs_to_a_joined_one_is_told_so():
    items = table("things.csv", item_id=np.arange(30), shelf_id=np.arange(30) % 4)
    shelves = table("shelves.csv", shelf_id=np.arange(4), floor=[0, 0, 1, 1])
    _, unused = joined(items, shelves)
    assert unused == [
        ("shelves.csv", "it belongs to `shelf_id` of things.csv, and tables are joined by user or item only")
    ]
