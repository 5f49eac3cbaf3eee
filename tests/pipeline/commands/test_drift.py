"""`mixrank drift` on a run folder of the toy log: table, files, exit code."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
import typer
from tensorflow_data_validation.utils import display_util
from typer.testing import CliRunner

from mixrank.pipeline.commands.drift import drift
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.drift import LoggedRows, read_vocabularies, summarize

app = typer.Typer()
app.command()(drift)
DAY = 86_400_000


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory, toy_spec, toy_data, record_of):
    """A run folder with what `drift` reads, and an exported model's spec and vocabularies."""
    root = tmp_path_factory.mktemp("drift")
    run, model = root / "run", root / "model" / "1"
    statistics, model_run = run / "statistics", run / "model_run"
    assets = toy_data.graph / "transform_fn" / "assets"
    train = LoggedRows(toy_data.examples / "Split-train", toy_spec)
    summary = summarize(train, toy_spec, read_vocabularies(toy_spec, assets))
    for folder in (statistics / "Split-train", model_run, model / "assets.extra"):
        folder.mkdir(parents=True)
    (statistics / "Split-train" / "FeatureStats.pb").write_bytes(summary.statistics.SerializeToString())
    frame = pd.DataFrame(toy_data.rows["eval"])
    frame = frame[["person", "clip", "at", "page"]].assign(
        label_click=frame["click"], label_buy=frame["buy"], score_click=0.5 + 0.3 * (frame["age"].fillna(0) > 3),
        score_buy=frame["click"] * 0.25 + 0.5,
    )  # fmt: skip
    frame.to_parquet(model_run / "predictions.parquet")
    record_of(toy_spec, run, examples=toy_data.examples, transform_graph=toy_data.graph).write(run)
    shutil.copytree(assets, model / "assets")
    (model / "assets.extra" / "mixrank.json").write_text(json.dumps({"spec": toy_spec.model_dump(mode="json")}))
    return SimpleNamespace(folder=run, model=model.parent, predictions=frame, statistics=statistics / "Split-train")


