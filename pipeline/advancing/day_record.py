"""What happened to one day: the one reader and writer of `day.json`, whose presence means that the day is done."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from mixrank.pipeline.advancing.day_scores import DayScores
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.naming import Declaration, readable

DAY_FILE = "day.json"
# Folder of all days, in that of the run.
DAYS = "days"


class DayRecord(Declaration):
    """A day that has been taken.

    Args:
        day: ISO date.
        rows: impressions of the day.
        log: fingerprint of the day's rows as they were read.
        model: day whose model it was judged with and went on from; the day of the run before the first.
        metrics: task -> metric -> value, of that model on the day's rows, before it was trained on them.
        drift: how the day's rows differ from those of the day before by more than the limits.
        vocabularies: feature -> what became of its vocabulary, as `vocabulary_growth.Growth`; of those that can grow.
        held: why the day was not trained on, or its model not taken; empty if it was.
        pushed: folder or address of the pushed version, or None.
        seconds: step -> how long it took.
        started, finished: local times.
        scores: intervals and means of what `metrics` measures; None of a day that was held back before it was scored.
    """

    day: str
    rows: int
    log: str
    model: str
    metrics: dict[str, dict[str, float | None]]
    drift: tuple[str, ...]
    vocabularies: dict[str, dict[str, int]]
    held: tuple[str, ...]
    pushed: str | None
    seconds: dict[str, float]
    started: datetime
    finished: datetime
    scores: DayScores | None = None

    @classmethod
    def read(cls, folder: Path) -> DayRecord:
        """The record in a day's folder.

        Raises:
            ValueError: if it is of another version of mixrank.
        """
        file = folder / DAY_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{file} was not written by this version of mixrank: {'; '.join(readable(error).splitlines())}. Remove "
                f"{folder.parent} and advance again"
            ) from None

    def write(self, folder: Path) -> None:
        write_text_atomically(folder / DAY_FILE, self.model_dump_json(indent=1))


def days_done(folder: Path) -> list[DayRecord]:
    """The days of a folder of days, ascending."""
    return [DayRecord.read(path.parent) for path in sorted(folder.glob(f"????-??-??/{DAY_FILE}"))]
