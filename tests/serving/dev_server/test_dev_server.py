"""Versions come and go under load, requests are merged and kept apart, and a stop waits for the requests at work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

BODY = '{"instances": [1.0]}'


@pytest.fixture
def serve():
    """`running` of the model `linear` in a folder, which it looks at twenty times a second."""
    from mixrank.serving.dev_server import running

    def start(base, **options):
        models = base if isinstance(base, dict) or base.is_file() else {"linear": base}
        return running(models, **{"poll_seconds": 0.05, **options})

    return start


def ask(url, body=BODY, model="linear"):
    answer = httpx.post(f"{url}/v1/models/{model}:predict", content=body, timeout=60)
    return answer.status_code, answer.json()


def state_of(server, version):
    found = httpx.get(f"{server.rest_url}/v1/models/linear").json()["model_version_status"]
    return {int(each["version"]): each["state"] for each in found}.get(version)


def predict_request(*x, model="linear"):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(x, tf.float32)})
    request.model_spec.name = model
    return request


def test_swapping_versions_under_load_loses_no_request(serve, save_linear, tmp_path):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    save_linear(tmp_path, 1, factor=2.0)
    done, answered = threading.Event(), threading.Semaphore(0)

    def over_rest(url):
        answers = []
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                answer = client.post("/v1/models/linear:predict", content=BODY)
                answers.append(answer.json()["predictions"][0] if answer.status_code == 200 else answer.text)
                answered.release()
        return answers

    def over_grpc(target):
        answers = []
        with grpc.insecure_channel(target) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            while not done.is_set():
                answers.append(predict(predict_request(1.0)).outputs["y"].float_val[0])
                answered.release()
        return answers

    with serve(tmp_path) as server, ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(over_rest, server.rest_url) for _ in range(3)]
        clients.append(threads.submit(over_grpc, server.grpc_target))
        try:
            for version, factor in ((2, 3.0), (3, 4.0)):
                assert all(answered.acquire(timeout=60) for _ in range(100))
                save_linear(tmp_path, version, factor=factor)
                server.wait_for("linear", version)
                server.wait_for("linear", version - 1, state="END")
            assert all(answered.acquire(timeout=60) for _ in range(100))
            shutil.rmtree(tmp_path / "3")
            server.wait_for("linear", 3, state="END")
        finally:
            done.set()
        answers = [client.result() for client in clients]
    assert {answer for each in answers for answer in each} == {2.0, 3.0, 4.0}
    assert sum(map(len, answers)) >= 300 and all(answers)


def test_an_old_version_stays_until_its_last_request_is_answered(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1, factor=2.0)
    with serve(tmp_path) as server:
        with server.repository.use("linear") as (version, model):
            save_linear(tmp_path, 2, factor=3.0)
            server.wait_for("linear", 1, state="UNLOADING")
            signature = model.signatures["serving_default"]
            assert version == 1 and model.run(signature, {"x": np.float32([5])}, ["y"])["y"] == [10]
            assert ask(server.rest_url) == (200, {"predictions": [3.0]})
        server.wait_for("linear", 1, state="END")


def test_a_version_answers_its_warm_up_requests_first(serve, save_linear, tmp_path):
    said = []
    save_linear(tmp_path, 1, warm_up=[1.0, 2.0])
    with serve(tmp_path, say=said.append) as server:
        assert re.match(r"linear: version 1 is available \(.* s, 2 warm-up requests\)", said[0])
        save_linear(tmp_path, 2, factor=3.0, warm_up=[1.0, -1.0])
        with pytest.raises(ValueError, match="version 2 of `linear` could not be loaded: .*x must not be negative"):
            server.wait_for("linear", 2)
        assert ask(server.rest_url) == (200, {"predictions": [2.0]})


def test_more_warm_up_requests_than_tensorflow_serving_takes_are_refused(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1, warm_up=[1.0] * 1001)
    with pytest.raises(ValueError, match="more than 1000 requests"), serve(tmp_path):
        pass


@pytest.mark.parametrize(
    ("file", "keep"),
    [
        ("saved_model.pb", 0),
        ("saved_model.pb", 500),
        ("variables/variables.index", 20),
        ("variables/variables.data-00000-of-00001", 3),
    ],
)
def test_a_truncated_version_is_refused_and_loaded_once_it_is_whole(serve, save_linear, tmp_path, file, keep):
    save_linear(tmp_path, 1, factor=2.0)
    with serve(tmp_path) as server:
        aside = tmp_path / "aside"
        aside.mkdir()
        whole = save_linear(aside, 2, factor=3.0)
        content = (whole / file).read_bytes()
        (whole / file).write_bytes(content[:keep])
        whole.rename(tmp_path / "2")
        assert server.wait_for("linear", 2, state="END").message
        assert ask(server.rest_url) == (200, {"predictions": [2.0]})
        (tmp_path / "2" / file).write_bytes(content)
        server.repository.look()
        assert ask(server.rest_url) == (200, {"predictions": [3.0]})


def test_a_half_copied_version_is_not_looked_at(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1, factor=2.0)
    with serve(tmp_path) as server:
        aside = tmp_path / "2.partial"
        aside.mkdir()
        whole = save_linear(aside, 2, factor=3.0)
        graph = (whole / "saved_model.pb").rename(aside / "saved_model.pb")
        shutil.copytree(whole, tmp_path / "2")
        server.repository.look()
        assert state_of(server, 2) is None
        assert ask(server.rest_url) == (200, {"predictions": [2.0]})
        graph.rename(tmp_path / "2" / "saved_model.pb")
        server.wait_for("linear", 2)
        assert ask(server.rest_url) == (200, {"predictions": [3.0]})


@pytest.mark.parametrize("what", ["missing", "empty", "broken", "no version"])
def test_a_server_without_a_version_does_not_start(serve, save_linear, tmp_path, what):
    base = tmp_path / "linear"
    if what != "missing":
        base.mkdir()
    if what == "broken":
        (save_linear(base, 1) / "saved_model.pb").write_bytes(b"no graph")
    if what == "no version":
        (save_linear(base, 1)).rename(base / "newest")
    message = {"missing": "does not exist", "broken": "version 1: "}.get(what, "holds no version folder")
    with pytest.raises(ValueError, match=message), serve(base):
        pass


@pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_an_error(serve, save_linear, tmp_path, port):
    save_linear(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at 127.0.0.1:{number}"), serve(tmp_path, **{port: number}):
            pass


def test_one_version_of_a_folder_can_be_served(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1, factor=2.0)
    save_linear(tmp_path, 2, factor=3.0)
    with serve({"linear": tmp_path / "1"}) as server:
        assert ask(server.rest_url) == (200, {"predictions": [2.0]})


def config_text(base, versions, **labels):
    rows = "".join(f" versions: {version}" for version in versions)
    named = "".join(f' version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
    return (
        f'model_config_list {{ config {{ name: "linear" base_path: "{base}" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{{rows} }} }}{named} }} }}"
    )


def test_a_models_config_is_followed_and_its_labels_answer(serve, save_linear, tmp_path):
    base, file = tmp_path / "linear", tmp_path / "models.config"
    base.mkdir()
    save_linear(base, 1, factor=2.0)
    save_linear(base, 2, factor=3.0)
    file.write_text(config_text(base, [1], stable=1))
    with serve(file) as server:
        labelled = f"{server.rest_url}/v1/models/linear/labels/stable:predict"
        assert httpx.post(labelled, content=BODY).json() == {"predictions": [2.0]}
        file.write_text(config_text(base, [1, 2], stable=1, canary=2))
        server.wait_for("linear", 2)
        server.repository.look()
        assert httpx.post(labelled, content=BODY).json() == {"predictions": [2.0]}
        assert httpx.post(labelled.replace("stable", "canary"), content=BODY).json() == {"predictions": [3.0]}
        file.write_text("model_config_list { config { name: 'linear' } }")
        server.repository.look()
        assert httpx.post(labelled, content=BODY).json() == {"predictions": [2.0]}
        file.write_text(config_text(base, [2], stable=2))
        server.wait_for("linear", 1, state="END")
        server.repository.look()
        assert httpx.post(labelled, content=BODY).json() == {"predictions": [3.0]}
        assert httpx.post(labelled.replace("stable", "canary"), content=BODY).status_code == 400


def test_a_reload_gives_labels_only_to_versions_that_are_available(serve, save_linear, tmp_path):
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    from mixrank.serving import model_config

    save_linear(tmp_path, 1, factor=2.0)
    with serve(tmp_path) as server, grpc.insecure_channel(server.grpc_target) as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        save_linear(tmp_path, 2, factor=3.0)
        server.wait_for("linear", 1, state="END")

        def send(versions, **labels):
            config = model_config.parse(config_text(tmp_path, versions, **labels))
            reload(model_management_pb2.ReloadConfigRequest(config=config), timeout=60)

        with pytest.raises(grpc.RpcError) as caught:
            send([1, 2], stable=1)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        send([1, 2], canary=2)
        server.repository.look()
        send([1, 2], canary=2, stable=1)
        url = f"{server.rest_url}/v1/models/linear/labels"
        assert httpx.post(f"{url}/stable:predict", content=BODY).json() == {"predictions": [2.0]}
        assert httpx.post(f"{url}/canary:predict", content=BODY).json() == {"predictions": [3.0]}


def test_a_roll_out_moves_labels_under_load_without_a_failed_request(serve, save_linear, tmp_path):
    from mixrank.serving.export.golden import write_golden
    from mixrank.serving.rollout.model_server import RestServer
    from mixrank.serving.rollout.state_machine import Golden, Rollout

    base, golden = tmp_path / "linear", tmp_path / "golden.jsonl"
    base.mkdir()
    save_linear(base, 1, factor=2.0)
    Rollout(base).canary()
    Rollout(base).promote(golden=None)
    done = threading.Event()

    def client(url):
        answers = []
        with httpx.Client(base_url=url, timeout=60) as session:
            while not done.is_set():
                answer = session.post("/v1/models/linear/labels/stable:predict", content=BODY)
                answers.append(answer.json().get("predictions", answer.text))
        return answers

    with serve(base / "models.config") as server, ThreadPoolExecutor(1) as threads:

        def scorer(version, instances):
            url = f"{server.rest_url}/v1/models/linear/versions/{version}:predict"
            values = httpx.post(url, content=json.dumps({"instances": instances})).json()["predictions"]
            return [{"y": value} for value in values]

        asking = threads.submit(client, server.rest_url)
        try:
            rollout = Rollout(base, server=RestServer(server.rest_url, "linear"), wait=60)
            write_golden(golden, [{"x": 1.0}], [{"y": 3.0}])
            save_linear(base, 2, factor=3.0)
            rollout.canary(golden=Golden(golden, scorer=scorer))
            rollout.promote(golden=Golden(golden, scorer=scorer))
            assert ask(f"{server.rest_url}", model="linear/labels/stable") == (200, {"predictions": [3.0]})
            rollout.rollback()
            assert ask(f"{server.rest_url}", model="linear/labels/stable") == (200, {"predictions": [2.0]})
        finally:
            done.set()
        answers = asking.result()
    assert {str(each) for each in answers} == {"[2.0]", "[3.0]"}


class Doubling:
    """In place of a loaded model: doubles x, notes how many rows each run has, and refuses negative numbers."""

    def __init__(self):
        self.runs = []

    def run(self, signature, inputs, outputs):
        from mixrank.serving.dev_server.errors import invalid

        self.runs.append(inputs["x"].size)
        if (inputs["x"] < 0).any():
            raise invalid("negative")
        return dict.fromkeys(outputs, 2 * inputs["x"])


def signature(shape=(None,), name="serving_default"):
    import tensorflow as tf

    from mixrank.serving.dev_server.loaded_model import Signature, TensorInfo

    info = TensorInfo("x:0", tf.float32, shape)
    return Signature(name, {"x": info}, {"y": TensorInfo("y:0", tf.float32, (None,))})


def run_together(requests, *, max_batch_size, timeout_ms=10_000.0, of=None):
    """Answers of requests that arrive at once, and the rows of each run of the model."""
    from mixrank.serving.dev_server.batching import Batching, Runner

    model, of = Doubling(), of or [signature()] * len(requests)

    async def together(runner):
        asked = [
            runner.run(model, one, {"x": np.array(x, np.float32)}, ["y"]) for one, x in zip(of, requests, strict=True)
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    with ThreadPoolExecutor(1) as workers:
        answers = asyncio.run(together(Runner(workers, Batching(max_batch_size, timeout_ms))))
    return [each if isinstance(each, Exception) else each["y"].tolist() for each in answers], model.runs


def test_requests_that_fill_a_batch_run_at_once_and_get_their_own_rows():
    answers, runs = run_together([[1, 2], [3], [4, 5]], max_batch_size=5)
    assert answers == [[2, 4], [6], [8, 10]]
    assert runs == [5]


def test_a_batch_is_never_larger_than_allowed():
    answers, runs = run_together([[1, 2], [3, 4], [5]], max_batch_size=3)
    assert answers == [[2, 4], [6, 8], [10]]
    assert sorted(runs) == [2, 3]


def test_a_lonely_request_waits_no_longer_than_the_timeout():
    assert run_together([[1]], max_batch_size=100, timeout_ms=1.0) == ([[2]], [1])


def test_a_bad_request_in_a_batch_fails_alone():
    answers, runs = run_together([[1, 2], [-1], [3]], max_batch_size=4)
    assert answers[0] == [2, 4] and answers[2] == [6]
    assert str(answers[1]) == "negative"
    assert sorted(runs) == [1, 1, 2, 4]


def test_signatures_and_shapes_are_not_mixed():
    requests, of = [[1], [2], [[3, 4]]], [signature(), signature(name="other"), signature((None, None))]
    answers, runs = run_together(requests, max_batch_size=100, timeout_ms=1.0, of=of)
    assert answers == [[2], [4], [[6, 8]]]
    assert sorted(runs) == [1, 1, 2]


@pytest.mark.parametrize("shape", [(), (3,), None])
def test_a_signature_without_a_batch_axis_is_run_by_itself_whatever_its_size(shape):
    rows = 1.0 if shape == () else [1.0, 2.0, 3.0]
    answers, _ = run_together([rows, rows], max_batch_size=2, of=[signature(shape)] * 2)
    assert answers == [(2 * np.array(rows)).tolist()] * 2


def test_a_batching_server_answers_like_one_that_does_not(serve, save_linear, tmp_path):
    from mixrank.serving.dev_server import Batching

    save_linear(tmp_path, 1)
    bodies = [json.dumps({"instances": [float(n), n + 0.5]}) for n in range(12)] + ['{"instances": [-1.0]}'] * 2
    ranked = json.dumps({"signature_name": "ranked", "inputs": {"user": 0.5, "item": list(range(12))}})
    with serve(tmp_path, batching=Batching(8, 20.0)) as server, ThreadPoolExecutor(15) as threads:
        answers = list(threads.map(lambda body: ask(server.rest_url, body), [*bodies, ranked]))
    assert answers[:12] == [(200, {"predictions": [2.0 * n, 2 * n + 1.0]}) for n in range(12)]
    assert [status for status, _ in answers[12:]] == [400, 400, 200]
    assert answers[14][1] == {"outputs": [n / 2 for n in range(12)]}


def test_an_output_that_is_no_number_is_an_error(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1)
    with serve(tmp_path) as server:
        status, answer = ask(server.rest_url, '{"instances": [1.0, 3e38]}')
        assert (status, answer["error"]) == (500, "output `y` of signature `serving_default` is NaN or infinite")


def test_requests_are_counted_by_status(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1)
    with serve(tmp_path) as server:
        for body in (BODY, BODY, "{}"):
            ask(server.rest_url, body)
        ask(server.rest_url, model="nobody")
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"no graph")
        server.wait_for("linear", 2, state="END")
        text = httpx.get(f"{server.rest_url}/monitoring/prometheus/metrics").text
    lines = text.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert ':tensorflow:serving:request_count{model_name="linear",status="OK"} 2.0' in lines
    assert ':tensorflow:serving:request_count{model_name="linear",status="INVALID_ARGUMENT"} 1.0' in lines
    latency = '{API="predict",entrypoint="REST",model_name="linear"}'
    assert f":tensorflow:serving:request_latency_count{latency} 3.0" in lines
    assert ':tensorflow:serving:runtime_latency_count{API="Predict",model_name="linear",runtime="TF1"} 2.0' in lines
    loads = ":tensorflow:cc:saved_model:load_attempt_count"
    assert f'{loads}{{model_path="{tmp_path}/1",status="success"}} 1.0' in lines
    assert f'{loads}{{model_path="{tmp_path}/2",status="fail"}} 1.0' in lines
    assert "nobody" not in text and "_created" not in text


def test_the_status_page_shows_versions_signatures_and_requests(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1)
    with serve(tmp_path) as server:
        ask(server.rest_url)
        answer = httpx.get(server.rest_url)
    assert answer.headers["content-type"].startswith("text/html")
    for part in (
        "development server",
        "linear",
        "AVAILABLE",
        "<code>ranked</code>",
        "float32 (?)",
        "requests: 1, refused: 0",
    ):
        assert part in answer.text
    assert "http" not in answer.text and "src=" not in answer.text


def test_bytes_that_are_no_http_and_callers_that_hang_up_change_nothing(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1)
    unfinished = b"POST /v1/models/linear:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with serve(tmp_path) as server:
        for address in (server.rest_url.removeprefix("http://"), server.grpc_target):
            host, _, port = address.partition(":")
            for sent in (b"\x16\x03\x01" + bytes(range(256)), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50, unfinished):
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(sent)
        assert ask(server.rest_url) == (200, {"predictions": [2.0]})


@pytest.fixture
def gate(monkeypatch):
    """Holds every run of a model until `release` is set; `entered` says that one is held."""
    from mixrank.serving.dev_server.loaded_model import LoadedModel

    held, run = SimpleNamespace(entered=threading.Semaphore(0), release=threading.Event()), LoadedModel.run

    def wait_and_run(self, *arguments, **named):
        held.entered.release()
        assert held.release.wait(60)
        return run(self, *arguments, **named)

    monkeypatch.setattr(LoadedModel, "run", wait_and_run)
    return held


def test_a_stop_answers_the_requests_at_work_and_takes_no_others(serve, save_linear, tmp_path, gate):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    save_linear(tmp_path, 1)
    refused = []

    def when_stopping(port):
        try:
            for _ in range(100_000):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionResetError:
                    continue
                except ConnectionRefusedError:
                    refused.append(port)
                    return
        finally:
            gate.release.set()

    with ExitStack() as after, ThreadPoolExecutor(3) as threads:
        with serve(tmp_path) as server:
            channel = after.enter_context(grpc.insecure_channel(server.grpc_target))
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            over_rest, over_grpc = threads.submit(ask, server.rest_url), predict.future(predict_request(1.0))
            assert gate.entered.acquire(timeout=60) and gate.entered.acquire(timeout=60)
            port = int(server.rest_url.rpartition(":")[2])
            threads.submit(when_stopping, port)
        assert over_rest.result() == (200, {"predictions": [2.0]})
        assert over_grpc.result().outputs["y"].float_val == [2.0]
    assert refused == [port]


def test_a_caller_that_leaves_takes_nothing_with_it(serve, save_linear, tmp_path, gate):
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    save_linear(tmp_path, 1)
    with serve(tmp_path) as server, grpc.insecure_channel(server.grpc_target) as channel:
        left = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(predict_request(1.0))
        assert gate.entered.acquire(timeout=60)
        left.cancel()
        save_linear(tmp_path, 2, factor=3.0)
        server.wait_for("linear", 2)
        gate.release.set()
        server.wait_for("linear", 1, state="END")
        assert ask(server.rest_url) == (200, {"predictions": [3.0]})


def test_the_command_serves_until_it_is_told_to_stop(save_linear, tmp_path, monkeypatch):
    import typer
    from typer.testing import CliRunner

    from mixrank.pipeline.commands import serve as serve_command

    base = tmp_path / "linear"
    base.mkdir()
    save_linear(base, 1)
    app = typer.Typer()
    app.command()(serve_command.serve)
    answers = []

    def client(line):
        if "predict" in line:
            url = re.search(r"http://\S+", line).group()
            answers.append(ask(url))
            os.kill(os.getpid(), signal.SIGTERM)

    printing = serve_command.console.print

    def listened(text="", **options):
        printing(text, **options)
        client(str(text))

    monkeypatch.setattr(serve_command.console, "print", listened)
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(app, [str(base), "--rest-port", "0", "--grpc-port", "0", "--batch-size", "4"])
    assert result.exit_code == 0, result.output
    assert answers == [(200, {"predictions": [2.0]})]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder of versions"),
        (["nowhere"], "does not exist"),
        (["--models-config", "nowhere"], "is no file"),
        (["base", "--models-config", "x"], "leave MODEL_DIR"),
        (["base", "--model-name", "a", "--model-name", "b"], "given 2 times for 1 folders"),
        (["base", "base"], "same name `base`"),
        (["base", "--poll", "0"], "--poll must be positive"),
        (["base", "--grpc-port", "PORT"], "--grpc-port PORT on 127.0.0.1 cannot be used: Address already in use"),
        (["empty"], "holds no version folder"),
    ],
)
def test_the_command_says_what_is_wrong_before_tensorflow_is_loaded(
    save_linear, tmp_path, monkeypatch, capsys, arguments, message
):
    import typer
    from typer.testing import CliRunner

    from mixrank.pipeline.commands import serve as serve_command

    for name in ("base", "empty"):
        (tmp_path / name).mkdir()
    save_linear(tmp_path / "base", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve_command.errors, "print", lambda text="", **_: printed.append(str(text)))
    printed: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        app = typer.Typer()
        app.command()(serve_command.serve)
        given = [port if each == "PORT" else each for each in arguments]
        rest = [] if "--rest-port" in given else ["--rest-port", "0"]
        grpc = [] if "--grpc-port" in given else ["--grpc-port", "0"]
        result = CliRunner().invoke(app, [*given, *rest, *grpc])
    assert result.exit_code == 1
    assert message.replace("PORT", port) in "".join(printed) and "loading" not in "".join(printed)


@pytest.mark.slow
def test_a_killed_server_is_an_error_for_clients_and_a_restart_serves_again(serve, save_linear, tmp_path):
    save_linear(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        rest, rpc = one.getsockname()[1], other.getsockname()[1]
    url, killed, answered = f"http://127.0.0.1:{rest}", threading.Event(), threading.Semaphore(0)
    program = "import sys; from mixrank.pipeline.commands.serve import serve; import typer; typer.run(serve)"
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-c", program, str(tmp_path), "--model-name", "linear"),
            *("--rest-port", str(rest), "--grpc-port", str(rpc)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def client():
        """Asks until the first error; returns whether the server had been killed by then."""
        with httpx.Client(base_url=url, timeout=60) as session:
            while True:
                try:
                    answer = session.post("/v1/models/linear:predict", content=BODY)
                except httpx.TransportError:
                    return killed.is_set()
                assert (answer.status_code, answer.json()) == (200, {"predictions": [2.0]})
                answered.release()

    try:
        assert "development server" in process.stdout.readline()
        assert any("mixrank predict" in line for line in process.stdout)
        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(client) for _ in range(4)]
            assert all(answered.acquire(timeout=60) for _ in range(100))
            killed.set()
            process.kill()
            assert [each.result() for each in clients] == [True] * 4
    finally:
        process.kill()
        process.communicate()
    with serve(tmp_path, rest_port=rest, grpc_port=rpc):
        assert ask(url) == (200, {"predictions": [2.0]})


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("INVALID_ARGUMENT", 400),
        ("FAILED_PRECONDITION", 400),
        ("OUT_OF_RANGE", 400),
        ("NOT_FOUND", 404),
        ("UNAVAILABLE", 503),
        ("DEADLINE_EXCEEDED", 504),
        ("RESOURCE_EXHAUSTED", 429),
        ("UNIMPLEMENTED", 501),
        ("INTERNAL", 500),
        ("UNKNOWN", 500),
        ("DATA_LOSS", 500),
    ],
)
def test_a_grpc_status_has_its_http_status(code, status):
    from mixrank.serving.dev_server.errors import Refused

    assert Refused(code, "").http_status == status
