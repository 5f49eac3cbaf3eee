"""Calls every signature of a SavedModel through every kind of loader; run as a fresh process.

    python -m mixrank.serving.export.loaders MODEL ROWS OUTPUT

reads serialized tf.Examples from the TFRecord file ROWS, and writes the scores of each loader, signature and task to
the NumPy archive OUTPUT under names such as `session/score_rows/is_click`. `rank_candidates` is called only for the
first rows, each as a request with its own item and those of its neighbours as candidates; its own item's score is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import decode
from mixrank.schemas.plain_names import plain
from mixrank.serving.base import load_spec
from mixrank.serving.export.columns import request_and_item, to_columns, to_request_columns

REQUESTS, CANDIDATES = 32, 5


def score_everywhere(model: Path, examples: list[bytes]) -> dict[str, np.ndarray]:
    """Scores of serialized examples, by `loader/signature/task`.

    Args:
        model: SavedModel.
        examples: serialized tf.Examples.

    Returns:
        name -> (rows, 1) scores; of `rank_candidates`, if the model has it, those of the first `REQUESTS` rows.
    """
    spec = load_spec(model)
    rows = [decode(spec, example) for example in examples]
    loaded = tf.saved_model.load(str(plain(model)))
    # signature -> inputs of each call, and which of its scores to keep
    calls: dict[str, list[tuple[dict[str, Any], slice]]] = {
        "serving_default": [({"examples": np.array(examples, dtype=object)}, slice(None))],
        "score_rows": [(to_columns(spec, rows), slice(None))],
    }
    if "rank_candidates" in loaded.signatures:
        calls["rank_candidates"] = [
            (to_request_columns(spec, request, items), slice(own, own + 1))
            for request, items, own in requests(spec, rows)
        ]
    scores: dict[str, np.ndarray] = {}
    for name, each in calls.items():
        answers = [
            {task: score[own].numpy() for task, score in loaded.signatures[name](**_tensors(feed)).items()}
            for feed, own in each
        ]
        scores.update({f"tf2/{name}/{task}": np.concatenate([a[task] for a in answers]) for task in spec.outputs})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(plain(model))).signature_def
        for name, each in calls.items():
            inputs, outputs = signatures[name].inputs, signatures[name].outputs
            fetches = {task: outputs[task].name for task in spec.outputs}
            found = [
                (session.run(fetches, {inputs[column].name: value for column, value in feed.items()}), own)
                for feed, own in each
            ]
            scores.update(
                {f"session/{name}/{t}": np.concatenate([a[t][own] for a, own in found]) for t in spec.outputs}
            )
    return scores


def requests(
    spec: FeatureSpec, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], int]]:
    """Each of the first rows as a request, its own item among those of its neighbours, and that item's place."""
    split = [request_and_item(spec, row) for row in rows]
    for index in range(min(REQUESTS, len(rows))):
        own = index % CANDIDATES
        yield split[index][0], [split[(index - own + step) % len(rows)][1] for step in range(CANDIDATES)], own


def _tensors(feed: dict[str, Any]) -> dict[str, tf.Tensor]:
    return {column: tf.constant(value) for column, value in feed.items()}


def main(model: str, rows: str, output: str) -> None:
    examples = [record.numpy() for record in tf.data.TFRecordDataset(rows)]
    np.savez(output, **score_everywhere(Path(model), examples))


if __name__ == "__main__":
    main(*sys.argv[1:])
