"""The newest pushed version as an artifact, and the Trainer that may begin from it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixrank.components.training import ModelSettings, TrainSettings


@pytest.fixture
def last_pushed(tmp_path):
    """Runs the executor on what lies in tmp_path/serving; returns the artifact's folder."""
    from tfx.types import standard_artifacts

    from mixrank.components.judging.last_pushed import LastPushed, LastPushedExecutor

    def run():
        component = LastPushed(push_to=str(tmp_path / "serving"), version="")
        model = standard_artifacts.Model()
        model.uri = str(tmp_path / "artifact")
        LastPushedExecutor().Do({}, {"model": [model]}, dict(component.exec_properties))
        return Path(model.uri)

    return run


def push(tmp_path, name, content=b"graph"):
    version = tmp_path / "serving" / name
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(content)
    (version / "variables" / "variables.index").write_bytes(b"index")
    return version


def test_before_the_first_push_there_is_an_artifact_without_a_model(tmp_path, last_pushed):
    from mixrank.components.judging.last_pushed import saved_model
    from mixrank.serving.base import newest

    assert newest(str(tmp_path / "serving")) == ("", None)
    artifact = last_pushed()
    assert artifact.is_dir() and saved_model(str(artifact)) is None
    assert json.loads((artifact / "last_pushed.json").read_text()) == {"version": ""}


def test_the_newest_whole_version_is_copied(tmp_path, last_pushed):
    from mixrank.components.judging.last_pushed import saved_model
    from mixrank.serving.base import newest

    push(tmp_path, "9", b"old")
    push(tmp_path, "10", b"new")
    push(tmp_path, ".11.4711.partial", b"half")
    assert newest(str(tmp_path / "serving"))[0] == "10"
    model = saved_model(str(last_pushed()))
    assert (model / "saved_model.pb").read_bytes() == b"new"
    assert (model / "variables" / "variables.index").read_bytes() == b"index"


def test_the_artifact_outlives_the_version(tmp_path, last_pushed):
    import shutil

    from mixrank.components.judging.last_pushed import saved_model

    version = push(tmp_path, "3")
    artifact = last_pushed()
    shutil.rmtree(version)
    assert (saved_model(str(artifact)) / "saved_model.pb").read_bytes() == b"graph"


@pytest.fixture
def handed_on(monkeypatch, toy_spec, tmp_path):
    """Calls `run_fn` with a preset and a base model; returns what the training would get."""
    from mixrank.components.training import trainer

    seen = {}
    monkeypatch.setattr(trainer, "train_model", lambda **values: seen.update(values))
    monkeypatch.setattr(trainer.tft, "TFTransformOutput", lambda folder: folder)

    def call(preset="tiny", base_model=None, warm_start=None):
        trainer.run_fn(
            SimpleNamespace(
                custom_config={
                    "spec": toy_spec.to_json(),
                    "model": ModelSettings(preset=preset).model_dump_json(),
                    "train": TrainSettings(warm_start=warm_start).model_dump_json(),
                    "checkpoints": str(tmp_path),
                },
                train_files=["rows/Split-train/*"],
                eval_files=["rows/Split-eval/*"],
                base_model=base_model,
                transform_output="graph",
                model_run_dir="run",
                serving_model_dir="export",
            )
        )
        return SimpleNamespace(**seen)

    return call


def test_the_preset_of_a_run_is_trained(handed_on):
    assert handed_on("small").model_settings.preset == "small"
    assert handed_on(None).model_settings.preset is None
    assert handed_on("small").checkpoints != handed_on("tiny").checkpoints == handed_on("tiny").checkpoints


def test_an_unknown_preset_of_a_run_names_the_nearest(handed_on):
    with pytest.raises(ValueError, match="smal.*small"):
        handed_on("smal")


def test_a_warm_start_begins_from_the_pushed_model_once_there_is_one(handed_on, tmp_path):
    assert handed_on(base_model=str(tmp_path), warm_start="pushed").settings.warm_start is None
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    assert handed_on(base_model=str(tmp_path), warm_start="pushed").settings.warm_start == str(tmp_path)
    assert handed_on(base_model=str(tmp_path), warm_start="elsewhere").settings.warm_start == "elsewhere"


def test_the_trainer_hands_its_preset_to_run_fn(monkeypatch):
    from tfx.components.trainer import executor
    from tfx.types import standard_artifacts
    from tfx.types.channel_utils import as_channel

    from mixrank.components.training.component import Executor, Trainer

    component = Trainer(
        examples=as_channel([standard_artifacts.Examples()]),
        transform_graph=as_channel([standard_artifacts.TransformGraph()]),
        splits=("train", "valid", "eval"),
        custom_config={"model": json.dumps({"name": "hemix", "preset": "tiny"})},
        preset="small",
    )
    seen = {}
    monkeypatch.setattr(
        executor.GenericExecutor, "Do", lambda self, inputs, outputs, properties: seen.update(properties)
    )
    Executor().Do({}, {}, dict(component.exec_properties))
    assert json.loads(json.loads(seen["custom_config"])["model"]) == {"name": "hemix", "preset": "small"}
    assert json.loads(seen["train_args"]) == {"splits": ["train", "valid"]}
    assert seen["run_fn"] == "mixrank.components.training.trainer.run_fn"
