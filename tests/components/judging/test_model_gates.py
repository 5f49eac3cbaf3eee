"""The step that blesses by the gates: it reads scores row by row, and those of the last pushed model are made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixrank.components.baselines import read_columns
from mixrank.components.gates import GateSettings


@pytest.fixture(scope="module")
def rows(toy_spec, toy_data):
    """Keys and labels of the evaluation rows, in the order of their file."""
    names = [toy_spec.user.name, toy_spec.item.name, toy_spec.time.name, *toy_spec.tasks]
    return pd.DataFrame(read_columns(toy_spec, f"{toy_data.examples}/Split-eval/*", names))


@pytest.fixture
def judge(toy_spec, toy_data, rows, tmp_path):
    """Runs the executor on scores; returns whether it blesses, and kind and task -> the verdict."""
    from tfx.types import artifact_utils, standard_artifacts
    from tfx.utils import path_utils

    from mixrank.components.judging.model_gates import RESULTS, Executor

    def run(scores, base, pushed=None, **gates):
        frame = rows.rename(columns={task: f"label_{task}" for task in toy_spec.tasks})
        made = {}
        for name, kind in (
            ("model_run", standard_artifacts.ModelRun),
            ("baselines", standard_artifacts.InferenceResult),
            ("pushed_model", standard_artifacts.Model),
            ("examples", standard_artifacts.Examples),
            ("blessing", standard_artifacts.ModelBlessing),
        ):
            made[name] = kind()
            made[name].uri = str(tmp_path / name)
            (tmp_path / name).mkdir()
        made["examples"].uri = str(toy_data.examples)
        made["examples"].split_names = artifact_utils.encode_split_names(["train", "eval"])
        both = {f"score_{task}": scores for task in toy_spec.tasks}
        frame.assign(**both).sample(frac=1, random_state=1).to_parquet(tmp_path / "model_run" / "predictions.parquet")
        frame.assign(**dict.fromkeys(both, base)).to_parquet(tmp_path / "baselines" / "additive.parquet")
        if pushed is not None:
            target = Path(path_utils.serving_model_dir(made["pushed_model"].uri))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(pushed)
        blessing = made.pop("blessing")
        properties = {"spec": toy_spec.to_json(), "gates": GateSettings(**gates).model_dump_json()}
        Executor().Do({name: [each] for name, each in made.items()}, {"blessing": [blessing]}, properties)
        results = json.loads((Path(blessing.uri) / RESULTS).read_text())
        blessed = bool(blessing.get_int_custom_property("blessed"))
        assert (Path(blessing.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).exists()
        return blessed, {(result["kind"], result["subject"]): result["passed"] for result in results}

    return run


def test_scores_are_judged_beside_the_labels_of_their_own_rows(judge, rows):
    knowing = np.where(rows["click"] == rows["buy"], np.where(rows["click"] > 0, 0.9, 0.1), 0.5)
    blessed, verdicts = judge(knowing, 0.5, calibration=None)
    assert blessed and verdicts == {("below_baseline", "click"): True, ("below_baseline", "buy"): True}


def test_a_model_below_the_baseline_is_not_blessed_unless_that_is_allowed(judge, rows):
    wrong = np.where(rows["click"] > 0, 0.2, 0.8)
    blessed, verdicts = judge(wrong, 0.5, calibration=None, allow=["below_baseline:buy"])
    assert not blessed and not verdicts["below_baseline", "click"]


@pytest.mark.slow
def test_the_last_pushed_model_scores_the_same_rows(judge, rows, toy_export, toy_scores):
    own = dict(zip(rows["at"].sort_values(), toy_scores["click"].reshape(-1), strict=True))
    same = rows["at"].map(own).to_numpy()
    _, verdicts = judge(same, 0.5, pushed=toy_export.folder, calibration=None, above_baseline=None)
    # Its own scores are as good as its own scores, for the task that they are of.
    assert verdicts["worse_than_pushed", "click"]
    assert set(verdicts) == {("worse_than_pushed", "click"), ("worse_than_pushed", "buy")}


@pytest.mark.slow
def test_scores_of_a_pushed_model_are_those_of_its_rows(toy_spec, toy_data, toy_export, toy_scores):
    from mixrank.components.judging.model_gates import score_rows

    found = score_rows(toy_export.folder, toy_spec, f"{toy_data.examples}/Split-eval/*").sort_values("at")
    for task in toy_spec.tasks:
        np.testing.assert_allclose(found[f"score_{task}"], toy_scores[task].reshape(-1), atol=1e-5)
