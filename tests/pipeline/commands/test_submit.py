"""A config becomes a run, or a schedule, on a stand-in for the API of Kubeflow Pipelines (conftest.py)."""

from __future__ import annotations

import hashlib
import io
import itertools
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml
from rich.console import Console
from typer.testing import CliRunner

from mixrank.pipeline.commands import kubeflow as submit_command
from mixrank.pipeline.kubeflow import CompiledSpec
from mixrank.pipeline.kubeflow.run_progress import MOST_FAILURES, follow, read_run

COMPILED = Path(__file__).parents[3] / "kubeflow" / "compiled"
TASKS = ("CsvGen", "Trainer", "Pusher")


def spec_of(tasks=TASKS, **parameters):
    dag = {name: {"taskInfo": {"name": name}} for name in tasks}
    parameters = parameters or {"data": {"parameterType": "STRING", "defaultValue": "/d"}}
    for before, after in itertools.pairwise(tasks):
        dag[after]["dependentTasks"] = [before]
    return {
        "pipelineInfo": {"name": "toy"},
        "schemaVersion": "2.1.0",
        # Alphabetical, as the compiler writes them.
        "root": {
            "dag": {"tasks": dict(sorted(dag.items()))},
            "inputDefinitions": {
                "parameters": parameters or {"data": {"parameterType": "STRING", "defaultValue": "/d"}}
            },
        },
        "deploymentSpec": {"executors": {name: {"container": {"image": "mixrank"}} for name in tasks}},
    }


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(spec_of()))
    return path


@pytest.fixture
def submit(kubeflow, spec, monkeypatch):
    """Runs `mixrank submit movielens` with a compiled pipeline against the stand-in."""
    monkeypatch.delenv(submit_command.TOKEN, raising=False)
    app = typer.Typer()
    app.command()(submit_command.submit)

    def run(*options, host=None, spec=spec):
        arguments = ["movielens", "--host", host or kubeflow.host, "--every", 0.1, *options]
        arguments += ["--spec", spec] if spec else []
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def one_line(result):
    """The error of a failed command, which is one line."""
    assert result.exit_code == 1
    error = result.output[result.output.index("error:") :].removesuffix("\n")
    assert "\n" not in error
    return error


def test_a_run_is_uploaded_started_and_followed_to_its_end(submit, kubeflow):
    kubeflow.script = [
        {"CsvGen": "RUNNING"},
        {"CsvGen": "SUCCEEDED", "Trainer": "RUNNING"},
        {"CsvGen": "SUCCEEDED", "Trainer": "SUCCEEDED", "Pusher": "SKIPPED"},
    ]
    result = submit("--param", "data=/mnt/log")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "uploaded: version toy"
    assert lines[1] == f"started: {kubeflow.host}/#/runs/details/run-1"
    assert [line for line in lines if line.startswith("CsvGen")][1] == "CsvGen: succeeded 1:15"
    assert [line.partition(":")[0] for line in lines[2:7]] == ["CsvGen", "CsvGen", "Trainer", "Trainer", "Pusher"]
    assert "root" not in "".join(lines[2:7])
    assert lines[7] == f"succeeded: {kubeflow.host}/#/runs/details/run-1"
    (run,) = kubeflow.runs.values()
    assert run["display_name"].startswith("movielens-")
    assert run["runtime_config"]["parameters"] == {"data": "/mnt/log"}
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "pipeline-1",
        "pipeline_version_id": "pipeline_version-1",
    }
    assert kubeflow.experiments["experiment-1"]["display_name"] == "movielens"
    assert kubeflow.versions["pipeline_version-1"]["pipeline_spec"] == spec_of()


def test_without_a_compiled_pipeline_the_config_is_compiled_with_its_overrides(submit, kubeflow, spec, monkeypatch):
    compiled = []

    def compile_pipeline(config, output, days):
        compiled.append(config)
        output.write_text(spec.read_text())
        return output

    monkeypatch.setattr("mixrank.pipeline.kubeflow.compile_pipeline", compile_pipeline)
    result = submit("--set", "train.epochs=3", "--no-wait", spec=None)
    assert result.exit_code == 0, result.output
    (config,) = compiled
    assert (config.name, config.train.epochs) == ("movielens", 3)
    assert kubeflow.versions["pipeline_version-1"]["pipeline_spec"] == spec_of()
    assert "with --spec nothing is" in one_line(submit("--set", "train.epochs=3"))


