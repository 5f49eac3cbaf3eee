"""Loading of SavedModels whose files may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from mixrank.schemas.plain_names import plain
from mixrank.serving.base.model_versions import check_saved_model


def load_saved_model(folder: Path) -> Any:
    """A SavedModel, loaded into this process.

    Raises:
        ValueError: naming the folder, if its files are missing or damaged.
    """
    check_saved_model(folder)
    try:
        return tf.saved_model.load(str(plain(folder)))
    # On damaged files TensorFlow and protobuf raise all kinds of errors.
    except Exception as error:
        raise ValueError(
            f"{folder} cannot be loaded, its files are damaged: {str(error) or type(error).__name__}"
        ) from error
