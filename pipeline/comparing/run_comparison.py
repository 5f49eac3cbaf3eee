"""A comparison from its tables to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mixrank.components.baselines import BOOSTED_TREES, fit_boosted_trees
from mixrank.components.training import parse_count
from mixrank.pipeline.comparing import comparison_page
from mixrank.pipeline.comparing.results import collect
from mixrank.pipeline.comparing.scheduler import Job, run_jobs, training_jobs
from mixrank.pipeline.comparing.trial import judge
from mixrank.pipeline.comparing.trial_plan import FOLDER, Trial, size, trials
from mixrank.pipeline.config import Budget, RunConfig, Table, without_table
from mixrank.pipeline.fast_loop import last_run
from mixrank.pipeline.reports import RunFolder
from mixrank.pipeline.run_record import RunRecord, split_files
from mixrank.schemas import Dataset

Say = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Some tables on the rows of a config's last run.

    Attributes:
        config: the run.
        earlier: that run.
        dataset: its dataset.
        tables: name -> table, cut to the wanted budgets.
        trials: name -> its trainings.
    """

    config: RunConfig
    earlier: RunRecord
    dataset: Dataset
    tables: dict[str, Table]
    trials: dict[str, list[Trial]]

    @classmethod
    def of(
        cls, config: RunConfig, tables: Sequence[str], budgets: Sequence[str], without: Sequence[str] = ()
    ) -> Comparison:
        """Plans a comparison.

        Args:
            config: the run; `mixrank run` must have been through Transform with the same dataset.
            tables: names of tables.
            budgets: the only sizes wanted, as people write them; empty for all.
            without: groups of features, as in `without_table`; a table `without` if there are any.

        Raises:
            ValueError: an unknown table or size, no earlier run, or settings that do not fit together.
        """
        earlier, dataset = last_run(config)
        wanted: set[Budget] = {parse_count(budget) for budget in budgets}
        found = {}
        for name in tables:
            table = config.compare.table(name, config.model.name)
            if wanted:
                left = tuple(budget for budget in table.budgets if budget in wanted)
                if not left:
                    known = ", ".join(size(budget) for budget in table.budgets)
                    raise ValueError(f"table `{name}` has the sizes {known}, received --budget {', '.join(budgets)}")
                # No slope if there are too few sizes for a line.
                table = table.model_copy(update={"budgets": left, "scaling": table.scaling and len(left) > 2})
            found[name] = table
        if without:
            found["without"] = without_table(config.model.name, config.model.match_params, without)
        planned = {name: trials(config, earlier, table) for name, table in found.items()}
        return cls(config, earlier, dataset, found, planned)

    @property
    def folder(self) -> Path:
        return self.config.run_dir / FOLDER

    @property
    def begun(self) -> bool:
        """Whether any training is done."""
        return any(trial.result for each in self.trials.values() for trial in each)

    def outline(self, parallel: int) -> str:
        """One-line summary of the planned work."""
        all_of = {trial.folder: trial for each in self.trials.values() for trial in each}
        left = sum(trial.result is None for trial in all_of.values())
        return (
            f"{len(all_of)} trainings ({left} to do), {parallel} at once, in {self.folder}; "
            "interrupt it at any time, and run the same command again to resume"
        )

    def train(self, parallel: int, say: Say, *, speed: bool = True) -> dict[str, str]:
        """Trains what is missing, grows the boosted trees, then measures speed, one variant at a time.

        Args:
            parallel: int >= 1. Trainings at once.
            say: takes a line whenever something ends.
            speed: whether to measure it; without, a later call can.

        Returns:
            Title -> reason, of what failed.
        """
        every = [trial for each in self.trials.values() for trial in each]
        failed = run_jobs(training_jobs(every), parallel=parallel, say=say)
        if self.begun and not self.trees.is_file():
            say("fitting boosted trees (some minutes)")
            fit_boosted_trees(self.dataset, split_files(self.earlier.rows.examples), self.earlier.splits, self.trees)
        if not speed:
            return failed
        done = [trial for trial in every if trial.result]
        costs = [
            Job(f"speed of {t.title.rpartition(' seed')[0]}", "speed", "mixrank.pipeline.comparing.cost", t.cost)
            for t in done
        ]
        return failed | run_jobs(costs, parallel=1, say=say)

    def report(self) -> tuple[Path, Path, list[comparison_page.Grid]]:
        """Writes the report of what is done.

        Returns:
            The HTML page, the Markdown file, and the metrics over all rows.

        Raises:
            ValueError: if nothing is done.
        """
        if not self.begun:
            raise ValueError(f"no training in {self.folder} is done: nothing to report")
        found = {name: collect(table, self.trials[name]) for name, table in self.tables.items()}
        baselines = self.baselines()
        pages = comparison_page.write_pages(self.folder, found, baselines, self.about())
        tables = [(each, budget) for each in found.values() for budget, rows in each.parts.items() if rows]
        return *pages, [grid for each, budget in tables for grid in comparison_page.qualities(each, budget, baselines)]

    def about(self) -> str:
        """One line on data and protocol."""
        train = self.config.train
        return (
            f"{self.config.dataset}, trained on {' and '.join(train.splits)}, judged on eval; "
            f"{len(self.config.compare.seeds)} seeds, {train.epochs} pass{'es' if train.epochs > 1 else ''} over the "
            f"rows in batches of {train.batch_size}, unless a model's tuned settings say otherwise"
        )

    @property
    def trees(self) -> Path:
        """Scores of boosted trees: those of the run, or of this comparison, by the rows they were fitted on."""
        if (known := self.earlier.baselines / BOOSTED_TREES).is_file():
            return known
        fitted_on = "-".join([self.earlier.rows.examples.name, *self.earlier.splits])
        return self.folder / f"boosted-{fitted_on}.parquet"

    def baselines(self) -> comparison_page.Baselines:
        """Metrics of the additive baseline and of boosted trees, where they are fitted, on the rows of the models."""
        run = RunFolder(self.config.run_dir, self.earlier)
        scores = {"additive log-odds": run.baseline}
        if self.trees.is_file():
            scores["boosted trees"] = run.scores_of(self.trees)
        spec = self.earlier.spec
        return {name: judge(spec, _scored(run.predictions, s)) for name, s in scores.items() if s is not None}


def _scored(predictions: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    return predictions.assign(**{column: scores[column].to_numpy() for column in scores})
