"""The component writes what the command writes, with the split and the options it was given."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def artifacts(toy_data, toy_export, tmp_path):
    """(inputs, outputs) of an execution on the toy log."""
    from tfx.types import artifact_utils, standard_artifacts

    examples, model, scores = (
        standard_artifacts.Examples(),
        standard_artifacts.Model(),
        standard_artifacts.InferenceResult(),
    )
    examples.uri, model.uri, scores.uri = str(toy_data.examples), str(tmp_path / "model"), str(tmp_path / "scores")
    examples.split_names = artifact_utils.encode_split_names(list(toy_data.rows))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "Format-Serving").symlink_to(toy_export.folder)
    return {"examples": [examples], "model": [model]}, {"scores": [scores]}


def execute(artifacts, **changes):
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import channel_utils

    from components.batch_scorer import BatchScorer, Executor

    inputs, outputs = artifacts
    channels = {name: channel_utils.as_channel(found) for name, found in inputs.items()}
    component = BatchScorer(**channels, source="today", **changes)
    assert set(component.outputs) == {"scores"}
    context = BaseBeamExecutor.Context(beam_pipeline_args=["--runner=FnApiRunner"])
    Executor(context).Do(inputs, outputs, dict(component.exec_properties))
    return outputs["scores"][0]


def test_the_artifact_holds_scores_keys_and_counts(toy_data, toy_scores, artifacts, tmp_path):
    scores = execute(artifacts, keep=("click",))
    frame = pd.read_parquet(tmp_path / "scores" / "scores").sort_values("at", ignore_index=True)
    assert list(frame) == ["person", "clip", "at", "page", "click", "score_click", "score_buy"]
    rows = sorted(toy_data.rows["eval"], key=lambda row: row["at"])
    assert frame["at"].tolist() == [row["at"] for row in rows]
    assert frame["click"].tolist() == [row["click"] for row in rows]
    for task, expected in toy_scores.items():
        np.testing.assert_allclose(frame[f"score_{task}"], expected[:, 0], atol=1e-6)
    assert scores.get_int_custom_property("rows") == 150
    assert scores.get_int_custom_property("bad") == 0
    assert json.loads((tmp_path / "scores" / "summary.json").read_text())["rows"] == 150


def test_another_split_can_be_scored(toy_data, artifacts, tmp_path):
    execute(artifacts, split="valid")
    assert len(pd.read_parquet(tmp_path / "scores" / "scores")) == len(toy_data.rows["valid"])
