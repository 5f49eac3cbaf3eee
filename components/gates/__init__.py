"""Gates: what a log or a model must not be, so that nothing wrong is trained or pushed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
