"""What a model takes from a Transform result."""

from __future__ import annotations

import pytest

from mixrank.components.training import model_factory, vocabulary_sizes


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_vocabularies_are_as_long_as_transform_says_in_blocks_of_any_size(block, toy_spec, toy_transform, monkeypatch):
    monkeypatch.setattr(model_factory, "BLOCK", block)
    known = {name: len(toy_transform.vocabulary_by_name(name)) for name in toy_spec.vocabularies}
    assert model_factory.known_values(toy_spec, toy_transform) == known
    # Padding, and out-of-vocabulary buckets or those of a hash.
    expected = {name: 1 + size + toy_spec.vocabularies[name].oov for name, size in known.items()} | {
        "country": 1 + 7,
        "habit": 1 + 40,
        "query": 1 + 9,
    }
    assert vocabulary_sizes(toy_spec, toy_transform) == expected
