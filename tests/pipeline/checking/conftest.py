"""A small shop: 20 users see 10 products each over three days, as CSV, with a file of products."""

from __future__ import annotations

import csv
import datetime

import pytest

from mixrank.pipeline.checking import check_log
from mixrank.pipeline.config import RunConfig
from mixrank.schemas import (
    Action,
    Categorical,
    Dataset,
    EventTime,
    FeatureSpec,
    History,
    Join,
    Key,
    Label,
    LogSource,
    Numeric,
    Scenario,
    SplitByDay,
    Table,
    TimeGap,
)

BEGIN = int(datetime.datetime(2024, 3, 1, 8, tzinfo=datetime.UTC).timestamp())
SPLITS = {"train": ("2024-03-01", "2024-03-02"), "eval": ("2024-03-03", "2024-03-03")}
FEATURES = (
    Categorical("product", group="item"),
    Numeric("price", group="item"),
    Categorical("country", group="user", dtype="str"),
    Action("action", flags=("click",)),
    TimeGap("gap"),
    History("past", of=("product", "action", "gap"), length=3, window="before"),
)


class Shop:
    """The files of the shop, and what a check of them finds."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = [
            {
                "user": user,
                "product": (7 * user + 3 * step) % 11,
                # Four views a day on the first two days, two on the last.
                "time": BEGIN + 86_400 * (step // 4) + 600 * (step % 4) + user,
                "page": "home" if (user + step) % 3 else "search",
                "click": int((5 * user + 3 * step) % 7 < 3),
                "country": ("de", "fr", "it")[user % 3],
            }
            for user in range(20)
            for step in range(10)
        ]
        self.products = [{"product": product, "price": 1.5 * product} for product in range(11)]

    def write(self):
        for name, rows in (("log", self.rows), ("products", self.products)):
            with open(self.folder / f"{name}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        return self

    def dataset(self, *more, unit="s", splits=SPLITS, **source):
        spec = FeatureSpec(
            name="shop",
            user=Key("user"),
            item=Key("product"),
            time=EventTime("time", unit=unit),
            scenario=Scenario("page", values=("home", "search")),
            labels=(Label("click"),),
            features=(*FEATURES, *more),
        )
        join = Join(on="item", table=Table(files=("products.csv",)))
        return Dataset(
            spec=spec,
            source=LogSource(log=Table(files=("log.csv",)), joins=(join,), split=SplitByDay(splits=splits), **source),
        )

    def config(self, **settings):
        return RunConfig(name="shop", dataset="shop", data=str(self.folder), train={"batch_size": 16}, **settings)

    def check(self, *more, gates=None, full=False, **declared):
        config = self.config(gates=gates or {})
        return check_log(config, self.dataset(*more, **declared), full=full)


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


@pytest.fixture
def remark():
    """The remark of a kind in a check."""

    def find(check, kind):
        (found,) = (remark for remark in check.remarks if remark.kind == kind)
        return found

    return find
