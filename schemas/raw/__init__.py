"""Raw files of any format -> checked values: the one reader of training, scoring and drift."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
