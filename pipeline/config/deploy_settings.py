"""What a config may choose for `mixrank advance --deploy`."""

from __future__ import annotations

from pydantic import Field, field_validator

from mixrank.schemas.naming import Declaration


class DeploySettings(Declaration):
    """How a day's version is put on trial on a server, and what it must keep to be promoted.

    Args:
        url: REST address of the server, such as `http://localhost:8501`.
        models_config: its models.config; None means the one in the push folder.
        model: the model's name on the server; None means the name of the push folder.
        wait_seconds: float > 0. How long the server may take to follow each change of its models.config.
        canary_seconds: float >= 0. How long the canary is watched; every row of the probe is sent at least once.
        requests_per_second: float > 0. Probes to each of the two labels.
        rows_per_request: int >= 1. Rows of a probe.
        max_errors: int >= 0. Probes that may fail for the canary beyond those that fail for the stable version.
        max_latency_ratio: float > 0. The canary's latency over that of the stable version, of the 99th percentile.
        max_score_drift: float > 0. Population stability index of the canary's scores against the stable version's, on
            the same rows, of every task.
        golden_tolerance: float >= 0. Maximum difference of a score of the golden rows.
        keep_versions: int >= 1 or None. How many versions to keep in the push folder once one is promoted; labelled and
            loaded ones stay too; None keeps all.
    """

    url: str
    models_config: str | None = None
    model: str | None = None
    wait_seconds: float = Field(default=120.0, gt=0)
    canary_seconds: float = Field(default=300.0, ge=0)
    requests_per_second: float = Field(default=5.0, gt=0)
    rows_per_request: int = Field(default=32, ge=1)
    max_errors: int = Field(default=0, ge=0)
    max_latency_ratio: float = Field(default=2.0, gt=0)
    max_score_drift: float = Field(default=0.25, gt=0)
    golden_tolerance: float = Field(default=1e-4, ge=0)
    keep_versions: int | None = Field(default=None, ge=1)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        from mixrank.serving.rollout import RestServer

        RestServer(url, "model")
        return url
