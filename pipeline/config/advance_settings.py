"""What a config may choose for `mixrank advance`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from mixrank.components.training import TrainSettings
from mixrank.pipeline.config.comparison_tables import merged
from mixrank.pipeline.config.deploy_settings import DeploySettings
from mixrank.schemas.naming import Declaration

# A day is seen once, at a steady rate; the rest of a run's settings holds for its days too.
OF_A_DAY: dict[str, Any] = {
    "splits": ["train"],
    "epochs": 1,
    "optimizer": {"schedule": "constant", "warmup": 0.0},
    "embedding_optimizer": {"schedule": "constant", "warmup": 0.0},
    "early_stopping": None,
    "warm_start": None,
    "keep_state": True,
}


class AdvanceSettings(Declaration):
    """How days are taken one by one.

    Args:
        train: keys of `TrainSettings`, laid over those of the config and what a day's training has of its own: one
            pass at constant rates.
        min_rows: float in [0, 1]. A day with fewer rows than this share of the median of the days before is not trained
            on.
        keep_days: int >= 2. Days whose rows, states and models are kept, so that they can be done again.
        deploy: how `--deploy` puts the newest version on trial on a server.
    """

    train: dict[str, Any] = {}
    min_rows: float = Field(default=0.2, ge=0, le=1)
    keep_days: int = Field(default=7, ge=2)
    deploy: DeploySettings | None = None

    @field_validator("train")
    @classmethod
    def _check_train(cls, train: dict[str, Any]) -> dict[str, Any]:
        TrainSettings.model_validate(merged(OF_A_DAY, train))
        return train

    def of_a_day(self, train: TrainSettings) -> TrainSettings:
        """Settings of a day's training.

        Args:
            train: those of the run.
        """
        return TrainSettings.model_validate(merged(merged(train.model_dump(mode="json"), OF_A_DAY), self.train))