@pytest.fixture(scope="module")
def fresh(toy_spec, tmp_path_factory):
    """1500 rows of the process that made the training rows."""
    rows = list(toy_rows(toy_spec, 1500, seed=21))
    file = tmp_path_factory.mktemp("fresh") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def mixrank_drift(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def test_no_drift_is_exit_code_0_and_says_what_to_do_next(toy_run, fresh, tmp_path):
    said = mixrank_drift(toy_run.folder, fresh, "--json", tmp_path / "deep" / "drift.json")
    assert said.exit_code == 0, said.output
    assert f"{fresh}: 1,500 rows" in said.output and "against toy, split train: 1,500 rows" in said.output
    assert "0 alarms of" in said.output and f"mixrank drift {toy_run.folder} {fresh} --html" in said.output
    found = json.loads((tmp_path / "deep" / "drift.json").read_text())
    assert found["alarms"] == 0 and found["new"]["rows"] == 1500 and found["limits"]["psi"] == 0.2
    assert {"label rate", "unseen values", "L-infinity"} <= {finding["measure"] for finding in found["findings"]}


def test_alarms_are_exit_code_3_and_the_worst_stands_first(toy_run, fresh, tmp_path):
    rows = [json.loads(line) for line in fresh.read_text().splitlines()]
    for row in rows:
        row["page"], row["country"] = "search", row.pop("country") and "<b>v1</b>"
        del row["price"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = mixrank_drift(
        toy_run.folder, tmp_path / "rows.jsonl", "--json", tmp_path / "d.json", "--html", tmp_path / "d.html"
    )
    assert said.exit_code == 3, said.output
    found = json.loads((tmp_path / "d.json").read_text())["findings"]
    named = [(finding["feature"], finding["measure"]) for finding in found if finding["alarm"]]
    assert named[0] == ("price", "missing column")
    assert set(named) == {("price", "missing column"), ("page", "L-infinity"), ("country", "L-infinity")}
    assert said.output.index("missing column") < said.output.index("L-infinity")
    page = (tmp_path / "d.html").read_text()
    assert "3 alarms" in page and "&lt;b&gt;v1&lt;/b&gt;" in page
    assert "<b>v1</b>" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_a_loose_limit_takes_an_alarm_back(toy_run, fresh, tmp_path):
    rows = [json.loads(line) | {"page": "search"} for line in fresh.read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mixrank_drift(toy_run.folder, tmp_path / "rows.jsonl").exit_code == 3
    assert mixrank_drift(toy_run.folder, tmp_path / "rows.jsonl", "--limit", "category=0.9").exit_code == 0


def test_a_runs_own_evaluation_split_is_compared_but_for_its_scores(toy_run):
    said = mixrank_drift(toy_run.folder, toy_run.folder)
    assert said.exit_code == 0, said.output
    assert "toy, split eval: 150 rows" in said.output
    assert "note: both sides have the same predictions: scores were not compared" in said.output
    assert "note: 150 rows are fewer than 1,000" in said.output


@pytest.mark.slow
def test_batch_scores_are_compared_without_features(toy_run, tmp_path):
    def score(factor):
        frame = toy_run.predictions
        scores = {"person": frame["person"], "click": frame["score_click"] * factor, "buy": frame["score_buy"]}
        file = tmp_path / "scores.parquet"
        pd.DataFrame(scores).to_parquet(file)
        files = ("--json", tmp_path / "d.json", "--html", tmp_path / "d.html")
        return mixrank_drift(toy_run.folder, file, "--min-rows", 100, *files)

    said = score(1.0)
    assert said.exit_code == 0 and "holds scores and no features" in said.output, said.output
    assert score(0.7).exit_code == 3
    found = json.loads((tmp_path / "d.json").read_text())["findings"]
    assert {finding["feature"] for finding in found if finding["alarm"]} == {"click"}
    assert {finding["feature"] for finding in found} == {"click", "buy"}
    assert "data:image/svg+xml" in (tmp_path / "d.html").read_text()


def test_the_statistics_of_new_rows_are_written_for_tfdv(toy_run, fresh, tmp_path):
    file = tmp_path / "new" / "stats.pb"
    assert mixrank_drift(toy_run.folder, fresh, "--statistics", file).exit_code == 0
    baseline, new = (tfdv.load_stats_binary(str(path)) for path in (toy_run.statistics / "FeatureStats.pb", file))
    assert new.datasets[0].num_examples == 1500
    assert "facets-overview" in display_util.get_statistics_html(baseline, new)
    again = mixrank_drift(toy_run.folder, file)
    assert again.exit_code == 0 and "stats.pb: 1,500 rows" in again.output


def test_statistics_alone_are_a_baseline_too(toy_run, fresh):
    file = toy_run.statistics / "FeatureStats.pb"
    refused = mixrank_drift(file, fresh)
    assert refused.exit_code == 1 and "name the model that the rows were made for with --model" in refused.output
    said = mixrank_drift(file, fresh, "--model", toy_run.model)
    assert said.exit_code == 0, said.output
    assert "scores and unseen values were not compared" in said.output


def test_rows_against_rows(toy_run, toy_data, fresh):
    said = mixrank_drift(toy_data.examples / "Split-train", fresh, "--model", toy_run.model / "1")
    assert said.exit_code == 0 and f"against {toy_data.examples / 'Split-train'}: 1,500 rows" in said.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "pis=1"], "there is no limit `pis`; did you mean `psi`"),
        (["--model", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(toy_run, fresh, options, said):
    refused = mixrank_drift(toy_run.folder, fresh, *options)
    assert refused.exit_code == 1 and said in refused.output.replace("\n", " ")


def test_two_sides_without_anything_in_common_are_refused(toy_run, tmp_path):
    pd.DataFrame({"person": [1], "score_click": [0.5]}).to_parquet(tmp_path / "scores.parquet")
    refused = mixrank_drift(
        toy_run.statistics / "FeatureStats.pb", tmp_path / "scores.parquet", "--model", toy_run.model
    )
    assert refused.exit_code == 1 and "neither features nor scores nor labels in common" in refused.output
