"""Where histories end and how rows are split, from the users and times of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixrank.pipeline.starting.times import as_day
from mixrank.schemas import CalendarDay, Sliding, SplitByDay, SplitByHash, SplitByUserTail

DAY_MS = 86_400_000
# Lengths of a sitting that are tried, in seconds.
SITTINGS = (600, 3600)
# Least share of rows with an event, for a history to be declared.
LEAST_FILLED = 0.02
LENGTHS = (5, 10, 20, 50)
# Shares of the rows that are judged on and that validate, at least; and of the days, at most.
EVAL, VALID, MOST_DAYS = 0.1, 0.05, 0.35
# Least share of judged rows whose user the training rows know, for a split by day.
LEAST_KNOWN = 0.3
# Fewer rows than these in a split judge nothing.
LEAST_ROWS = 50


@dataclass(frozen=True)
class Histories:
    """How histories are cut.

    Args:
        window: where real time begins.
        before, within: share of rows with an event, and length, of each history; None if it would be empty.
        why: reason.
    """

    window: CalendarDay | Sliding
    before: tuple[float, int] | None
    within: tuple[float, int] | None
    why: str


def cut_histories(user: np.ndarray, ms: np.ndarray, zone: str) -> Histories | None:
    """The window under which most rows have both histories; None if users do not come back.

    Args:
        user: int array (rows,), -1 if missing.
        ms: float array (rows,). Milliseconds, NaN if missing.
        zone: IANA name of the zone whose days count.
    """
    known = (user >= 0) & ~np.isnan(ms)
    user, ms = user[known], ms[known].astype(np.int64)
    if not len(user):
        return None
    day_start = ms - ms % DAY_MS
    options: list[tuple[CalendarDay | Sliding, np.ndarray]] = [(CalendarDay(timezone=zone), day_start)]
    options += [(Sliding(seconds=seconds), ms - 1000 * seconds) for seconds in SITTINGS]
    found = [(window, *_events(user, ms, start)) for window, start in options]
    filled = [(float(np.mean(before > 0)), float(np.mean(within > 0))) for _, before, within in found]
    # A day is what people understand; a sitting only where a day leaves one history nearly empty.
    best = 0
    if min(filled[0]) < 0.1:
        best = int(np.argmax([min(pair) for pair in filled]))
        best = best if min(filled[best]) > 2 * min(filled[0]) else 0
    window, before, within = found[best]
    shares = filled[best]
    if max(shares) < LEAST_FILLED:
        return None
    words = "day" if isinstance(window, CalendarDay) else f"{window.seconds} seconds"
    why = f"{shares[1]:.0%} of the rows follow an event of the user in the same {words}, {shares[0]:.0%} an earlier one"
    parts = [
        (share, _length(events, longest)) if share >= LEAST_FILLED else None
        for share, events, longest in ((shares[0], before, 50), (shares[1], within, 20))
    ]
    return Histories(window, parts[0], parts[1], why)


def _events(user: np.ndarray, ms: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events of the user before `start`, and from there to strictly before the row's time."""
    base = int(min(ms.min(), start.min()))
    span = int(ms.max()) - base + 1
    place = user.astype(np.int64) * span
    keys = np.sort(place + ms - base)
    first = np.searchsorted(keys, place)
    begin = np.searchsorted(keys, place + np.maximum(start - base, 0))
    end = np.searchsorted(keys, place + ms - base)
    return begin - first, end - begin


def _length(events: np.ndarray, longest: int) -> int:
    usual = np.quantile(events[events > 0], 0.9)
    return next((length for length in LENGTHS if usual <= length), longest) if usual <= longest else longest


@dataclass(frozen=True)
class Divided:
    """A split with its reason.

    Args:
        split: how rows are dealt.
        why: reason.
        doubt: question, or empty.
    """

    split: SplitByDay | SplitByUserTail | SplitByHash
    why: str
    doubt: str = ""

    @property
    def validates(self) -> bool:
        """Whether there is a split `valid`."""
        if isinstance(self.split, SplitByDay):
            return "valid" in self.split.splits
        return self.split.valid > 0


def divide(user: np.ndarray | None, day: np.ndarray, labels: list[np.ndarray], zone: str, sub_day: bool) -> Divided:
    """A split by day if every part gets rows of both classes and users that training knows, else by user.

    Args:
        user: int array (rows,), or None for a log without users.
        day: int array (rows,). Days since 1970, -1 if missing.
        labels: of every task, arrays (rows,) of 0 and 1.
        zone: IANA name of the zone whose days count.
        sub_day: whether times are finer than a day.
    """
    why = "fewer than 3 days"
    if parts := _days(day):
        train, valid, judged = (np.isin(day, days) for days in parts)
        known = 1.0 if user is None else float(np.mean(np.isin(user[judged], user[train])))
        if not all(_usable(rows, labels) for rows in (train, judged)):
            why = "the first or last days lack rows with or without a label"
        elif known < LEAST_KNOWN:
            why = "users hardly come back on later days"
        else:
            split = _by_day(parts, zone, _usable(valid, labels))
            whose = f", {known:.0%} of them by users of `train`" if user is not None else ""
            return Divided(split, f"judged on the last {np.mean(judged):.0%} of the rows{whose}")
    if user is not None and sub_day:
        why += ": the last tenth of every user's rows is judged, the tenth before it validates"
        return Divided(SplitByUserTail(valid=0.1, eval=0.1), why)
    dealt = "rows" if user is None else "users"
    return Divided(
        SplitByHash(valid=0.1, eval=0.1),
        f"{why}: a tenth of the {dealt} is judged, by chance",
        "can it be split by day? Scores look better without",
    )


def _days(day: np.ndarray) -> tuple[list[int], list[int], list[int]] | None:
    """The days of train, valid and eval; None for a log of fewer than 3 days."""
    days, rows = np.unique(day[day >= 0], return_counts=True)
    if len(days) < 3:
        return None
    share = rows / rows.sum()
    most = max(1, int(MOST_DAYS * len(days)))
    judged = _last(share, EVAL, most)
    left = share[: len(days) - judged]
    valid = _last(left, VALID, most) if len(left) > 1 else 0
    cut = len(days) - judged
    return days[: cut - valid].tolist(), days[cut - valid : cut].tolist(), days[cut:].tolist()


def _last(share: np.ndarray, least: float, most: int) -> int:
    """Number of last days that have a share of the rows."""
    reached = np.cumsum(share[::-1]) >= least
    return min(most, int(np.argmax(reached)) + 1 if reached.any() else len(share))


def _usable(rows: np.ndarray, labels: list[np.ndarray]) -> bool:
    return bool(rows.sum() >= LEAST_ROWS and all(0 < label[rows].mean() < 1 for label in labels))


def _by_day(parts: tuple[list[int], list[int], list[int]], zone: str, with_valid: bool) -> SplitByDay:
    train, valid, judged = parts
    if not with_valid:
        train = [*train, *valid]
    named = {"train": train, "valid": valid if with_valid else [], "eval": judged}
    splits = {name: (as_day(days[0]), as_day(days[-1])) for name, days in named.items() if days}
    return SplitByDay(splits=splits, timezone=zone)


def quiet_hour(ms: np.ndarray) -> int | None:
    """The hour of the day (UTC) with the fewest rows, if it has far fewer than the others."""
    known = ms[~np.isnan(ms)]
    rows = np.bincount((known // 3_600_000 % 24).astype(int), minlength=24)
    return int(np.argmin(rows)) if rows.min() < 0.3 * rows.mean() else None
