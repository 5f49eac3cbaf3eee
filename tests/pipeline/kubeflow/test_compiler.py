"""Compiled pipelines: committed files, what a run may choose, and what a cluster is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from mixrank.pipeline.config import load_config

COMPILED = Path(__file__).parents[3] / "kubeflow" / "compiled"
NAMES = ("kuairand", "movielens")


def compile_(name, *overrides):
    from mixrank.pipeline.kubeflow import compiled

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = compiled(load_config(name, ["kubeflow.image=mixrank:test", *overrides]))
    return text, *yaml.safe_load_all(text)


@pytest.fixture(scope="module")
def kuairand():
    """A pipeline with everything a config may ask for."""
    return compile_(
        "kuairand",
        "name=Films_2",
        "kubeflow.pipeline_root=s3://bucket/root",
        "kubeflow.mount=/volume",
        "kubeflow.volume=claim",
        "kubeflow.retries=3",
        "kubeflow.trainer.gpus=2",
        "kubeflow.trainer.accelerator=nvidia.com/mig-1g.10gb",
        "kubeflow.trainer.cpus=500m",
        "kubeflow.trainer.memory=2Gi",
        "kubeflow.node_selector={pool: batch, zone: a}",
        "kubeflow.trainer.node_selector={pool: gpu}",
        "kubeflow.run_as_user=1000",
        "kubeflow.secrets={STORE_KEY: object-store/secret.key}",
        "beam=['--runner=FnApiRunner', '--s3_secret_access_key=env:STORE_KEY']",
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_what_the_config_compiles_to(name):
    from mixrank.pipeline.kubeflow import compiled, image_of

    path = COMPILED / f"{name}.yaml"
    image = image_of(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = compiled(load_config(name, [f"kubeflow.image={image}"]))
    assert text == path.read_text(), f"refresh it: mixrank compile {name} --set kubeflow.image={image}"


def test_the_committed_pipeline_of_days_is_one_step_that_the_command_line_takes(monkeypatch, tmp_path):
    from kfp import components

    from mixrank.pipeline.kubeflow import CompiledSpec, compiled, day_step, image_of

    path = COMPILED / "kuairand-days.yaml"
    image = image_of(path)
    text = compiled(load_config("kuairand", [f"kubeflow.image={image}"]), days=True)
    assert text == path.read_text(), f"refresh it: mixrank compile kuairand --days --set kubeflow.image={image}"
    inputs = components.load_component_from_file(str(path)).component_spec.inputs
    assert {name: each.default for name, each in inputs.items()} == {
        "data": "/mixrank/data/kuairand",
        "push_to": "/mixrank/kuairand/serving/kuairand",
        "until": "",
        "redo": "",
    }
    assert CompiledSpec.load(path).tasks == ("advance",)
    spec, platform = yaml.safe_load_all(text)
    ((label, executor),) = spec["deploymentSpec"]["executors"].items()
    container = executor["container"]
    assert container["resources"]["accelerator"]["count"] == "1"
    # Days that were taken are not taken again by a cached answer.
    assert spec["root"]["dag"]["tasks"]["advance"]["cachingOptions"] == {}
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]["pvcMount"]
    values = {"data": "/volume/logs", "push_to": "s3://models/kuairand", "until": "2022-05-07", "redo": ""}
    given = [values.get(arg[23:-4], arg) for arg in container["args"]]
    ran = []

    def execute(program, arguments):
        config, *options = arguments[4:]
        ran.append((arguments[:4], options, load_config(config, [])))

    monkeypatch.setattr(os, "execv", execute)
    day_step.main([str(tmp_path) if arg == "/mixrank" else arg for arg in given])
    ((command, options, config),) = ran
    assert command == [sys.executable, "-m", "mixrank.pipeline.cli", "advance"]
    assert options == ["--start", "--until", "2022-05-07"]
    expected = load_config("kuairand", ["data=/volume/logs", "push_to=s3://models/kuairand", f"output={tmp_path}"])
    assert config == expected.model_copy(update={"compare": config.compare, "kubeflow": config.kubeflow})


def test_a_step_of_days_fails_as_the_command_does(tmp_path):
    spec = next(yaml.safe_load_all((COMPILED / "kuairand-days.yaml").read_text()))
    ((_, executor),) = spec["deploymentSpec"]["executors"].items()
    _, *module = executor["container"]["command"]
    args = [
        "" if arg.startswith("{{$") else arg.replace("/mixrank", str(tmp_path)) for arg in executor["container"]["args"]
    ]
    args[args.index("--data") + 1] = str(tmp_path / "nowhere")
    args[args.index("--push-to") + 1] = str(tmp_path / "models")
    done = subprocess.run([sys.executable, *module, *args], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "nowhere is not a folder" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_log_without_days_has_no_pipeline_of_days():
    from mixrank.pipeline.kubeflow import compiled

    with pytest.raises(ValueError, match="dataset movielens is not split by day"):
        compiled(load_config("movielens", ["kubeflow.image=mixrank:test"]), days=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_file_loads_with_the_kfp_sdk(name):
    from kfp import components

    inputs = components.load_component_from_file(str(COMPILED / f"{name}.yaml")).component_spec.inputs
    expected = {"data", "preset", "push_to"} | ({"split_days"} if name == "kuairand" else set())
    assert set(inputs) == expected
    assert all(each.type == "String" and each.optional for each in inputs.values())
    assert inputs["data"].default == f"/mixrank/data/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_file_names_no_folder_of_the_machine_that_compiled_it(name):
    text = (COMPILED / f"{name}.yaml").read_text()
    for folder in (Path.home(), Path(__file__).parents[3], Path("/tmp")):
        assert f"{folder}/" not in text


def test_every_component_is_a_task_after_the_ones_it_reads(kuairand):
    _, spec, _ = kuairand
    tasks = spec["root"]["dag"]["tasks"]
    before = {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()}
    assert before == {
        "ExampleGen": set(),
        "SchemaGen": set(),
        "LastPushed": set(),
        "StatisticsGen": {"ExampleGen", "SchemaGen"},
        "ExampleValidator": {"ExampleGen", "SchemaGen", "StatisticsGen"},
        "Baselines": {"ExampleGen", "ExampleValidator"},
        "Transform": {"ExampleGen", "ExampleValidator", "SchemaGen"},
        "Trainer": {"Transform"},
        "Evaluator": {"ExampleGen", "LastPushed", "Trainer"},
        "ModelCheck": {"ExampleGen", "Trainer"},
        "ModelGates": {"Baselines", "ExampleGen", "LastPushed", "Trainer"},
        "Pusher": {"Evaluator", "ModelCheck", "ModelGates"},
    }
    assert (spec["schemaVersion"], spec["pipelineInfo"]["name"]) == ("2.1.0", "films-2")
    assert spec["defaultPipelineRoot"] == "s3://bucket/root"


def test_a_warm_start_from_the_pushed_version_makes_the_trainer_wait_for_it():
    _, spec, _ = compile_("movielens", "train.warm_start=pushed")
    trainer = spec["root"]["dag"]["tasks"]["Trainer"]
    assert trainer["dependentTasks"] == ["LastPushed", "Transform"]
    assert trainer["inputs"]["artifacts"]["base_model"]["taskOutputArtifact"]["producerTask"] == "LastPushed"


def test_parameters_of_a_run_reach_their_components(kuairand):
    _, spec, _ = kuairand
    reached = {
        (name, key): value["componentInputParameter"]
        for name, task in spec["root"]["dag"]["tasks"].items()
        for key, value in task["inputs"]["parameters"].items()
        if "componentInputParameter" in value
    }
    assert reached == {
        ("ExampleGen", "input_base"): "data",
        ("ExampleGen", "split_days"): "split_days",
        ("Trainer", "preset"): "preset",
        ("LastPushed", "push_to"): "push_to",
        ("Pusher", "push_to"): "push_to",
    }
    defaults = {name: each["defaultValue"] for name, each in spec["root"]["inputDefinitions"]["parameters"].items()}
    days = json.loads(defaults.pop("split_days"))
    assert set(days) == {"train", "valid", "eval"} and days["eval"] == ["2022-05-05", "2022-05-06"]
    assert defaults == {"data": "/volume/data/kuairand", "preset": "tiny", "push_to": "/volume/Films_2/serving/Films_2"}


def test_only_the_trainer_asks_for_resources(kuairand):
    _, spec, _ = kuairand
    asked = {
        name: executor["container"].get("resources") for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    assert asked.pop("Trainer_executor") == {
        "resourceCpuLimit": "500m",
        "cpuLimit": 0.5,
        "resourceMemoryLimit": "2Gi",
        # Two gibibytes in units of 10^9 bytes.
        "memoryLimit": 2.147483648,
        "accelerator": {
            "resourceType": "nvidia.com/mig-1g.10gb",
            "resourceCount": "2",
            "type": "nvidia.com/mig-1g.10gb",
            "count": "2",
        },
    }
    assert set(asked.values()) == {None}


def test_the_document_is_valid_in_the_protocol_of_kubeflow_pipelines(kuairand):
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    _, spec, platform = kuairand
    read = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    deployment = json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    assert read.root.dag.tasks["Trainer"].retry_policy.max_retry_count == 3
    assert deployment.executors["Trainer_executor"].container.resources.accelerator.count == 2
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())


def test_every_step_mounts_the_volume_and_runs_on_the_chosen_nodes(kuairand):
    _, spec, platform = kuairand
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(spec["deploymentSpec"]["executors"])
    for name, pod in pods.items():
        assert pod["pvcMount"] == [{"constant": "claim", "mountPath": "/volume"}]
        assert pod["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        variable = {"secretKey": "secret.key", "envVar": "STORE_KEY"}
        assert pod["secretAsEnv"] == [{"secretName": "object-store", "keyToEnv": [variable]}]
        assert pod["nodeSelector"]["labels"] == {"pool": "gpu" if name == "Trainer_executor" else "batch", "zone": "a"}


def test_a_failed_step_is_tried_again_and_what_reads_raw_data_is_never_cached(kuairand):
    _, spec, _ = kuairand
    tasks = spec["root"]["dag"]["tasks"]
    assert {task["retryPolicy"]["maxRetryCount"] for task in tasks.values()} == {3}
    assert {name for name, task in tasks.items() if not task["cachingOptions"]} == {"ExampleGen", "LastPushed"}


def test_frozen_data_may_be_answered_from_the_cache():
    _, spec, _ = compile_("movielens", "kubeflow.frozen_data=true")
    tasks = spec["root"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if not task["cachingOptions"]} == {"LastPushed"}


def test_without_retries_caching_and_resources_nothing_is_asked_for():
    text, spec, _ = compile_("movielens", "kubeflow.retries=0", "kubeflow.caching=false", "kubeflow.trainer={}")
    assert all(not task["cachingOptions"] for task in spec["root"]["dag"]["tasks"].values())
    assert "retryPolicy" not in text and "resources" not in text and "nodeSelector" not in text


def test_the_image_fixes_the_code_so_that_an_edit_changes_no_committed_file(kuairand):
    _, spec, _ = kuairand
    tasks = spec["root"]["dag"]["tasks"]
    for name in ("SchemaGen", "ExampleValidator", "Baselines", "ModelCheck", "ModelGates"):
        assert tasks[name]["inputs"]["parameters"]["source"]["runtimeValue"]["constant"] == "mixrank:test"
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {"mixrank:test"}


def test_the_same_config_compiles_to_the_same_text_from_any_folder(kuairand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compile_("movielens")[0] == compile_("movielens")[0]
    assert str(tmp_path) not in compile_("movielens")[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kubeflow.gpus=1", "kubeflow: KubeflowSettings has no field `gpus`; expected one of"),
        ("kubeflow.trainer.gpus=-1", "kubeflow.trainer.gpus"),
        ("kubeflow.trainer.memory=lots", "kubeflow.trainer.memory"),
        ("kubeflow.trainer.cpus=two", "kubeflow.trainer.cpus"),
        ("kubeflow.mount=volume", "`mount` must be an absolute path below /, received 'volume'"),
        ("kubeflow.mount=/", "`mount` must be an absolute path below /, received '/'"),
        ("kubeflow.pipeline_root=/artifacts", "kubeflow.pipeline_root"),
        ("kubeflow.volume=My Claim", "kubeflow.volume"),
        ("kubeflow.retries=-1", "kubeflow.retries"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("movielens", [override])


def test_the_api_takes_yaml_only(tmp_path):
    from mixrank.pipeline.kubeflow import compile_pipeline

    with pytest.raises(ValueError, match=r"--output must end in \.yaml.*pipeline\.json"):
        compile_pipeline(load_config("movielens"), tmp_path / "pipeline.json")


def test_a_file_that_is_no_compiled_pipeline_is_named(tmp_path):
    from mixrank.pipeline.kubeflow import image_of

    for text, message in ((None, "does not exist"), ("a: 1", "is not a compiled pipeline"), ("{", "is not a compiled")):
        path = tmp_path / "pipeline.yaml"
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=f"{path} {message}"):
            image_of(path)


def git(folder, *arguments):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments],
        check=True,
        capture_output=True,
    )


def test_the_image_is_named_by_version_and_commit(tmp_path, monkeypatch):
    from importlib.metadata import version

    from mixrank.pipeline.kubeflow import compiler

    monkeypatch.setattr(compiler, "CHECKOUT", tmp_path)
    assert compiler.image_name() == f"mixrank:{version('mixrank')}"
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "one")
    head = (tmp_path / ".git" / (tmp_path / ".git" / "HEAD").read_text().split()[1]).read_text().strip()
    assert compiler.image_name() == f"mixrank:{version('mixrank')}-{head[:12]}"
    (tmp_path / "notes.txt").write_text("not part of the image's code")
    assert compiler.image_name().endswith(head[:12])
    (tmp_path / "code.py").write_text("2")
    assert compiler.image_name().endswith(f"{head[:12]}-dirty")
