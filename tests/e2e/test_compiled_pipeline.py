"""The compiled pipeline, container by container, next to the local run: the same model, from the same rows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mixrank.schemas import stores
from mixrank.serving.base import fetch_version, newest

pytestmark = pytest.mark.slow

# Half a minute of imports per process: these two show that a command line stands on its own, the one that trains, and
# the one that writes outside of its artifacts. The others enter by the same function.
PROCESSES = frozenset({"Trainer", "Pusher"})


@pytest.fixture(scope="session")
def compiled_run(kept, kubeflow_launcher, s3_bucket, s3_options, tmp_path_factory):
    """The config of the local run, compiled for a cluster and run there: from a log in a store to a version in it.

    The cluster's volume is a temporary folder.
    """
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.kubeflow import compile_pipeline

    root, log, push_to = tmp_path_factory.mktemp("cluster"), f"{s3_bucket}/ml 100k [v2] #1", f"{s3_bucket}/models"
    for file in (kept.root / "data").iterdir():
        stores.upload(file, f"{log}/{file.name}")
    changes = {"kubeflow.mount": root / "volume", "kubeflow.image": "mixrank:test", "kubeflow.data": f"'{log}'"}
    changes |= {"push_to": push_to, "beam": ["--runner=FnApiRunner", *s3_options]}
    config = load_config(kept.config, [f"{name}={value}" for name, value in changes.items()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile_pipeline(config, root / "films.yaml")
        launcher = kubeflow_launcher.Launcher(root / "films.yaml", root / "artifacts", {}, PROCESSES)
        launcher.run_all()
    return SimpleNamespace(launcher=launcher, outputs=launcher.outputs, push_to=push_to)


def test_every_container_ran_once(compiled_run):
    assert sorted(compiled_run.launcher.ran) == sorted(compiled_run.launcher.tasks)
    assert {"ExampleGen", "LastPushed", "Transform", "Trainer", "Evaluator", "Pusher"} <= set(compiled_run.launcher.ran)
    assert compiled_run.launcher.ran[-1] == "Pusher"


def test_all_judges_blessed_the_model_of_the_cluster(compiled_run):
    for judge in ("Evaluator", "ModelCheck", "ModelGates"):
        assert compiled_run.outputs[judge]["blessing"]["metadata"]["blessed"] == 1.0


def test_a_first_run_has_no_model_to_beat(compiled_run):
    artifact = Path(compiled_run.outputs["LastPushed"]["model"]["uri"])
    assert json.loads((artifact / "last_pushed.json").read_text()) == {"version": ""}
    assert not (artifact / "Format-Serving").exists()


def test_rows_are_scored_as_in_the_local_run(compiled_run, kept):
    keys = ["user_id", "item_id", "timestamp"]
    ours = pd.read_parquet(Path(compiled_run.outputs["Trainer"]["model_run"]["uri"]) / "predictions.parquet")
    local = pd.read_parquet(kept.record.model_run / "predictions.parquet")
    joined = ours.merge(local, on=keys, suffixes=("", "_local"))
    assert len(joined) == len(ours) == len(local) > 500
    for task in ("click", "like"):
        np.testing.assert_allclose(joined[f"score_{task}"], joined[f"score_{task}_local"], atol=1e-6)


def test_the_model_is_judged_as_in_the_local_run(compiled_run, kept):
    from mixrank.components.judging import load_metrics

    ours = load_metrics(compiled_run.outputs["Evaluator"]["evaluation"]["uri"])
    local = load_metrics(str(kept.record.judgement.evaluation))
    assert [value[:3] for value in ours] == [value[:3] for value in local]
    assert {value.metric for value in ours} >= {"auc", "gauc", "log_loss"}
    np.testing.assert_allclose([value.value for value in ours], [value.value for value in local], atol=1e-6)


def test_the_pushed_version_is_the_trained_model_and_scores_as_the_local_one(compiled_run, kept, tmp_path):
    import tensorflow as tf

    from mixrank.components.judging.model_check import read_examples

    _, place = newest(compiled_run.push_to)
    assert compiled_run.outputs["Pusher"]["pushed_model"]["metadata"]["pushed_destination"] == place
    assert stores.names(compiled_run.push_to) == [place.rpartition("/")[2]]
    version = tmp_path / "version"
    fetch_version(place, version)
    trained = Path(compiled_run.outputs["Trainer"]["model"]["uri"]) / "Format-Serving"
    assert (version / "saved_model.pb").read_bytes() == (trained / "saved_model.pb").read_bytes()
    examples = tf.constant(read_examples(str(kept.record.rows.examples / "Split-eval"), 50))
    ours, local = (
        tf.saved_model.load(str(folder)).signatures["serving_default"](examples=examples)
        for folder in (version, kept.record.pushed)
    )
    for task in ("click", "like"):
        np.testing.assert_allclose(ours[task], local[task], atol=1e-6)


def test_the_next_run_is_compared_with_the_pushed_version(compiled_run):
    from mixrank.components.judging import load_metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pushed = compiled_run.launcher.run("LastPushed")
        evaluation = compiled_run.launcher.run("Evaluator")["evaluation"]["uri"]
    assert (Path(pushed["model"]["uri"]) / "Format-Serving" / "saved_model.pb").is_file()
    # It is the same model still.
    assert load_metrics(evaluation, "baseline") == load_metrics(evaluation, "candidate")
