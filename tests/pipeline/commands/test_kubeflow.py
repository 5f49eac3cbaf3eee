"""`mixrank compile`: what it writes, what it says next, and how a check fails; the compiler itself is not called."""

from __future__ import annotations

import pytest
import typer
import yaml
from typer.testing import CliRunner

from mixrank.pipeline.commands.kubeflow import compile_spec
from mixrank.pipeline.kubeflow import compiler as kubeflow


@pytest.fixture
def mixrank(monkeypatch, tmp_path):
    """Runs the command in an empty folder, with a compiler that writes image and preset only."""

    def compiled(config, days):
        image = config.kubeflow.image or "mixrank:0.1.0-0123456789ab"
        container = {"container": {"image": image}}
        return yaml.safe_dump(
            {"deploymentSpec": {"executors": {"Trainer_executor": container}}, "p": config.model.preset}
        )

    # The face first: it keeps what it has handed out once, and would keep the stand-in.
    monkeypatch.setattr("mixrank.pipeline.kubeflow.compiled", compiled)
    monkeypatch.setattr(kubeflow, "compiled", compiled)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command("compile")(compile_spec)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_a_file_is_written_and_the_image_to_build_is_named(mixrank, tmp_path):
    result = mixrank("movielens")
    assert result.exit_code == 0, result.output
    assert "wrote kubeflow/compiled/movielens.yaml, with image mixrank:0.1.0-0123456789ab" in result.output
    assert "docker build -f kubeflow/Dockerfile --target cpu -t mixrank:0.1.0-0123456789ab ." in result.output
    assert (
        "mixrank submit movielens --host http://localhost:8888 --spec kubeflow/compiled/movielens.yaml" in result.output
    )
    assert (tmp_path / "kubeflow" / "compiled" / "movielens.yaml").is_file()


def test_a_check_compiles_for_the_image_of_the_file(mixrank):
    mixrank("movielens", "--output", "one.yaml", "--set", "kubeflow.image=elsewhere/mixrank:7")
    result = mixrank("movielens", "--output", "one.yaml", "--check")
    assert result.exit_code == 0, result.output
    assert "one.yaml is up to date" in result.output


def test_a_failed_check_names_the_command_that_refreshes_the_file(mixrank):
    mixrank("movielens", "--output", "one.yaml", "--set", "kubeflow.image=mixrank:7")
    result = mixrank("movielens", "--output", "one.yaml", "--check", "--set", "model.preset=small")
    assert result.exit_code == 1
    assert (
        "one.yaml is not what movielens compiles to; refresh it: mixrank compile movielens "
        "--set model.preset=small --set kubeflow.image=mixrank:7 --output one.yaml"
    ) in result.output


def test_a_check_without_a_file_says_so(mixrank):
    result = mixrank("movielens", "--check")
    assert result.exit_code == 1
    assert "kubeflow/compiled/movielens.yaml does not exist; `mixrank compile` writes it" in result.output
