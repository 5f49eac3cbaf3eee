"""A whole comparison on toy rows: trainings, speed and report; and the search. The model is one from outside."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys

import pandas as pd
import pytest

from mixrank.components.baselines import fit_additive, read_columns
from mixrank.pipeline.comparing import Comparison, cost, run_jobs, scheduler, training_jobs, tuning
from mixrank.pipeline.comparing.trial_plan import trials
from mixrank.pipeline.config import Range, RunConfig
from mixrank.pipeline.run_record import split_files


@pytest.fixture(scope="module")
def run(lean_spec, toy_data, tmp_path_factory, record_of, plain_network):
    """A config and the record that a pipeline run of it would have left, with a constant model."""
    output = tmp_path_factory.mktemp("runs")
    model = {"name": str(plain_network)}
    variants = [{"name": "plain", "model": model}, {"name": "plain of today", "model": model, "without": ["global"]}]
    config = RunConfig(
        name="toy",
        dataset="toy",
        data=str(output),
        output=str(output),
        train={
            "splits": ["train"],
            "batch_size": 150,
            "shuffle_rows": 300,
            "jit_compile": "off",
            "optimizer": {"learning_rate": 0.01},
        },
        compare={
            "seeds": [0, 1],
            "tables": {"small": {"title": "Small ones", "reference": "plain", "variants": variants}},
        },
    )
    spec = lean_spec
    keys = [spec.user.name, spec.item.name, spec.time.name]
    examples = toy_data.graph.parent / "examples"
    columns = read_columns(spec, str(examples / "Split-eval" / "*"), [*keys, spec.scenario.name, *spec.tasks])
    frame = pd.DataFrame({name: columns[name] for name in [*keys, spec.scenario.name]})
    for task in spec.tasks:
        frame[f"label_{task}"], frame[f"score_{task}"] = columns[task], 0.5
    (config.run_dir / "model_run").mkdir(parents=True)
    frame.to_parquet(config.run_dir / "model_run" / "predictions.parquet")
    earlier = record_of(
        spec,
        config.run_dir,
        examples=examples,
        transformed=toy_data.graph.parent / "transformed",
        transform_graph=toy_data.graph,
    )
    earlier.write(config.run_dir)
    return config, earlier


@pytest.fixture(scope="module")
def started():
    """Modules that had a process of their own."""
    return set()


@pytest.fixture
def few_processes(monkeypatch, started):
    """The first job of each kind has a process of its own; the next ones run here, where all is imported already."""
    start = scheduler._start

    def start_or_run(job, slot, parallel):
        if job.module not in started:
            started.add(job.module)
            return start(job, slot, parallel)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [job.module, str(job.folder)])
            patch.setattr("mixrank.pipeline.comparing.trial._end_with_parent", lambda: None)
            module = importlib.import_module(job.module)
            if module is cost:
                # Only how long it measures differs.
                patch.setattr(cost, "median_seconds", functools.partial(cost.median_seconds, seconds=0.1))
            module.run(module.work)
        return scheduler._Running(job, slot, subprocess.Popen(["true"]), (job.folder / "log.txt").open("wb"))

    monkeypatch.setattr(scheduler, "_start", start_or_run)


@pytest.mark.slow
@pytest.mark.usefixtures("few_processes")
def test_a_comparison_from_rows_to_report(run, monkeypatch):
    config, earlier = run

    def same_as_additive(dataset, patterns, splits, target):
        """Boosted trees want a declared dataset, which these rows are not of; they have tests of their own."""
        target.write_bytes(additive.read_bytes())

    earlier.baselines.mkdir()
    rows = split_files(earlier.rows.examples)
    additive = fit_additive(earlier.spec, rows, earlier.splits, earlier.baselines / "additive.parquet")
    monkeypatch.setattr("mixrank.pipeline.comparing.run_comparison.fit_boosted_trees", same_as_additive)
    table = config.compare.table("small")
    comparison = Comparison(config, earlier, None, {"small": table}, {"small": trials(config, earlier, table)})
    said: list[str] = []
    assert comparison.train(2, said.append, speed=False) == {}, said
    assert [trial.costs for trial in comparison.trials["small"]] == [None] * 4
    assert comparison.train(2, said.append) == {}, said
    page, markdown, grids = comparison.report()
    assert len(said) == 4 + 2 + 1
    assert [grid.title for grid in grids] == list(earlier.spec.tasks)
    assert [row[0] for row in grids[0].rows] == ["plain", "plain of today", "additive log-odds", "boosted trees"]
    trial = comparison.trials["small"][1]
    result = trial.result
    # Loss of two classes with nearly even odds; a wrong label or column would not stay near it.
    assert 0.5 < result["metrics"]["click"]["overall"]["log_loss"] < 0.8
    assert result["dense_parameters"] > 500
    assert {"1", "512"} <= set(trial.costs["latency_ms"])
    assert min(*trial.costs["latency_ms"].values(), trial.costs["training_samples_per_second"]) > 0
    saved = json.loads((comparison.folder / "results.json").read_text())
    rows = {row["model"]: row for row in saved["tables"]["small"]["rows"]}
    # Another seed is another training; a model that sees less has fewer weights.
    first, second = rows["plain"]["metrics"]["click/overall/auc"]
    assert first != second
    assert rows["plain of today"]["dense_parameters"] < rows["plain"]["dense_parameters"]
    assert page.is_file()
    assert "boosted trees" in markdown.read_text()
    said.clear()
    assert comparison.train(2, said.append) == {}
    assert said == []


@pytest.mark.slow
@pytest.mark.usefixtures("few_processes")
def test_equal_settings_give_equal_trainings(run):
    config, earlier = run
    (trial, *_) = trials(config, earlier, config.compare.table("small"))
    before = trial.result
    if before is None:
        run_jobs(training_jobs([trial]), parallel=1, say=print)
        before = trial.result
    (trial.folder / "result.json").unlink()
    assert run_jobs(training_jobs([trial]), parallel=2, say=print) == {}
    assert trial.result["metrics"]["click"]["overall"]["auc"] == pytest.approx(
        before["metrics"]["click"]["overall"]["auc"], abs=1e-3
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_processes")
def test_a_search_tries_the_same_draws_for_every_model_and_finds_the_best(run, plain_network):
    config, earlier = run
    plain = str(plain_network)
    space = {
        "train.optimizer.learning_rate": Range(low=1e-3, high=1e-1),
        "params.rank": (2, 3),
        "embedding_width": (2.0,),
    }
    # A seed of its own: what another test has trained with the config's settings would be done already.
    changes = {"search": space, "seeds": (5,)}
    searched = config.model_copy(update={"compare": config.compare.model_copy(update=changes)})
    found = tuning.search_settings(searched, earlier, [plain, "hemix"], 1, None)
    assert [(draw.model, sorted(draw.values)) for draw in found] == [
        (plain, []),
        ("hemix", []),
        (plain, ["embedding_width", "train.optimizer.learning_rate"]),
        ("hemix", ["embedding_width", "params.rank", "train.optimizer.learning_rate"]),
    ]
    rate = found[2].values["train.optimizer.learning_rate"]
    assert found[3].values["train.optimizer.learning_rate"] == rate == float(f"{rate:.3g}")
    assert found[2].trial.given.model.embedding_width == 2.0
    assert found == tuning.search_settings(searched, earlier, [plain, "hemix"], 1, None)
    assert tuning.best(found) == {}
    tried = [draw for draw in found if draw.model == plain]
    assert run_jobs(training_jobs([draw.trial for draw in tried]), parallel=2, say=print) == {}
    losses = [draw.loss for draw in tried]
    best = tuning.best(found)
    assert best[plain] is tried[losses.index(min(losses))]
    grid = tuning.search_grid(found)
    assert grid.headers == ("model", "the config's", "draw 1")
    assert grid.rows == ((plain, *(f"{loss:.4f}" for loss in losses)), ("hemix", "-", "-"))
    assert grid.best == {(0, 1 + losses.index(min(losses)))}
    drawn = {row[0]: row[1:] for row in tuning.drawn_grid(found).rows}
    assert drawn == {
        "optimizer.learning_rate": (f"{rate:.3g}",),
        "rank": (str(found[3].values["params.rank"]),),
        "embedding_width": ("2",),
    }
    assert best[plain].trial.given.train.splits == ("train",)


def test_what_a_search_found_is_written_as_a_config_holds_it(run):
    config, earlier = run
    (own, drawn) = tuning.search_settings(config, earlier, ["hemix"], 1, None)
    text = tuning.as_yaml({"hemix": drawn, "dlrm": own})
    import yaml

    section = yaml.safe_load(text)["compare"]
    tuned = RunConfig(**{**config.model_dump(mode="json"), "compare": section}).compare.tuned
    assert tuned["dlrm"].train == tuned["dlrm"].params == {}
    assert tuned["hemix"].params == {"dropout": drawn.values["params.dropout"]}
    assert tuned["hemix"].train["epochs"] == drawn.values["train.epochs"]


def test_a_search_needs_rows_to_be_judged_on(run, tmp_path):
    config, earlier = run
    with pytest.raises(ValueError, match="judged on a `valid` split, and toy has none"):
        rows = earlier.rows.model_copy(update={"transformed": tmp_path})
        tuning.search_settings(config, earlier.model_copy(update={"rows": rows}), ["hemix"], 1, None)


def test_nothing_done_is_no_report(run, tmp_path):
    config, earlier = run
    table = config.compare.table("small")
    elsewhere = config.model_copy(update={"output": str(tmp_path)})
    comparison = Comparison(elsewhere, earlier, None, {"small": table}, {"small": trials(elsewhere, earlier, table)})
    with pytest.raises(ValueError, match="no training in .* is done"):
        comparison.report()
    assert "4 trainings (4 to do), 2 at once" in comparison.outline(2)
