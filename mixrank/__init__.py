"""Ranking models for recommender teams: from raw impression logs to a judged, pushed and served model.

After `import mixrank` Keras finds every layer and model that a `.keras` file names, and TensorFlow keeps freed host
memory for its next tensors (`mixrank.host_memory`). Nothing else is imported before it is asked for: neither Keras nor
TensorFlow.
"""

import lazy_loader

from mixrank.host_memory import keep_freed_memory
from mixrank.keras_names import register_when_keras_loads

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
register_when_keras_loads()
keep_freed_memory()
