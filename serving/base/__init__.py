"""Shared by all of serving: numbered model versions, and datasets without autotuning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
