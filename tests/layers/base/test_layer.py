"""One signature says everything: attribute, check, config."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

import keras
import numpy as np
import pytest
from pydantic import Field, PositiveInt

from mixrank.layers.backbone import FieldBackbone
from mixrank.layers.base import Activation, Initializer, Layer
from mixrank.layers.models.hemix import HeMix


@keras.saving.register_keras_serializable("tests")
class Sample(Layer):
    def __init__(
        self,
        size: PositiveInt,
        *,
        kind: Literal["plain", "round"] | None = "plain",
        units: tuple[PositiveInt, ...] = (),
        rate: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        activation: Activation = "relu",
        initializer: Initializer = "he_normal",
        inner: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.twice = 2 * self.size

    def call(self, x):
        return self.activation(x)


class Child(Sample):
    removed = {"old": 1}

    def __init__(self, *, size: PositiveInt = 9, rate: float = 2.0, **kwargs: Any) -> None:
        super().__init__(size, **kwargs)


class Stubborn(Sample):
    """Gives its base a value that its own signature does not name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(7, units=[5], **kwargs)


def test_arguments_are_attributes_behind_the_first_line_of_the_constructor():
    layer = Sample(3, units=[4, 5])
    assert (layer.size, layer.twice, layer.units, layer.rate) == (3, 6, (4, 5), 0.5)
    np.testing.assert_array_equal(layer(np.array([-1.0, 2.0])), [0, 2])
    assert isinstance(layer.initializer, keras.initializers.HeNormal)


def test_the_config_holds_every_argument_and_gives_the_layer_back():
    inner = Sample(4, activation="gelu", name="inner")
    layer = Sample(3, kind="round", units=(4,), inner=inner, initializer=keras.initializers.Constant(2.0), name="outer")
    config = layer.get_config()
    assert config.keys() >= {"name", "dtype", "size", "kind", "units", "rate", "activation", "initializer", "inner"}
    assert (config["size"], config["units"], config["activation"]) == (3, [4], "relu")
    again = Sample.from_config(config)
    assert again.get_config() == config
    assert again.inner.activation is keras.activations.gelu and again.initializer.value == 2.0


def test_what_a_subclass_declares_again_is_the_subclasss():
    layer = Child()
    assert (layer.size, layer.rate, layer.twice, layer.kind) == (9, 2.0, 18, "plain")
    assert Child.from_config(layer.get_config()).get_config() == layer.get_config()


def test_what_a_subclass_hands_on_without_declaring_it_is_kept():
    assert (Stubborn().size, Stubborn().units) == (7, (5,))


def test_keras_and_readers_see_the_signature_as_it_is_written():
    assert list(inspect.signature(Sample).parameters)[:3] == ["size", "kind", "units"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` must be at least 1, received 0"),
        ({"size": "3"}, "`size` must be a valid int, received '3'"),
        ({"kind": "flat"}, "`kind` must be plain, round or None, received 'flat'"),
        ({"units": (4, 0)}, "`units` must all be at least 1, received (4, 0)"),
        ({"rate": 1.0}, "`rate` must be below 1, received 1.0"),
        ({"rate": -0.5, "name": "it"}, "`rate` of layer `it` must be at least 0, received -0.5"),
        ({"inner": 3}, "`inner` must be a Layer or None, received 3"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(options, message):
    with pytest.raises(ValueError) as error:
        Sample(**{"size": 3, **options})
    assert str(error.value) == message


def test_a_forgotten_argument_is_named_by_python():
    with pytest.raises(TypeError, match="missing a required argument: 'size'"):
        Sample()


def test_a_removed_argument_is_read_with_its_fixed_value_and_refused_with_another():
    config = Child().get_config()
    assert Child.from_config({**config, "old": 1}).size == 9
    with pytest.raises(ValueError, match="`old` of Child was removed and is always 1 now, but the file holds 2; train"):
        Child.from_config({**config, "old": 2})
    assert FieldBackbone.from_config({"attention_units": [32]}).pooling == "mean"


def test_a_typo_in_a_model_names_the_choices():
    with pytest.raises(ValueError, match="`block` must be heteromixer, rankmixer or transformer, received 'typo'"):
        HeMix(block="typo")
