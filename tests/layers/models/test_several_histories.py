"""Several histories with one window: a model reads them as it would read one that holds the events of all."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank import testing
from mixrank.layers.models.hemix import HeMix
from mixrank.layers.models.mixformer import MixFormer
from mixrank.layers.models.mtgr import MTGR
from mixrank.layers.ranking import field_names, widths
from mixrank.schemas import History

MODELS = (
    (HeMix, {"dim": 8, "num_global": 3, "num_realtime": 2, "mixing_heads": 4, "rank": 2, "attention_heads": 2}),
    (MixFormer, {"dim": 4, "num_heads": 4, "num_layers": 2}),
    (MTGR, {"dim": 8, "num_layers": 2, "attention_heads": 2, "token_units": (5,)}),
)
every_model = pytest.mark.parametrize(("make", "options"), MODELS, ids=[make.__name__ for make, _ in MODELS])


@pytest.fixture
def several(arguments):
    """The arguments with the last three of the seven long-term events in a history of their own."""
    features, histories, scenario = arguments
    before = histories["before"]
    parts = {
        "before": {name: x[:, :4] for name, x in before.items()},
        "before_orders": {name: x[:, 4:] for name, x in before.items()},
        "within": histories["within"],
    }
    return features, parts, scenario


def _as_one(path: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The weight at a path of the model that reads all; what belongs to a history is that of the first."""
    return weights[path.replace("before_orders", "before")]


@every_model
def test_parts_of_a_history_are_read_as_the_whole(make, options, arguments, several):
    whole, parts = make(**options, name="model"), make(**options, name="model")
    whole(*arguments), parts(*several)
    rng = np.random.default_rng(5)
    for variable in whole.weights:
        values = variable + rng.normal(scale=0.2, size=variable.shape)
        if "context_" in variable.path and len(variable.shape) == 2:
            # Of MTGR's groups, which are one more: fields, long-term, real-time.
            values = np.broadcast_to(values[:1], values.shape)
        variable.assign(values)
    known = {variable.path: np.array(variable) for variable in whole.weights}
    for variable in parts.weights:
        value = _as_one(variable.path, known)
        variable.assign(value if value.shape == variable.shape else np.repeat(value[:1], variable.shape[0], axis=0))
    np.testing.assert_allclose(parts(*several), whole(*arguments), atol=2e-5)


@every_model
def test_every_option_counts_and_trains_with_several(make, options, several, check_backbone):
    check_backbone(make, options, several)


def test_positions_are_learned_for_each_history(several, check_backbone):
    options = {**dict(MODELS)[HeMix], "position_embedding": True}
    layer = check_backbone(HeMix, options, several)
    shapes = {v.name: tuple(v.shape) for v in layer.trainable_variables if "positions" in v.name}
    assert shapes == {"positions_before": (4, 8), "positions_before_orders": (3, 8), "positions_within": (3, 8)}


def test_fields_are_named_in_the_order_in_which_models_get_them():
    spec = testing.toy_spec()
    more = [
        History(name, of=("clip",), length=length, window=window)
        for name, length, window in (("zoo", 1, "within"), ("bought", 2, "before"), ("asked", 3, "before"))
    ]
    spec = spec.model_copy(update={"features": (*spec.features, *more)})
    assert field_names(spec)[-5:] == ("past", "asked", "bought", "today", "zoo")
    assert list(widths(spec).histories) == ["before", "before_asked", "before_bought", "within", "within_zoo"]
    assert [length for length, _ in widths(spec).histories.values()] == [5, 3, 2, 3, 1]
