"""A spec's columns become model inputs and tables."""

from __future__ import annotations

import pytest

from mixrank.layers.ranking import model_inputs, table_sizes


def test_every_transformed_column_is_an_input(spec):
    inputs = model_inputs(spec)
    shapes = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in inputs.items()}
    one = ("int64", ())
    assert shapes == {
        "place": one,
        "person": one,
        "age": ("float32", ()),
        "clip": one,
        "tag": ("int64", (2,)),
        "seconds": one,
        "country": one,
        "past_clip": ("int64", (5,)),
        "past_tag": ("int64", (10,)),
        "past_action": ("int64", (5,)),
        "past_gap": ("int64", (5,)),
        "today_clip": ("int64", (3,)),
        "today_tag": ("int64", (6,)),
        "today_action": ("int64", (3,)),
        "today_gap": ("int64", (3,)),
        "had": ("float32", (3,)),
    }
    assert all(tensor.name == name for name, tensor in inputs.items())


def test_tables_hold_padding_and_what_the_feature_can_say(spec, sizes):
    # place: missing, 2 values, unknown; seconds: missing, 4 buckets; action: padding, 2**2 masks; gap: padding, 8.
    assert table_sizes(spec, sizes) == {**sizes, "place": 4, "seconds": 5, "action": 5, "gap": 9}


def test_a_missing_size_is_named(spec, sizes):
    del sizes["tag"]
    with pytest.raises(ValueError, match="`sizes` lacks the categorical feature `tag` of toy"):
        table_sizes(spec, sizes)


def test_a_misspelt_size_gets_the_nearest_name(spec, sizes):
    with pytest.raises(ValueError, match="'cilp', which is not a categorical feature of toy; did you mean `clip`?"):
        table_sizes(spec, {**sizes, "cilp": 3})
