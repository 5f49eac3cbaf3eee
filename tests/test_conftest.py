"""Fixtures that a session makes once."""

from __future__ import annotations

import pytest


def test_what_could_not_be_made_fails_at_once_for_its_next_user(made_once):
    attempts = []

    def make(folder):
        attempts.append(folder)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        made_once("never_made", make)
    with pytest.raises(pytest.fail.Exception, match=r"(?s)`never_made` could not be made before.*the disk is full"):
        made_once("never_made", make)
    assert len(attempts) == 1
