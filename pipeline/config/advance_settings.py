"""What a config may choose for `mixrank advance`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from mixrank.components.training import TrainSettings
from mixrank.pipeline.config.comparison_tables import merged
from mixrank.pipeline.config.deploy_settings import DeploySettings
from mixrank.schemas.naming import Declaration, nearest
from mixrank.serving.drift import MISSING_COLUMN, OF_STATISTICS, Limits

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


class VocabularySettings(Declaration):
    """How vocabularies grow from day to day.

    Args:
        count_days: int >= 1. A value gets a row once it was seen `Vocab.min_count` times in this many days.
        reuse_days: int >= `count_days`. Days after which the row of a value that was not seen may go to another one;
            None never takes a row.
    """

    count_days: int = Field(default=7, ge=1)
    reuse_days: int | None = Field(default=30, ge=1)

    @model_validator(mode="after")
    def _check_days(self) -> VocabularySettings:
        if self.reuse_days is not None and self.reuse_days < self.count_days:
            raise ValueError(
                f"`reuse_days` must be at least `count_days`, received {self.reuse_days} and {self.count_days}"
            )
        return self


class DriftSettings(Declaration):
    """How a day's rows may differ from those of the last day that was taken.

    Args:
        limits: name -> value of `mixrank.serving.drift.Limits` (docs/drift.md); the others are the defaults.
        min_rows: int >= 0. Distances of fewer rows raise no alarm.
        hold: measures whose alarms hold the day back; the other alarms are said and recorded.
    """

    limits: dict[str, float] = {}
    min_rows: int = Field(default=1000, ge=0)
    hold: tuple[str, ...] = (MISSING_COLUMN,)

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        Limits.parse([f"{name}={value}" for name, value in limits.items()])
        return limits

    @field_validator("hold")
    @classmethod
    def _check_hold(cls, hold: tuple[str, ...]) -> tuple[str, ...]:
        for measure in hold:
            if measure not in OF_STATISTICS:
                raise ValueError(f"there is no measure `{measure}` of rows{nearest(measure, OF_STATISTICS)}")
        return hold


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
    vocabularies: VocabularySettings | None = VocabularySettings()
    drift: DriftSettings | None = DriftSettings()
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
