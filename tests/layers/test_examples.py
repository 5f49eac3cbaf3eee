"""Every public layer has an example in its docstring, and every example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import keras
import pytest

import mixrank.layers
from mixrank.layers.backbone import Backbone
from mixrank.layers.base import Layer

FILES = sorted(
    each.name for each in pkgutil.walk_packages(mixrank.layers.__path__, "mixrank.layers.") if not each.ispkg
)


def _public_layers(module) -> list[type]:
    return [
        each
        for name, each in vars(module).items()
        if inspect.isclass(each) and issubclass(each, Layer) and each.__module__ == module.__name__ and name[0] != "_"
    ]


def _known() -> dict:
    """Names that an example may use without an import: Keras and every layer."""
    layers = {each.__name__: each for name in FILES for each in _public_layers(importlib.import_module(name))}
    return {"keras": keras, **layers}


@pytest.mark.parametrize("name", FILES)
def test_every_example_runs(name):
    module, finder = importlib.import_module(name), doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(module, globs={**_known(), **vars(module)}):
        failed = runner.run(test).failed
        assert not failed, test.name


def test_every_public_layer_has_an_example_and_stands_in_the_face_of_its_room():
    for name in FILES:
        module = importlib.import_module(name)
        for layer in _public_layers(module):
            # A frame without a `call` of its own has nothing to show; only the files of its room build on it.
            if layer.call is keras.Layer.call:
                continue
            # A backbone is made from a preset.
            if not issubclass(layer, Backbone):
                assert ">>>" in layer.__doc__, layer
            room = name.rpartition(".")[0]
            if room not in ("mixrank.layers", "mixrank.layers.models"):
                assert getattr(importlib.import_module(room), layer.__name__) is layer
