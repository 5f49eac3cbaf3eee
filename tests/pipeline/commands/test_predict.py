"""`mixrank predict` scores a file against a server or a folder, and names the line that does not fit."""

from __future__ import annotations

import gzip
import json

import pytest
import typer
from typer.testing import CliRunner

from mixrank.pipeline.commands import predict as predict_command
from mixrank.pipeline.commands.predict import predict
from mixrank.serving import export
from mixrank.serving.base import load_spec, write_sums
from mixrank.serving.client import Inputs
from mixrank.serving.export import write_golden


@pytest.fixture
def mixrank(monkeypatch):
    monkeypatch.setattr(predict_command.console, "width", 120)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(predict)
    return lambda *arguments, **given: CliRunner().invoke(app, [str(each) for each in arguments], **given)


@pytest.fixture
def folder(tmp_path, toy_spec):
    """The folder of a model `toy` with one version, 4, that has a spec but no graph."""
    extra = tmp_path / "toy" / "4" / "assets.extra"
    extra.mkdir(parents=True)
    (extra / "mixrank.json").write_text(json.dumps({"spec": toy_spec.model_dump(mode="json")}))
    write_sums(extra.parent)
    return tmp_path / "toy"


@pytest.fixture
def local(monkeypatch, folder):
    """Stands in for TensorFlow: a model that scores every row 0.5 and 0.25, and ranks by price."""

    class LocalModel:
        def __init__(self, where, unknown="refuse"):
            self.inputs = Inputs(load_spec(where), unknown)

        def score(self, rows):
            return [{"click": 0.5, "buy": 0.25} for _ in self.inputs.rows(rows)]

        def rank(self, request, candidates):
            return [{"click": price, "buy": 0.0} for price in self.inputs.request(request, candidates)["price"]]

    monkeypatch.setitem(vars(export), "LocalModel", LocalModel)
    return folder


