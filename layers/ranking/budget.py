"""Every model at one size: the parameters of a preset, scaled until the dense part has a given number of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mixrank.layers import registry
from mixrank.layers.backbone import Widths, new_heads
from mixrank.layers.base import Part


def dense_parts(
    name: str,
    params: Mapping[str, Any],
    widths: Widths,
    tasks: tuple[str, ...],
    scenarios: tuple[int | str, ...],
    heads: Mapping[str, Any] | None = None,
    field_names: tuple[str, ...] = (),
) -> list[Part]:
    """Parameters and FLOPs of backbone and heads, by arithmetic; embeddings are not counted.

    Args:
        name: name of a model.
        params: its parameters, as from `registry.check`.
        widths: what the spec gives the model, `mixrank.layers.ranking.inputs.widths(spec)`.
        tasks: names of the logits, `spec.logits`.
        scenarios: declared values of the scenario.
        heads: as `mixrank.layers.heads.heads_for` returns them for the spec; None for the model's own.
        field_names: of the spec, as in `Backbone`; only heads that read features need them.
    """
    backbone = registry.build(name, params, scenarios=scenarios)
    backbone.check_widths(widths)
    fields = dict(zip(field_names, widths.fields, strict=False))
    widths, interests = backbone.given(widths)
    return [
        *interests,
        *backbone.count(widths),
        *new_heads(backbone, tasks, heads).count(backbone.width(widths), fields),
    ]


def dense_parameters(
    name: str,
    params: Mapping[str, Any],
    widths: Widths,
    tasks: tuple[str, ...],
    scenarios: tuple[int | str, ...],
    heads: Mapping[str, Any] | None = None,
    field_names: tuple[str, ...] = (),
) -> int:
    """Trainable weights of backbone and heads; arguments as in `dense_parts`."""
    return sum(part.parameters for part in dense_parts(name, params, widths, tasks, scenarios, heads, field_names))


def match(
    name: str,
    budget: int,
    widths: Widths,
    tasks: tuple[str, ...],
    scenarios: tuple[int | str, ...],
    params: Mapping[str, Any] | None = None,
    preset: str | None = None,
    heads: Mapping[str, Any] | None = None,
    field_names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Parameters of a model with about `budget` dense weights.

    The parameters in the model's `SCALED` are multiplied by one factor, each rounded to a multiple of what it must be
    divisible by, and the factor whose count comes nearest to the budget is taken. All else stays as in the preset, and
    chosen heads keep their options.

    Args:
        name, params, preset: as in `registry.check`.
        budget: int >= 1. Dense weights wanted.
        widths, tasks, scenarios, heads, field_names: as in `dense_parts`.

    Returns:
        The parameters, those of the preset and `params` included.

    Raises:
        ValueError: if the model has nothing to scale, or its smallest form is more than 1.5 times the budget.
    """
    scaled = registry.model(name).scaled
    if not scaled:
        raise ValueError(f"{name} names no parameter in SCALED, so it cannot be matched to a budget")
    given = registry.check(name, params, preset)
    defaults = {parameter.name: parameter.default for parameter in registry.parameters(name)}
    base = {**defaults, **given}
    backbone = registry.build(name, base, scenarios=scenarios)
    steps = {
        key: math.lcm(*(getattr(backbone, each) if isinstance(each, str) else each for each in multiples))
        for key, multiples in scaled.items()
    }

    def at(factor: float) -> dict[str, Any]:
        grown = {key: _scale(base[key], factor, step) for key, step in steps.items()}
        return {**given, **grown}

    def count(factor: float) -> int:
        return dense_parameters(name, at(factor), widths, tasks, scenarios, heads, field_names)

    low, high = 2.0**-10, 1.0
    while count(high) < budget:
        low, high = high, 2 * high
    # Counts grow in steps; 40 halvings find the last one below the budget and the first one above.
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < budget else (low, middle)
    best = min((low, high), key=lambda factor: abs(count(factor) - budget))
    if count(best) > 1.5 * budget:
        raise ValueError(
            f"{name} has at least {count(best):,} dense parameters with these settings, above the budget {budget:,}; "
            f"lower a parameter that is not scaled, such as num_layers, or an option of the heads"
        )
    return at(best)


def _scale(value: Any, factor: float, step: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_scale(each, factor, step) for each in value)
    return max(1, round(value * factor / step)) * step
