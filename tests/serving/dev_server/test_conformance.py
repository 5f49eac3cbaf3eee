"""The development server answers as TensorFlow Serving was seen to answer.

With TENSORFLOW_MODEL_SERVER=/path/to/tensorflow_model_server the same questions go to that binary.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from mixrank.schemas.encode import columns, encode, to_instance

BINARY = os.environ.get("TENSORFLOW_MODEL_SERVER")


@contextmanager
def serving(models):
    """A server of some folders of versions: the development server, or the binary."""
    from mixrank.serving.dev_server import running

    with binary(models) if BINARY else running(models, poll_seconds=0.05) as server:
        yield server


@contextmanager
def binary(models):
    """The binary as a process; it needs free ports to be named."""
    import tempfile
    from pathlib import Path

    from mixrank.serving import model_config

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        rest, rpc = one.getsockname()[1], other.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = model_config.new()
        for model, base in models.items():
            model_config.add(config, model, str(base))
        (folder / "models.config").write_text(model_config.render(config))
        flags = [
            f"--port={rpc}",
            f"--rest_api_port={rest}",
            f"--model_config_file={folder}/models.config",
            "--max_num_load_retries=0",
            "--file_system_poll_wait_seconds=1",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([BINARY, *flags], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{rest}"

        def wait_for(model, version, *, state="AVAILABLE", seconds=60.0):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    found = httpx.get(f"{url}/v1/models/{model}/versions/{version}").json()
                    if found.get("model_version_status", [{}])[0].get("state") == state:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            raise TimeoutError((folder / "log").read_text()[-2000:])

        try:
            for model, base in models.items():
                wait_for(model, max(int(path.name) for path in base.iterdir() if path.name.isdigit()), seconds=300)
            yield SimpleNamespace(rest_url=url, grpc_target=f"127.0.0.1:{rpc}", wait_for=wait_for)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def tiny_base(save_tiny, tmp_path_factory):
    base = tmp_path_factory.mktemp("conformance") / "linear"
    save_tiny(base, 3)
    return base


@pytest.fixture(scope="module")
def server(toy_export, tiny_base):
    with serving({"toy": toy_export.base, "linear": tiny_base}) as server:
        yield server


@pytest.fixture(scope="module")
def rest(server):
    with httpx.Client(base_url=server.rest_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def rpc(server):
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    with grpc.insecure_channel(server.grpc_target) as channel:
        yield SimpleNamespace(
            predictions=prediction_service_pb2_grpc.PredictionServiceStub(channel),
            models=model_service_pb2_grpc.ModelServiceStub(channel),
        )


@pytest.fixture(scope="module")
def rows(toy_spec, toy_data):
    """Evaluation rows without their keys and labels."""
    serving = {column.name for column in columns(toy_spec) if column.serving}
    return [{name: value for name, value in row.items() if name in serving} for row in toy_data.rows["eval"][:5]]


@pytest.fixture(scope="module")
def instances(toy_spec, rows):
    return [to_instance(toy_spec, row) for row in rows]


@pytest.fixture(scope="module")
def examples(toy_spec, toy_data):
    return [base64.b64encode(encode(toy_spec, row)).decode() for row in toy_data.rows["eval"][:5]]


@pytest.fixture(scope="module")
def expected(toy_export, instances):
    """Scores of the loaded model, by task."""
    import tensorflow as tf

    signature = toy_export.signatures["score_rows"]
    inputs = signature.structured_input_signature[1]
    feed = {name: tf.constant([row[name] for row in instances], inputs[name].dtype) for name in inputs}
    return {task: value.numpy() for task, value in signature(**feed).items()}


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def predict(rest, model="linear", **body):
    answer = rest.post(f"/v1/models/{model}:predict", content=json.dumps(body))
    return answer.status_code, answer.json()


def test_several_outputs_are_objects_by_row(rest, instances, expected):
    status, answer = predict(rest, "toy", signature_name="score_rows", instances=instances)
    assert status == 200 and list(answer) == ["predictions"]
    for task, scores in expected.items():
        np.testing.assert_allclose([row[task] for row in answer["predictions"]], scores, atol=1e-5)


def test_several_outputs_are_lists_by_column(rest, instances, expected):
    inputs = {name: [row[name] for row in instances] for name in instances[0]}
    status, answer = predict(rest, "toy", signature_name="score_rows", inputs=inputs)
    assert status == 200 and list(answer) == ["outputs"]
    for task, scores in expected.items():
        np.testing.assert_allclose(answer["outputs"][task], scores, atol=1e-5)


def test_a_single_output_has_no_name(rest):
    assert predict(rest, instances=[1.0, 2.5]) == (200, {"predictions": [2.0, 5.0]})
    assert predict(rest, instances=[{"x": 1.0}]) == (200, {"predictions": [2.0]})
    assert predict(rest, inputs=[1, 2]) == (200, {"outputs": [2.0, 4.0]})
    assert predict(rest, inputs={"x": [1.5]}) == (200, {"outputs": [3.0]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"instances": [1.0], "inputs": [1.0]}', "only one of 'inputs' or 'instances'"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"instances": 1.0}', "'instances' to be an list/array"),
        ("[1.0]", "Is not object"),
        ('{"instances": [1.0', "JSON Parse error"),
        ("", "The document is empty"),
        ('{"signature_name": 1, "instances": [1.0]}', "'signature_name' key must be a string value"),
    ],
)
def test_a_malformed_body_is_refused_with_what_is_wrong(rest, body, message):
    answer = rest.post("/v1/models/linear:predict", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_missing_input_names_the_keys_expected(rest, instances):
    short = {name: value for name, value in instances[0].items() if name != "country"}
    status, answer = predict(rest, "toy", signature_name="score_rows", instances=[instances[0], short])
    assert status == 400
    assert "keys must be equal to: " in answer["error"] and "country" in answer["error"]


def test_an_extra_input_is_refused_by_name(rest, instances):
    extra = {**instances[0], "colour": 1}
    status, answer = predict(rest, "toy", signature_name="score_rows", instances=[extra])
    assert status == 400 and "colour" in answer["error"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("person", "a", "is not of expected type: int64"),
        ("person", 1.5, "is not of expected type: int64"),
        ("person", None, "is not of expected type: int64"),
        ("country", 7, "is not of expected type: string"),
        ("price", "7", "is not of expected type: float"),
        ("price", True, "is not of expected type: float"),
        ("tag", ["a", ["b"], "c"], ""),
        ("tag", ["a"], ""),
    ],
)
def test_a_wrong_type_or_ragged_row_is_refused(rest, instances, column, value, message):
    status, answer = predict(
        rest, "toy", signature_name="score_rows", instances=[instances[0], {**instances[1], column: value}]
    )
    assert status == 400
    assert message in answer["error"] and f"key: {column}" in answer["error"]


@pytest.mark.slow
def test_serialized_examples_come_in_base64(rest, examples, expected):
    status, answer = predict(rest, "toy", instances=[{"examples": {"b64": each}} for each in examples])
    assert status == 200
    np.testing.assert_allclose([row["click"] for row in answer["predictions"]], expected["click"], atol=1e-5)
    bare = predict(rest, "toy", instances=[{"b64": each} for each in examples])
    assert bare == (200, answer)


@pytest.mark.parametrize("text", ["!!!", base64.b64encode(b"no example").decode()])
def test_what_is_no_base64_or_no_example_is_refused(rest, text):
    assert predict(rest, "toy", instances=[{"examples": {"b64": text}}])[0] == 400


def test_bytes_are_written_in_base64_under_names_that_say_so(rest):
    word = base64.b64encode(b"hello").decode()
    status, answer = predict(rest, signature_name="words", instances=["hello", {"b64": word}])
    assert (status, answer) == (200, {"predictions": [{"text": "hello", "raw_bytes": {"b64": word}}] * 2})


def test_a_number_that_is_not_known_is_sent_as_nan_and_gives_a_score(rest, instances):
    unknown = {**instances[0], "price": float("nan"), "age": float("inf")}
    status, answer = predict(rest, "toy", signature_name="score_rows", instances=[unknown])
    assert status == 200
    assert np.isfinite([answer["predictions"][0][task] for task in ("click", "buy")]).all()


@pytest.mark.parametrize("number", ["16777217", "-1e308", "3.5e38", "Inf", "-Inf", "Infinity"])
def test_numbers_that_float32_does_not_hold_are_taken(rest, instances, number):
    body = json.dumps({"signature_name": "score_rows", "instances": [{**instances[0], "price": "PRICE"}]})
    answer = rest.post("/v1/models/toy:predict", content=body.replace('"PRICE"', number))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"instances": [1.0], "instances": [5.0]}', {"predictions": [2.0]}),
        ('{"instances": [{"x": 1.0, "x": 5.0}]}', {"predictions": [2.0]}),
        ('\ufeff{"instances": [1.0]}', {"predictions": [2.0]}),
        (
            '{"signature_name": "words", "inputs": ["Inf"]}',
            {"outputs": {"text": ["Inf"], "raw_bytes": [b64(b"Inf")]}},
        ),
    ],
)
def test_the_first_of_two_keys_counts_and_a_byte_order_mark_does_not(rest, body, answer):
    assert rest.post("/v1/models/linear:predict", content=body.encode()).json() == answer


def test_a_number_that_no_double_holds_is_refused(rest):
    assert rest.post("/v1/models/linear:predict", content='{"instances": [1e400]}').status_code == 400


def test_rows_are_all_named_or_all_bare(rest, examples):
    mixed = [{"examples": {"b64": examples[0]}}, {"b64": examples[1]}]
    assert predict(rest, "toy", instances=mixed)[0] == 400
    assert predict(rest, "toy", instances=mixed[::-1])[0] == 400


def test_an_unknown_signature_is_refused(rest, rpc):
    status, answer = predict(rest, signature_name="nothing", instances=[1.0])
    assert status == 400 and "nothing" in answer["error"]
    assert code_of(rpc.predictions.Predict, request("linear", signature="nothing", x=[1.0])) == "FAILED_PRECONDITION"


def test_an_empty_signature_name_is_the_default_and_echoed(rpc, rest):
    answer = rpc.predictions.Predict(request("linear", x=[1.0, 4.0]))
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("linear", 3)
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs) == ["y"] and list(answer.outputs["y"].float_val or [2.0, 8.0]) == [2.0, 8.0]
    assert predict(rest, signature_name="", instances=[1.0]) == (200, {"predictions": [2.0]})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/nobody", 404),
        ("/v1/models/linear/versions/9", 404),
        ("/v1/models/linear/versions/3", 200),
        ("/v1/models/linear/labels/nobody", 200),
        ("/v1/models/linear/labels/nobody/metadata", 400),
        ("/v1/models/linear/versions/9/metadata", 404),
        ("/v1/models/linear/versions/3/metadata", 200),
        ("/v1/models/LINEAR", 404),
        ("/v1/models", 400),
        ("/v1/models/linear:predict", 400),
        ("/v1/models/linear/versions/x", 400),
        ("/v1/models/linear/versions/9223372036854775808", 400),
        ("/v1/models/linear/versions/" + 5000 * "9", 400),
        ("/v1/models/linear?x=1", 400),
        ("/v1/models/linear/metadata?x=1", 400),
        ("/v1/models/linear/versions/3/labels/a", 400),
        ("/v1/nothing", 400),
        ("/v2/models/linear", 404),
        ("/nothing", 404),
    ],
)
def test_a_get_is_answered_by_the_grammar_of_urls(rest, path, status):
    assert rest.get(path).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/linear/versions/3:predict", 200),
        ("/v1/models/linear/versions/9:predict", 404),
        ("/v1/models/nobody:predict", 404),
        ("/v1/models/linear/labels/nobody:predict", 400),
        ("/v1/models/linear", 400),
        ("/v1/models/linear/metadata", 400),
        ("/v1/models/linear:score", 400),
        ("/v1/models/linear:PREDICT", 400),
        ("/v1/models/linear:predict?x=1", 400),
        ("/models/linear:predict", 404),
    ],
)
def test_a_post_is_answered_by_the_grammar_of_urls(rest, path, status):
    assert rest.post(path, content='{"instances": [1.0]}').status_code == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_a_bad_request(rest, method):
    assert rest.request(method, "/v1/models/linear").status_code == 400


def test_a_state_says_version_and_error(rest, rpc):
    from tensorflow_serving.apis import get_model_status_pb2

    state = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert rest.get("/v1/models/linear").json() == {"model_version_status": [state]}
    question = get_model_status_pb2.GetModelStatusRequest()
    question.model_spec.name = "linear"
    (found,) = rpc.models.GetModelStatus(question).model_version_status
    assert (found.version, found.state) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    question.model_spec.version.value = 9
    assert code_of(rpc.models.GetModelStatus, question) == "NOT_FOUND"


def test_metadata_are_the_signatures(rest):
    found = rest.get("/v1/models/linear/metadata").json()
    assert found["model_spec"] == {"name": "linear", "signature_name": "", "version": "3"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert signatures["rank_candidates"]["method_name"] == "tensorflow/serving/predict"
    user = signatures["rank_candidates"]["inputs"]["user"]
    assert user["dtype"] == "DT_INT64"
    assert user["tensor_shape"] == {"dim": [], "unknown_rank": False}
    x = signatures["rank_candidates"]["inputs"]["x"]
    assert x["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_grpc_metadata_need_a_known_field(rpc):
    from tensorflow_serving.apis import get_model_metadata_pb2

    question = get_model_metadata_pb2.GetModelMetadataRequest()
    question.model_spec.name = "linear"
    assert code_of(rpc.predictions.GetModelMetadata, question) == "INVALID_ARGUMENT"
    question.metadata_field.append("nothing")
    assert code_of(rpc.predictions.GetModelMetadata, question) == "INVALID_ARGUMENT"
    question.metadata_field[:] = ["signature_def"]
    answer = rpc.predictions.GetModelMetadata(question)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    assert {"serving_default", "words", "rank_candidates"} <= set(found.signature_def)
    assert answer.model_spec.version.value == 3


def request(model, *, signature="", version=None, label=None, outputs=(), **inputs):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    made = predict_pb2.PredictRequest(output_filter=outputs)
    made.model_spec.name, made.model_spec.signature_name = model, signature
    if version is not None:
        made.model_spec.version.value = version
    if label is not None:
        made.model_spec.version_label = label
    for name, value in inputs.items():
        kind = tf.float32 if isinstance(value[0], float) else None
        made.inputs[name].CopyFrom(tf.make_tensor_proto(value, kind))
    return made


def refusal(call, question):
    import grpc

    with pytest.raises(grpc.RpcError) as caught:
        call(question, timeout=60)
    return caught.value


def code_of(call, question):
    return refusal(call, question).code().name


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ({"model": "", "x": [1.0]}, "INVALID_ARGUMENT", []),
        ({"model": "nobody", "x": [1.0]}, "NOT_FOUND", ["nobody"]),
        ({"model": "linear", "version": 9, "x": [1.0]}, "NOT_FOUND", ["9"]),
        ({"model": "linear", "label": "nobody", "x": [1.0]}, "INVALID_ARGUMENT", ["nobody"]),
        ({"model": "linear"}, "INVALID_ARGUMENT", ["{x}"]),
        ({"model": "linear", "z": [1.0]}, "INVALID_ARGUMENT", ["x", "z"]),
        ({"model": "linear", "x": [b"a"]}, "INVALID_ARGUMENT", ["float", "string"]),
        ({"model": "linear", "x": [-1.0]}, "INVALID_ARGUMENT", ["x must not be negative"]),
        ({"model": "linear", "x": [1.0], "outputs": ["z"]}, "INVALID_ARGUMENT", ["z", "{y}"]),
        ({"model": "linear", "x": [1.0], "outputs": ["y", "y"]}, "INVALID_ARGUMENT", ["duplicate"]),
    ],
)
def test_grpc_refuses_with_a_status_and_names(rpc, arguments, code, parts):
    error = refusal(rpc.predictions.Predict, request(**arguments))
    assert error.code().name == code
    assert all(part in error.details() for part in parts)


@pytest.mark.slow
def test_grpc_gives_the_outputs_asked_for(rpc, examples):
    answer = rpc.predictions.Predict(
        request("toy", examples=[base64.b64decode(each) for each in examples], outputs=["buy"])
    )
    assert list(answer.outputs) == ["buy"]


def test_grpc_rest_and_the_loaded_model_agree(rpc, rest, examples, instances, expected):
    import tensorflow as tf

    answer = rpc.predictions.Predict(request("toy", examples=[base64.b64decode(each) for each in examples]))
    for task, scores in expected.items():
        np.testing.assert_allclose(tf.make_ndarray(answer.outputs[task]), scores, atol=1e-5)


def test_a_gzipped_body_is_read(rest):
    body = gzip.compress(b'{"instances": [1.0, 3.0]}')
    answer = rest.post("/v1/models/linear:predict", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.json() == {"predictions": [2.0, 6.0]}


@pytest.mark.slow
def test_a_new_version_replaces_the_old_one_and_its_removal_brings_it_back(save_tiny, tmp_path):
    save_tiny(tmp_path, 1, factor=2.0)
    with serving({"linear": tmp_path}) as server, httpx.Client(base_url=server.rest_url) as rest:
        assert predict(rest, instances=[1.0]) == (200, {"predictions": [2.0]})
        save_tiny(tmp_path, 2, factor=3.0)
        server.wait_for("linear", 2)
        assert predict(rest, instances=[1.0]) == (200, {"predictions": [3.0]})
        server.wait_for("linear", 1, state="END")
        assert rest.post("/v1/models/linear/versions/1:predict", content='{"instances": [1.0]}').status_code == 404
        shutil.rmtree(tmp_path / "2")
        server.wait_for("linear", 2, state="END")
        assert predict(rest, instances=[1.0]) == (200, {"predictions": [2.0]})


def test_a_broken_version_ends_with_a_message_and_the_old_one_serves(save_tiny, tmp_path):
    save_tiny(tmp_path, 1)
    with serving({"linear": tmp_path}) as server, httpx.Client(base_url=server.rest_url) as rest:
        broken = tmp_path / ".2.partial"
        broken.mkdir()
        (broken / "saved_model.pb").write_bytes(b"no graph")
        broken.rename(tmp_path / "2")
        server.wait_for("linear", 2, state="END")
        (state,) = rest.get("/v1/models/linear/versions/2").json()["model_version_status"]
        assert state["status"]["error_code"] != "OK" and state["status"]["error_message"]
        assert predict(rest, instances=[1.0]) == (200, {"predictions": [2.0]})