def test_the_committed_pipelines_are_taken_with_their_parameters(submit, kubeflow):
    kubeflow.script = [{"ExampleGen": "SUCCEEDED", "Pusher": "SUCCEEDED"}]
    result = submit("--param", "preset=small", spec=COMPILED / "movielens.yaml")
    assert result.exit_code == 0, result.output
    assert "ExampleGen: succeeded" in result.output and "Pusher: succeeded" in result.output
    (version,) = kubeflow.versions.values()
    assert version["display_name"] == "movielens" and set(version["pipeline_spec"]["platform_spec"]) == {"platforms"}
    (run,) = kubeflow.runs.values()
    assert run["runtime_config"]["parameters"] == {"preset": "small"}
    assert "did you mean `preset`?" in one_line(submit("--param", "presets=small", spec=COMPILED / "movielens.yaml"))


def test_a_second_upload_is_a_version_of_the_same_pipeline_and_a_third_is_none(submit, kubeflow, spec):
    submit("--no-wait")
    spec.write_text(yaml.safe_dump(spec_of((*TASKS, "Extra"))))
    name = f"toy-{hashlib.sha256(spec.read_bytes()).hexdigest()[:12]}"
    assert f"uploaded: version {name}" in submit("--no-wait").output
    assert f"unchanged: version {name}" in submit("--no-wait").output
    assert len(kubeflow.pipelines) == 1 and len(kubeflow.experiments) == 1
    assert [version["display_name"] for version in kubeflow.versions.values()] == ["toy", name]
    references = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.runs.values()]
    assert references == ["pipeline_version-1", "pipeline_version-2", "pipeline_version-2"]


def test_without_waiting_the_run_is_started_and_not_looked_at(submit, kubeflow):
    result = submit("--no-wait", "--pipeline-root", "gs://bucket/root", "--service-account", "runner")
    assert result.exit_code == 0
    assert f"kfp --endpoint {kubeflow.host} run get run-1" in result.output
    assert kubeflow.looks == 0
    (run,) = kubeflow.runs.values()
    assert run["runtime_config"]["pipeline_root"] == "gs://bucket/root" and run["service_account"] == "runner"


def test_a_failed_run_exits_with_its_task_and_reason(submit, kubeflow):
    kubeflow.script, kubeflow.outcome = [{"CsvGen": "SUCCEEDED", "Trainer": "FAILED"}], "FAILED"
    error = one_line(submit())
    assert error == (
        f"error: the run ended as failed (Trainer: exit code 1); its logs: {kubeflow.host}/#/runs/details/run-1"
    )


def test_a_cancelled_run_is_no_success(submit, kubeflow):
    kubeflow.outcome = "CANCELED"
    assert "ended as canceled" in one_line(submit())


def test_a_recurring_run_replaces_the_one_of_the_same_name(submit, kubeflow):
    first = submit("--recurring", "0 0 3 * * *", "--param", "data=/a")
    assert first.exit_code == 0, first.output
    assert "scheduled: movielens at '0 0 3 * * *' (UTC); id recurring_run-1" in first.output
    (made,) = kubeflow.recurring.values()
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (made["mode"], made["max_concurrency"], made["no_catchup"]) == ("ENABLE", 1, True)
    assert made["runtime_config"]["parameters"] == {"data": "/a"}
    second = submit("--recurring", "0 30 4 * * *")
    assert "in place of 1 earlier" in second.output
    (made,) = kubeflow.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 30 4 * * *"
    assert "in place" not in submit("--recurring", "0 30 4 * * *", "--experiment", "another").output
    assert len(kubeflow.recurring) == 2
    assert not kubeflow.runs


def test_a_schedule_of_five_fields_is_refused_before_anything_is_sent(submit, kubeflow):
    assert "six fields, seconds first" in one_line(submit("--recurring", "0 3 * * *"))
    assert not kubeflow.requests


def test_the_token_comes_from_a_file_or_the_environment(submit, kubeflow, tmp_path, monkeypatch):
    kubeflow.token = "s3cret"
    (tmp_path / "token").write_text("s3cret")
    assert submit("--no-wait", "--token-file", tmp_path / "token").exit_code == 0
    monkeypatch.setenv(submit_command.TOKEN, "s3cret")
    assert submit("--no-wait").exit_code == 0


