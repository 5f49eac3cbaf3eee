"""The files for TensorFlow Serving say what was asked, read back as the server reads them, and appear whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from typer.testing import CliRunner

from mixrank.pipeline import cli
from mixrank.pipeline.commands import terminal
from mixrank.serving import model_config
from mixrank.serving.base import write_sums
from mixrank.serving.rollout import Rollout, deployment
from mixrank.serving.rollout.deployment import Options, Served, served, validate, write_deployment


@pytest.fixture
def mixrank(monkeypatch):
    monkeypatch.setattr(terminal.console, "width", 250)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def save(tmp_path):
    """Makes something that looks like a SavedModel."""

    def make(path, graph=b"graph"):
        folder = tmp_path / path
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(graph)
        (folder / "variables" / "variables.index").write_bytes(b"index")
        (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights")
        write_sums(folder)
        return folder

    return make


def models_of(folder):
    """Name -> (base_path, policy, labels), read by the official messages alone."""
    text = (folder / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    found = {}
    for model in config.model_config_list.config:
        assert model.model_platform == "tensorflow"
        policy = model.model_version_policy
        versions = list(policy.specific.versions) or policy.latest.num_versions
        found[model.name] = (model.base_path, versions, dict(model.version_labels))
    return found


def test_a_folder_of_versions_serves_the_latest_and_a_single_version_itself(save, tmp_path, mixrank):
    save("one/serving/shop/3"), save("one/serving/shop/12")
    save("two/serving/clips/7"), save("two/serving/clips/8")
    result = mixrank(
        "deploy", tmp_path / "one/serving/shop", tmp_path / "two/serving/clips/7", "--output", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert models_of(tmp_path / "out") == {
        "shop": ("/models/shop", 1, {}),
        "clips": ("/models/clips", [7], {"stable": 7, "canary": 7}),
    }
    assert "the server itself was not started" in result.output
    assert f"{tmp_path}/out/docker-run.sh" in result.output
    assert "mixrank rollout status" in result.output
    config = ["--config", tmp_path / "out/models.config"]
    assert "stable, canary" in mixrank("rollout", "status", tmp_path / "two/serving/clips", *config).output
    assert "serves the latest version" in mixrank("rollout", "status", tmp_path / "one/serving/shop", *config).output


def test_versions_and_labels_of_a_roll_out_are_taken_over(save, tmp_path):
    base = save("serving/shop/3").parent
    save("serving/shop/4"), save("serving/shop/5")
    steps = Rollout(base, say=str)
    steps.canary(3), steps.promote(golden=None), steps.canary(4)
    write_deployment(tmp_path / "out", [served(base)], Options())
    assert models_of(tmp_path / "out") == {"shop": ("/models/shop", [3, 4], {"stable": 3, "canary": 4})}


def test_options_reach_their_files(save, tmp_path, mixrank):
    save("serving/shop/3")
    image = f"registry.example.com/serving@sha256:{'0' * 64}"
    options = ["--batch-size", 48, "--batch-timeout", 0.5, "--grpc-port", 9000, "--rest-port", 9001]
    options += ["--publish", "0.0.0.0", "--image", image]
    result = mixrank("deploy", tmp_path / "serving/shop", "--model-name", "s1", "--output", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    batching = (out / "batching.config").read_text().split("\n")
    assert batching[:3] == [
        "max_batch_size { value: 48 }",
        "batch_timeout_micros { value: 500 }",
        "max_enqueued_batches { value: 100 }",
    ]
    assert batching[3:-1] == [f"allowed_batch_sizes: {size}" for size in (1, 2, 4, 8, 16, 32, 48)]
    assert models_of(out) == {"s1": ("/models/s1", 1, {})}
    service = yaml.safe_load((out / "compose.yaml").read_text())["services"]["tensorflow-serving"]
    assert service["ports"] == ["0.0.0.0:9000:8500", "0.0.0.0:9001:8501"] and service["image"] == image
    assert image in (out / "docker-run.sh").read_text()
    assert "--url http://localhost:9001" in result.output and "--name s1" in result.output


def test_docker_and_compose_say_the_same_and_mount_folders_read_only(save, tmp_path):
    base = save("with space/shop/3").parent
    write_deployment(tmp_path / "out", [served(base)], Options())
    # What the shell makes of the line is told by a `docker` that prints its arguments.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    script = subprocess.run([tmp_path / "out/docker-run.sh"], env=environment, check=True, capture_output=True)
    run = script.stdout.decode().splitlines()
    service = yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text())["services"]["tensorflow-serving"]
    flags = (tmp_path / "out" / "flags.txt").read_text().split()
    assert run[:2] == ["run", "--detach"]
    assert run[run.index("tensorflow/serving:2.16.1") + 1 :] == service["command"] == flags
    assert service["image"] == "tensorflow/serving:2.16.1"
    # Nobody else reaches the server unless asked, and it may do nothing but listen and read.
    assert [run[place + 1] for place, word in enumerate(run) if word == "--publish"] == service["ports"]
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert run[run.index("--user") + 1] == service["user"] and int(service["user"].partition(":")[0]) > 0
    assert "--read-only" in run and service["read_only"] and "--cap-drop" in run and service["cap_drop"] == ["ALL"]
    mounts = [run[place + 1] for place, word in enumerate(run) if word == "--mount"]
    assert mounts == [
        f"type=bind,source={tmp_path}/out,target=/config,readonly",
        f"type=bind,source={base},target=/models/shop,readonly",
    ]
    assert [(each["source"], each["target"], each["read_only"]) for each in service["volumes"]] == [
        (f"{tmp_path}/out", "/config", True),
        (str(base), "/models/shop", True),
    ]
    assert (tmp_path / "out" / "docker-run.sh").stat().st_mode & 0o111


def test_a_broken_version_must_not_block_the_server(save, tmp_path):
    base = save("shop/3").parent
    write_deployment(tmp_path / "out", [served(base)], Options())
    flags = (tmp_path / "out" / "flags.txt").read_text().split()
    assert "--max_num_load_retries=0" in flags
    assert "--allow_version_labels_for_unavailable_models=true" in flags


def refused(result, message):
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert message in " ".join(result.output.split()), result.output


def test_batching_is_off_unless_it_is_asked_for(save, tmp_path, mixrank):
    save("shop/3")
    result = mixrank("deploy", tmp_path / "shop", "--output", tmp_path / "out")
    assert result.exit_code == 0 and "batching is" not in result.output
    assert not (tmp_path / "out" / "batching.config").exists()
    assert "batching" not in (tmp_path / "out" / "flags.txt").read_text()
    result = mixrank("deploy", tmp_path / "shop", "--output", tmp_path / "on", "--batch-size", 8)
    assert "batching is on: a row that a model refuses fails all requests of its batch" in result.output


def test_a_model_that_cannot_be_batched_is_refused_by_name(save, tmp_path, mixrank):
    save("clips/3"), save("shop/3", graph=b"..rank_candidates..")
    folders, out = [tmp_path / "clips", tmp_path / "shop"], ["--output", tmp_path / "out"]
    message = "`batch_size` must be 0, received 8: the signature `rank_candidates` of shop has inputs without an axis"
    refused(mixrank("deploy", *folders, *out, "--batch-size", 8), message)
    assert not (tmp_path / "out").exists()
    assert mixrank("deploy", *folders, *out).exit_code == 0


def test_the_server_has_threads_for_more_than_a_few_clients(save, tmp_path):
    write_deployment(tmp_path / "out", [served(save("shop/3").parent)], Options())
    assert "--grpc_max_threads=64" in (tmp_path / "out" / "flags.txt").read_text().split()


def test_what_cannot_be_served_is_refused(save, tmp_path, mixrank):
    out = ["--output", tmp_path / "out"]
    (tmp_path / "empty" / ".12.34.partial").mkdir(parents=True)
    refused(mixrank("deploy", tmp_path / "nowhere", *out), "nowhere does not exist")
    refused(mixrank("deploy", tmp_path / "empty", *out), "holds no version folder (a number, such as 1700000000)")
    save("loose")
    refused(mixrank("deploy", tmp_path / "loose", *out), "is a SavedModel but its name is not a version number")
    (tmp_path / "hollow" / "5").mkdir(parents=True)
    refused(mixrank("deploy", tmp_path / "hollow", *out), "5 is not a SavedModel: it holds no saved_model.pb")
    save("cut/6")
    (tmp_path / "cut/6/variables/variables.data-00000-of-00001").rename(
        tmp_path / "cut/6/variables/variables.data-00000-of-00002"
    )
    refused(mixrank("deploy", tmp_path / "cut", *out), "holds 1 of 2 variables/variables.data files")
    save("truncated/6", graph=b"")
    refused(mixrank("deploy", tmp_path / "truncated/6", *out), "saved_model.pb is empty")
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused(save, tmp_path, mixrank):
    save("a/shop/3"), save("b/shop/4")
    a, b, out = tmp_path / "a/shop", tmp_path / "b/shop", ["--output", tmp_path / "out"]
    refused(mixrank("deploy", a, b, *out), "two models have the name `shop`")
    refused(mixrank("deploy", a, b, "--model-name", "x", *out), "--model-name is given 1 times for 2 folders")
    refused(mixrank("deploy", a, "--model-name", "x y", *out), "letters, digits, `_`, `-` and `.`, received 'x y'")
    refused(mixrank("deploy", a, "--grpc-port", 8501, *out), "`grpc_port` and `rest_port` must differ, both are 8501")
    refused(mixrank("deploy", a, "--rest-port", 0, *out), "`rest_port` must be 1 to 65535, received 0")
    refused(mixrank("deploy", a, "--batch-size", -1, *out), "`batch_size` must be at least 0, received -1")
    refused(mixrank("deploy", a, "--batch-timeout", -1, *out), "`batch_timeout_ms` must be at least 0")
    assert not (tmp_path / "out").exists()
    assert mixrank("deploy", a, b, "--model-name", "x", "--model-name", "y", *out).exit_code == 0
    refused(mixrank("deploy", a, *out), "out exists; a running server may be using it")


def test_a_folder_that_does_not_validate_does_not_appear(save, tmp_path, monkeypatch):
    base = save("shop/3").parent
    monkeypatch.setattr(deployment, "_compose", lambda *_: "services: {tensorflow-serving: {command: []}}")
    with pytest.raises(ValueError, match="compose.yaml lacks"):
        write_deployment(tmp_path / "out", [served(base)], Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("models.config", ('model_platform: "tensorflow"', ""), "needs model_platform"),
        ("models.config", ("base_path", "basepath"), "no field named"),
        ("models.config", ("/models/shop", "models/shop"), "needs an absolute base_path"),
        ("models.config", ("num_versions: 1", "num_versions: 0"), "num_versions of at least 1"),
        ("compose.yaml", ("--max_num_load_retries=0", "--max_num_load_retries=5"), "compose.yaml lacks"),
        ("docker-run.sh", ("--enable_batching=true", ""), "docker-run.sh lacks"),
        ("flags.txt", ("/config/monitoring.config", "/config/monitor.config"), "not in the folder"),
    ],
)
def test_a_changed_file_is_refused(save, tmp_path, file, change, message):
    write_deployment(tmp_path / "out", [served(save("shop/3").parent)], Options(batch_size=8))
    validate(tmp_path / "out")
    text = (tmp_path / "out" / file).read_text()
    assert change[0] in text
    (tmp_path / "out" / file).write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        validate(tmp_path / "out")


def test_a_label_on_a_version_that_is_not_loaded_is_refused():
    config = model_config.new()
    entry = model_config.add(config, "shop", "/models/shop")
    model_config.pin(entry, {3}, {"stable": 3})
    assert "stable" in model_config.render(config)
    entry.version_labels["canary"] = 4
    with pytest.raises(ValueError, match="label `canary` of model `shop` names version 4, which the policy does not"):
        model_config.render(config)
    model_config.pin(entry, {3}, {})
    entry.model_version_policy.latest.num_versions = 1
    entry.version_labels["stable"] = 3
    with pytest.raises(ValueError, match="label `stable` of model `shop` names version 3"):
        model_config.render(config)


def test_a_comma_in_a_path_is_refused_because_docker_would_cut_there(save, tmp_path):
    base = save("a,b/shop/3").parent
    with pytest.raises(ValueError, match="docker cannot mount a folder with a comma"):
        write_deployment(tmp_path / "out", [Served("shop", base)], Options())


@pytest.mark.slow
def test_neither_command_imports_tensorflow(save, tmp_path):
    base = save("shop/3").parent
    program = (
        "import sys; from pipeline import cli; cli.app(standalone_mode=False, args=sys.argv[1:]); "
        "assert not {'tensorflow', 'keras', 'pandas'} & set(sys.modules)"
    )
    for arguments in (["deploy", base, "--output", tmp_path / "out"], ["rollout", "status", base]):
        subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=True, capture_output=True)
