"""Parity: every way of scoring a row gives the same score.

in-memory Keras == SavedModel == REST == gRPC == Beam, row by row, for every signature.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import open_parquet
from mixrank.schemas.encode import decode
from mixrank.serving.base import differences, is_version, load_spec
from mixrank.serving.batch_scoring import score as score_on_beam
from mixrank.serving.client import Client
from mixrank.serving.dev_server import running
from mixrank.serving.export import request_and_item, requests, score_everywhere

REFERENCE = "SavedModel, TF 2 loader, serving_default"
# Task -> (rows,) scores, of all rows or of the first ones.
Scores = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Largest difference between one way of scoring and the reference, for one task.

    Args:
        way: the way of scoring.
        task: the task.
        rows: number of rows compared, at least one.
        largest: largest difference of two predictions, as of `differences`; NaN if a score is not a number.
        row: position of the row with this difference.
    """

    way: str
    task: str
    rows: int
    largest: float
    row: int


def parity(
    version: Path,
    examples: Sequence[bytes],
    *,
    in_memory: Scores | None = None,
    targets: Sequence[str] = (),
    name: str = "model",
    say: Callable[[str], None] = lambda line: None,
) -> tuple[str, list[Difference]]:
    """Scores rows in every way and compares the scores.

    Args:
        version: folder of the SavedModel.
        examples: serialized tf.Examples, at least one.
        in_memory: scores of the Keras model that was exported, in the order of `examples`. They are the reference if
            given, else the SavedModel is.
        targets: servers to ask, as in `Client`; if empty, the development server is started for `version`.
        name: the model's name on the servers.
        say: called with a line for each step.

    Returns:
        Name of the reference, and one `Difference` per other way and task, in the order of the ways.

    Raises:
        ValueError: if there are no rows, or a way does not answer.
    """
    if not examples:
        raise ValueError("parity needs at least one row, received none")
    spec = load_spec(version)
    found: dict[str, Scores] = {} if in_memory is None else {"Keras in memory": in_memory}
    say("loading the SavedModel in both ways ...")
    found |= _saved_model(spec, version, list(examples))
    rows = [_served(spec, decode(spec, example)) for example in examples]
    with _servers(version, targets, name) as addresses:
        for address in addresses:
            say(f"asking {address} ...")
            found |= _server(spec, address, name, rows)
    say("scoring on Beam ...")
    found["Beam"] = _beam(spec, version, examples)
    reference = next(iter(found)) if in_memory is not None else REFERENCE
    return reference, [
        _difference(way, task, found[reference][task], scores[task])
        for way, scores in found.items()
        if way != reference
        for task in spec.outputs
    ]


def _saved_model(spec: FeatureSpec, version: Path, examples: list[bytes]) -> dict[str, Scores]:
    loaders = {"tf2": "TF 2 loader", "session": "session loader"}
    ways: dict[str, dict[str, np.ndarray]] = {}
    for key, scores in score_everywhere(version, examples).items():
        loader, signature, task = key.split("/")
        ways.setdefault(f"SavedModel, {loaders[loader]}, {signature}", {})[task] = scores.reshape(-1)
    return dict(ways)


@contextmanager
def _servers(version: Path, targets: Sequence[str], name: str) -> Iterator[Sequence[str]]:
    if targets:
        yield targets
        return
    with tempfile.TemporaryDirectory() as folder:
        if not is_version(version):
            # An export that was not pushed, or pushed to another machine, has no number, and a server wants one.
            Path(folder, "1").symlink_to(version.absolute(), target_is_directory=True)
            version = Path(folder)
        with running({name: version}) as server:
            yield server.rest_url, f"grpc://{server.grpc_target}"


def _server(spec: FeatureSpec, address: str, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Scores]:
    protocol = "gRPC" if address.startswith("grpc:") else "REST"
    with Client(address, name, spec=spec, deadline=120.0) as client:
        scored = client.score(rows)
        ranked = [client.rank(request, items)[own] for request, items, own in requests(spec, rows)]
    return {
        f"{protocol}, {signature}": {task: np.array([answer[task] for answer in answers]) for task in spec.outputs}
        for signature, answers in (("score_rows", scored), ("rank_candidates", ranked))
    }


def _beam(spec: FeatureSpec, version: Path, examples: Sequence[bytes]) -> Scores:
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "rows.tfrecord"), Path(folder, "scores")
        with tf.io.TFRecordWriter(str(source)) as writer:
            for example in examples:
                writer.write(example)
        score_on_beam(version, source, output, max_bad=0.0)
        parts = [open_parquet(path).read() for path in sorted((output / "scores").glob("part-*.parquet"))]
        return {task: np.concatenate([part[f"score_{task}"].to_numpy() for part in parts]) for task in spec.outputs}


def _served(spec: FeatureSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that a request may carry; labels and time are not sent."""
    request, item = request_and_item(spec, row)
    return request | item


def _difference(way: str, task: str, expected: np.ndarray, got: np.ndarray) -> Difference:
    if not 0 < len(got) <= len(expected):
        raise ValueError(f"{way} answered {len(got)} scores of {task} for {len(expected)} rows")
    off = differences(got, expected[: len(got)])
    # argmax treats NaN as the largest value.
    row = int(np.argmax(off))
    return Difference(way, task, len(got), float(off[row]), row)
