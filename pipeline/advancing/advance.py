"""A log day by day, from where a run ended.

    rows of the day + state of the days before -> examples -> values that got a row of their own -> transformed rows
        -> yesterday's model is judged on them -> goes on with them -> is checked as a server would load it -> pushed

    runs/NAME/days/
      log/               rows of the raw files, by day; every file is read once
      start/state/       what the days of the run leave for those after it
      2022-05-05/        examples/, state/, drift/, vocabularies/, transformed/, model_run/, checked/, day.json

Every step writes its folder whole or not at all, and is left out if its folder is there; `day.json` comes last. So a
command that was killed anywhere and is called again does what is left, and ends with the same files.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixrank.pipeline.advancing.day_record import DAY_FILE, DAYS, DayRecord, days_done
from mixrank.pipeline.advancing.day_scores import DayScores, day_scores
from mixrank.pipeline.advancing.served_rows import rows_of, take_served
from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.named_secrets import resolve
from mixrank.pipeline.run_record import RunRecord, split_files
from mixrank.schemas import Dataset, SplitByDay
from mixrank.schemas.arrow import read_frame
from mixrank.schemas.files import abandoned, remove, withdraw, write_folder_atomically, write_text_atomically
from mixrank.schemas.stores import is_url

if TYPE_CHECKING:
    from mixrank.components.vocabulary_growth import Growth

START = "start"
# File of the folder of days: the run after which they come.
RUN = "run.json"
# File of a day: what it began from.
BASIS = "began_from.json"
# Files of a day's drift.
STATISTICS, FINDINGS = "statistics.pb", "findings.json"


@dataclass
class Advance:
    """The days of a config's run.

    Args:
        config: the run.
        dataset: its dataset.
        run: its record; it must have kept its state (`train.keep_state`).
        say: gets lines of progress.
        served: folder of what `join_feedback` made, a folder `YYYY-MM-DD` for a day: such a day is judged and trained
            on its rows as they were served.
    """

    config: RunConfig
    dataset: Dataset
    run: RunRecord
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    seconds: dict[str, float] = field(default_factory=dict)
    served: Path | None = None

    def __post_init__(self) -> None:
        split = self.dataset.source.split
        if not isinstance(split, SplitByDay):
            raise ValueError(
                f"dataset {self.config.dataset} is split {split.type}; only one that is split by day (SplitByDay) can "
                "advance day by day"
            )
        if (sampled := self.dataset.spec.sampled) is not None:
            raise ValueError(
                f"label `{sampled.name}` has `keep_negatives`, and a day is judged on all of its rows: leave it out to "
                "advance day by day"
            )
        if not (self.run.model_run / "state").is_dir():
            raise ValueError(
                f"the run in {self.config.run_dir} kept no state to go on from: `mixrank run` it once with "
                "`train.keep_state=true`"
            )
        self.first = max(last for name, (_, last) in split.splits.items() if name in self.run.splits)
        self.folder = self.config.run_dir / DAYS
        self.rows_only = self.dataset.model_copy(update={"spec": self.dataset.spec.with_files(lambda feature: None)})

    def begin(self) -> str | None:
        """Sets the days of an earlier run aside, whose models do not follow from this one.

        Returns:
            What was done, if anything was.
        """
        file, run = self.folder / RUN, json.dumps({"finished": self.run.finished.isoformat()})
        if file.is_file() and file.read_text() == run:
            return None
        aside = None
        if self.folder.is_dir():
            aside = self.folder.with_name(f"{self.folder.name}-before-{self.run.finished:%Y%m%d-%H%M%S}")
            self.folder.rename(aside)
        self.folder.mkdir(parents=True)
        write_text_atomically(file, run)
        return None if aside is None else f"the run is a new one; the days after the one before are in {aside} now"

    # -- the log ---------------------------------------------------------------------------------------------------

    def pipeline(self) -> Any:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        return beam.Pipeline(options=PipelineOptions(list(resolve(self.config.beam))))

    @cached_property
    def tables(self) -> Any:
        from mixrank.components.examples import find_tables

        return find_tables(self.rows_only, self.config.data_dir())

    @cached_property
    def log(self) -> Any:
        from mixrank.components.examples import read_log

        with self._timed("read"):
            return read_log(str(self.folder / "log"), self.rows_only, self.tables, self.config.shards, self.pipeline)

    @cached_property
    def others(self) -> Any:
        from mixrank.components.examples import read_others

        scratch = self.folder / "others"
        if scratch.exists():
            remove(scratch)
        with self._timed("read"):
            return read_others(self.tables, self.log.num_shards, str(scratch), self.pipeline)

    def waiting(self, until: str | None = None) -> list[str]:
        """Days of the log after those that are done, ascending."""
        last = max([self.first, *(record.day for record in self.done())])
        return [day for day in self.log.days() if day > last and (until is None or day <= until)]

    def done(self) -> list[DayRecord]:
        return days_done(self.folder)

    def left_out(self) -> dict[str, str]:
        """Days with rows that no model has seen -> what happened to them."""
        done = {record.day: record.log for record in self.done()}
        found = {}
        for day in self.log.days():
            if day in done and done[day] != self._fingerprint(day):
                found[day] = "has other rows now than when it was taken"
            elif self.first < day < max(done, default="") and day not in done:
                found[day] = "came when later days had been taken"
        return found

    def new_columns(self) -> tuple[str, ...]:
        """Columns of the newest file of the log that its first file lacks and the dataset does not read."""
        from mixrank.components.examples import LOG

        table = self.tables[LOG]
        first, last = ({field.name for field in file.schema()} for file in (table.files[0], table.files[-1]))
        read = {table.names[-1][column.name] for column in table.columns if column.name in table.names[-1]}
        return tuple(sorted(last - first - read))

    def _fingerprint(self, day: str) -> str:
        return str(self.log.fingerprint(lambda each: each == day))

    # -- days ------------------------------------------------------------------------------------------------------

    def redo(self, day: str) -> list[str]:
        """Takes a day back, and all after it.

        Args:
            day: ISO date; one that came late need not be done itself.

        Returns:
            Those that were done or begun.

        Raises:
            ValueError: if none is done, or what the first began from is no longer kept.
        """
        # Also one that was interrupted: it began from those before.
        again = sorted(path.name for path in self.folder.glob("????-??-??") if path.name >= day)
        if not again:
            raise ValueError(f"no day from {day} on is done; the last one is {self._before(day).name}")
        before = self._before(day)
        if not (before / "state").is_dir():
            raise ValueError(
                f"{day} cannot be done again: {before} keeps no state any more (`advance.keep_days` is "
                f"{self.config.advance.keep_days}). `mixrank run` the whole log, and advance from there"
            )
        # The newest first, so that what is left after a kill is still a row of days.
        for each in reversed(again):
            withdraw(self.folder / each)
        return again

    def _before(self, day: str) -> Path:
        """Folder of the day, done before, whose rows came last; of the start, if there is none."""
        earlier = [record.day for record in self.done() if record.day < day]
        return self.folder / (earlier[-1] if earlier else START)

    def _model_before(self, day: str) -> tuple[str, Path, Path]:
        """The newest day before whose model was taken, the state of its training and its Transform graph."""
        good = [record.day for record in self.done() if record.day < day and not record.held]
        if good:
            home = self.folder / good[-1]
            return good[-1], home / "model_run" / "state", self._graph(home)
        return self.first, self.run.model_run / "state", self.run.rows.transform_graph

    def _basis(self, day: str) -> dict[str, str | None]:
        """What a day begins from; one that was interrupted goes on only if this is the same."""
        before, (model, *_) = self._before(day).name, self._model_before(day)
        finished = {record.day: record.finished.isoformat() for record in self.done()}
        served = None if self.served is None else self.served / day
        settings = self.config.model_dump(mode="json", include={"model", "train", "advance"})
        for unread in ("deploy", "keep_days", "min_rows"):
            settings["advance"].pop(unread, None)
        return {
            "rows of the log": self._fingerprint(day),
            "rows as served": str(served) if served is not None and served.is_dir() else None,
            "day before": f"{before} {finished.get(before, '')}",
            "model": f"{model} {finished.get(model, '')}",
            "settings": json.dumps(settings, sort_keys=True),
        }

    def _begin_day(self, day: str) -> dict[str, str | None]:
        """Makes a day's folder, or leaves it as it is where the day can go on."""
        home, basis = self.folder / day, self._basis(day)
        file = home / BASIS
        if home.is_dir():
            known = json.loads(file.read_text()) if file.is_file() else {}
            if known == basis:
                return basis
            other = [name for name, value in basis.items() if known.get(name) != value]
            self.say(f"      begun anew, since what it began from is another now: {', '.join(other)}")
            withdraw(home)
        home.mkdir(parents=True)
        write_text_atomically(file, json.dumps(basis, indent=1))
        return basis

    def _graph(self, home: Path) -> Path:
        """The Transform graph of a day."""
        from mixrank.components.vocabulary_growth import GRAPH

        grown = home / "vocabularies" / GRAPH
        return grown if grown.is_dir() else self.run.rows.transform_graph

    def start(self) -> None:
        """What the days of the run leave for those after it."""
        from mixrank.components.examples import DayState, write_day

        if (self.folder / START / "state" / "state.json").is_file():
            return
        self.say(f"{self.first} and all days before: what later days need of them")
        with self._timed("start"):
            write_day(
                self.rows_only,
                self.log,
                self.tables,
                self.others,
                before=DayState(),
                day=self.first,
                examples=None,
                after=str(self.folder / START / "state"),
                scratch=str(self.folder / "scratch"),
                pipeline=self.pipeline,
            )

    def take(self, day: str) -> DayRecord:
        """One day, from its rows to a pushed version; what is done of it is not done again.

        Raises:
            ValueError: if the log is wrong.
        """
        home, basis = self.folder / day, self._begin_day(day)
        for left in abandoned(home):
            remove(left)
        started, self.seconds = datetime.now(), {}
        rows, held = self._examples(home, day)
        model, state, graph = self._model_before(day)
        grown = self._grow(home, day, graph)
        alarms: list[str] = []
        if not held:
            alarms, held = self._drift(home, day)
        metrics: dict[str, dict[str, float | None]] = {}
        pushed = None
        if not held:
            self._transform(home)
            self._train(home, state)
            metrics, held = self._judge(home)
        if not held:
            held = self._check(home)
        if not held:
            with self._timed("push"):
                pushed = self._push(home)
        record = DayRecord(
            day=day,
            rows=rows,
            log=str(basis["rows of the log"]),
            model=model,
            metrics=metrics,
            drift=tuple(alarms),
            vocabularies={name: each._asdict() for name, each in grown.items()},
            held=tuple(held),
            pushed=pushed,
            seconds=self.seconds,
            started=started,
            finished=datetime.now(),
            scores=self._scores(home) if metrics else None,
        )
        record.write(home)
        # `checked` holds the export as well, and the push folder the version.
        for name in ("export", "pushed", "checkpoints"):
            if (home / name).exists():
                remove(home / name)
        self._forget()
        return record

    def tidy(self) -> None:
        """Removes what only a call that has ended needed."""
        if (self.folder / "others").exists():
            remove(self.folder / "others")

    def _examples(self, home: Path, day: str) -> tuple[int, list[str]]:
        """The day's rows, and what speaks against training on them."""
        from mixrank.components.examples import DayState, write_day
        from mixrank.components.gates import REPORT, Figures

        take_served(self.served, home, day)
        if not (home / "state" / "state.json").is_file():
            with self._timed("examples"):
                write_day(
                    self.rows_only,
                    self.log,
                    self.tables,
                    self.others,
                    before=DayState.read(str(self._before(day) / "state")),
                    day=day,
                    examples=str(home / "examples"),
                    after=str(home / "state"),
                    scratch=str(self.folder / "scratch"),
                    pipeline=self.pipeline,
                )
        figures = Figures.model_validate_json((rows_of(home) / REPORT).read_bytes())
        rows = figures.rows["train"]
        held = []
        usual = [record.rows for record in self.done() if record.day < day and not record.held]
        least = self.config.advance.min_rows * statistics.median(usual) if usual else 1
        if rows < least:
            held.append(f"{rows:,} rows, where the days before had {statistics.median(usual or [0]):,.0f} (median)")
        batch = self.config.advance.of_a_day(self.config.train).batch_size
        if rows < batch and not held:
            held.append(f"{rows:,} rows are less than one batch of {batch:,}")
        for label in self.dataset.spec.labels:
            found = list(figures.labels[label.name]["train"].values())
            counted, positives = sum(each.rows for each in found), sum(each.positives for each in found)
            if counted and positives in (0, counted) and label.is_flag:
                held.append(f"label `{label.name}` is {int(positives > 0)} in all of {counted:,} rows")
        return rows, held

    def _drift(self, home: Path, day: str) -> tuple[list[str], list[str]]:
        """How the day's rows differ from those of the last day that was taken, and what of it speaks against them."""
        from mixrank.pipeline.reports import Known, compare, read_baseline, read_new, write_json, write_statistics
        from mixrank.serving.drift import Finding, Limits

        settings = self.config.advance.drift
        if settings is None:
            return [], []
        out = home / "drift"
        if not out.is_dir():
            before = self.folder / self._model_before(day)[0] / "drift" / STATISTICS
            if not before.is_file():
                before = self.run.rows.statistics / "Split-train" / "FeatureStats.pb"
            with self._timed("drift"):
                # Statistics alone know of no values outside a vocabulary.
                known = Known(self.dataset.spec, {})
                new = read_new(rows_of(home) / "Split-train", known, "train", lambda name, rows: None)
                old = read_baseline(before, known, lambda name, rows: None)
                found = compare(old, new, known, Limits(**settings.limits), settings.min_rows)

                def write(temporary: Path) -> None:
                    write_statistics(new, temporary / STATISTICS)
                    write_json(found, temporary / FINDINGS)

                write_folder_atomically(out, write)
        alarms = [Finding.read(each) for each in json.loads((out / FINDINGS).read_text())["findings"]]
        alarms = [each for each in alarms if each.alarm]
        return [each.said for each in alarms], [each.said for each in alarms if each.measure in settings.hold]

    def _grow(self, home: Path, day: str, graph: Path) -> dict[str, Growth]:
        """Gives rows to values that have become common; values of a day that is held back count as well."""
        from mixrank.components.vocabulary_growth import GRAPH, SEEN, grow_vocabularies, growing, read_growth

        spec, settings, out = self.dataset.spec, self.config.advance.vocabularies, home / "vocabularies"
        if not growing(spec):
            return {}
        if settings is None:
            # They stay as they are, and so does the graph, whose own day may be forgotten.
            if graph != self.run.rows.transform_graph and not out.is_dir():
                write_folder_atomically(out, lambda folder: shutil.copytree(graph, folder / GRAPH))
            return {}
        if out.is_dir():
            return read_growth(out)
        before = self._before(day) / "vocabularies"
        with self._timed("vocabularies"):
            return grow_vocabularies(
                rows_of(home),
                graph,
                out,
                spec,
                day=day,
                before=before if (before / SEEN).is_dir() else None,
                count_days=settings.count_days,
                reuse_days=settings.reuse_days,
            )

    def _transform(self, home: Path) -> None:
        from mixrank.components.day_rows import transform_day

        if (home / "transformed").is_dir():
            return
        with self._timed("transform"):
            transform_day(rows_of(home), self._graph(home), home / "transformed", self.dataset.spec)

    def _train(self, home: Path, state: Path) -> None:
        """Scores the day's rows with the model as it is, and goes on with them."""
        import tensorflow_transform as tft

        from mixrank.components.training import PREDICTIONS, train_model

        if (home / "model_run" / PREDICTIONS).is_file():
            return
        (split,) = split_files(home / "transformed").values()
        with self._timed("train"):
            train_model(
                spec=self.dataset.spec,
                model_settings=self.config.model,
                settings=self.config.advance.of_a_day(self.config.train),
                patterns={"train": split, "eval": split},
                transform_output=tft.TFTransformOutput(str(self._graph(home))),
                checkpoints=home / "checkpoints",
                run_dir=home / "model_run",
                export_dir=home / "export",
                state=state,
            )

    def _judge(self, home: Path) -> tuple[dict[str, dict[str, float | None]], list[str]]:
        """Metrics of yesterday's model on the day, and what speaks against today's."""
        from mixrank.components.metrics import Rows, bounds, find_metric, measure, primary, reported
        from mixrank.components.training import PREDICTIONS, PROGRESSIVE

        spec = self.dataset.spec
        before = read_frame(home / "model_run" / PROGRESSIVE)
        after = read_frame(home / "model_run" / PREDICTIONS)
        metrics: dict[str, dict[str, float | None]] = {}
        held = []
        known = bounds()
        for label in spec.labels:
            old, new = (Rows.of(frame, label.name, spec) for frame in (before, after))
            found = measure(old, reported(label.kind, requests=spec.request is not None))
            metrics[label.name] = {name: value if np.isfinite(value) else None for name, value in found.items()}
            for name, tasks in self.config.thresholds.root.items():
                bound, limit = known[name], tasks.get(label.name)
                value = found.get(bound.metric)
                if limit is None or bound.side == "change" or value is None:
                    continue
                if value < limit if bound.side == "min" else value > limit:
                    title = find_metric(bound.metric).title
                    held.append(f"{title} of `{label.name}` is {value:.4f} on the day, `{name}` is {limit}")
            metric = primary(label.kind)
            was, is_now = (float(metric.of_rows(rows)) for rows in (old, new))
            worse = is_now < was if metric.higher_is_better else is_now > was
            if not np.isfinite(is_now) or worse:
                held.append(
                    f"{metric.title} of `{label.name}` on the day's rows is {is_now:.4f} after training on them, "
                    f"{was:.4f} before"
                )
        return metrics, held

    def _scores(self, home: Path) -> DayScores:
        with self._timed("intervals"):
            return day_scores(home / "model_run", self.dataset.spec)

    def _check(self, home: Path) -> list[str]:
        """Scores of a fresh process that loads the export; a copy that passes gets warm-up requests and golden rows."""
        from mixrank.components.judging import compare, read_examples, score_afresh, stamp
        from mixrank.components.training import PREDICTIONS

        if (home / "checked").is_dir():
            return []
        with self._timed("check"):
            rows = read_examples(str(rows_of(home) / "Split-train"), self.config.check_rows)
            try:
                scores = score_afresh(home / "export", rows)
            except ValueError as error:
                return [str(error)]
            predictions = read_frame(home / "model_run" / PREDICTIONS)
            if reasons := compare(self.dataset.spec, predictions, rows, scores, 1e-5):
                return reasons
            write_folder_atomically(
                home / "checked",
                lambda folder: stamp(home / "export", folder / "model", self.dataset.spec, rows, scores),
            )
        return []

    def _push(self, home: Path) -> str:
        from mixrank.components.pushing import push
        from mixrank.serving.base import SUMS, newest

        _, last = newest(self.config.push_place)
        if last is not None and not is_url(last):
            there, here = Path(last) / SUMS, home / "checked" / "model" / SUMS
            # That of a call that was killed after it.
            if there.is_file() and there.read_bytes() == here.read_bytes():
                return last
        copy = home / "pushed"
        if copy.exists():
            remove(copy)
        return push(home / "checked" / "model", self.config.push_place, copy)

    def _forget(self) -> None:
        """Removes what is no longer kept of days long ago; their records stay."""
        done = self.done()
        kept = {record.day for record in done[-self.config.advance.keep_days :]}
        good = [record.day for record in done if not record.held]
        for record in done:
            if record.day in kept or record.day in good[-1:]:
                continue
            for path in (self.folder / record.day).iterdir():
                if path.name != DAY_FILE:
                    remove(path)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.seconds[step] = round(self.seconds.get(step, 0.0) + took, 2)
        self.say(f"      {step}: {took:.1f} s")
