"""A model and a loss from outside mixrank, from files to a pushed version that every way to score agrees on."""

from __future__ import annotations

import json
import re
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mixrank.pipeline.run_record import RunRecord
from mixrank.schemas import stores
from mixrank.serving.base import newest

pytestmark = pytest.mark.slow

LOSSES = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture(scope="module")
def outside(films, kept, plain_network, s3_bucket, s3_options, tmp_path_factory):
    """A run of that model by the page's loss, on the log of a finished run and with the tables of that run's model.

    What it gives goes to an object store, under a name that TFX would take for a pattern.
    """
    root = tmp_path_factory.mktemp("outside_run")
    (text,) = re.findall(r"```python\n(import keras\n.*?class Hinge.*?)```", LOSSES.read_text(), re.DOTALL)
    loss = root / "hinge.py"
    loss.write_text(text)
    output = f"{s3_bucket}/runs [v2] ä #1 100%"
    run = root / "runs" / output.replace("://", "/") / "films"
    values = yaml.safe_load(Path(kept.config).read_text())
    values |= {
        "output": output,
        "beam": ["--runner=FnApiRunner", *s3_options],
        "model": {"name": str(plain_network), "preset": "tiny"},
    }
    # A hinge loss is not made for calibrated probabilities.
    values["gates"] = {"above_baseline": None, "calibration": None}
    values["train"] |= {"epochs": 2, "warm_start": str(kept.run), "loss": {"click": str(loss)}}
    config = root / "films.yaml"
    config.write_text(yaml.safe_dump(values))
    with chdir(root), films.stderr_in(root / "progress.txt"):
        result = films.mixrank("run", str(config))
    assert result.exit_code == 0, result.output
    return SimpleNamespace(
        model=plain_network,
        loss=loss,
        output=result.output,
        config=str(config),
        run=run,
        stored=f"{output}/films",
        progress=(root / "progress.txt").read_text(),
        record=RunRecord.read(run),
    )


def test_it_is_trained_from_the_tables_of_another_model_and_pushed(outside):
    assert re.search(r"warm start: [\d,]{2,} embedding rows taken over", outside.progress)
    assert outside.record.pushed is not None, outside.record.judgement.reasons
    card = json.loads((outside.record.model_run / "model.json").read_text())
    assert card["name"] == str(outside.model)
    assert "dense layers" in [part["name"] for part in card["parts"]]
    assert f"mixrank models {outside.model}   #" in outside.output


def test_what_the_run_gives_is_in_the_store(outside):
    (place,) = re.findall(r"^stored: (.*)$", outside.output, re.MULTILINE)
    assert place.startswith(f"{outside.stored}/20")
    names = set(stores.files(place))
    assert {
        "run.json",
        "run.log",
        "report.html",
        "baselines/additive.parquet",
        "model/saved_model.pb",
        "rows.json",
    } <= names
    assert RunRecord.model_validate_json(stores.read(f"{place}/run.json")) == outside.record
    assert newest(f"{outside.stored}/serving/films")[1] == outside.record.pushed
    assert outside.record.export.is_relative_to(outside.run)


def test_a_task_is_trained_by_the_loss_and_judged_by_that_of_its_kind(outside):
    assert outside.record.config["train"]["loss"] == {"click": str(outside.loss)}
    log = (outside.record.model_run / "training.jsonl").read_text().splitlines()
    first, last = (json.loads(line) for line in (log[0], log[-1]))
    # At logits of about 0 a hinge loss is 1 and cross-entropy 0.69: together 1.69, two cross-entropies would be 1.39.
    assert first["curve"][0]["loss"] == pytest.approx(1.69, abs=0.12)
    assert last["valid"]["loss"] == pytest.approx(last["valid"]["click.log_loss"] + last["valid"]["like.log_loss"])


def test_every_way_to_score_agrees(films, outside):
    result = films.mixrank("parity", str(outside.run), "--rows", "40")
    assert result.exit_code == 0, result.output


def test_the_commands_know_it_by_its_path(films, outside):
    result = films.mixrank("models", str(outside.model))
    assert result.exit_code == 0, result.output
    assert "units" in result.output and "pooling" in result.output
    result = films.mixrank("run", outside.config, "--set", "model.params.unit=3")
    assert result.exit_code == 1
    assert "plain_network has no parameter `unit`; did you mean `units`?" in " ".join(result.output.split())
