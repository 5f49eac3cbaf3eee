"""The record of a run: written and read whole, and refused by file and key otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.run_record import Judgement, RunRecord, is_run, split_files


def test_a_record_is_read_as_it_was_written(record_of, toy_spec, tmp_path):
    judged = Judgement(evaluation="/artifacts/evaluation", reasons=("AUC is 0.5",), pushed=None)
    for judgement in (judged, None):
        record = record_of(toy_spec, tmp_path, judgement=judgement, config={"train": {"epochs": 2}}, export=None)
        record.write(tmp_path)
        assert is_run(tmp_path)
        assert RunRecord.read(tmp_path) == record


@pytest.mark.parametrize(
    ("judgement", "blessed"),
    [({}, True), ({"reasons": ("AUC is 0.5",)}, False), ({"pushed": Path("/serving/7")}, True)],
)
def test_a_model_without_a_reason_against_it_is_blessed(record_of, toy_spec, judgement, blessed):
    record = record_of(toy_spec, judgement=Judgement(evaluation="/evaluation", **judgement))
    assert record.judgement.blessed is blessed
    assert record.pushed == judgement.get("pushed")
    assert record_of(toy_spec, judgement=None).pushed is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.pop("spec"), "spec: Field required"),
        (lambda about: about["rows"].pop("examples"), "rows.examples: Field required"),
        (lambda about: about.update(blessed=True), "RunRecord has no field `blessed`"),
    ],
)
def test_a_record_of_another_version_is_refused_by_file_and_key(record_of, toy_spec, tmp_path, change, message):
    record_of(toy_spec).write(tmp_path)
    about = json.loads((tmp_path / "run.json").read_text())
    change(about)
    (tmp_path / "run.json").write_text(json.dumps(about))
    text = re.escape(f"{tmp_path / 'run.json'} was not written by this version of mixrank: {message}")
    with pytest.raises(ValueError, match=text + r".*Run it again with `mixrank run`"):
        RunRecord.read(tmp_path)


def test_a_folder_without_a_record_is_no_run(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(ValueError, match=r"is not a run folder: it holds no run\.json"):
        RunRecord.read(tmp_path)


def test_files_are_found_by_split(tmp_path):
    for name in ("Split-train", "Split-eval", "other"):
        (tmp_path / name).mkdir()
    assert split_files(tmp_path) == {"train": f"{tmp_path}/Split-train/*", "eval": f"{tmp_path}/Split-eval/*"}


def test_a_run_folder_to_start_from_means_the_model_it_exported(record_of, toy_spec, tmp_path):
    def config():
        return RunConfig(name="a", dataset="kuairand", data=".", train={"warm_start": str(tmp_path)})

    assert config().train.warm_start == str(tmp_path)
    record_of(toy_spec, export=tmp_path / "export").write(tmp_path)
    assert config().train.warm_start == str(tmp_path / "export")
    record_of(toy_spec, export=None).write(tmp_path)
    with pytest.raises(ValueError, match="is a run without an exported model"):
        config()
