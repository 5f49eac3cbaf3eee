"""Requests to two labels: the same rows in turns, for as long as asked, with what came back."""

from __future__ import annotations

import time

import pytest

from mixrank.serving.client import ServingError
from mixrank.serving.rollout import watch

ROWS = [{"x": float(number)} for number in range(5)]


class Client:
    """Scores x as itself; `does` is called with the number of each request before it is answered."""

    def __init__(self, name, asked, does=lambda number: None):
        self.name, self.asked, self.does, self.requests = name, asked, does, 0

    def score(self, rows):
        self.requests += 1
        self.asked.append((self.name, [row["x"] for row in rows]))
        self.does(self.requests)
        return [{"click": row["x"]} for row in rows]


def ask(seconds=0.0, rows_per_request=2, does=lambda number: None, enough=lambda probes: False, per_second=1000):
    asked = []
    clients = {"stable": Client("stable", asked), "canary": Client("canary", asked, does)}
    found = watch(
        clients, ROWS, seconds=seconds, per_second=per_second, rows_per_request=rows_per_request, enough=enough
    )
    return found, asked


def test_every_row_is_sent_to_both_and_none_is_always_the_first():
    found, asked = ask()
    assert asked == [
        ("stable", [0, 1]),
        ("canary", [0, 1]),
        ("canary", [2, 3]),
        ("stable", [2, 3]),
        ("stable", [4, 0]),
        ("canary", [4, 0]),
    ]
    for probes in found.values():
        assert (probes.requests, probes.errors) == (3, 0)
        assert probes.scores == {number: {"click": float(number)} for number in range(5)}


def test_a_request_holds_no_row_twice():
    _, asked = ask(rows_per_request=100)
    assert asked == [("stable", [0, 1, 2, 3, 4]), ("canary", [0, 1, 2, 3, 4])]


def test_the_first_three_requests_are_not_timed():
    found, _ = ask(rows_per_request=1, does=lambda number: time.sleep(0.2 if number <= 3 else 0.02))
    assert len(found["canary"].milliseconds) == 2
    assert 20 <= found["canary"].latency(0.5) <= found["canary"].latency(0.99) < 200
    assert set(found["canary"].numbers()) == {"requests", "errors", "p50_ms", "p99_ms"}
    untimed, _ = ask(rows_per_request=5)
    assert untimed["canary"].latency(0.5) is None and untimed["canary"].numbers() == {"requests": 1, "errors": 0}


def test_failures_are_counted_and_the_first_is_kept():
    def fails(number):
        if number > 1:
            raise ServingError("INTERNAL", f"failure {number}")

    found, _ = ask(does=fails)
    assert found["canary"].numbers() == {"requests": 3, "errors": 2, "error": "INTERNAL: failure 2"}
    assert set(found["canary"].scores) == {0, 1} and found["stable"].errors == 0
    with pytest.raises(ZeroDivisionError):
        ask(does=lambda number: 1 / 0)


def test_it_ends_after_its_time_or_once_it_has_seen_enough():
    began = time.monotonic()
    found, _ = ask(seconds=0.5, per_second=20)
    assert 0.5 <= time.monotonic() - began < 30
    assert 3 <= found["canary"].requests <= 11
    found, _ = ask(seconds=60, enough=lambda probes: probes["canary"].requests == 2)
    assert found["canary"].requests == 2
