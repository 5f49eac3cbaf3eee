"""Versions and labels come and go under load, and a stop waits for the requests at work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn

from mixrank.serving.client import Client
from mixrank.serving.dev_server import running
from mixrank.serving.rollout import Golden, Rollout

BODY = '{"instances": [1.0]}'


# For a test that tells the server itself when to look: two at once would see half of what the other does.
NEVER = 3600.0


def serve(models, poll_seconds=0.05, **options):
    """`running` of the model `tiny` in a folder, or of a models.config, which it looks at twenty times a second."""
    models = models if isinstance(models, dict) or models.is_file() else {"tiny": models}
    return running(models, poll_seconds=poll_seconds, **options)


def ask(url, which=""):
    answer = httpx.post(f"{url}/v1/models/tiny{which}:predict", content=BODY, timeout=60).json()
    return answer["predictions"][0] if "predictions" in answer else answer["error"]


@contextmanager
def asking(*asks):
    """Asks all the time, each in a thread; yields a function that waits for n more answers, and all answers."""
    done, answered, answers = threading.Event(), threading.Semaphore(0), []

    def loop(ask):
        while not done.is_set():
            answers.append(ask())
            answered.release()

    def wait(count):
        assert all(answered.acquire(timeout=60) for _ in range(count))

    with ThreadPoolExecutor(len(asks)) as threads:
        clients = [threads.submit(loop, ask) for ask in asks]
        try:
            yield wait, answers
        finally:
            done.set()
        for client in clients:
            client.result()


@pytest.mark.slow
def test_swapping_versions_under_load_loses_no_request(save_tiny, tmp_path):
    save_tiny(tmp_path, 1, factor=2.0)
    with serve(tmp_path) as server, Client(f"grpc://{server.grpc_target}", "tiny", deadline=60, retries=0) as client:

        def over_grpc():
            return client.score([{"x": 1.0, "page": ""}])[0]["click"]

        with asking(*[lambda: ask(server.rest_url)] * 3, over_grpc) as (wait, answers):
            for version, factor in ((2, 3.0), (3, 4.0)):
                wait(50)
                save_tiny(tmp_path, version, factor=factor)
                server.wait_for("tiny", version)
                server.wait_for("tiny", version - 1, state="END")
            wait(50)
            shutil.rmtree(tmp_path / "3")
            server.wait_for("tiny", 3, state="END")
            assert ask(server.rest_url) == 3.0
    assert set(answers) == {2.0, 3.0, 4.0}


@pytest.mark.slow
def test_a_roll_out_moves_labels_under_load_without_a_failed_request(save_tiny, tmp_path):
    from mixrank.serving.export import write_golden
    from mixrank.serving.rollout import RestServer

    base, golden = tmp_path / "tiny", tmp_path / "golden.jsonl"
    save_tiny(base, 1, factor=2.0)
    Rollout(base).canary()
    Rollout(base).promote(golden=None)
    write_golden(golden, [{"x": 1.0, "page": ""}], [{"click": 3.0, "buy": -2.0}])
    with serve(base / "models.config") as server:
        rollout = Rollout(base, server=RestServer(server.rest_url, "tiny"), wait=60)
        with asking(lambda: ask(server.rest_url, "/labels/stable")) as (wait, answers):
            save_tiny(base, 2, factor=3.0)
            rollout.canary(golden=Golden(golden))
            rollout.promote(golden=Golden(golden))
            assert ask(server.rest_url, "/labels/stable") == 3.0
            rollout.rollback()
            assert ask(server.rest_url, "/labels/stable") == 2.0
            wait(1)
    assert set(answers) == {2.0, 3.0}


def test_a_request_at_work_outlives_the_unloading_of_its_version(save_tiny, tmp_path, served):
    save_tiny(tmp_path, 1)
    entered, release = threading.Event(), threading.Event()

    def answer(inputs):
        entered.set()
        assert release.wait(60)
        return {"y": [5.0]}

    served.answer = answer
    with serve(tmp_path) as server, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, server.rest_url)
        assert entered.wait(60)
        served.answer = None
        save_tiny(tmp_path, 2, factor=3.0)
        server.wait_for("tiny", 1, state="END")
        assert ask(server.rest_url) == 3.0
        release.set()
        assert asked.result() == 5.0


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_truncated_version_ends_and_loads_once_it_is_put_there_again(save_tiny, tmp_path, file):
    save_tiny(tmp_path, 1, factor=2.0)
    with serve(tmp_path, poll_seconds=NEVER) as server:
        whole = save_tiny(tmp_path / "aside", 2, factor=3.0)
        broken = tmp_path / ".broken"
        shutil.copytree(whole, broken)
        (broken / file).write_bytes((whole / file).read_bytes()[:3])
        broken.rename(tmp_path / "2")
        server.repository.look()
        with pytest.raises(ValueError, match="version 2 of `tiny` could not be loaded: "):
            server.wait_for("tiny", 2)
        assert ask(server.rest_url) == 2.0
        shutil.rmtree(tmp_path / "2")
        server.repository.look()
        whole.rename(tmp_path / "2")
        server.repository.look()
        assert ask(server.rest_url) == 3.0


@pytest.mark.parametrize(
    ("what", "message"),
    [("missing", "does not exist"), ("empty", "holds no version folder"), ("broken", "version 1: ")],
)
def test_a_server_without_a_version_does_not_start(save_tiny, tmp_path, what, message):
    base = tmp_path / "tiny"
    if what != "missing":
        base.mkdir()
    if what == "broken":
        (save_tiny(base, 1) / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=message), serve({"tiny": base}):
        pass


@pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_an_error(save_tiny, tmp_path, port):
    save_tiny(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at 127.0.0.1:{number}"), serve(tmp_path, **{port: number}):
            pass


def test_a_rest_side_that_cannot_start_is_an_error(save_tiny, tmp_path, monkeypatch):
    def fail(self, sockets):
        raise OSError("too many open files")

    save_tiny(tmp_path, 1)
    monkeypatch.setattr(uvicorn.Server, "run", fail)
    with pytest.raises(OSError, match="answers REST ended: too many open files"), serve(tmp_path):
        pytest.fail("it is not running")


def test_a_rest_side_that_ends_refuses_its_callers_and_is_told_of_at_the_end(save_tiny, tmp_path, monkeypatch):
    async def end(self):
        raise RuntimeError("out of memory")

    save_tiny(tmp_path, 1)
    monkeypatch.setattr(uvicorn.Server, "main_loop", end)
    with pytest.raises(OSError, match="answers REST ended: out of memory"), serve(tmp_path) as server:
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(server.rest_url.rpartition(":")[2])), timeout=60).close()
            except ConnectionResetError:
                # It was in the queue when the socket was closed.
                continue
            except ConnectionRefusedError:
                break


def test_one_version_of_a_folder_can_be_served(save_tiny, tmp_path):
    save_tiny(tmp_path, 1, factor=2.0)
    save_tiny(tmp_path, 2, factor=3.0)
    with serve({"tiny": tmp_path / "1"}) as server:
        assert ask(server.rest_url) == 2.0


def config_text(base, versions, **labels):
    rows = "".join(f" versions: {version}" for version in versions)
    named = "".join(f' version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items())
    return (
        f'model_config_list {{ config {{ name: "tiny" base_path: "{base}" model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{{rows} }} }}{named} }} }}"
    )


def test_a_models_config_is_followed_and_its_labels_answer(save_tiny, tmp_path):
    base, file = tmp_path / "tiny", tmp_path / "models.config"
    save_tiny(base, 1, factor=2.0)
    save_tiny(base, 2, factor=3.0)
    file.write_text(config_text(base, [1], stable=1))
    with serve(file, poll_seconds=NEVER) as server:

        def follow(text):
            file.write_text(text)
            server.repository.look()

        def answers():
            return [ask(server.rest_url, f"/labels/{label}") for label in ("stable", "canary")]

        assert answers() == [2.0, "Unrecognized servable version label: canary"]
        follow(config_text(base, [1, 2], stable=1, canary=2))
        assert answers() == [2.0, 3.0]
        follow("model_config_list { config { name: 'tiny' } }")
        assert answers() == [2.0, 3.0], "a file that is not valid changes nothing"
        follow(config_text(base, [2, 9], stable=9, canary=2))
        assert answers() == ["Servable not found for request: Specific(tiny, 1)", 3.0], "9 is not loaded, so none moves"
        follow(config_text(base, [2], stable=2))
        assert answers() == [3.0, "Unrecognized servable version label: canary"]


def test_an_output_that_is_no_number_is_an_error(save_tiny, tmp_path):
    save_tiny(tmp_path, 1)
    with serve(tmp_path) as server:
        answer = httpx.post(f"{server.rest_url}/v1/models/tiny:predict", content='{"instances": [1.0, 3e38]}')
    assert (answer.status_code, answer.json()["error"]) == (500, "output `y` is NaN or infinite")


def test_bytes_that_are_no_http_and_callers_that_hang_up_change_nothing(tiny_server):
    unfinished = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    for address in (tiny_server.rest_url.removeprefix("http://"), tiny_server.grpc_target):
        host, _, port = address.partition(":")
        for sent in (b"\x16\x03\x01" + bytes(range(256)), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50, unfinished):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
    assert ask(tiny_server.rest_url) == pytest.approx(0.1)


def test_a_stop_answers_the_requests_at_work_and_takes_no_others(save_tiny, tmp_path, served):
    save_tiny(tmp_path, 1)
    entered, release, refused = threading.Semaphore(0), threading.Event(), []

    def answer(inputs):
        entered.release()
        assert release.wait(60)
        return {"y": [2.0]} if list(inputs) == ["x"] else {"click": [[2.0]], "buy": [[-1.0]]}

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
            release.set()

    served.answer = answer
    with ExitStack() as after, ThreadPoolExecutor(3) as threads:
        with serve(tmp_path) as server:
            client = after.enter_context(Client(f"grpc://{server.grpc_target}", "tiny", deadline=60))
            over_grpc = threads.submit(client.score, [{"x": 1.0, "page": ""}])
            over_rest = threads.submit(ask, server.rest_url)
            assert entered.acquire(timeout=60) and entered.acquire(timeout=60)
            port = int(server.rest_url.rpartition(":")[2])
            threads.submit(when_stopping, port)
        assert over_rest.result() == 2.0
        assert over_grpc.result() == [{"click": 2.0, "buy": -1.0}]
    assert refused == [port]


@pytest.fixture
def command():
    """`mixrank serve` as a typer application."""
    import typer

    from mixrank.pipeline.commands.serve import serve

    app = typer.Typer()
    app.command()(serve)
    return app


def test_the_command_serves_until_it_is_told_to_stop(save_tiny, tmp_path, monkeypatch, command):
    from typer.testing import CliRunner

    from mixrank.pipeline.commands import serve as serve_command

    save_tiny(tmp_path / "tiny", 1)
    answers, printing = [], serve_command.console.print

    def listened(text="", **options):
        printing(text, **options)
        if "predict" in str(text):
            answers.append(ask(re.search(r"http://\S+", str(text)).group()))
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serve_command.console, "print", listened)
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(command, [str(tmp_path / "tiny"), "--rest-port", "0", "--grpc-port", "0"])
    assert result.exit_code == 0, result.output
    assert answers == [2.0]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder of versions"),
        (["nowhere"], "does not exist"),
        (["--models-config", "nowhere"], "is not a file"),
        (["--models-config", "nothing"], "names no model"),
        (["base", "--models-config", "x"], "leave MODEL_DIR"),
        (["base", "--model-name", "a", "--model-name", "b"], "given 2 times for 1 folders"),
        (["base", "base"], "same name `base`"),
        (["base", "--poll", "0"], "--poll must be positive"),
        (["base", "--host", "0.0.0.0", "--grpc-port", "PORT"], "warning: --host 0.0.0.0 lets other machines ask"),
        (["base", "--grpc-port", "PORT"], "--grpc-port PORT on 127.0.0.1 cannot be used: Address already in use"),
        (["empty"], "holds no version folder"),
    ],
)
def test_the_command_says_what_is_wrong_before_tensorflow_is_loaded(
    save_tiny, tmp_path, monkeypatch, command, arguments, message
):
    from typer.testing import CliRunner

    from mixrank.pipeline.commands import serve as serve_command

    save_tiny(tmp_path / "base", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").touch()
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    monkeypatch.setattr(serve_command.errors, "print", lambda text="", **_: printed.append(str(text)))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [port if each == "PORT" else each for each in arguments]
        free = [each for option in ("--rest-port", "--grpc-port") if option not in given for each in (option, "0")]
        result = CliRunner().invoke(command, [*given, *free])
    assert result.exit_code == 1
    assert message.replace("PORT", port) in "".join(printed) and "loading" not in "".join(printed)
