"""A small stand-in for the v2beta1 REST API of Kubeflow Pipelines, on a port of this machine.

Answers have the fields and paths of the API's reference. Errors have the form of its gateway
(`{"code": 5, "message": ..., "error": ..., "details": []}`). The upload server is another: its errors are
`{"error_message": ..., "error_details": ...}`, and it answers 400 where the gateway says 403 or 404.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

NOT_YET = "1970-01-01T00:00:00Z"
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}


def at(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z"


@dataclass
class FakeKubeflow:
    """State of the stand-in, and how it misbehaves.

    Args:
        host: its address.
        token: the only bearer token it takes; None takes any and none.
        namespaces: those in which the user may do anything; None is a single-user installation.
        script: states of the run's tasks, one mapping per look at it; the last one stays.
        outcome: state of the run at the last look.
        failures: path pattern -> statuses to answer with first, one per request.
        page: what to answer everything with, such as a login page.
    """

    host: str = ""
    token: str | None = None
    namespaces: tuple[str, ...] | None = None
    script: list[dict[str, str]] = field(default_factory=lambda: [{}])
    outcome: str = "SUCCEEDED"
    failures: dict[str, list[int]] = field(default_factory=dict)
    page: str | None = None
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    looks: int = 0
    made: Counter[str] = field(default_factory=Counter)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: Any) -> dict[str, Any]:
        """The JSON answer to a request.

        Raises:
            Refused: with status and message.
        """
        self.requests.append((method, path))
        for pattern, statuses in self.failures.items():
            if re.fullmatch(pattern, path) and statuses:
                raise Refused(statuses.pop(0), "the database is away")
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Unauthenticated: there is no user identity header")
        route = path.removeprefix("/apis/v2beta1/")
        if route == "healthz":
            return {"multi_user": self.namespaces is not None}
        if self.namespaces is not None and route == "experiments":
            self._allowed(query.get("namespace") if method == "GET" else body.get("namespace"))
        match (method, *route.split("/")):
            case ("GET", "pipelines"):
                # Without a namespace it lists what is shared by all.
                if self.namespaces is not None and query.get("namespace"):
                    self._allowed(query["namespace"])
                found = _filtered(self.pipelines, query)
                return {"pipelines": [p for p in found if p.get("namespace") == query.get("namespace")]}
            case ("POST", "pipelines", "upload"):
                _check(body)
                if self.namespaces is not None and query.get("namespace") not in self.namespaces:
                    raise Refused(400, "shared pipeline upload denied: permission to create pipelines is required")
                made = self._add(self.pipelines, "pipeline_id", display_name=query["name"])
                made["namespace"] = query.get("namespace")
                self._add_version(made["pipeline_id"], query["name"], body)
                return made
            case ("POST", "pipelines", "upload_version"):
                _check(body)
                if query["pipelineid"] not in self.pipelines:
                    raise Refused(400, "Failed to create a pipeline version")
                return self._add_version(query["pipelineid"], query["name"], body)
            case ("GET", "pipelines", pipeline, "versions"):
                found = [v for v in _filtered(self.versions, query) if v["pipeline_id"] == pipeline]
                return {"pipeline_versions": found[::-1] if query.get("sort_by") == "created_at desc" else found}
            case ("GET", "experiments"):
                return {"experiments": _filtered(self.experiments, query)}
            case ("POST", "experiments"):
                return self._add(self.experiments, "experiment_id", **body)
            case ("POST", "runs"):
                if body["pipeline_version_reference"]["pipeline_version_id"] not in self.versions:
                    raise Refused(404, "Pipeline version not found")
                return self._add(self.runs, "run_id", **body)
            case ("GET", "runs", run):
                if run not in self.runs:
                    raise Refused(404, f"Run {run} not found")
                return self._look(run)
            case ("GET", "recurringruns"):
                found = [r for r in _filtered(self.recurring, query) if r["experiment_id"] == query["experiment_id"]]
                return {"recurringRuns": found}
            case ("POST", "recurringruns"):
                return self._add(self.recurring, "recurring_run_id", **body)
            case ("DELETE", "recurringruns", recurring):
                del self.recurring[recurring]
                return {}
        raise Refused(404, f"{method} {path} is not a method of this API")

    def _allowed(self, namespace: str | None) -> None:
        if not namespace:
            raise Refused(400, "Invalid input error: a namespace must be given in multi-user mode")
        if namespace not in (self.namespaces or ()):
            raise Refused(403, f"User 'ann' is not authorized with reason: no access to namespace {namespace}")

    def _add(self, table: dict[str, dict[str, Any]], key: str, **values: Any) -> dict[str, Any]:
        kind = key.removesuffix("_id")
        self.made[kind] += 1
        name = f"{kind}-{self.made[kind]}"
        table[name] = {key: name, "created_at": at(self.made[kind]), **values}
        return table[name]

    def _add_version(self, pipeline: str, name: str, spec: bytes) -> dict[str, Any]:
        made = self._add(self.versions, "pipeline_version_id", pipeline_id=pipeline, display_name=name)
        # With a platform's settings there are two documents, which come back as one.
        documents = list(yaml.safe_load_all(spec))
        both = dict(zip(("pipeline_spec", "platform_spec"), documents, strict=False))
        made["pipeline_spec"] = documents[0] if len(documents) == 1 else both
        return made

    def _look(self, run: str) -> dict[str, Any]:
        states = self.script[min(self.looks, len(self.script) - 1)]
        over = self.looks >= len(self.script) - 1
        self.looks += 1
        # As the API does, drivers and the root stand among the tasks.
        details = [
            {"display_name": "root", "state": "RUNNING", "create_time": at(0), "start_time": at(0)},
            {"display_name": "root-driver", "state": "SUCCEEDED", "create_time": at(0), "start_time": at(0)},
        ]
        for number, (name, state) in enumerate(states.items()):
            details.append(
                {
                    "run_id": run,
                    "display_name": name,
                    "state": state,
                    "create_time": at(number),
                    "start_time": at(number),
                    "end_time": NOT_YET if state in ("PENDING", "RUNNING") else at(number + 75),
                    **({"error": {"code": 2, "message": "exit code 1"}} if state == "FAILED" else {}),
                }
            )
        return {
            **self.runs[run],
            "state": self.outcome if over else "RUNNING",
            "run_details": {"task_details": details},
        }


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _check(spec: bytes) -> None:
    loaded = next(yaml.safe_load_all(spec), None)
    if not isinstance(loaded, dict) or not loaded.get("deploymentSpec", {}).get("executors"):
        raise Refused(400, "Failed to create a pipeline: invalid v2 pipeline spec: no executors")


def _filtered(table: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    names = [each["stringValue"] for each in predicates]
    return [row for row in table.values() if all(row["display_name"] == name for name in names)]


@contextmanager
def serving(fake: FakeKubeflow) -> Iterator[FakeKubeflow]:
    """Serves a stand-in from a thread, at `fake.host`."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind = 200, "application/json"
            try:
                text = fake.page
                if text is None:
                    answered = fake.answer(self.command, url.path, query, self._body(content), self.headers)
                    text = json.dumps(answered)
                else:
                    kind = "text/html"
            except Refused as error:
                status = error.status
                if "upload" in url.path:
                    text = json.dumps({"error_message": error.message, "error_details": f"{error.message}\nstack"})
                else:
                    told = {"code": CODES[status], "message": error.message, "error": error.message, "details": []}
                    text = json.dumps(told)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def _body(self, content: bytes) -> Any:
            kind = self.headers.get("Content-Type", "")
            if kind.startswith("multipart/form-data"):
                (part,) = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + content).get_payload()
                return part.get_payload(decode=True)
            return json.loads(content) if content else None

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.host = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    """A single-user installation that takes anything and whose runs succeed."""
    with serving(FakeKubeflow()) as fake:
        yield fake
