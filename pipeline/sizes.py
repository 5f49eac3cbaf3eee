"""Sizes of every model on a log, at its presets or scaled to one budget; nothing is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mixrank.layers import registry
from mixrank.layers.heads import heads_for
from mixrank.layers.ranking import dense_parts, field_names, match, widths
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


def preset_sizes(spec: FeatureSpec, names: Sequence[str], heads: Mapping[str, Any] | None = None) -> Iterator[Size]:
    """Every preset of some models on a log's widths.

    Args:
        spec: the log's declaration.
        names: models.
        heads: kind and options of heads in place of each model's own, or None.
    """
    chosen = heads_for(heads, spec)
    for name in names:
        for preset in registry.presets(name):
            try:
                yield Size(name, preset, *_totals(spec, name, registry.check(name, preset=preset), chosen))
            except ValueError as error:
                yield Size(name, preset, why_not=str(error))


def matched_sizes(
    spec: FeatureSpec, names: Sequence[str], budget: int, preset: str, heads: Mapping[str, Any] | None = None
) -> Iterator[Size]:
    """Some models, each scaled to a budget.

    Args:
        spec: the log's declaration.
        names: models.
        budget: int >= 1. Dense parameters wanted.
        preset: where scaling starts.
        heads: as in `preset_sizes`.
    """
    chosen, fields = heads_for(heads, spec), field_names(spec)
    for name in names:
        try:
            given = (widths(spec), spec.logits, spec.scenario.values)
            params = match(name, budget, *given, preset=preset, heads=chosen, field_names=fields)
            scaled = {key: params[key] for key in registry.model(name).scaled}
            yield Size(name, preset, *_totals(spec, name, params, chosen), scaled)
        except ValueError as error:
            yield Size(name, preset, why_not=str(error))


def _totals(spec: FeatureSpec, name: str, params: dict[str, Any], heads: Mapping[str, Any] | None) -> tuple[int, int]:
    parts = dense_parts(
        name, params, widths(spec), spec.logits, spec.scenario.values, heads=heads, field_names=field_names(spec)
    )
    return sum(part.parameters for part in parts), sum(part.flops for part in parts)
