"""Tables of a comparison: variants, each a few changes to a run's settings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from mixrank.components.training import parse_count
from mixrank.layers import registry
from mixrank.layers.heads import check_heads
from mixrank.schemas.naming import Declaration, nearest, readable
from mixrank.schemas.safe_text import shown

SHIPPED = Path(__file__).with_name("comparison_tables.yaml")

Budget = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(parse_count)]


class Variant(Declaration):
    """One model of a table: what differs from the run's settings.

    Args:
        name: short name, unique in its table.
        model: keys of `ModelSettings` but for the size, which the table decides; `name` is required.
        train: keys of `TrainSettings`, laid over those of the config.
        without: features and histories that this variant does not see, or `history.feature`.
    """

    name: str
    model: dict[str, Any]
    train: dict[str, Any] = {}
    without: tuple[str, ...] = ()

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(model) - {"name", "preset", "params", "heads", "embedding_width"}):
            raise ValueError(
                f"a variant's `model` takes name, preset, params, heads and embedding_width, received {unknown}"
            )
        if "name" not in model:
            raise ValueError(f"a variant's `model` needs a `name`, received {model}")
        registry.check(model["name"], model.get("params"), model.get("preset"))
        check_heads(model.get("heads"))
        return model


class Table(Declaration):
    """Variants that are trained alike and judged against each other.

    Args:
        title: what the table shows.
        reference: variant against which relative improvements are given; None gives none.
        tested: what a variant is tested against: the "best" of the others, or the "reference", for a table that takes
            one model apart.
        budgets: dense parameters to which every variant is scaled, one part of the table for each; None takes the
            presets as they are.
        variants: the models, at least two.
        every_model: whether to take all models that `mixrank models` lists, and the config's own, for variants.
        scaling: whether to fit a line through the budgets of each variant.
    """

    title: str
    reference: str | None = None
    tested: Literal["best", "reference"] = "best"
    budgets: tuple[Budget, ...] = Field(default=(None,), min_length=1)
    variants: tuple[Variant, ...] = Field(default=(), min_length=2)
    every_model: bool = False
    scaling: bool = False

    @model_validator(mode="after")
    def _check(self) -> Table:
        if self.every_model is bool(self.variants):
            raise ValueError(f"give `variants` or `every_model: true`, received {len(self.variants)} variants")
        names = registry.names() if self.every_model else [variant.name for variant in self.variants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two variants are named `{twice[0]}`")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"`reference` is not a variant of the table{nearest(self.reference, names)}")
        if self.tested == "reference" and self.reference is None:
            raise ValueError("`tested` against the reference needs a `reference`, received none")
        if self.scaling and (None in self.budgets or len(self.budgets) < 3):
            raise ValueError(f"`scaling` needs three `budgets` or more for a line, received {list(self.budgets)}")
        return self

    def filled(self, model: str | None = None) -> Table:
        """The same table with a variant for every model, if it is one of all models.

        Args:
            model: the config's own, which may come from outside.
        """
        if not self.every_model:
            return self
        names = dict.fromkeys([*registry.names(), *([model] if model else [])])
        variants = tuple(Variant(name=registry.model(name).name, model={"name": name}) for name in names)
        return Table(**{**dict(self), "variants": variants, "every_model": False})


class Tuned(Declaration):
    """Settings that a search found for one model on this log.

    Args:
        params: constructor parameters of the model.
        train: keys of `TrainSettings`.
        embedding_width: as in `ModelSettings`; None leaves the config's.
    """

    params: dict[str, Any] = {}
    train: dict[str, Any] = {}
    embedding_width: float | None = Field(default=None, gt=0)


class Range(Declaration):
    """Numbers to draw from, evenly on the logarithmic scale.

    Args:
        low: float > 0.
        high: float > low.
    """

    low: float = Field(gt=0)
    high: float

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.high > self.low:
            raise ValueError(f"`high` must be above `low`, received {self.high} and {self.low}")
        return self


SEARCH: dict[str, Range | tuple[Any, ...]] = {
    "train.optimizer.learning_rate": Range(low=3e-4, high=3e-3),
    "train.embedding_optimizer.learning_rate": Range(low=5e-3, high=5e-2),
    "train.optimizer.schedule": ("constant", "cosine"),
    "train.embedding_optimizer.schedule": ("constant", "cosine"),
    "train.optimizer.options.weight_decay": (0.0, 0.01, 0.1),
    "train.epochs": (1, 2),
    "embedding_width": (0.5, 1.0, 2.0),
    "params.dropout": (0.0, 0.1, 0.2),
}


class CompareSettings(Declaration):
    """Settings of `mixrank compare` and `mixrank tune`.

    Args:
        seeds: seeds of every variant; at least two, for a spread.
        tuned: model -> what a search found for it.
        search: space of the search: `train.` or `params.` and the rest of the key, or `embedding_width` -> a range or
            choices. A parameter that a model does not have is left out for it.
        tables: tables of this config, beside the shipped ones; under the name of a shipped one, what differs from it.
    """

    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3), min_length=2)
    tuned: dict[str, Tuned] = {}
    search: dict[str, Range | tuple[Any, ...]] = Field(default=SEARCH, min_length=1)
    tables: dict[str, Table] = {}

    @field_validator("tables", mode="before")
    @classmethod
    def _lay_over_shipped(cls, tables: Any) -> Any:
        if not isinstance(tables, dict):
            return tables
        return merged({name: values for name, values in _shipped().items() if name in tables}, tables)

    @field_validator("search")
    @classmethod
    def _check_search(cls, search: dict[str, Range | tuple[Any, ...]]) -> dict[str, Range | tuple[Any, ...]]:
        for key, values in search.items():
            if not key.startswith(("train.", "params.")) and key != "embedding_width":
                raise ValueError(
                    f"a key of `search` begins with train. or params., or is embedding_width; received {shown(key)}"
                )
            if values == ():
                raise ValueError(f"`search` has nothing to choose from for {key}")
        return search

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"`seeds` must differ, received {list(seeds)}")
        return seeds

    @field_validator("tuned")
    @classmethod
    def _check_tuned(cls, tuned: dict[str, Tuned]) -> dict[str, Tuned]:
        for name, found in tuned.items():
            registry.check(name, found.params)
        return tuned

    def table(self, name: str, model: str | None = None) -> Table:
        """A table by name.

        Args:
            name: of a shipped table or of one in `tables`.
            model: the config's own, for a table of all models.

        Raises:
            ValueError: for an unknown table, naming the nearest one.
        """
        tables = {**shipped_tables(), **self.tables}
        if name not in tables:
            raise ValueError(f"there is no table `{name}`{nearest(name, tables)}")
        return tables[name].filled(model)


def without_table(model: str, budget: int | None, groups: Sequence[str]) -> Table:
    """What features are worth: a model with all of them, and a variant without each group.

    Args:
        model: its name.
        budget: dense parameters of every variant, or None for the preset's; without a feature a layer may be narrower.
        groups: names as in `Variant.without`, those that leave together with commas between them.

    Raises:
        ValueError: if a group is empty or given twice.
    """
    variants = [Variant(name="all features", model={"name": model})]
    for group in groups:
        names = tuple(name.strip() for name in group.split(","))
        if not all(names):
            raise ValueError(f"a group of features is names with commas between them, received {shown(group)}")
        variants.append(Variant(name=f"without {', '.join(names)}", model={"name": model}, without=names))
    return Table(
        title="What features are worth",
        reference="all features",
        tested="reference",
        budgets=(budget,),
        variants=tuple(variants),
    )


def shipped_tables() -> dict[str, Table]:
    """The tables of the papers."""
    try:
        return {name: Table(**values) for name, values in _shipped().items()}
    except ValueError as error:
        raise ValueError(f"{SHIPPED}: {readable(error)}") from None


@functools.cache
def _shipped() -> dict[str, Any]:
    return yaml.safe_load(SHIPPED.read_text())


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`, section by section.

    >>> merged({"optimizer": {"name": "adam", "learning_rate": 0.1}}, {"optimizer": {"learning_rate": 0.2}})
    {'optimizer': {'name': 'adam', 'learning_rate': 0.2}}
    """
    found = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found
