"""A simulated log with known click probabilities, and the predictions of an ideal reader."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
