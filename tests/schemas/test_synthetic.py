"""Toy rows are rows of their spec, and the same every time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mixrank.schemas import Categorical, FeatureSpec, MultiCategorical, Numeric, datasets
from mixrank.schemas.encode import check_row, columns
from mixrank.schemas.synthetic import toy_rows


def test_a_seed_means_the_same_rows(toy_spec):
    assert list(toy_rows(toy_spec, 20, seed=5)) == list(toy_rows(toy_spec, 20, seed=5))
    assert list(toy_rows(toy_spec, 20, seed=5)) != list(toy_rows(toy_spec, 20, seed=6))


def test_a_seed_means_the_same_rows_in_every_process():
    code = (
        "import zlib; from mixrank.schemas.datasets import load; from mixrank.schemas.synthetic import toy_rows; "
        "print(zlib.crc32(repr(list(toy_rows(load('movielens').spec, 9, seed=2))).encode()))"
    )
    seen = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": s}, capture_output=True, check=True).stdout
        for s in ("1", "2")
    }
    assert len(seen) == 1


@pytest.mark.parametrize("name", datasets.names())
@pytest.mark.parametrize("missing", [0.0, 0.5, 1.0])
def test_rows_fit_the_spec_of_every_dataset(name, missing):
    spec = datasets.load(name).spec
    for row in toy_rows(spec, 30, seed=1, missing=missing):
        check_row(spec, row, labels=True)
        assert set(row) == {column.name for column in columns(spec)}


def test_required_columns_are_never_left_out(toy_spec):
    required = (
        Categorical("city", group="user", required=True),
        MultiCategorical("genre", group="item", max_length=2, required=True),
        Numeric("price", group="item", required=True),
    )
    kept = [feature for feature in toy_spec.features if feature.name != "price"]
    spec = FeatureSpec(**{**dict(toy_spec), "features": (*kept, *required)})
    for row in toy_rows(spec, 40, seed=1, missing=1.0):
        check_row(spec, row)
        assert row["country"] is None


def test_the_share_of_missing_values_is_as_asked(toy_spec):
    absent = [row["country"] is None for row in toy_rows(toy_spec, 2000, seed=1, missing=0.3)]
    assert sum(absent) / len(absent) == pytest.approx(0.3, abs=0.04)


def test_labels_depend_on_the_item(toy_spec):
    rates: dict[str, list[int]] = {}
    for row in toy_rows(toy_spec, 5000, seed=1):
        rates.setdefault(row["clip"], []).append(row["click"])
    means = [sum(labels) / len(labels) for labels in rates.values()]
    # Coin tosses of one probability, a hundred per item, would stay within 0.35 and 0.65.
    assert min(means) < 0.3
    assert max(means) > 0.7
