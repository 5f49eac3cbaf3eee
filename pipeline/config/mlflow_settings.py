"""Where a config's runs and days are logged besides their own folder."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from mixrank.pipeline.named_secrets import check_options
from mixrank.schemas.naming import Declaration


class MlflowSettings(Declaration):
    """An experiment of MLflow.

    Args:
        tracking_uri: folder, or address of a tracking server. Its user and password, if it wants them, are in the
            environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        experiment: its name; the config's name if None.
        token: bearer token of the server, as `env:NAME` or `file:PATH`, or None.
    """

    tracking_uri: str = Field(min_length=1)
    experiment: str | None = Field(default=None, min_length=1)
    token: str | None = None

    @field_validator("tracking_uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if "@" in urlsplit(uri).netloc:
            raise ValueError(
                "must not hold user and password, which would be written into records and reports: set the "
                "environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: str | None) -> str | None:
        if token is not None:
            check_options([option_of(token)], "`mlflow.token`")
        return token


def option_of(token: str) -> str:
    """A token's name as the option whose value `named_secrets` finds."""
    return f"--token={token}"
