"""The ground of all layers: argument checks, initializers, counts of parameters and FLOPs, candidates of a request."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
