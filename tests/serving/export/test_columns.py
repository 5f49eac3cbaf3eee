"""Rows become dense columns with the padding that the signature reads as missing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.schemas.encode import PADDING, columns
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.export import to_columns

FULL = {
    "page": "cart",
    "person": 7,
    "country": "DE",
    "clip": "café",
    "tag": ["a", "b", "c"],
    "price": 2.5,
    "age": 30,
    "look": [0.5, 0.0, -2.0],
    "global_clip": ["x", "y"],
    "global_tag": ["a", "", "", "b", "c", ""],
    "global_action": [3, 0],
    "global_gap": [10, -1],
}
BARE = {"page": "home", "person": 8, "clip": "z"}


@pytest.fixture
def stacked(toy_spec):
    return to_columns(toy_spec, [FULL, BARE])


def test_there_is_one_column_per_request_column(toy_spec, stacked):
    assert set(stacked) == {column.name for column in columns(toy_spec) if column.serving}
    assert not {"at", "click", "buy"} & set(stacked)


def test_shapes_and_types_are_fixed(stacked):
    assert {name: (column.shape, column.dtype) for name, column in stacked.items()} == {
        "page": ((2,), object),
        "person": ((2,), np.int64),
        "country": ((2,), object),
        "clip": ((2,), object),
        "last": ((2,), object),
        "tag": ((2, 3), object),
        "tag_weight": ((2, 3), np.float32),
        "price": ((2,), np.float32),
        "age": ((2,), np.float32),
        "hour": ((2,), np.float32),
        "seconds": ((2,), np.float32),
        "look": ((2, 3), np.float32),
        "taste": ((2, 2), np.float32),
        "global_clip": ((2, 6), object),
        "global_tag": ((2, 18), object),
        "global_action": ((2, 6), np.int64),
        "global_gap": ((2, 6), np.int64),
        "realtime_clip": ((2, 4), object),
        "realtime_tag": ((2, 12), object),
        "realtime_action": ((2, 4), np.int64),
        "realtime_gap": ((2, 4), np.int64),
        "orders_clip": ((2, 3), object),
        "orders_price": ((2, 3), np.float32),
        "orders_seconds": ((2, 3), np.float32),
        "orders_paid": ((2, 3), np.float32),
        "orders_gap": ((2, 3), np.int64),
        "searches_query": ((2, 2), object),
        "searches_look": ((2, 6), np.float32),
        "searches_temper": ((2, 4), np.float32),
        "global_tag_weight": ((2, 18), np.float32),
        "realtime_tag_weight": ((2, 12), np.float32),
        "viewed_clip": ((2, 3), object),
        "viewed_paid": ((2, 3), np.float32),
    }


def test_values_keep_their_places_and_padding_follows(stacked):
    assert stacked["clip"].tolist() == ["café".encode(), b"z"]
    assert stacked["global_tag"][0].tolist() == [b"a", b"", b"", b"b", b"c", b""] + [b""] * 12
    assert stacked["global_action"][0].tolist() == [3, 0] + [PADDING["int"]] * 4
    assert stacked["global_gap"][0].tolist() == [10, -1] + [PADDING["int"]] * 4


def test_what_a_row_lacks_is_padding(stacked):
    assert stacked["country"][1] == b""
    assert stacked["tag"][1].tolist() == [b"", b"", b""]
    assert stacked["realtime_gap"][1].tolist() == [PADDING["int"]] * 4
    assert math.isnan(stacked["price"][1]) and not math.isnan(stacked["price"][0])


def test_no_rows_are_no_error(toy_spec):
    assert all(len(column) == 0 for column in to_columns(toy_spec, []).values())


def test_a_row_that_does_not_fit_is_refused(toy_spec):
    with pytest.raises(ValueError, match="column `clip` is required but missing"):
        to_columns(toy_spec, [FULL, {"page": "home", "person": 8}])


def test_toy_rows_of_every_kind_stack(toy_spec):
    rows = list(toy_rows(toy_spec, 9, seed=4, missing=0.5))
    stacked = to_columns(toy_spec, rows)
    assert stacked["person"].tolist() == [row["person"] for row in rows]
    assert [v or None for v in stacked["country"]] == [r["country"] and r["country"].encode() for r in rows]
