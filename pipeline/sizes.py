"""Sizes of every model on a log, at its presets or scaled to one budget; nothing is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mixrank.layers import registry
from mixrank.layers.ranking import dense_parts, match, widths
from mixrank.schemas import FeatureSpec


class Size(NamedTuple):
    """One row of the table of sizes.

    Args:
        model, preset: names.
        parameters: int. Dense parameters: backbone and heads, without embeddings.
        flops: int. Forward FLOPs per row.
        scaled: parameter -> value, where the model was scaled.
        why_not: why there is no size, or "".
    """

    model: str
    preset: str
    parameters: int = 0
    flops: int = 0
    scaled: dict[str, Any] = {}
    why_not: str = ""


def preset_sizes(spec: FeatureSpec, names: Sequence[str]) -> Iterator[Size]:
    """Every preset of some models on a log's widths."""
    for name in names:
        for preset in registry.presets(name):
            try:
                yield Size(name, preset, *_totals(spec, name, registry.check(name, preset=preset)))
            except ValueError as error:
                yield Size(name, preset, why_not=str(error))


def matched_sizes(spec: FeatureSpec, names: Sequence[str], budget: int, preset: str) -> Iterator[Size]:
    """Some models, each scaled to a budget.

    Args:
        spec: the log's declaration.
        names: models.
        budget: int >= 1. Dense parameters wanted.
        preset: where scaling starts.
    """
    for name in names:
        try:
            params = match(name, budget, widths(spec), spec.tasks, spec.scenario.values, preset=preset)
            scaled = {key: params[key] for key in registry.model(name).scaled}
            yield Size(name, preset, *_totals(spec, name, params), scaled)
        except ValueError as error:
            yield Size(name, preset, why_not=str(error))


def _totals(spec: FeatureSpec, name: str, params: dict[str, Any]) -> tuple[int, int]:
    parts = dense_parts(name, params, widths(spec), spec.tasks, spec.scenario.values)
    return sum(part.parameters for part in parts), sum(part.flops for part in parts)
