"""Kubeflow Pipelines' API through the kfp client: upload, start, schedule, look.

Importing this module imports kfp, which takes five seconds. Every failure is a `KubeflowError` of one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api
import urllib3
from kfp.client import Client
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials

from mixrank.pipeline.kubeflow.run_progress import KubeflowError

# Seconds to connect, and to wait for an answer.
TIMEOUT = (10.0, 60.0)
LONGEST_MESSAGE = 300
EQUALS = 1


@dataclass(frozen=True)
class PipelineVersion:
    """An uploaded pipeline version.

    Args:
        pipeline: id of the pipeline.
        version: id of its version.
        name: of the version.
        uploaded: False if this version was there already.
    """

    pipeline: str
    version: str
    name: str
    uploaded: bool


@dataclass(frozen=True)
class WantedRun:
    """A run, or what every run of a schedule is.

    Args:
        version: what to run.
        name: of the run or schedule.
        experiment: made if there is none of that name.
        parameters: runtime parameter -> value.
        pipeline_root: where artifacts go; the installation's default if None.
        service_account: of the run's pods; the installation's default if None.
    """

    version: PipelineVersion
    name: str
    experiment: str
    parameters: dict[str, Any]
    pipeline_root: str | None = None
    service_account: str | None = None


class Kubeflow:
    """One Kubeflow Pipelines installation.

    Args:
        host: str. `http://` or `https://` address of its API.
        namespace: str or None. The profile's namespace of a multi-user installation.
        token: str or None. Bearer token.
        token_file: path or None. File with the bearer token, read again for every request; instead of `token`.
        ca_file: path or None. Certificates of the authorities that vouch for the host.

    Raises:
        KubeflowError: if nothing at the address answers as Kubeflow Pipelines does.
    """

    def __init__(
        self,
        host: str,
        *,
        namespace: str | None = None,
        token: str | None = None,
        token_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.host, self.namespace = host.rstrip("/"), namespace
        self._has_token = token is not None or token_file is not None
        with self._asking("say that it is there"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This client only works", category=FutureWarning)
            self._client = _Client(
                host=self.host,
                namespace=namespace or "kubeflow",
                existing_token=token,
                credentials=None if token_file is None else ServiceAccountTokenVolumeCredentials(str(token_file)),
                ssl_ca_cert=None if ca_file is None else str(ca_file),
            )
            answer = self._client.healthzs.healthz_service_get_healthz(_request_timeout=TIMEOUT, _preload_content=False)
        # A login page answers every path with 200, and the client would read an empty message from it.
        if not answer.data.lstrip().startswith(b"{"):
            raise KubeflowError(
                f"{self.host} is not the API of Kubeflow Pipelines (perhaps a login page, or the UI without /pipeline)"
            )

    def link(self, run: str) -> str:
        """Where a browser shows a run."""
        return f"{self.host}/#/runs/details/{run}"

    def upload(self, spec: Path, name: str) -> PipelineVersion:
        """Uploads a compiled pipeline as a version of the pipeline of that name, unless it is there already.

        Versions are named by a digest of the file. The first one, which comes with the pipeline, has the pipeline's
        name; the API leaves no choice.

        Args:
            spec: the compiled YAML file.
            name: the pipeline's name.

        Raises:
            KubeflowError: as every request.
        """
        version = f"{name}-{hashlib.sha256(spec.read_bytes()).hexdigest()[:12]}"
        with self._asking(f"take the pipeline {name}"):
            # The client's own look-up by name knows no namespace.
            found = self._client.list_pipelines(filter=_named(name), namespace=self.namespace).pipelines
            if not found:
                pipeline = self._client.upload_pipeline(str(spec), pipeline_name=name, namespace=self.namespace)
                newest = self._versions(pipeline.pipeline_id, sort_by="created_at desc")[0]
                return PipelineVersion(
                    pipeline.pipeline_id, newest.pipeline_version_id, newest.display_name, uploaded=True
                )
            pipeline = found[0].pipeline_id
            if known := self._versions(pipeline, filter=_named(version)):
                return PipelineVersion(pipeline, known[0].pipeline_version_id, version, uploaded=False)
            added = self._client.upload_pipeline_version(str(spec), version, pipeline_id=pipeline)
            return PipelineVersion(pipeline, added.pipeline_version_id, version, uploaded=True)

    def start(self, wanted: WantedRun) -> str:
        """Starts a run and returns its id.

        Raises:
            KubeflowError: as every request.
        """
        with self._asking(f"start the run {wanted.name}"):
            return str(self._client.run_pipeline(**self._arguments(wanted)).run_id)

    def schedule(self, wanted: WantedRun, cron: str) -> tuple[str, int]:
        """Makes a recurring run, one at a time and without catching up, in place of those of the same name.

        Args:
            wanted: every one of its runs.
            cron: six fields, seconds first.

        Returns:
            The recurring run's id, and how many earlier ones it replaced.

        Raises:
            KubeflowError: as every request.
        """
        with self._asking(f"schedule {wanted.name}"):
            arguments = self._arguments(wanted)
            experiment = arguments["experiment_id"]
            earlier = self._client.list_recurring_runs(
                experiment_id=experiment, filter=_named(wanted.name), page_size=100
            )
            made = self._client.create_recurring_run(
                **arguments, cron_expression=cron, max_concurrency=1, no_catchup=True
            )
            replaced = earlier.recurring_runs or []
            for each in replaced:
                self._client.delete_recurring_run(each.recurring_run_id)
        return str(made.recurring_run_id), len(replaced)

    def run(self, run: str) -> Any:
        """The `V2beta1Run` with its tasks as they are now.

        Raises:
            KubeflowError: as every request.
        """
        with self._asking(f"describe the run {run}"):
            return self._client.runs.run_service_get_run(run_id=run, _request_timeout=TIMEOUT)

    def _arguments(self, wanted: WantedRun) -> dict[str, Any]:
        return {
            # The one of that name if there is one.
            "experiment_id": self._client.create_experiment(wanted.experiment, namespace=self.namespace).experiment_id,
            "job_name": wanted.name,
            "params": wanted.parameters,
            "pipeline_id": wanted.version.pipeline,
            "version_id": wanted.version.version,
            "pipeline_root": wanted.pipeline_root,
            "service_account": wanted.service_account,
        }

    def _versions(self, pipeline: str, **options: Any) -> list[Any]:
        return self._client.list_pipeline_versions(pipeline, page_size=1, **options).pipeline_versions or []

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turns what the client raises into one line, and keeps what it prints to itself."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise self._refused(what, error) from None
        except (urllib3.exceptions.HTTPError, ssl.SSLError) as error:
            # The reason begins with the connection object.
            reason = re.sub(r"^<.*?>: ", "", str(getattr(error, "reason", None) or error))
            raise KubeflowError(
                f"{self.host} did not answer when asked to {what}: {_line(reason)}", transient=True
            ) from None
        except OSError as error:
            raise KubeflowError(f"cannot {what}: {error}") from None

    def _refused(self, what: str, error: kfp_server_api.ApiException) -> KubeflowError:
        told = _message(error)
        if error.status == 401:
            cure = "the token is wrong or has expired" if self._has_token else "it wants a token"
            return KubeflowError(
                f"{self.host} refused to {what} (401): {cure}; MIXRANK_KFP_TOKEN holds one, or --token-file names one"
            )
        if error.status == 403:
            where = f" in the namespace {self.namespace}" if self.namespace else "; does it need --namespace?"
            return KubeflowError(f"{self.host} does not allow you to {what}{where} (403): {told}")
        if error.status and error.status >= 500:
            return KubeflowError(f"{self.host} failed to {what} ({error.status}): {told}", transient=True)
        return KubeflowError(f"{self.host} refused to {what} ({error.status}): {told}")


class _Client(Client):
    """The client with one look at the server's health; its own sleeps 20 seconds before it gives up."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        return self.healthzs.healthz_service_get_healthz(_request_timeout=TIMEOUT)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})


def _message(error: kfp_server_api.ApiException) -> str:
    """The server's message: from its JSON answer, else its plain text, else the HTTP reason."""
    text = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        body = json.loads(text)
        told = body.get("message") or body.get("error_message") or body.get("error")
    except (ValueError, AttributeError):
        told = None if text.lstrip().startswith("<") else text.strip()
    return _line(str(told or error.reason or "no reason given"))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."
