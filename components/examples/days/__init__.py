"""A log that is read day by day: raw files once, and of earlier days what later ones need."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
