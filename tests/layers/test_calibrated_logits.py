"""Calibrated logits in the graph against the same curves in NumPy."""

import keras
import numpy as np
import pytest

from mixrank.components.calibration import Curve
from mixrank.layers.heads import CalibratedLogits

CURVES = (
    Curve(values=(0.3,), left=0.7, right=0.7),
    Curve(knots=(-1.0, 0.5, 2.0), values=(-2.0, 0.0, 0.1), left=1.0, right=1.0),
    Curve(knots=(0.0, 0.2), values=(1.0, 5.0), left=0.5, right=2.0),
)
LOGITS = np.linspace(-4, 4, 61).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_scenario_goes_through_its_own_curve(count):
    layer = CalibratedLogits(curves={"click": tuple(curve.as_argument() for curve in CURVES[:count])})
    scenario = np.arange(61) % count
    found = layer({"click": LOGITS, "buy": 2 * LOGITS}, scenario)
    expected = [CURVES[n].of(z) for n, z in zip(scenario, LOGITS, strict=True)]
    np.testing.assert_allclose(found["click"], expected, atol=2e-6)
    np.testing.assert_array_equal(found["buy"], 2 * LOGITS)


def test_the_candidates_of_a_request_share_its_scenario():
    layer = CalibratedLogits(curves={"click": tuple(curve.as_argument() for curve in CURVES)})
    one = layer({"click": LOGITS}, np.array([1]))["click"]
    np.testing.assert_array_equal(one, layer({"click": LOGITS}, np.full(61, 1))["click"])
    # Ids beyond the last one are none.
    assert keras.ops.shape(layer({"click": LOGITS}, np.array([9]))["click"]) == (61,)


def test_its_config_gives_the_layer_back():
    layer = CalibratedLogits(curves={"click": (CURVES[1].as_argument(),)}, name="calibration")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(
        again({"click": LOGITS}, np.array([0]))["click"], layer({"click": LOGITS}, np.array([0]))["click"]
    )


@pytest.mark.parametrize(
    "curve", [((1.0, 0.0), (0.0, 1.0), 1.0, 1.0), ((0.0, 1.0), (1.0, 0.0), 1.0, 1.0), ((), (), 1.0, 1.0)]
)
def test_a_curve_that_does_not_rise_is_refused(curve):
    with pytest.raises(ValueError, match="`curves` of task `click` need increasing knots"):
        CalibratedLogits(curves={"click": (curve,)})
    with pytest.raises(ValueError, match="need slopes above 0, received -1"):
        CalibratedLogits(curves={"click": (((0.0,), (0.0,), -1.0, 1.0),)})