def test_a_missing_token_is_told_from_a_wrong_one(submit, kubeflow, monkeypatch):
    kubeflow.token = "s3cret"
    error = one_line(submit())
    assert f"{kubeflow.host} refused" in error and "it wants a token" in error and submit_command.TOKEN in error
    monkeypatch.setenv(submit_command.TOKEN, "stale")
    error = one_line(submit())
    assert "the token is wrong or has expired" in error and "stale" not in error


def test_files_that_do_not_exist_are_named(submit, tmp_path):
    assert (
        one_line(submit("--token-file", tmp_path / "none")) == f"error: --token-file {tmp_path / 'none'} does not exist"
    )


def test_a_namespace_of_others_is_refused_with_the_servers_reason(submit, kubeflow):
    kubeflow.namespaces = ("team-a",)
    error = one_line(submit("--namespace", "team-b"))
    assert "does not allow you to take the pipeline toy in the namespace team-b (403)" in error
    assert "no access to namespace team-b" in error


def test_in_ones_own_namespace_a_pipeline_is_found_again(submit, kubeflow):
    kubeflow.namespaces = ("team-a",)
    assert submit("--namespace", "team-a").exit_code == 0
    assert "unchanged" not in submit("--namespace", "team-a").output
    assert submit("--namespace", "team-a").output.startswith("unchanged")
    assert [pipeline["namespace"] for pipeline in kubeflow.pipelines.values()] == ["team-a"]


def test_a_multi_user_installation_without_a_namespace_says_that_it_wants_one(submit, kubeflow):
    kubeflow.namespaces = ("team-a",)
    assert "(400): shared pipeline upload denied: permission to create pipelines" in one_line(submit())
    kubeflow.pipelines["pipeline-1"] = {"pipeline_id": "pipeline-1", "display_name": "toy", "namespace": None}
    assert "(400): Invalid input error: a namespace must be given" in one_line(submit())


def test_a_host_that_is_down_is_named(submit):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = one_line(submit(host=host))
    assert error.startswith(f"error: {host} did not answer") and "Connection refused" in error


def test_a_host_that_speaks_no_tls_is_told_as_such(submit, kubeflow):
    assert "[SSL: WRONG_VERSION_NUMBER] wrong version number" in one_line(submit(host=f"https{kubeflow.host[4:]}"))


def test_a_host_without_a_scheme_is_refused(submit):
    assert "--host is an address such as http://localhost:8888" in one_line(submit(host="localhost:8888"))


def test_a_login_page_is_no_api(submit, kubeflow):
    kubeflow.page = "<html>Log in</html>"
    assert f"{kubeflow.host} is not the API of Kubeflow Pipelines" in one_line(submit())


def test_a_pipeline_that_was_deleted_meanwhile_is_a_404(submit, kubeflow):
    submit("--no-wait")
    kubeflow.failures["/apis/v2beta1/pipelines/pipeline-1/versions"] = [404]
    assert "refused to take the pipeline toy (404)" in one_line(submit())


def test_a_run_that_was_deleted_while_followed_ends_the_command(submit, kubeflow):
    kubeflow.failures["/apis/v2beta1/runs/run-1"] = [404]
    error = one_line(submit())
    assert "refused to describe the run run-1 (404)" in error and "the run may go on" in error


def test_a_spec_that_the_server_refuses_leaves_nothing(submit, kubeflow, spec):
    spec.write_text(yaml.safe_dump({**spec_of(), "deploymentSpec": {}}))
    assert "(400): Failed to create a pipeline: invalid v2 pipeline spec: no executors" in one_line(submit())
    assert not kubeflow.pipelines and not kubeflow.runs


def test_a_server_error_before_the_run_ends_the_command(submit, kubeflow):
    kubeflow.failures["/apis/v2beta1/runs"] = [500]
    assert "failed to start the run movielens-" in one_line(submit())


def test_server_errors_while_following_are_outlived(submit, kubeflow):
    kubeflow.failures["/apis/v2beta1/runs/run-1"] = [500, 503]
    kubeflow.script = [{"CsvGen": "SUCCEEDED"}]
    result = submit()
    assert result.exit_code == 0
    assert "failed to describe the run run-1 (500): the database is away; asking again (1 of 4)" in result.output
    assert "asking again (2 of 4)" in result.output


