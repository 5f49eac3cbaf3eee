"""Layers and models in Keras and `keras.ops` only, on any backend."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
