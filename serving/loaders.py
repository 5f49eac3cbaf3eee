"""Calls every signature of a SavedModel through every kind of loader; run as a fresh process.

    python -m serving.loaders MODEL ROWS OUTPUT

reads serialized tf.Examples from the TFRecord file ROWS, and writes the scores of each loader, signature and task to
the NumPy archive OUTPUT under names such as `session/score_rows/is_click`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schemas.encode import decode
from schemas.features import FeatureSpec
from serving.columns import to_columns
from serving.signatures import METADATA


def score_everywhere(model: Path, examples: list[bytes]) -> dict[str, np.ndarray]:
    """Scores of serialized examples, by `loader/signature/task`."""
    spec = FeatureSpec.model_validate(json.loads((model / METADATA).read_text())["spec"])
    feeds: dict[str, dict[str, Any]] = {
        "serving_default": {"examples": np.array(examples, dtype=object)},
        "score_rows": to_columns(spec, [decode(spec, example) for example in examples]),
    }
    scores: dict[str, np.ndarray] = {}
    loaded = tf.saved_model.load(str(model))
    for name, feed in feeds.items():
        answer = loaded.signatures[name](**{column: tf.constant(value) for column, value in feed.items()})
        scores.update({f"tf2/{name}/{task}": answer[task].numpy() for task in spec.tasks})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(model)).signature_def
        for name, feed in feeds.items():
            inputs, outputs = signatures[name].inputs, signatures[name].outputs
            answer = session.run(
                {task: outputs[task].name for task in spec.tasks},
                {inputs[column].name: value for column, value in feed.items()},
            )
            scores.update({f"session/{name}/{task}": answer[task] for task in spec.tasks})
    return scores


def main(model: str, rows: str, output: str) -> None:
    examples = [record.numpy() for record in tf.data.TFRecordDataset(rows)]
    np.savez(output, **score_everywhere(Path(model), examples))


if __name__ == "__main__":
    main(*sys.argv[1:])
