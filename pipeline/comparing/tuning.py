"""The same small random search for every model, on the rows that no model is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixrank.layers import registry
from mixrank.pipeline.comparing.comparison_page import Grid
from mixrank.pipeline.comparing.trial_plan import Trial, settings, trial
from mixrank.pipeline.config import Budget, Range, RunConfig, Tuned, Variant, merged
from mixrank.pipeline.run_record import RunRecord, split_files
from mixrank.schemas.naming import readable

OWN = "the config's"


@dataclass(frozen=True)
class Draw:
    """One point of the search.

    Attributes:
        model: name of the model.
        name: "the config's" or "draw 3".
        values: dotted key -> value; empty for the config's own settings, which are tried first.
        trial: its training.
    """

    model: str
    name: str
    values: dict[str, Any]
    trial: Trial

    @property
    def loss(self) -> float | None:
        """Validation loss after the last round, the weighted sum of the tasks' log losses; None before it is known."""
        result = self.trial.result
        return None if result is None else float(result["valid"]["loss"])

    @property
    def settings(self) -> Tuned:
        """The drawn values as `compare.tuned` of a config holds them."""
        return _tuned(self.values)


def search_settings(
    config: RunConfig, earlier: RunRecord, models: Sequence[str], number: int, budget: Budget
) -> list[Draw]:
    """Every training of a search: per model the config's own settings and then the same number of random ones.

    Training uses the training split alone and validation judges it, whatever the config's `splits` are. All models see
    the same draws, but for parameters that one does not have.

    Args:
        config: the run; `compare.search` is the space.
        earlier: the run whose rows are trained on.
        models: names of models.
        number: int >= 1. Random draws per model.
        budget: dense parameters of every model, or None for the preset.

    Raises:
        ValueError: an unknown model, or no validation split.
    """
    for name in models:
        registry.model(name)
    if "valid" not in split_files(earlier.rows.transformed):
        raise ValueError(
            f"the search is judged on a `valid` split, and {config.dataset} has none: give its `split` one"
        )
    points = {f"draw {at}": point for at, point in enumerate(_points(config.compare.search, number), 1)}
    found = []
    for title, point in {OWN: {}, **points}.items():
        for name in models:
            known = {f"params.{parameter.name}" for parameter in registry.parameters(name)}
            values = {key: value for key, value in point.items() if not key.startswith("params.") or key in known}
            found.append(_draw(config, earlier, name, title, values, budget))
    return found


def best(found: Sequence[Draw]) -> dict[str, Draw]:
    """Model -> the draw with the least validation loss, of those that are done."""
    done = [draw for draw in found if draw.loss is not None]
    names = dict.fromkeys(draw.model for draw in done)
    return {name: min((d for d in done if d.model == name), key=lambda draw: draw.loss or 0.0) for name in names}


def as_yaml(chosen: Mapping[str, Draw]) -> str:
    """The chosen values as the section of a config."""
    import yaml

    tuned = {name: draw.settings.model_dump(mode="json", exclude_defaults=True) for name, draw in chosen.items()}
    return yaml.safe_dump({"compare": {"tuned": tuned}}, sort_keys=False, default_flow_style=None, width=110)


def drawn_grid(found: Sequence[Draw]) -> Grid:
    """Table of the drawn values: a row for every key, a column for every draw."""
    points: dict[str, dict[str, Any]] = {}
    for draw in found:
        # A parameter that one model lacks is drawn for another.
        points.setdefault(draw.name, {}).update(draw.values)
    points.pop(OWN, None)
    keys = dict.fromkeys(key for point in points.values() for key in point)
    cells = [(_leaf(key), *(_short(point[key]) for point in points.values())) for key in keys]
    return Grid("Draws, the same for every model that has the parameter", ("", *points), tuple(cells))


def search_grid(found: Sequence[Draw]) -> Grid:
    """The validation losses, a row for every model; the best of each is marked."""
    models = list(dict.fromkeys(draw.model for draw in found))
    names = list(dict.fromkeys(draw.name for draw in found))
    chosen = best(found)
    losses = {(draw.model, draw.name): "-" if draw.loss is None else f"{draw.loss:.4f}" for draw in found}
    cells = [(model, *(losses[model, name] for name in names)) for model in models]
    marked = {(at, 1 + names.index(chosen[model].name)) for at, model in enumerate(models) if model in chosen}
    return Grid("Loss on the validation split", ("model", *names), tuple(cells), frozenset(marked))


def _draw(config: RunConfig, earlier: RunRecord, name: str, title: str, values: dict[str, Any], budget: Budget) -> Draw:
    # A search does not start from the results of an earlier one.
    untuned = config.compare.model_copy(update={"tuned": {name: _tuned(values)}})
    variant = Variant(name=name, model={"name": name}, train={"splits": ["train"]})
    try:
        model, train = settings(
            config.model_copy(update={"compare": untuned}), variant, budget, config.compare.seeds[0]
        )
    except ValueError as error:
        about = ", ".join(f"{key}={_short(value)}" for key, value in values.items()) or OWN
        raise ValueError(f"{name} with {about}: {readable(error)}") from None
    return Draw(name, title, values, trial(config, earlier, model, train, name=f"{name}, {title}"))


def _leaf(key: str) -> str:
    return key.partition(".")[2] or key


def _tuned(values: Mapping[str, Any]) -> Tuned:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found = merged(found, _nested(key, value))
    return Tuned(**found)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _points(space: Mapping[str, Range | tuple[Any, ...]], number: int) -> list[dict[str, Any]]:
    """Random points of the space, the same for the same space and number."""
    import keras_tuner

    parameters = keras_tuner.HyperParameters()
    for key, values in space.items():
        if isinstance(values, Range):
            parameters.Float(key, values.low, values.high, sampling="log")
        else:
            parameters.Choice(key, list(values))
    # Seed 0 means none to keras-tuner.
    oracle = keras_tuner.oracles.RandomSearchOracle(max_trials=number, seed=1, hyperparameters=parameters)
    points = []
    for _ in range(number):
        found = oracle.populate_space("")
        if found["values"] is None:
            # A space of choices alone has an end.
            break
        # Three digits: more would only fill the config.
        points.append({k: float(f"{v:.3g}") if isinstance(space[k], Range) else v for k, v in found["values"].items()})
    return points


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b.c` as sections."""
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}
