"""What a run gives, copied to an object store."""

from __future__ import annotations

import pytest

from mixrank.pipeline.run_record import Judgement, RunRecord
from mixrank.pipeline.stored_runs import store_run
from mixrank.schemas import stores


@pytest.fixture
def run(record_of, toy_spec, tmp_path):
    """A small run folder, and its record."""
    folder = tmp_path / "runs [v2]" / "toy"
    for name in ("export/saved_model.pb", "model_run/model.json", "evaluation/metrics", "examples/report.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    for name in ("run.log", "report.html"):
        (folder / name).write_text(name)
    judgement = Judgement(evaluation=folder / "evaluation", pushed="s3://bucket/models/toy/17")
    record = record_of(toy_spec, folder, judgement=judgement)
    record.write(folder)
    return folder, record


def test_a_run_is_copied_with_its_record_last(bucket, run, monkeypatch):
    order, upload = [], stores.upload
    monkeypatch.setattr(stores, "upload", lambda file, url: (order.append(url), upload(file, url)))
    folder, record = run
    place = store_run(record, folder, f"{bucket}/runs [v2]")
    assert place == f"{bucket}/runs [v2]/toy/20240501-100000-000000"
    assert set(stores.files(place)) == {
        "run.json",
        "run.log",
        "report.html",
        "model/saved_model.pb",
        "training/model.json",
        "evaluation/metrics",
        "rows.json",
    }
    assert order[-1] == f"{place}/run.json"
    assert RunRecord.model_validate_json(stores.read(f"{place}/run.json")) == record


def test_a_copy_that_fails_has_no_record_and_says_where_the_run_is(bucket, run, monkeypatch):
    upload = stores.upload

    def fail(file, url):
        if url.endswith("report.html"):
            raise ValueError(f"{url}: the store cannot be reached")
        upload(file, url)

    monkeypatch.setattr(stores, "upload", fail)
    folder, record = run
    with pytest.raises(
        ValueError, match="report.html: the store cannot be reached. The run is complete in .*toy: run it"
    ):
        store_run(record, folder, bucket)
    assert not [name for name in stores.files(bucket) if name.endswith("run.json")]


def test_a_record_knows_an_address_from_a_folder(run, tmp_path):
    folder, record = run
    assert RunRecord.read(folder).pushed == "s3://bucket/models/toy/17"
    assert record.local_model == record.export
    local = record.model_copy(update={"judgement": Judgement(evaluation=tmp_path, pushed=tmp_path / "17")})
    local.write(folder)
    assert RunRecord.read(folder).pushed == RunRecord.read(folder).local_model == tmp_path / "17"
