"""Values outside a vocabulary are counted the same, however many wait for a lookup."""

from __future__ import annotations

import pytest

from mixrank.schemas.arrow import pa
from mixrank.serving.drift import row_summary


@pytest.mark.parametrize("lookup", [1, 4, 100])
def test_unseen_values_are_counted_in_blocks_of_any_size(lookup, monkeypatch):
    monkeypatch.setattr(row_summary, "LOOKUP", lookup)
    outside = row_summary.Outside(pa.array([b"a", b"b"], pa.large_binary()))
    assert not outside.read
    for batch in ([b"a", b"x", b"x", b""], [], [b"b", b"y", b"x"], [b"", b"a"]):
        outside.add(pa.array(batch, pa.large_binary()))
    assert outside.read
    # x three times and y once of seven values; "" is padding.
    assert outside.counted() == outside.counted() == (4, 7)


def test_whole_numbers_have_a_padding_of_their_own():
    outside = row_summary.Outside(pa.array([3, 5]))
    outside.add(pa.array([3, -(2**63), 7, 7]))
    assert outside.counted() == (2, 3)
