"""A model from outside mixrank, from a file to a pushed version that every way to score agrees on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mixrank.pipeline.run_record import RunRecord

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"


@pytest.fixture(scope="module")
def outside(films, finished, tmp_path_factory):
    """A run of the page's model on the rows of a finished run, started with the tables of that run's model."""
    root = tmp_path_factory.mktemp("outside")
    (text,) = re.findall(r"```python\n(\"\"\"A plain network.*?)```", PAGE.read_text(), re.DOTALL)
    model = root / "plain_network.py"
    model.write_text(text)
    # What ran before is taken from the cache of its metadata.
    shutil.copytree(finished.run, root / "runs" / "films")
    values = yaml.safe_load(Path(finished.config).read_text())
    values |= {"output": str(root / "runs"), "model": {"name": str(model), "preset": "tiny"}}
    values["train"] |= {"epochs": 2, "warm_start": str(finished.run)}
    config = root / "films.yaml"
    config.write_text(yaml.safe_dump(values))
    with films.stderr_in(root / "progress.txt"):
        result = films.mixrank("run", str(config))
    assert result.exit_code == 0, result.output
    run = root / "runs" / "films"
    return SimpleNamespace(
        model=model,
        config=str(config),
        run=run,
        progress=(root / "progress.txt").read_text(),
        record=RunRecord.read(run),
    )


def test_it_is_trained_on_the_cached_rows_and_pushed(outside):
    assert "Transform: unchanged, taken from the cache" in outside.progress
    assert re.search(r"warm start: [\d,]{2,} embedding rows taken over", outside.progress)
    assert outside.record.pushed is not None, outside.record.judgement.reasons
    card = json.loads((outside.record.model_run / "model.json").read_text())
    assert card["name"] == str(outside.model)
    assert "dense layers" in [part["name"] for part in card["parts"]]


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
