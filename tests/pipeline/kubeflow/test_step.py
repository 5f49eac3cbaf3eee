"""One step in its container: what open-source Kubeflow Pipelines leaves out, and where it keeps artifacts."""

from __future__ import annotations

import json

from mixrank.pipeline.kubeflow.step import localise, publish

MODEL = {"instanceSchema": "title: tfx.Model\ntype: object\n"}
INPUTS = {"artifacts": {"model": {"artifactType": MODEL}}, "parameters": {"preset": {"parameterType": "STRING"}}}


def invocation(root):
    return {
        "inputs": {
            "parameterValues": {"preset": "tiny"},
            "artifacts": {"model": {"artifacts": [{"name": "17", "uri": f"{root}/a/model", "metadata": {"x": 1}}]}},
        },
        "outputs": {
            "artifacts": {"blessing": {"artifacts": [{"uri": f"{root}/b/blessing", "type": MODEL}]}},
            "outputFile": "/tmp/kfp_outputs/output_metadata.json",
        },
    }


def only(side, name):
    (artifact,) = side["artifacts"][name]["artifacts"]
    return artifact


def test_artifacts_are_where_the_launcher_has_staged_them():
    for root, folder in (("minio://bucket/v2", "/minio"), ("s3://bucket/v2", "/s3"), ("gs://bucket/v2", "/gcs")):
        call = invocation(root)
        staged = localise(call, INPUTS)
        assert only(call["inputs"], "model")["uri"] == f"{folder}/bucket/v2/a/model"
        assert only(call["outputs"], "blessing")["uri"] == f"{folder}/bucket/v2/b/blessing"
        assert staged == {
            f"{folder}/bucket/v2/a/model": f"{root}/a/model",
            f"{folder}/bucket/v2/b/blessing": f"{root}/b/blessing",
        }


def test_an_input_gets_the_declared_type_and_every_artifact_a_name():
    call = invocation("minio://bucket")
    localise(call, INPUTS)
    assert only(call["inputs"], "model") | {"uri": ""} == {"name": "17", "uri": "", "metadata": {"x": 1}, "type": MODEL}
    assert only(call["outputs"], "blessing")["name"] == "minio://bucket/b/blessing"
    assert call["inputs"]["parameterValues"] == {"preset": "tiny"}


def test_a_plain_folder_stays():
    call = invocation("/volume/runs")
    assert localise(call, INPUTS) == {}
    assert only(call["outputs"], "blessing")["uri"] == "/volume/runs/b/blessing"


def test_a_step_without_inputs_has_none():
    call = {"outputs": invocation("s3://bucket")["outputs"]}
    assert list(localise(call, {})) == ["/s3/bucket/b/blessing"]


def test_what_was_made_is_published_under_its_address(tmp_path):
    output = tmp_path / "output_metadata.json"
    made = {"uri": "/minio/bucket/b/blessing", "metadata": {"blessed": 1.0}}
    output.write_text(json.dumps({"artifacts": {"blessing": {"artifacts": [made]}}}))
    publish(output, {"/minio/bucket/b/blessing": "minio://bucket/b/blessing"})
    (artifact,) = json.loads(output.read_text())["artifacts"]["blessing"]["artifacts"]
    assert artifact == {"uri": "minio://bucket/b/blessing", "metadata": {"blessed": 1.0}}