def test_following_is_given_up_after_too_many_server_errors(submit, kubeflow):
    kubeflow.failures["/apis/v2beta1/runs/run-1"] = [500] * MOST_FAILURES
    error = one_line(submit())
    assert "(500): the database is away; the run may go on" in error and "/#/runs/details/run-1" in error


def test_an_interrupt_leaves_the_run_alone(submit, kubeflow, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    kubeflow.script = [{}, {}]
    monkeypatch.setattr("mixrank.pipeline.kubeflow.run_progress.follow.__kwdefaults__", {"sleep": interrupted})
    result = submit()
    assert result.exit_code == 130
    assert f"interrupted; the run goes on: {kubeflow.host}/#/runs/details/run-1" in result.output


def detail(name, state, **times):
    return SimpleNamespace(display_name=name, state=state, error=None, start_time=None, end_time=None, **times)


def run_of(*details, state="RUNNING"):
    return SimpleNamespace(state=state, error=None, run_details=SimpleNamespace(task_details=list(details)))


def minute(number):
    return datetime(2026, 1, 1, 12, number, tzinfo=UTC)


def test_the_last_attempt_of_a_task_counts_and_a_task_that_nobody_knows_waits():
    run = run_of(
        detail("Trainer", "RUNNING", create_time=minute(2)), detail("Trainer", "FAILED", create_time=minute(1))
    )
    trainer, pusher = read_run(run, ("Trainer", "Pusher"), now=minute(5)).tasks
    assert (trainer.state, trainer.seconds) == ("RUNNING", 180)
    assert (pusher.state, pusher.seconds) == ("WAITING", None)


def test_a_run_without_details_is_pending():
    run = SimpleNamespace(state=None, error=None, run_details=None)
    assert read_run(run, ("Trainer",), now=minute(0)).state == "PENDING"


def test_in_a_terminal_a_table_shows_every_task():
    answers = [
        run_of(detail("Trainer", "RUNNING", create_time=minute(0))),
        run_of(detail("Trainer", "SUCCEEDED", create_time=minute(0)), state="SUCCEEDED"),
    ]
    console = Console(force_terminal=True, width=60, file=io.StringIO())
    runs = SimpleNamespace(run=lambda run: answers.pop(0))
    state = follow(runs, "run-1", ("Trainer", "Pusher"), console, every=1, sleep=lambda seconds: None)
    assert state.state == "SUCCEEDED" and not answers
    shown = console.file.getvalue()
    assert all(word in shown for word in ("run running", "run succeeded", "Trainer", "Pusher", "waiting", "elapsed"))


def test_tasks_are_shown_in_the_order_in_which_they_depend_on_each_other(spec):
    assert CompiledSpec.load(spec).tasks == TASKS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("epochs", "--param takes name=value, received 'epochs'"),
        ("epoch=2", "no runtime parameter `epoch`; did you mean `epochs`?"),
        ("epochs=two", "--param epochs takes a NUMBER_INTEGER as JSON, received 'two'"),
        ("epochs=true", "--param epochs takes a NUMBER_INTEGER as JSON, received 'true'"),
        ("epochs=2", "parameters without a default need --param name=value: data"),
    ],
)
def test_runtime_parameters_that_do_not_fit_are_named(tmp_path, given, message):
    path = tmp_path / "toy.yaml"
    kinds = {"data": {"parameterType": "STRING"}, "epochs": {"parameterType": "NUMBER_INTEGER", "defaultValue": 1}}
    path.write_text(yaml.safe_dump(spec_of(**kinds)))
    with pytest.raises(ValueError, match=message):
        CompiledSpec.load(path).values([given])
    assert CompiledSpec.load(path).values(["data=7", "epochs=3"]) == {"data": "7", "epochs": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "is not a compiled pipeline of schema 2.1: it lacks 'root'"),
        ("", "is not a compiled"),
    ],
)
def test_a_file_that_is_no_compiled_pipeline_is_refused(tmp_path, text, message):
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        CompiledSpec.load(tmp_path / "toy.yaml")
    with pytest.raises(ValueError, match="the API takes no other"):
        (tmp_path / "toy.json").write_text("{}")
        CompiledSpec.load(tmp_path / "toy.json")
