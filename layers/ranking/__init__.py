"""The whole model of a spec: registry, inputs, embeddings, backbone and heads put together; sizes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
