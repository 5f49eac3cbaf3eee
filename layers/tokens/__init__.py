"""Embedding tables, tokenizers and pooling: from ids and histories to tokens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