def jsonl(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def out(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


ROW = {"page": "cart", "person": 7, "clip": "a"}


@pytest.fixture
def url(tiny_server):
    return tiny_server.rest_url


def xs(*values):
    return [{"x": value, "page": ""} for value in values]


def test_rows_of_a_file_are_scored_in_order(mixrank, url, served, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", *xs(*range(130)))
    result = mixrank(url, rows, "--model", "tiny", "--label", "stable")
    assert [line["click"] for line in out(result)] == pytest.approx([number / 5 for number in range(130)])
    assert [len(inputs["x"]) for inputs in served.seen] == [128, 2]
    assert "130 rows scored" in result.stderr and "next:\n  mixrank predict http" in result.stderr


def test_candidates_come_with_their_order_by_the_first_task(mixrank, url, tmp_path):
    requests = jsonl(
        tmp_path / "requests.jsonl",
        {"request": {"user": 1}, "candidates": [{"x": 3}, {"x": 9}, {"x": 5}]},
        {"request": {"user": 2}, "candidates": [{"x": 4}]},
    )
    first, second = out(mixrank(url, requests, "--model", "tiny", "--rank"))
    # Without a spec the tasks stand in alphabetical order: `buy` falls with x.
    assert first["order"] == [0, 2, 1] and second["order"] == [0]
    assert [score["click"] for score in first["scores"]] == pytest.approx([0.3, 0.9, 0.5])


def test_standard_input_and_json_lists_are_read(mixrank, url, tmp_path):
    def clicks(rows, **given):
        return [line["click"] for line in out(mixrank(url, rows, "--model", "tiny", **given))]

    assert clicks("-", input='{"x": 1, "page": ""}\n\n{"x": 2, "page": ""}\n') == pytest.approx([0.1, 0.2])
    (tmp_path / "rows.json").write_text(json.dumps(xs(3, 4), indent=1))
    assert clicks(tmp_path / "rows.json") == [0.3, 0.4]
    (tmp_path / "rows.json").write_text('{\n"x": 5, "page": ""}')
    assert clicks(tmp_path / "rows.json") == [0.5]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"x": 6, "page": ""}'))
    assert clicks(tmp_path / "rows.jsonl.gz") == [0.6]


def test_a_spec_names_the_model(mixrank, url, folder, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", ROW)
    for spec in (folder, folder / "4"):
        result = mixrank(url, rows, "--spec", spec, "--version", 4)
        assert f"line 1: model `toy`, version 4 at {url}: NOT_FOUND: " in result.stderr


def test_a_folder_is_scored_without_a_server(mixrank, local, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", ROW, ROW)
    result = mixrank(local, rows, "--output", tmp_path / "scores.jsonl")
    assert result.exit_code == 0 and result.stdout == ""
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"click": 0.5, "buy": 0.25}] * 2
    assert f"mixrank serve {local}" in result.stderr
    assert out(mixrank(local, rows, "--version", 4)) == [{"click": 0.5, "buy": 0.25}] * 2


def test_unknown_fields_are_dropped_if_asked(mixrank, local, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", ROW, ROW | {"colour": "red"})
    result = mixrank(local, rows)
    assert result.exit_code == 1 and "rows.jsonl, line 2: spec `toy` has no column `colour`" in result.stderr
    assert len(out(mixrank(local, rows, "--drop-unknown"))) == 2


def test_a_terminal_shows_a_table(mixrank, local, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_command.console, "_force_terminal", True)
    rows = jsonl(tmp_path / "rows.jsonl", *[ROW] * 25)
    result = mixrank(local, rows)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert lines == [[str(number), "0.5000", "0.2500"] for number in range(1, 21)]
    assert "the first 20 of 25 lines" in result.stderr
    candidates = [{"clip": "a", "price": 0.25}, {"clip": "b", "price": 0.75}]
    request = {"page": "cart", "person": 7}
    result = mixrank(local, jsonl(rows, {"request": request, "candidates": candidates}), "--rank")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert lines == [["1", "1", "1", "0.7500", "0.0000"], ["1", "2", "0", "0.2500", "0.0000"]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b'{"x": 1}\n{"x": \n', [], "rows.jsonl, line 2 is not JSON: "),
        (b'{"x": 1}\n\n[1]\n', [], "rows.jsonl, line 3: expected an object, column -> value, received [1]"),
        (
            b'{"x": 1}\n{"x": 1, "y": 2}\n',
            [],
            "line 2: it adds column `y`; without a spec all have the columns of the first",
        ),
        (b'{"x": "\xff"}\n', [], "rows.jsonl, line 1 is not UTF-8 text"),
        (b"[" * 50_000, [], "rows.jsonl, line 1 is nested too deeply"),
        (b'{"x": "\\ud800"}\n', [], "rows.jsonl, line 1 holds half of a surrogate pair"),
        (b'{"x": 1, "x": 2}\n', [], "rows.jsonl, line 1 names `x` twice"),
        (b'{"x": 1' + b"0" * 400 + b"}\n", [], "rows.jsonl, line 1"),
        (b"\n\n", [], "rows.jsonl holds no rows"),
        (b'{"x": 1}\n', ["--rank"], 'line 1: expected {"request": {...}, "candidates": [{...}, ...]}, received {\'x\''),
        (b'{"request": {}, "candidates": [1]}\n', ["--rank"], 'line 1: expected {"request"'),
        (b'{"request": {}, "candidates": []}\n', ["--rank"], "line 1: a request needs at least one candidate"),
    ],
)
def test_a_malformed_line_is_named(mixrank, url, tmp_path, text, options, message):
    (tmp_path / "rows.jsonl").write_bytes(text)
    result = mixrank(url, tmp_path / "rows.jsonl", "--model", "tiny", *options)
    assert result.exit_code == 1 and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_a_refusal_of_the_server_names_the_lines_of_the_request(mixrank, url, tmp_path):
    rows = jsonl(tmp_path / "rows.jsonl", {"z": 1}, {"z": 2})
    result = mixrank(url, rows, "--model", "tiny")
    assert result.exit_code == 1
    assert f"rows.jsonl, line 1 to 2: model `tiny` at {url}: INVALID_ARGUMENT: " in result.stderr


def test_a_failure_leaves_the_old_output(mixrank, local, tmp_path):
    output = tmp_path / "scores.jsonl"
    output.write_text("old")
    rows = jsonl(tmp_path / "rows.jsonl", *[ROW] * 200, {"page": "cart"})
    result = mixrank(local, rows, "--output", output)
    assert result.exit_code == 1 and "rows.jsonl, line 201: column `person` is required but missing" in result.stderr
    assert output.read_text() == "old" and sorted(path.name for path in tmp_path.glob("scores*")) == ["scores.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a target and the rows: mixrank predict TARGET ROWS.jsonl"),
        (["http://h:1", "{rows}"], "name the model: --model NAME, or --spec DIR"),
        (["http://h:1", "{rows}", "--model", "m", "--drop-unknown"], "--drop-unknown needs --spec DIR"),
        (["ftp://h:1", "{rows}", "--model", "m"], "`target` must be like http://localhost:8501"),
        (["http://h:1", "nowhere.jsonl", "--model", "m"], "there is no file nowhere.jsonl"),
        (["http://h:1", "{rows}", "--model", "m", "--deadline", "0"], "`deadline` must be a positive number"),
        (["http://h:1", "{rows}", "--model", "m", "--output", "nowhere/scores"], "there is no folder"),
        (["{folder}", "{rows}", "--label", "stable"], "--label is for a server; "),
        (["{folder}", "{rows}", "--version", "9"], "there is no version 9 in "),
        (["{folder}/nowhere", "{rows}"], "there is no folder "),
        (["--example", "{tmp}"], "holds no assets.extra/mixrank.json"),
        (["--example", "{folder}", "--count", "0"], "--count must be at least 1, received 0"),
    ],
)
def test_mistakes_are_one_readable_line(mixrank, folder, tmp_path, arguments, message):
    rows = jsonl(tmp_path / "rows.jsonl", ROW)
    result = mixrank(*(each.format(rows=rows, folder=folder, tmp=tmp_path) for each in arguments))
    assert result.exit_code == 1 and message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_examples_are_drawn_from_the_spec_and_fit_it(mixrank, folder, toy_spec):
    result = mixrank("--example", folder)
    rows = out(result)
    assert len(rows) == 3 and len(Inputs(toy_spec).rows(rows)) == 3
    assert all(not {"at", "click", "buy"} & set(row) and len(row.get("global_clip", [])) <= 3 for row in rows)
    assert f"mixrank predict {folder} rows.jsonl" in result.stderr
    (request,) = out(mixrank("--example", folder, "--rank"))
    Inputs(toy_spec).request(request["request"], request["candidates"])
    assert len(request["candidates"]) == 3 and "clip" in request["candidates"][0]


def test_examples_are_the_golden_rows_where_there_are_some(mixrank, folder):
    golden = [ROW | {"clip": f"c{number}", "price": 1.5} for number in range(5)]
    write_golden(folder / "4" / "assets.extra" / "golden.jsonl", golden, [{"click": 0.5}] * 5)
    assert out(mixrank("--example", folder)) == golden[:3]
    more = out(mixrank("--example", folder, "--count", 7))
    assert more[:5] == golden and len(more) == 7 and "clip" in more[6]
    candidates = [{"clip": f"c{number}", "price": 1.5} for number in range(3)]
    assert out(mixrank("--example", folder / "4", "--rank")) == [
        {"request": {"page": "cart", "person": 7}, "candidates": candidates}
    ]


def test_an_example_can_be_scored_as_it_is(mixrank, local, tmp_path):
    (tmp_path / "rows.jsonl").write_text(mixrank("--example", local).stdout)
    assert len(out(mixrank(local, tmp_path / "rows.jsonl"))) == 3
