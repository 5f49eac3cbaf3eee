"""Insights that the Trainer writes down about a model that explains itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.training import ModelSettings, Optimizer, TrainSettings, train_model


@pytest.mark.slow
def test_a_trained_mtmixatt_tells_its_grouping_and_routing_and_is_exported_frozen(
    toy_spec, toy_data, toy_transform, tmp_path
):
    params = {"num_layers": 1, "num_tokens": 4, "mixing_heads": 4, "dim": 16, "esmm": [["buy", "click"]]}
    train_model(
        spec=toy_spec,
        model_settings=ModelSettings(name="mtmixatt", preset="tiny", params=params),
        settings=TrainSettings(batch_size=150, optimizer=Optimizer(learning_rate=0.01), replicas=1, jit_compile="off"),
        patterns=toy_data.patterns(),
        transform_output=toy_transform,
        checkpoints=tmp_path / "checkpoints",
        run_dir=tmp_path / "run",
        export_dir=tmp_path / "export",
    )
    insights = json.loads((tmp_path / "run" / "model.json").read_text())["insights"]
    fields = insights["grouping"]["fields"]
    assert {"person", "clip", "page", "global", "realtime"} <= set(fields)
    assert np.shape(insights["grouping"]["weights"]) == (4, len(fields))
    predictions = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert sum(insights["routing"]["rows"]) == len(predictions)
    assert insights["routing"]["experts"] == ["home", "search", "cart"]
    assert (predictions["score_buy"] <= predictions["score_click"]).all()
    # The exported graph has no top k over the grouping: what is left are the routers of the one block.
    graph = tf.saved_model.load(str(tmp_path / "export")).signatures["score_rows"].graph
    nested = [op for f in graph._functions.values() for op in f.graph.get_operations()] if graph._functions else []
    assert sum(op.type == "TopKV2" for op in [*graph.get_operations(), *nested]) <= 1


@pytest.mark.slow
def test_heads_that_read_features_are_trained_exported_and_tell_their_gates(
    toy_spec, toy_data, toy_transform, tmp_path
):
    heads = {"kind": "pepnet", "domain": ["page"], "gate_dim": 4, "units": [5]}
    model = ModelSettings(name="dcnv2", preset="tiny", params={"mlp_units": [16]}, heads=heads, match_params=30_000)
    train_model(
        spec=toy_spec,
        model_settings=model,
        settings=TrainSettings(batch_size=150, optimizer=Optimizer(learning_rate=0.01), replicas=1, jit_compile="off"),
        patterns=toy_data.patterns(),
        transform_output=toy_transform,
        checkpoints=tmp_path / "checkpoints",
        run_dir=tmp_path / "run",
        export_dir=tmp_path / "export",
    )
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["heads"] == heads
    assert {"heads", "heads: gates"} <= {part["name"] for part in card["parts"]}
    dense = sum(part["parameters"] for part in card["parts"] if part["name"] != "embeddings")
    assert dense == pytest.approx(30_000, rel=0.1)
    predictions = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    gates = card["insights"]["gates"]
    assert gates["examined"] == len(predictions)
    (mean, away) = gates["tables"]
    assert [row["name"] for row in mean["rows"]] == [
        "representation (EPNet)",
        "input of tower layer 1 (PPNet)",
        "input of tower layer 2 (PPNet)",
    ]
    assert all(0 < weight < 1 for row in away["rows"] for weight in row["weights"] if weight is not None)
    # What is served, for one request as well, scores as the trained model does.
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    assert {"score_rows", "rank_candidates"} <= set(signatures)
