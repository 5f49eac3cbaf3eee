"""Runs and days in MLflow: a run's parameters, metrics and report, and where its model is; metrics of every day.

A run of mixrank is one run there, with the days that `mixrank advance` took after it. What is there already is not
logged again, so that the next call makes up for one that found no server.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixrank.pipeline.advancing import DayRecord
from mixrank.pipeline.config import MlflowSettings, option_of
from mixrank.pipeline.named_secrets import resolve
from mixrank.pipeline.reports import RunFolder, exact_metrics
from mixrank.pipeline.run_record import RUN_FILE, RunRecord

RUN_TAG, DAY_TAG = "mixrank.run", "mixrank.day."
# Sections of a config that say nothing about a run.
OTHERS = ("advance", "compare", "kubeflow", "mlflow")
# A server takes so many at once, and so many characters of a parameter.
MOST_PARAMETERS, LONGEST_PARAMETER = 100, 500
# Instead of minutes, if a server is down; the user's own settings come first.
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def log_to_mlflow(
    settings: MlflowSettings, run: RunRecord, run_dir: Path, days: Sequence[DayRecord], pages: Sequence[Path] = ()
) -> str:
    """Logs a run and its days, as far as they are not logged yet.

    Args:
        settings: where.
        run: the run.
        run_dir: its folder.
        days: those after it, ascending.
        pages: HTML files to store with it; those that do not exist are left out.

    Returns:
        Experiment and run in MLflow, in words.

    Raises:
        Exception: whatever MLflow or the network raises.
    """
    client = _client(settings)
    name = settings.experiment or run.name
    experiment = _experiment(client, name)
    key = f"{run.name}@{run.started.isoformat()}"
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
    tracked = found[0] if found else client.create_run(experiment, run_name=run.name, tags={RUN_TAG: key})
    at = tracked.info.run_id
    if tracked.info.status != "FINISHED":
        _log_run(client, at, run, run_dir)
    for day in days:
        if tracked.data.tags.get(DAY_TAG + day.day) != day.finished.isoformat():
            _log_day(client, at, day)
    for page in pages:
        if page.is_file():
            client.log_artifact(at, str(page))
    return f"experiment {name}, run {at}"


def _client(settings: MlflowSettings) -> Any:
    uri = settings.tracking_uri
    if is_folder := "://" not in uri and not uri.startswith("file:"):
        uri = Path(uri).expanduser().absolute().as_uri()
    # MLflow reads its options when it is imported, or at every request.
    options = {**QUICK, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    if is_folder or uri.startswith("file:"):
        # MLflow keeps stores in folders as they are and asks for this by name.
        options["MLFLOW_ALLOW_FILE_STORE"] = "true"
    for option, value in options.items():
        os.environ.setdefault(option, value)
    if settings.token is not None:
        (token,) = resolve([option_of(settings.token)])
        os.environ["MLFLOW_TRACKING_TOKEN"] = token.partition("=")[2]
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _log_run(client: Any, at: str, run: RunRecord, run_dir: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    from mixrank.components.metrics import Rows

    now = int(time.time() * 1000)
    values = {f"seconds/{step}": taken for step, taken in run.seconds.items()}
    frame = RunFolder(run_dir, run).predictions
    for label in run.spec.labels:
        metrics = exact_metrics(label.kind, Rows.of(frame, label.name, run.spec))
        values |= {f"{label.name}/{name}": value for name, value in metrics.items()}
    tags = {"mixrank.dataset": run.dataset, "mixrank.folder": str(run_dir)}
    if (model := run.pushed or run.export) is not None:
        tags["mixrank.model"] = str(model)
    if run.judgement is not None:
        tags["mixrank.blessed"] = str(run.judgement.blessed)
    parameters = [
        Param(_name(key), text[:LONGEST_PARAMETER])
        for key, text in _flat({key: value for key, value in run.config.items() if key not in OTHERS})
    ]
    for first in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(at, params=parameters[first : first + MOST_PARAMETERS])
    client.log_batch(
        at,
        metrics=[Metric(_name(key), value, now, 0) for key, value in values.items() if math.isfinite(value)],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    for file in (run_dir / "report.html", run_dir / RUN_FILE):
        if file.is_file():
            client.log_artifact(at, str(file))
    # Last: a run that is not finished is logged again.
    client.set_terminated(at, "FINISHED")


def _log_day(client: Any, at: str, day: DayRecord) -> None:
    """The day, as the number YYYYMMDD, is the step; its midnight is the time."""
    from mlflow.entities import Metric, RunTag

    step = int(day.day.replace("-", ""))
    midnight = int(datetime.fromisoformat(day.day).replace(tzinfo=UTC).timestamp() * 1000)
    values: dict[str, float | None] = {
        "rows": day.rows,
        "held": len(day.held),
        "drift": len(day.drift),
        "seconds": sum(day.seconds.values()),
    }
    for task, measured in day.metrics.items():
        values |= {f"{task}/{name}": value for name, value in measured.items()}
    values |= {f"vocabulary/{name}": grown["known"] for name, grown in day.vocabularies.items()}
    if day.scores is not None:
        values["users"] = day.scores.users
        values |= {f"unknown/{name}": share for name, share in day.scores.unknown.items()}
        for task, found in day.scores.tasks.items():
            values |= {f"{task}/mean_label": found.mean_label, f"{task}/mean_score": found.mean_score}
    metrics = [
        Metric(_name(f"day/{key}"), float(value), midnight, step) for key, value in values.items() if value is not None
    ]
    tags = {"mixrank.model": day.pushed} if day.pushed else {}
    client.log_batch(at, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_tag(at, DAY_TAG + day.day, day.finished.isoformat())


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits, `_`, `-`, `.`, `:`, `/` and spaces."""
    return re.sub(r"[^\w.\-:/ ]", "_", text)
