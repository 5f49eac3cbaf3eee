"""Replays a file of rows or rank requests against a server over REST, with locust.

    mixrank predict --example MODEL_DIR --count 20 > rows.jsonl
    locust -f benchmarks/load_test.py --model-dir MODEL_DIR --requests rows.jsonl --host http://localhost:8501 \\
        --headless --users 8 --run-time 30s

Every line becomes a request of its own, checked and padded by the model's feature spec before the load begins. A line
`{"request": {...}, "candidates": [...]}` asks `rank_candidates`, any other is a row for `score_rows`. Users take turns
through the file, each from another line. More of a server's settings: `locust --help`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, task

from mixrank.serving.base import is_version, load_spec
from mixrank.serving.client import Inputs, stack


def bodies(folder: Path, file: Path) -> list[bytes]:
    """The bodies of predict requests for the lines of a file.

    Args:
        folder: folder of the model's versions, or one version.
        file: JSON lines, as `mixrank predict` reads them.

    Raises:
        ValueError: if the file holds no line, or a line does not fit the spec, naming the line.
    """
    inputs, found = Inputs(load_spec(folder)), []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            value = json.loads(line)
            ranks = set(value) == {"request", "candidates"}
            columns = inputs.request(**value) if ranks else stack(inputs.rows([value]))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        signature = "rank_candidates" if ranks else "score_rows"
        found.append(json.dumps({"signature_name": signature, "inputs": columns}).encode())
    if not found:
        raise ValueError(f"{file} holds no rows")
    return found


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--model-dir", type=Path, required=True, help="Folder of the model's versions, or one version.")
    parser.add_argument("--requests", type=Path, required=True, help="JSON lines from `mixrank predict --example`.")
    parser.add_argument("--label", default="", help="Ask the version with this label (default: the newest).")


@events.test_start.add_listener
def _read(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    folder = options.model_dir.absolute()
    Replay.bodies = bodies(folder, options.requests)
    name = folder.parent.name if is_version(folder) else folder.name
    Replay.path = f"/v1/models/{name}{f'/labels/{options.label}' if options.label else ''}:predict"


class Replay(FastHttpUser):
    """A user that sends one request after the other, without a pause."""

    bodies: list[bytes]
    path: str
    _started = itertools.count()

    def on_start(self) -> None:
        """Begins at a different line from other users."""
        start = next(self._started) % len(self.bodies)
        self._next = itertools.cycle(self.bodies[start:] + self.bodies[:start])

    @task
    def predict(self) -> None:
        """Sends the next line."""
        self.client.post(self.path, data=next(self._next), headers={"Content-Type": "application/json"})
