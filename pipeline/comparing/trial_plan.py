"""From tables to trainings: every variant, budget and seed, each with a folder that its settings name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixrank.components.training import ModelSettings, TrainSettings
from mixrank.pipeline.config import Budget, RunConfig, Table, Tuned, Variant, merged
from mixrank.pipeline.run_record import RunRecord
from mixrank.schemas import AnyFromFile, FeatureSpec, Match
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.naming import Declaration, nearest, readable

FOLDER = "compare"
TRIAL_FILE, RESULT_FILE, TRIAL_LOG = "trial.json", "result.json", "log.txt"


class Given(Declaration):
    """Everything that decides the result of a training: `trial.json`.

    Args:
        model: which architecture.
        train: how to train it.
        spec: the columns that it sees.
        rows: folder of transformed rows.
        graph: folder of Transform's graph.
    """

    model: ModelSettings
    train: TrainSettings
    spec: FeatureSpec
    rows: Path
    graph: Path

    @classmethod
    def read(cls, folder: Path) -> Given:
        """Reads the settings that `Trial.prepare` wrote."""
        return cls.model_validate_json((folder / TRIAL_FILE).read_bytes())

    @property
    def key(self) -> str:
        """Short name of these settings."""
        return _key(self.model_dump(mode="json"))

    @property
    def key_of_all_seeds(self) -> str:
        """The same for all seeds."""
        found = self.model_dump(mode="json")
        return _key({**found, "train": {**found["train"], "seed": None}})


@dataclass(frozen=True)
class Trial:
    """One training of a variant.

    Attributes:
        variant: name of the variant in its table.
        budget: dense parameters it is scaled to, or None.
        seed: of weights and of the order of rows.
        given: everything that decides the result; `folder` is named by it.
        folder: where it is trained.
        cost: where the speed of the variant is measured, the same for all of its seeds.
    """

    variant: str
    budget: Budget
    seed: int
    given: Given
    folder: Path
    cost: Path

    @property
    def title(self) -> str:
        return " ".join([self.variant, *([size(self.budget)] if self.budget else []), f"seed {self.seed}"])

    @property
    def result(self) -> dict[str, Any] | None:
        """Result of the training, or None before it is done."""
        return _read(self.folder)

    @property
    def costs(self) -> dict[str, Any] | None:
        """Speed of the variant, or None before it is measured."""
        return _read(self.cost)

    def prepare(self) -> None:
        """Writes the settings into both folders, for the processes that work there."""
        for folder in (self.folder, self.cost):
            folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(folder / TRIAL_FILE, self.given.model_dump_json(indent=1))


def trials(config: RunConfig, earlier: RunRecord, table: Table) -> list[Trial]:
    """Every training of a table: for each budget and seed all variants, so that a part of it is a comparison already.

    Args:
        config: the run; its `compare` names the seeds and what was found for each model.
        earlier: the pipeline run whose transformed rows are trained on.
        table: what to compare.

    Raises:
        ValueError: if a variant's settings do not fit together; names it.
    """
    found = []
    for budget in table.budgets:
        for seed in config.compare.seeds:
            for variant in table.variants:
                try:
                    model, train = settings(config, variant, budget, seed)
                    found.append(trial(config, earlier, model, train, name=variant.name, without=variant.without))
                except ValueError as error:
                    raise ValueError(f"variant `{variant.name}`: {readable(error)}") from None
    return found


def trial(
    config: RunConfig,
    earlier: RunRecord,
    model: ModelSettings,
    train: TrainSettings,
    *,
    name: str,
    without: Sequence[str] = (),
) -> Trial:
    """One training on the transformed rows of a run.

    Raises:
        ValueError: if the model cannot read the spec.
    """
    rows, spec = earlier.rows, seen(earlier.spec, without)
    model.check(spec)
    given = Given(model=model, train=train, spec=spec, rows=rows.transformed, graph=rows.transform_graph)
    root = config.run_dir / FOLDER
    return Trial(
        variant=name,
        budget=model.match_params,
        seed=train.seed,
        given=given,
        folder=root / "trials" / given.key,
        cost=root / "costs" / given.key_of_all_seeds,
    )


def settings(config: RunConfig, variant: Variant, budget: Budget, seed: int) -> tuple[ModelSettings, TrainSettings]:
    """Settings of a variant: the config's, what was found for its model, and the variant's own, in this order."""
    name = variant.model["name"]
    tuned = config.compare.tuned.get(name, Tuned())
    own = config.model.params if config.model.name == name else {}
    model = ModelSettings(
        name=name,
        preset=variant.model.get("preset", config.model.preset),
        params={**own, **tuned.params, **variant.model.get("params", {})},
        heads=variant.model.get("heads", config.model.heads),
        match_params=budget,
        embedding_width=variant.model.get("embedding_width", tuned.embedding_width or config.model.embedding_width),
    )
    train = merged(merged(config.train.model_dump(mode="json"), tuned.train), variant.train)
    return model, TrainSettings(**{**train, "seed": seed})


def seen(spec: FeatureSpec, without: Sequence[str]) -> FeatureSpec:
    """The spec of a model that does not see some features or histories.

    Args:
        spec: what there is.
        without: names of features, which leave the histories as well, of histories, or `history.feature` for a feature
            that leaves that history alone. A history of which only numbers would be left leaves with them.

    Raises:
        ValueError: for any other name; suggests the nearest valid name. For a feature whose table another one uses.
    """
    inside = {f"{f.name}.{field}": (f.name, field) for f in spec.histories for field in f.of}
    names = [*(feature.name for feature in spec.features), *inside]
    if unknown := [name for name in without if name not in names]:
        raise ValueError(
            f"`without` names `{unknown[0]}`, which is not a feature or history{nearest(unknown[0], names)}"
        )
    for feature in spec.categorical:
        if feature.owner in without and feature.name not in without:
            raise ValueError(f"`without` names `{feature.owner}`, whose table `{feature.name}` uses: name both")
    gone = {inside[name] for name in without if name in inside}
    shorter: dict[str, Any] = {}
    for h in spec.histories:
        kept = [f for _, f in spec.history_fields(h) if f.name not in without and (h.name, f.name) not in gone]
        # Numbers alone do not say where the events of a history end.
        ends = any(not field.is_number for field in kept)
        shorter[h.name] = h.model_copy(update={"of": tuple(field.name for field in kept)}) if ends else None
    left = FeatureSpec.model_construct(
        **{
            **dict(spec),
            "features": tuple(f for x in spec.features if x.name not in without and (f := shorter.get(x.name, x))),
        }
    )
    computed: dict[str, Any] = {match.name: _still_possible(left, match) for match in left.matches}
    computed |= {cross.name: None for cross in left.crosses if set(cross.of) & set(without)}
    computed |= {each.name: None for each in left.expressions if set(each.of) & set(without)}
    computed |= {each.name: _where_listed(left, each) for each in left.from_files}
    # What only events have goes with the last history that lists it.
    listed = {field for history in left.histories for field in history.of}
    listed |= {each.name for each in (*left.model_features, *left.histories)}
    features = (computed.get(feature.name, feature) for feature in left.features if feature.name in listed)
    return FeatureSpec.model_validate(
        spec.model_copy(update={"features": tuple(f for f in features if f)}).model_dump()
    )


def _where_listed(spec: FeatureSpec, feature: AnyFromFile) -> AnyFromFile | None:
    """What a spec that lacks some features can still look up."""
    if spec.get(feature.of) is None:
        return None
    listed = {history.name for history in spec.histories if feature.of in history.of}
    return feature.model_copy(update={"histories": tuple(name for name in feature.histories if name in listed)})


def _still_possible(spec: FeatureSpec, match: Match) -> Match | None:
    """What a spec that lacks some features can still compute of a match."""
    histories = spec.searched(match) if spec.get(match.of) is not None else ()
    if not histories:
        return None
    return match.model_copy(
        update={
            "histories": tuple(history.name for history in histories) if match.histories else (),
            "recency": match.recency and all(spec.gap_of(history) for history in histories),
            "flags": tuple(flag for flag in match.flags if all(flag in spec.flags_of(h) for h in histories)),
        }
    )


def size(budget: int | None) -> str:
    """A number of parameters as people write it.

    >>> size(250_000), size(1_000_000)
    ('250K', '1M')
    """
    if budget is None:
        return "preset"
    for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if budget >= unit:
            return f"{budget / unit:g}{suffix}"
    return str(budget)


def _read(folder: Path) -> dict[str, Any] | None:
    file = folder / RESULT_FILE
    return json.loads(file.read_text()) if file.is_file() else None


def _key(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
