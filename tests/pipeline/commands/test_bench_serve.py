"""`mixrank bench-serve` sends rows or requests to a server and tells how it did."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from pipeline.commands import bench_serve as command
from schemas.encode import columns


@pytest.fixture
def mixrank(monkeypatch):
    monkeypatch.setattr(command.console, "width", 120)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command.bench_serve)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def server():
    """Answers as TensorFlow Serving does; `answer` is given the number of the request and the rows in it."""

    def scores(number, count):
        return 200, {"outputs": {"click": [[0.5]] * count, "buy": [[0.25]] * count}}

    about = SimpleNamespace(seen=[], answer=scores, scores=scores)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            about.seen.append((self.path, body["signature_name"], body["inputs"]))
            count = len(body["inputs"]["clip" if "clip" in body["inputs"] else "x"])
            status, answer = about.answer(len(about.seen), count)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    about.url = f"http://127.0.0.1:{listening.server_port}"
    yield about
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def folder(tmp_path, toy_spec):
    """The folder of a model `toy` with one version, 4, that has a spec but no graph."""
    extra = tmp_path / "toy" / "4" / "assets.extra"
    extra.mkdir(parents=True)
    (extra / "mixrank.json").write_text(json.dumps({"spec": toy_spec.model_dump(mode="json")}))
    return tmp_path / "toy"


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"x": 1}\n{"x": 2}\n{"x": 3}\n')
    return file


# Ends at its number of requests long before.
SHORT = ("--seconds", 60, "--warm-up", 0, "--requests", 12)


def test_a_closed_loop_gives_a_line_per_number_of_clients(mixrank, server, rows, tmp_path):
    output, found = tmp_path / "load.html", tmp_path / "load.json"
    written = ("--output", output, "--json", found)
    result = mixrank(server.url, "--model", "toy", "--rows", rows, "--clients", "1,3", *SHORT, *written)
    assert result.exit_code == 0, result.output
    assert re.search(r"^ *1 client .* 12 +0", result.stdout, re.M) and "3 clients" in result.stdout
    assert f"report: {output}" in result.stdout and "next:\n  mixrank bench-serve" in result.stdout
    numbers = json.loads(found.read_text())
    assert numbers["loop"] == "closed" and [each["clients"] for each in numbers["results"]] == [1, 3]
    for each in numbers["results"]:
        assert each["statuses"] == {"OK": each["statuses"]["OK"]} and each["statuses"]["OK"] in (12, 13, 14)
        latency = each["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    page = output.read_text()
    assert page.count('<img class="plot"') == 2 and "3 clients" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    # One request goes ahead through the client; then the rows in turn, one each.
    assert [inputs["x"] for _, _, inputs in server.seen[:5]] == [[1], [1], [2], [3], [1]]
    assert {(path, signature) for path, signature, _ in server.seen} == {("/v1/models/toy:predict", "score_rows")}


def test_rows_fill_requests_from_the_first_again(mixrank, server, rows):
    result = mixrank(server.url, "--model", "toy", "--rows", rows, "--rows-per-request", 2, "--clients", 1, *SHORT)
    assert result.exit_code == 0, result.output
    assert [inputs["x"] for _, _, inputs in server.seen[1:4]] == [[1, 2], [3, 1], [1, 2]]
    server.seen.clear()
    mixrank(server.url, "--model", "toy", "--rows", rows, "--rows-per-request", 7, "--clients", 1, *SHORT)
    assert server.seen[1][2] == {"x": [1, 2, 3, 1, 2, 3, 1]}


def test_an_open_loop_gives_a_line_per_rate(mixrank, server, rows):
    result = mixrank(
        server.url, "--model", "toy", "--rows", rows, "--rate", "200,400", "--arrivals", "constant", *SHORT
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"^ *200/s .* 12 +0", result.stdout, re.M) and "400/s" in result.stdout
    assert "--output load.html" in result.stdout


def test_examples_of_the_model_are_sent_where_no_rows_are_given(mixrank, server, folder, toy_spec):
    result = mixrank(server.url, "--spec", folder, "--clients", 2, *SHORT)
    assert result.exit_code == 0, result.output
    _, _, inputs = server.seen[1]
    assert set(inputs) == {column.name for column in columns(toy_spec) if column.serving}
    assert len({json.dumps(inputs) for _, _, inputs in server.seen[1:]}) >= 12


def test_candidates_are_ranked_as_many_as_asked_for(mixrank, server, folder, tmp_path):
    result = mixrank(server.url, "--spec", folder, "--rank", 5, "--clients", 1, *SHORT)
    assert result.exit_code == 0 and "candidates per request: 5" in result.stdout, result.output
    signatures = {(signature, len(inputs["clip"]), type(inputs["person"])) for _, signature, inputs in server.seen}
    assert signatures == {("rank_candidates", 5, int)}
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps({"request": {"user": 1}, "candidates": [{"x": 1}, {"x": 2}]}))
    server.seen.clear()
    result = mixrank(server.url, "--model", "m", "--rows", requests, "--rank", 3, "--clients", 1, *SHORT)
    assert result.exit_code == 0 and server.seen[1][2] == {"user": 1, "x": [1, 2, 1]}


def test_errors_fail_the_test_unless_they_are_allowed(mixrank, server, rows):
    server.answer = lambda number, count: (
        (429, {"error": "later"}) if number in (5, 7) else server.scores(number, count)
    )
    command = (server.url, "--model", "toy", "--rows", rows, "--clients", 1, *SHORT)
    result = mixrank(*command)
    assert result.exit_code == 1 and "failed: 2 RESOURCE_EXHAUSTED" in result.stderr
    assert re.search(r"1 client .*2 RESOURCE_EXHAUSTED", result.stdout)
    server.seen.clear()
    assert mixrank(*command, "--allow-errors", "UNAVAILABLE").exit_code == 1
    server.seen.clear()
    assert mixrank(*command, "--allow-errors", "RESOURCE_EXHAUSTED,UNAVAILABLE").exit_code == 0


@pytest.mark.parametrize("host", ["example.com", "10.0.0.7", "localhost.example.com", "0.0.0.0"])
def test_only_this_machine_is_loaded_unless_told_otherwise(mixrank, rows, host):
    result = mixrank(f"http://{host}:1", "--model", "toy", "--rows", rows)
    assert result.exit_code == 1 and f"{host} is not this machine by name" in result.stderr
    assert "--remote" in result.stderr


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_names_of_this_machine_are_known(host):
    command._check_target(f"grpc://{host}:1", False)


def test_a_server_that_gives_no_scores_is_told_before_the_load(mixrank, server, rows):
    server.answer = lambda number, count: (404, {"error": "Servable not found"})
    result = mixrank(server.url, "--model", "toy", "--rows", rows, *SHORT)
    assert result.exit_code == 1 and "NOT_FOUND: Servable not found" in result.stderr and len(server.seen) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m"], "name the rows: --rows FILE, or --spec DIR"),
        (["--rows", "{rows}"], "name the model: --model NAME, or --spec DIR"),
        (["--model", "m", "--rows", "nowhere"], "there is no file nowhere"),
        (["--clients", "1", "--rate", "2"], "give one of them"),
        (["--clients", "1,x"], "--clients takes whole numbers with commas between them, received '1,x'"),
        (["--clients", "0"], "`clients` must be at least 1"),
        (["--rate", "0"], "`rate` must be a positive number"),
        (["--rate", "5", "--arrivals", "bursts"], '`arrivals` must be "poisson" or "constant"'),
        (["--seconds", "0"], "`seconds` must be a number of seconds > 0"),
        (
            ["--model", "m", "--rows", "{rows}", "--rank", "0"],
            "--rank must be at least 1, received 1 and 0",
        ),
        (
            ["--model", "m", "--rows", "{rows}", "--rank", "2", "--rows-per-request", "2"],
            "leave --rows-per-request out",
        ),
        (["--allow-errors", "BUSY"], "--allow-errors knows no status 'BUSY'; there are CANCELLED, "),
        (["--output", "nowhere/load.html"], "there is no folder"),
    ],
)
def test_mistakes_are_one_readable_line(mixrank, server, rows, options, message):
    result = mixrank(server.url, *(each.format(rows=rows) for each in options))
    assert result.exit_code == 1 and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr and not server.seen


def test_rows_that_do_not_fit_are_named_by_their_line(mixrank, server, folder, rows):
    rows.write_text('{"page": "cart", "person": 7, "clip": "a"}\n{"page": "cart", "clip": "a"}\n')
    result = mixrank(server.url, "--spec", folder, "--rows", rows)
    assert result.exit_code == 1
    assert "rows.jsonl, line 2: column `person` is required but missing" in result.stderr
