"""Wide & Deep: both sides."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.models.wide_deep import WideDeep


@pytest.mark.parametrize("units", [(8, 5), ()])
def test_the_representation_follows_the_equations(units, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(WideDeep, {"mlp_units": units}, arguments)
    w, x = arrays(layer), np.concatenate(mean_fields(*arguments[:2]), axis=1)
    deep = x
    for i in range(len(units)):
        deep = np.maximum(deep @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    expected = np.concatenate([x, deep], axis=1) if units else x
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}], ids=str)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(WideDeep, {"mlp_units": (8, 5), **options}, arguments)


def test_the_defaults_are_those_of_the_paper():
    widths = Widths({"user": (32,) * 37, "item": (), "context": ()}, {})
    (part,) = WideDeep().count(widths)
    d = 32 * 37
    assert part.parameters == d * 1024 + 1024 + 1024 * 512 + 512 + 512 * 256 + 256


def test_values_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match=r"`mlp_units` must all be at least 1, received \(0,\)"):
        WideDeep(mlp_units=(0,))
