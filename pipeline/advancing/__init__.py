"""Day after day: what is new is read, judged on, trained on and pushed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
