"""Deadlines and pauses of a call, with a clock that only the test moves."""

from __future__ import annotations

import pytest

from mixrank.serving.client import Inputs
from mixrank.serving.client.protocol import Address, Ask, Calls, Pause, Predict, ServingError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def calls(clock, draw=0.0, **settings):
    settings = {"deadline": 10.0, "retries": 3, "max_rows": 1} | settings
    return Calls(Address("http://h:1", "toy"), Inputs(None), clock=clock, draw=lambda: draw, **settings)


SCORE = {"click": [[0.5]]}


def rows(count):
    return [{"x": float(number)} for number in range(count)]


def test_the_deadline_is_for_all_chunks_together():
    clock = Clock()
    steps = calls(clock).score(rows(3))
    step = next(steps)
    assert isinstance(step, Ask) and isinstance(step.request, Predict) and step.seconds == 10.0
    clock.now += 4
    assert steps.send(SCORE).seconds == pytest.approx(6.0)
    clock.now += 6
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: not done within 10 s"):
        steps.send(SCORE)


def test_the_deadline_is_for_all_retries_together():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps)
    clock.now += 4
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.1)
    clock.now += 0.1
    assert next(steps).seconds == pytest.approx(5.9)
    clock.now += 5
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.2)


def test_no_pause_reaches_past_the_deadline():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps)
    clock.now += 9.95
    with pytest.raises(ServingError, match="UNAVAILABLE: loading$"):
        steps.throw(ServingError("UNAVAILABLE", "loading"))


def test_a_pause_that_takes_too_long_ends_the_call():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps), steps.throw(ServingError("UNAVAILABLE", "loading"))
    clock.now += 11
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: not done within 10 s"):
        next(steps)


def test_pauses_double_up_to_two_seconds_and_each_chunk_has_its_own():
    clock = Clock()
    steps = calls(clock, retries=7, deadline=100.0).score(rows(2))
    next(steps)
    pauses = []
    for _ in range(7):
        pauses.append(steps.throw(ServingError("UNAVAILABLE", "loading")).seconds)
        next(steps)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    steps.send(SCORE)
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.1)


def test_chance_halves_a_pause_at_most():
    steps = calls(Clock(), draw=1.0).score(rows(1))
    next(steps)
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(pytest.approx(0.05))


def test_a_server_without_a_thread_is_asked_again_as_often_as_allowed():
    steps = calls(Clock(), retries=2).score(rows(1))
    next(steps)
    for pause in (0.1, 0.2):
        assert steps.throw(ServingError("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted")) == Pause(pause)
        assert isinstance(next(steps), Ask)
    with pytest.raises(ServingError, match=r"RESOURCE_EXHAUSTED: Server Threadpool Exhausted \(asked 3 times\)"):
        steps.throw(ServingError("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted"))


def test_a_call_that_ended_in_time_asks_no_more():
    steps = calls(Clock()).score(rows(2))
    next(steps), steps.send(SCORE)
    with pytest.raises(StopIteration) as done:
        steps.send(SCORE)
    assert done.value.value == [{"click": 0.5}, {"click": 0.5}]


def test_an_address_is_told_without_its_password():
    secret = "hunter22"
    assert str(Address(f"http://me:{secret}@host:8501", "toy")) == "model `toy` at http://***@host:8501"
    with pytest.raises(ValueError, match="received 'ftp://\\*\\*\\*@host'"):
        Address(f"ftp://me:{secret}@host", "toy")
