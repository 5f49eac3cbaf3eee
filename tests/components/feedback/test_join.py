"""The rule of the join: every impression and every outcome has one fate, by a second, slow telling of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank.components.feedback.join import (
    DUPLICATE,
    EARLY,
    JOINED,
    KEYLESS,
    LATE,
    NO_KEY,
    NO_TIME,
    NOT_SHOWN,
    OF_LEFT_OVER,
    OF_WAITING,
    SHOWN,
    TWICE,
    UNMATCHED,
    USED,
    WAITING,
    join,
)

WITHIN = 4
times = st.integers(0, 12)
missing = st.none()


def slow(served, outcomes, by_id, until):
    """The same by loops over plain rows: `(fates of impressions, fates of outcomes, click, stars)`."""
    what = []
    for place, (key, time, shown) in enumerate(served):
        same = [other for other in served[:place] if other[0] == key and (by_id or other[1] == time)]
        if None in key:
            what.append(NO_KEY)
        elif same:
            what.append(DUPLICATE)
        elif time is None:
            what.append(NO_TIME)
        elif not shown:
            what.append(NOT_SHOWN)
        else:
            what.append(WAITING if time + WITHIN > until else JOINED)
    fate, owners = [], []
    for key, time, *_ in outcomes:
        own = None
        if None in key or (time is None and not by_id):
            fate.append(KEYLESS)
        else:
            mine = [
                place for place, each in enumerate(served) if each[0] == key and what[place] not in (DUPLICATE, NO_KEY)
            ]
            if not by_id:
                mine = [place for place in mine if what[place] in (JOINED, WAITING) and served[place][1] <= time]
            own = max(mine, key=lambda place: served[place][1] or 0) if mine else None
            if own is None:
                fate.append(UNMATCHED)
            else:
                after = 0 if None in (time, served[own][1]) else time - served[own][1]
                if after < 0:
                    fate.append(EARLY)
                elif after > WITHIN:
                    fate.append(LATE)
                else:
                    fate.append({JOINED: USED, WAITING: OF_WAITING}.get(what[own], OF_LEFT_OVER))
        owners.append(own)
    click, stars = [None] * len(served), [None] * len(served)
    used = set()
    for place in range(len(served)):
        mine = [n for n, own in enumerate(owners) if own == place and fate[n] == USED]
        mine.sort(key=lambda n: (served[place][1] if outcomes[n][1] is None else outcomes[n][1], n))
        clicks = [n for n in mine if outcomes[n][2] is not None]
        if clicks:
            chosen = next((n for n in clicks if outcomes[n][2]), clicks[0])
            click[place] = outcomes[chosen][2]
            used.add(chosen)
        rated = [n for n in mine if outcomes[n][3] is not None]
        if rated:
            stars[place] = outcomes[rated[-1]][3]
            used.add(rated[-1])
    fate = [TWICE if each == USED and n not in used else each for n, each in enumerate(fate)]
    return what, fate, click, stars


def fast(served, outcomes, names, until):
    def frame(rows, columns):
        found = pd.DataFrame([[*key, *rest] for key, *rest in rows], columns=[*names, *columns])
        for name in columns:
            if name != SHOWN:
                found[name] = found[name].astype(float)
        return found.astype(dict.fromkeys(names, object))

    left, right = frame(served, ["at", SHOWN]), frame(outcomes, ["at", "click", "stars"])
    left[SHOWN] = left[SHOWN].astype(bool)
    rule = {"flags": ["click"], "numbers": ["stars"], "within_ms": WITHIN, "until_ms": until}
    return join(left, right, keys=names, time="at", **rule)


def plain(values):
    return [None if np.isnan(each) else int(each) for each in values]


def check(served, outcomes, names, until):
    what, fate, click, stars = slow(served, outcomes, len(names) == 1, until)
    found = fast(served, outcomes, names, until)
    assert found.served.tolist() == what
    assert found.outcomes.tolist() == fate
    assert plain(found.values["click"]) == click
    assert plain(found.values["stars"]) == stars


ids = st.tuples(st.sampled_from(["a", "b", "c", "d"]) | missing)
pairs = st.tuples(st.sampled_from(["1", "2"]) | missing, st.sampled_from(["x", "y"]))
values = (st.integers(0, 1) | missing, st.integers(1, 3) | missing)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.lists(st.tuples(ids, times | missing, st.booleans()), max_size=8),
    st.lists(st.tuples(ids, times | missing, *values), max_size=8),
    times,
)
def test_by_id_every_row_and_outcome_has_the_fate_that_a_slow_join_gives_it(served, outcomes, until):
    check(served, outcomes, ["impression_id"], until)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.lists(st.tuples(pairs, times | missing, st.just(True)), max_size=8),
    st.lists(st.tuples(pairs, times | missing, *values), max_size=8),
    times,
)
def test_by_user_and_item_an_outcome_belongs_to_the_latest_impression(served, outcomes, until):
    check(served, outcomes, ["user", "item"], until)


def test_the_window_is_closed_at_both_ends_and_ties_go_to_the_first_row_of_the_log():
    served = [(("a",), 10, True), (("a",), 10, True), (("b",), 10, True), (("c",), 11, True)]
    outcomes = [(("a",), 10, 1, None), (("a",), 14, 1, 2), (("b",), 15, 1, None), (("b",), 9, 1, None)]
    found = fast(served, outcomes, ["impression_id"], 14)
    assert found.served.tolist() == [JOINED, DUPLICATE, JOINED, WAITING]
    assert found.outcomes.tolist() == [USED, USED, LATE, EARLY]
    assert plain(found.values["click"]) == [1, None, None, None]
    assert plain(found.values["stars"]) == [2, None, None, None]
