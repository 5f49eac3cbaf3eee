"""Fresh-process check of the export: blesses it where there is no Docker for TFX's InfraValidator.

A fresh process loads the SavedModel with the TF 2 loader and with the session loader (the one TensorFlow Serving and
tfx_bsl use), sends real evaluation rows through every signature and compares the answers, row by row, with the scores
of the Trainer's in-memory model. A copy of a model that passes is handed on to the Pusher, with warm-up requests and
golden rows made of those rows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from mixrank.components.training import PREDICTIONS
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import read_frame
from mixrank.schemas.encode import decode
from mixrank.schemas.files import write_text_atomically
from mixrank.serving.base import differences, write_sums
from mixrank.serving.export import GOLDEN_FILE, request_and_item, write_golden, write_warmup

TIMEOUT_S = 600
REASONS = "reasons.json"
# The Pusher's name for a blessing that holds the model to push.
HAS_MODEL = "has_model"
GOLDEN_ROWS = 20
# Of a row among those that were sent: no column of a log has such a name.
POSITION = "#"


class Executor(base_executor.BaseExecutor):
    """Writes `INFRA_BLESSED` and the model beside it, or `INFRA_NOT_BLESSED` and the reasons."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        spec = FeatureSpec.from_json(exec_properties["spec"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        run = artifact_utils.get_single_instance(input_dict["model_run"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        rows = read_examples(artifact_utils.get_split_uri([examples], "eval"), exec_properties["rows"])
        folder = Path(blessing.uri)
        folder.mkdir(parents=True, exist_ok=True)
        exported = Path(path_utils.serving_model_path(model.uri))
        try:
            scores = score_afresh(exported, rows)
        except ValueError as error:
            reasons = [str(error)]
        else:
            predictions = read_frame(Path(run.uri) / PREDICTIONS)
            reasons = compare(spec, predictions, rows, scores, exec_properties["tolerance"])
        if not reasons:
            stamp(exported, Path(path_utils.stamped_model_path(blessing.uri)), spec, rows, scores)
        write_text_atomically(folder / REASONS, json.dumps(reasons))
        (folder / ("INFRA_NOT_BLESSED" if reasons else "INFRA_BLESSED")).touch()
        blessing.set_int_custom_property("blessed", 0 if reasons else 1)
        blessing.set_int_custom_property(HAS_MODEL, 0 if reasons else 1)


class ModelCheckSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `ModelCheck`."""

    PARAMETERS = {
        "spec": component_spec.ExecutionParameter(type=str),
        "rows": component_spec.ExecutionParameter(type=int),
        "tolerance": component_spec.ExecutionParameter(type=float),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ModelCheck(base_component.BaseComponent):
    """TFX component around `score_afresh`, `compare` and `stamp`.

    Args:
        examples: raw rows with a split `eval`.
        model, model_run: outputs of the Trainer.
        spec: columns of a row.
        rows: int >= 1. Number of evaluation rows sent.
        tolerance: float > 0. Largest difference of two predictions, as of `differences`, that counts as equal.
        source: fingerprint of the code, so that an edit is noticed by the cache.
    """

    SPEC_CLASS = ModelCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        examples: Any,
        model: Any,
        model_run: Any,
        spec: FeatureSpec,
        source: str,
        rows: int = 512,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__(
            ModelCheckSpec(
                examples=examples,
                model=model,
                model_run=model_run,
                spec=spec.to_json(),
                rows=rows,
                tolerance=tolerance,
                source=source,
                blessing=Channel(type=standard_artifacts.InfraBlessing),
            )
        )


def read_examples(folder: str, count: int) -> list[bytes]:
    """The first serialized tf.Examples of a split."""
    files = sorted(tf.io.gfile.glob(os.path.join(folder, "*")))
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").take(count)
    return [record.numpy() for record in records]


def score_afresh(model: Path, examples: list[bytes]) -> dict[str, np.ndarray]:
    """Scores rows through every loader and signature, in a fresh process.

    Args:
        model: SavedModel.
        examples: serialized tf.Examples.

    Returns:
        As `mixrank.serving.export.loaders.score_everywhere`.

    Raises:
        ValueError: if the model cannot be loaded or does not answer, in plain words.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows, output = os.path.join(folder, "rows.tfrecord"), os.path.join(folder, "scores.npz")
        with tf.io.TFRecordWriter(rows) as writer:
            for example in examples:
                writer.write(example)
        try:
            process = subprocess.run(
                [sys.executable, "-m", "mixrank.serving.export.loaders", str(model), rows, output],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"a fresh process did not load and score {model} within {TIMEOUT_S} s") from None
        if process.returncode:
            raise ValueError(f"a fresh process could not load or score {model}: {_last_line(process.stderr)}")
        with np.load(output) as archive:
            return {name: archive[name] for name in archive.files}


