"""`mixrank compare` and `mixrank tune`: mistakes are answered at once, and what is done is shown."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mixrank.pipeline import cli
from mixrank.pipeline.comparing import scheduler
from mixrank.pipeline.comparing.trial_plan import TRIAL_LOG, trials
from mixrank.pipeline.config import load_config
from mixrank.schemas import datasets

CONFIG = """
name: mine
dataset: kuairand
data: .
output: {output}
compare:
  seeds: [0, 1]
  tables:
    two:
      title: Two models
      reference: dlrm
      budgets: [100K, 200K]
      variants:
        - {{name: dlrm, model: {{name: dlrm}}}}
        - {{name: hemix, model: {{name: hemix}}}}
"""


@pytest.fixture
def mixrank(tmp_path, monkeypatch):
    from mixrank.pipeline.commands import terminal

    monkeypatch.setattr(terminal.console, "width", 200)
    file = tmp_path / "mine.yaml"
    file.write_text(CONFIG.format(output=tmp_path))
    return lambda command, *arguments: CliRunner().invoke(cli.app, [command, str(file), *arguments])


@pytest.fixture
def after_a_run(tmp_path, record_of):
    """The record of a run that went through Transform, without a validation split; its folder holds it."""
    (tmp_path / "mine").mkdir()
    record = record_of(datasets.load("kuairand").spec, tmp_path, dataset="kuairand")
    record.write(tmp_path / "mine")
    return record


def failure(result) -> str:
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_it_needs_a_run(mixrank):
    for command in ("compare", "tune"):
        assert "run the pipeline once first, `mixrank run` with the same config" in failure(mixrank(command))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("modles",), "there is no table `modles`; did you mean `models`?"),
        (("two", "--budget", "1M"), "table `two` has the sizes 100K, 200K, received --budget 1M"),
        (("two", "--budget", "many"), "received 'many'"),
        (("two", "--set", "train.epochs=0"), "train.epochs: Input should be greater than or equal to 1"),
        (("two", "--report-only"), "is done: nothing to report"),
    ],
)
def test_wrong_arguments_are_refused(mixrank, after_a_run, arguments, message):
    assert message in failure(mixrank("compare", *arguments))


def test_a_search_refuses_what_it_cannot_do(mixrank, after_a_run):
    assert "judged on a `valid` split, and kuairand has none" in failure(mixrank("tune", "hemix"))
    assert "there is no model `hemmix`" in failure(mixrank("tune", "hemmix", "--set", "compare.seeds=[0,1]"))


@pytest.fixture
def one_training(monkeypatch):
    """The first job is the training that it says; the others end as it would, without half a minute of imports each."""
    start, started = scheduler._start, []

    def start_or_end(job, slot, parallel):
        started.append(job)
        if len(started) == 1:
            return start(job, slot, parallel)
        log = (job.folder / TRIAL_LOG).open("wb")
        process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit('no rows')"], stderr=log)
        return scheduler._Running(job, slot, process, log)

    monkeypatch.setattr(scheduler, "_start", start_or_end)


@pytest.mark.slow
@pytest.mark.usefixtures("one_training")
def test_a_training_that_fails_is_named_and_the_command_fails(mixrank, after_a_run):
    """The rows of this run do not exist, which a training says in its own words."""
    said = failure(mixrank("compare", "two", "--budget", "100K", "--jobs", "4"))
    assert "4 trainings (4 to do), 4 at once" in said
    assert "[4/4]" in said
    assert "4 failed:" in said
    assert "dlrm 100K seed 0: " in said and "dlrm 100K seed 0: no rows" not in said
    assert all(f"{other}: no rows (" in said for other in ("hemix 100K seed 0", "dlrm 100K seed 1"))
    assert "log.txt)" in said
    assert said.endswith("next: mend it and give the same command again; what is done stays done")


@pytest.mark.slow
def test_a_report_of_a_part(mixrank, after_a_run, tmp_path, monkeypatch):
    config = load_config(str(tmp_path / "mine.yaml"))
    planned = trials(config, after_a_run, config.compare.table("two"))
    numbers = {"auc": 0.75, "gauc": 0.6, "log_loss": 0.5, "calibration": 1.0}
    for trial in planned[:3]:
        trial.folder.mkdir(parents=True)
        found = {"metrics": {"is_click": {"overall": {**numbers, "auc": 0.7 + 0.01 * trial.seed}}}, "flops": 1}
        found |= {"dense_parameters": 100_000, "peak_mb": 1.0, "code": "c"}
        (trial.folder / "result.json").write_text(json.dumps(found))
    monkeypatch.setattr(
        "mixrank.pipeline.comparing.run_comparison.Comparison.baselines",
        lambda self: {"additive log-odds": {"is_click": {"overall": numbers}}},
    )
    result = mixrank("compare", "two", "--report-only")
    assert result.exit_code == 0, result.output
    assert "0.7050 ± 0.0071" in result.output
    assert "hemix (1 of 2 seeds)" in result.output
    assert "additive log-odds" in result.output
    text = (tmp_path / "mine" / "compare" / "report.md").read_text()
    assert "Not trained yet: hemix 100K seed 1, dlrm 200K seed 0" in text


def test_a_feature_to_leave_out_that_is_not_there_is_named(mixrank, after_a_run):
    said = failure(mixrank("compare", "--without", "vidoe_id"))
    assert "variant `without vidoe_id`: `without` names `vidoe_id`" in said and "did you mean `video_id`" in said
