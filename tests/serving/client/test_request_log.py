"""The client's log of what it asked: whole lines, by the hour, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

from mixrank.schemas.encode import to_instance, to_logged
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.client import AsyncClient, Client, RequestLog


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_rows_are_logged_with_their_ids_and_scores_in_the_chunks_that_were_sent(tiny_server, tmp_path):
    with RequestLog(tmp_path / "log", now=lambda: 7200.5) as log:
        with Client(tiny_server.rest_url, "tiny", log=log, max_rows=2, label="stable") as client:
            client.score([{"x": 1.0, "page": ""}, {"x": 2.0, "page": ""}, {"x": 3.0, "page": "é"}], ["a", "b", "c"])
        with Client(f"grpc://{tiny_server.grpc_target}", "tiny", log=log, version=12) as client:
            client.rank({"user": 5}, [{"x": 4.0}, {"x": 1.0}], [1, np.int64(2)])
            client.score([{"x": 1.0, "page": "home"}])
    (file,) = (tmp_path / "log").iterdir()
    assert file.name.startswith("1970-01-01T02-")
    first, second, third, fourth = lines(tmp_path / "log")
    assert first == {
        "logged_at": 7200500, "model": "tiny", "label": "stable", "impression_ids": ["a", "b"],
        "instances": [{"x": 1.0, "page": ""}, {"x": 2.0, "page": ""}],
        "scores": [{"click": pytest.approx(0.2)}, {"click": pytest.approx(0.4)}],
    }  # fmt: skip
    assert (second["impression_ids"], second["instances"]) == (["c"], [{"x": 3.0, "page": "é"}])
    assert (third["version"], third["impression_ids"], third["request"]) == (12, ["1", "2"], {"user": 5})
    assert third["candidates"] == [{"x": 4.0}, {"x": 1.0}] and third["scores"][0]["click"] == pytest.approx(0.4)
    assert "impression_ids" not in fourth and "label" not in fourth


def test_an_async_client_logs_the_same(tiny_server, tmp_path):
    async def ask(log):
        async with AsyncClient(tiny_server.rest_url, "tiny", log=log) as client:
            await asyncio.gather(*(client.score([{"x": float(n), "page": ""}], [n]) for n in range(5)))
            await client.rank({"user": 5}, [{"x": 4.0}], ["ranked"])

    with RequestLog(tmp_path / "log") as log:
        asyncio.run(ask(log))
    found = {line["impression_ids"][0]: line for line in lines(tmp_path / "log")}
    assert set(found) == {"0", "1", "2", "3", "4", "ranked"}
    assert found["3"]["scores"][0]["click"] == pytest.approx(0.3)


def test_what_is_refused_is_not_logged(tiny_server, tmp_path):
    with (
        RequestLog(tmp_path / "log") as log,
        Client(tiny_server.rest_url, "tiny", log=log) as client,
        pytest.raises(ValueError, match="INVALID_ARGUMENT"),
    ):
        client.score([{"y": 1.0}], ["a"])
    assert lines(tmp_path / "log") == []


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["a"], "`impression_ids` must be one per row, received 1 for 2 rows"),
        (["a", "a"], "`impression_ids` must be distinct, 'a' is there twice"),
        (["1", 1], "`impression_ids` must be distinct, '1' is there twice"),
        (["a", 1.5], "`impression_ids` must be text or whole numbers, received 1.5"),
        (["a", ""], "received ''"),
        (["a", None], "received None"),
        ([True, "a"], "received True"),
    ],
)
def test_ids_that_cannot_be_joined_by_are_refused_before_anything_is_sent(tiny_server, tmp_path, ids, said, served):
    rows = [{"x": 1.0, "page": ""}, {"x": 2.0, "page": ""}]
    with (
        RequestLog(tmp_path / "log") as log,
        Client(tiny_server.rest_url, "tiny", log=log) as client,
        pytest.raises(ValueError, match=said),
    ):
        client.score(rows, ids)
    assert served.seen == []


def test_ids_without_a_log_are_refused(tiny_server):
    with Client(tiny_server.rest_url, "tiny") as client, pytest.raises(ValueError, match="it has none: give it `log`"):
        client.score([{"x": 1.0, "page": ""}], ["a"])


def test_a_log_that_cannot_be_written_fails_no_request(tiny_server, tmp_path, caplog):
    with RequestLog(tmp_path / "log") as log, Client(tiny_server.rest_url, "tiny", log=log) as client:
        (tmp_path / "log").rmdir()
        (tmp_path / "log").write_text("a file in the folder's place")
        scores = client.score([{"x": 1.0, "page": ""}, {"x": 2.0, "page": ""}], ["a", "b"])
        assert [each["click"] for each in scores] == [pytest.approx(0.1), pytest.approx(0.2)]
        assert log.lost == 2 and "2 rows were not logged" in caplog.text


def test_every_hour_has_a_file_of_its_own_and_threads_share_it_line_by_line(tmp_path):
    moment = [3600.0]
    with RequestLog(tmp_path / "log", now=lambda: moment[0]) as log:

        def write(thread):
            for number in range(50):
                log.write({"logged_at": int(1000 * moment[0]), "from": thread, "text": "x" * 3000, "n": number}, 1)

        for moment[0] in (3600.0, 7200.0):
            threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        log.close()
        write(9)
    files = sorted((tmp_path / "log").iterdir())
    assert [file.name[:14] for file in files] == ["1970-01-01T01-", "1970-01-01T02-"]
    assert len(lines(tmp_path / "log")) == 450


def test_a_logged_row_is_what_was_sent_and_no_label(toy_spec):
    for row in toy_rows(toy_spec, 30, seed=4, missing=0.4):
        kept = to_logged(toy_spec, row)
        assert not set(kept) & {"click", "buy"}
        assert kept["at"] == row["at"] and None not in kept.values()
        assert json.dumps(to_instance(toy_spec, kept)) == json.dumps(to_instance(toy_spec, row))
        assert len(kept) < len(row)