def stamp(model: Path, copy: Path, spec: FeatureSpec, examples: list[bytes], scores: dict[str, np.ndarray]) -> None:
    """Copies a model and adds warm-up requests for its signatures, and golden rows.

    Args:
        model: SavedModel.
        copy: folder that must not exist.
        spec: columns of a row.
        examples: serialized tf.Examples, at least one.
        scores: what the model answers for them, as `score_afresh` gives it.
    """
    shutil.copytree(model, copy)
    write_warmup(copy, spec, examples, sorted({name.split("/")[1] for name in scores}))
    known = [request_and_item(spec, decode(spec, example)) for example in examples[:GOLDEN_ROWS]]
    answers = [
        {task: float(scores[f"tf2/score_rows/{task}"][position, 0]) for task in spec.outputs}
        for position in range(len(known))
    ]
    write_golden(copy / GOLDEN_FILE, [request | item for request, item in known], answers)
    write_sums(copy)


def compare(
    spec: FeatureSpec, predictions: pd.DataFrame, examples: list[bytes], scores: dict[str, np.ndarray], tolerance: float
) -> list[str]:
    """Reasons for which `scores` disagree with `predictions`.

    Args:
        spec: columns of a row.
        predictions: the Trainer's scores, with the key columns of the spec.
        examples: serialized tf.Examples.
        scores: by loader/signature/task, those of all examples or of the first ones, at least one.
        tolerance: as in `ModelCheck`.

    Returns:
        Why the model must not be shipped, in plain words; empty if it may.
    """
    if not examples:
        return ["there are no evaluation rows to check"]
    keys = spec.key_columns
    rows = pd.DataFrame([{key: row[key] for key in keys} for row in (decode(spec, e) for e in examples)])
    rows[POSITION] = np.arange(len(rows))
    # Rows that share a key cannot be told apart.
    known = predictions[[*keys, *map("score_{}".format, spec.outputs)]].drop_duplicates(keys, keep=False)
    joined = rows.drop_duplicates(keys, keep=False).merge(known, on=keys, how="inner")
    if len(joined) < 0.5 * len(rows) or joined.empty:
        return [f"only {len(joined)} of {len(rows)} evaluation rows are among the Trainer's predictions"]
    reasons = []
    for name, answer in scores.items():
        task = name.rsplit("/", 1)[1]
        checked = joined[joined[POSITION] < len(answer)]
        if checked.empty:
            reasons.append(f"{name} answers for {len(answer)} rows, none of them among the Trainer's predictions")
            continue
        got = answer.reshape(-1)[checked[POSITION].to_numpy()]
        if not np.isfinite(got).all():
            reasons.append(f"{name} answers NaN or infinity for {int((~np.isfinite(got)).sum())} rows")
            continue
        difference = float(np.max(differences(got, checked[f"score_{task}"])))
        if difference > tolerance:
            reasons.append(f"{name} differs from the trained model by {difference:.2g}, allowed is {tolerance:.2g}")
    return reasons


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
