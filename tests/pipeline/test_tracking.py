"""MLflow gets a run, its days and its page once; a server that is down is a warning that names the next command."""

from __future__ import annotations

import runpy
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")

from mixrank.pipeline.advancing import DAYS
from mixrank.pipeline.commands.report import MlflowLog, history
from mixrank.pipeline.config import MlflowSettings, load_config
from mixrank.pipeline.run_record import RunRecord
from mixrank.pipeline.tracking import log_to_mlflow

pytestmark = pytest.mark.slow
app = typer.Typer()
app.command()(history)
# Test modules cannot import each other.
HERE = Path(__file__).parent
fake_run = runpy.run_path(str(HERE / "reports" / "test_run_report.py"))["fake_run"]
days_module = runpy.run_path(str(HERE / "history" / "conftest.py"))


@pytest.fixture
def done(tmp_path, monkeypatch):
    """A run of the config `shop.yaml`, in a folder of runs, with a report."""
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "set, so that it is as before in the end")
        monkeypatch.delenv(name)
    (tmp_path / "runs").mkdir()
    folder = fake_run(tmp_path / "runs" / "shop", name="shop")
    (folder / "report.html").write_text("<p>the report</p>")
    (tmp_path / "shop.yaml").write_text(
        f"name: shop\ndataset: shop\ndata: {tmp_path}\noutput: {tmp_path / 'runs'}\n"
        f"mlflow: {{tracking_uri: {tmp_path / 'store'}, experiment: feed}}\n"
    )
    return folder


def tracked(settings):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=Path(settings.tracking_uri).as_uri())
    experiment = client.get_experiment_by_name("feed").experiment_id
    return client, client.search_runs([experiment])


def test_a_run_and_its_days_are_logged_once(done):
    settings = load_config(str(done.parents[1] / "shop.yaml")).mlflow
    run = RunRecord.read(done)
    run = run.model_copy(update={"config": {**run.config, "odd": {"<k>": "é" * 900}, "compare": {"not": "this"}}})
    days = days_module["make_days"](3, held=(1,), unscored=(2,))
    log_to_mlflow(settings, run, done, days[:1])
    for _ in range(2):
        log_to_mlflow(settings, run, done, days)
    client, (found,) = tracked(settings)
    assert found.info.run_name == "shop" and found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "64" and found.data.params["odd._k_"] == "é" * 500
    assert not any(name.startswith("compare") for name in found.data.params)
    assert 0.5 < found.data.metrics["click/auc"] < 1 and found.data.metrics["seconds/Trainer"] == 75.25
    assert found.data.tags["mixrank.blessed"] == "False" and found.data.tags["mixrank.model"] == days[0].pushed
    assert {each.path for each in client.list_artifacts(found.info.run_id)} == {"report.html", "run.json"}
    points = client.get_metric_history(found.info.run_id, "day/click/auc")
    assert [(point.step, point.value) for point in points] == [
        (20240130, days[0].metrics["click"]["auc"]),
        (20240131, days[1].metrics["click"]["auc"]),
    ]
    held = client.get_metric_history(found.info.run_id, "day/held")
    assert [point.value for point in held] == [0, 1, 1]


def test_what_was_cut_off_is_logged_the_next_time(done, monkeypatch):
    from mlflow.tracking import MlflowClient

    settings = load_config(str(done.parents[1] / "shop.yaml")).mlflow
    run, days = RunRecord.read(done), days_module["make_days"](2)

    def down(*args, **options):
        raise ConnectionError("the store is away")

    for name in ("log_artifact", "set_tag"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, down)
            with pytest.raises(ConnectionError):
                log_to_mlflow(settings, run, done, days)
    log_to_mlflow(settings, run, done, days)
    client, (found,) = tracked(settings)
    assert found.info.status == "FINISHED"
    assert {point.step for point in client.get_metric_history(found.info.run_id, "day/rows")} == {20240130, 20240131}
    assert len(client.list_artifacts(found.info.run_id)) == 2


def test_history_logs_what_is_missing_and_its_page(done):
    config = str(done.parents[1] / "shop.yaml")
    said = CliRunner().invoke(app, [config])
    assert (
        said.exit_code == 1
        and f"error: no day after the run is done yet; take those of the log: mixrank advance {config}"
        in said.output.replace("\n", "")
    )
    said = CliRunner().invoke(app, [config, "--log"])
    assert said.exit_code == 0 and "no day after the run is done yet" in said.output
    # The run itself is there.
    assert len(tracked(load_config(config).mlflow)[1]) == 1
    for record in days_module["make_days"](2):
        (done / DAYS / record.day).mkdir(parents=True)
        record.write(done / DAYS / record.day)
    said = CliRunner().invoke(app, [config, "--log"])
    assert said.exit_code == 0, said.output
    client, (found,) = tracked(load_config(config).mlflow)
    assert "history.html" in {each.path for each in client.list_artifacts(found.info.run_id)}
    assert len(client.get_metric_history(found.info.run_id, "day/rows")) == 2


def test_a_server_that_is_down_is_a_warning_with_the_next_command(done):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for record in days_module["make_days"](1):
        (done / DAYS / record.day).mkdir(parents=True)
        record.write(done / DAYS / record.day)
    config = str(done.parents[1] / "shop.yaml")
    said = CliRunner().invoke(app, [config, "--log", "--set", f"mlflow.tracking_uri={address}"])
    assert said.exit_code == 1
    assert f"not logged to MLflow at {address}" in said.output
    assert f"mixrank history {config} --set mlflow.tracking_uri={address} --log" in said.output.replace("\n", "")
    # The page does not wait for the server.
    assert (done / "history.html").is_file()


def test_a_server_that_is_down_is_said_once(done, monkeypatch, capsys):
    from mixrank.pipeline import tracking

    asked = []

    def down(*args):
        asked.append(args)
        raise ConnectionError("no answer\nand a long trace")

    monkeypatch.setattr(tracking, "log_to_mlflow", down)
    log = MlflowLog(load_config(str(done.parents[1] / "shop.yaml")), "shop.yaml")
    run = RunRecord.read(done)
    assert [log.add(run), log.add(run)] == [False, False]
    assert len(asked) == 1
    said = capsys.readouterr().err
    assert said.count("not logged to MLflow") == 1 and "no answer. Nothing else is lost" in said
    assert "mixrank history shop.yaml --log" in said and "trace" not in said


def test_a_config_that_wants_mlflow_is_refused_without_it(done, monkeypatch):
    settings = load_config(str(done.parents[1] / "shop.yaml"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`mlflow` in the config needs mixrank\[mlflow\], which is not installed"):
        MlflowLog(settings, "")
    assert MlflowLog(settings.model_copy(update={"mlflow": None}), "").add(RunRecord.read(done)) is False


def test_secrets_are_named_and_never_written():
    with pytest.raises(ValueError, match="must not hold user and password"):
        MlflowSettings(tracking_uri="https://me:hunter2@mlflow.example")
    with pytest.raises(ValueError, match="`mlflow.token` must not hold the secret") as refused:
        MlflowSettings(tracking_uri="https://mlflow.example", token="hunter2")
    assert "hunter2" not in str(refused.value).partition("[type=")[0]
    assert MlflowSettings(tracking_uri="https://mlflow.example", token="env:MY_TOKEN").token == "env:MY_TOKEN"
