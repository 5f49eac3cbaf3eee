"""Token mixing, attention, feature crosses, factorization machines, feed-forward networks, blocks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
