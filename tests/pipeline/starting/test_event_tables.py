"""Clicks in a file of their own make a label by the impression that they follow."""

from __future__ import annotations

import datetime

import numpy as np

from mixrank.pipeline.starting.columns import profile
from mixrank.pipeline.starting.event_tables import find_events
from mixrank.pipeline.starting.tables import Found
from mixrank.pipeline.starting.times import read_time
from mixrank.schemas import Table
from mixrank.schemas.arrow import pa

TODAY = datetime.date(2025, 1, 1)
START = 1_704_067_200


def table(name, **columns):
    found = {key: profile(key, pa.array(values)) for key, values in columns.items()}
    rows = next(iter(found.values())).rows
    return Found(name, (name,), Table(files=(name,)), found, {key: key for key in found}, rows, rows)


def events(log, other, user="user_id"):
    return find_events(log, [other], user, "item_id", read_time(log.columns["ts"], TODAY), TODAY)


SHOWN = START + np.arange(12) * 1000
LOG = table("shown.csv", user_id=np.arange(12) % 3, item_id=np.arange(12) % 4, ts=SHOWN)


def test_an_event_belongs_to_the_latest_impression_before_it():
    # Rows 0 and 1 are clicked 100 s after they were shown; user 0 sees item 1 (row 9) long after user 1 does (row 1).
    clicks = table("clicks.csv", user_id=[0, 1, 7], item_id=[0, 1, 1], ts=[SHOWN[0] + 100, SHOWN[1] + 100, START + 5])
    (found,) = events(LOG, clicks)
    assert (found.on, found.within, found.name) == (("user_id", "item_id"), "5m", "click")
    assert np.flatnonzero(found.label).tolist() == [0, 1]
    assert found.following == 2 / 3


def test_without_a_user_the_id_of_the_request_tells():
    requests = np.arange(12) // 2
    log = table("shown.csv", request_id=requests, item_id=np.arange(12) % 4, ts=SHOWN)
    clicks = table("orders.csv", request_id=[0, 3], item_id=[1, 2], at=(SHOWN[[1, 6]] + 3600) * 1000)
    (found,) = events(log, clicks, user=None)
    assert (found.on, found.time.column, found.time.form, found.within) == (("request_id", "item_id"), "at", "ms", "2h")
    assert np.flatnonzero(found.label).tolist() == [1, 6]


def test_events_before_every_impression_are_no_label():
    early = table("clicks.csv", user_id=[0, 1], item_id=[0, 1], ts=[START - 10, START - 10])
    assert events(LOG, early) == []
    without_time = table("clicks.csv", user_id=[0, 1], item_id=[0, 1])
    assert events(LOG, without_time) == []
