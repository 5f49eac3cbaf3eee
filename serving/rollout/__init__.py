"""Roll-out of model versions, step by step: push, canary, promote, rollback."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
