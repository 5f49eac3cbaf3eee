"""The mark of a model's class, by which Keras finds it in a file and the registry in the source."""

from __future__ import annotations

from collections.abc import Callable

import keras


def register(*, title: str, arxiv: str) -> Callable[[type], type]:
    """Marks the class of a model file; the file's name is the model's name.

    In a `.keras` file the class goes by its name and that of the top package or module it stands in.

    Args:
        title: the paper's title.
        arxiv: the paper's arXiv number.
    """

    def decorate(cls: type) -> type:
        cls.title, cls.arxiv = title, arxiv  # type: ignore[attr-defined]
        return keras.saving.register_keras_serializable(cls.__module__.partition(".")[0])(cls)

    return decorate
