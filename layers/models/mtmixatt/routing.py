"""Routing report: how the rows of each scenario use the scenario experts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from mixrank.layers.backbone import backbone_of
from mixrank.layers.experts import ScenarioSparseMoE


def routing_report(model: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Own-expert rate and load of every block's scenario experts, per scenario.

    Args:
        model: a ranker of `mixrank.layers.ranking.ranker.build_ranker`.
        batches: rows, each a dictionary of the model's inputs.

    Returns:
        Empty if the model has no scenario experts or there are no rows; otherwise, for JSON:
        scenarios: the declared values that occur, and "other" (missing included) if it does;
        rows: how many rows each has;
        experts: the declared values, whose experts these are;
        blocks: per block `own`, the share of tokens that use their own scenario's expert, None for "other", and
        `load`, the share of each expert among the choices, both per scenario.
    """
    backbone = backbone_of(model)
    sparse = [getattr(block, "sparse", None) for block in getattr(backbone, "blocks", ())]
    layers = [layer for layer in sparse if isinstance(layer, ScenarioSparseMoE) and layer.scenarios]
    if not layers:
        return {}
    number = len(backbone.scenarios)
    rows = np.zeros(number + 1, int)
    chosen = np.zeros((len(layers), number + 1, number))
    own = np.zeros((len(layers), number + 1))

    def recorder(index: int):
        def record(choice, scenario) -> None:
            # (batch, tokens, active)
            choice = np.array(ops.convert_to_numpy(choice))
            ids = _places(scenario, number)
            places = np.eye(number)[choice].sum(axis=2)
            np.add.at(chosen[index], ids, places.mean(axis=1))
            np.add.at(own[index], ids, np.where(choice == ids[:, None, None], 1.0, 0.0).sum(axis=2).mean(axis=1))
            if index == 0:
                np.add.at(rows, ids, 1)

        return record

    try:
        for index, layer in enumerate(layers):
            layer.on_routing = recorder(index)
        for batch in batches:
            model({name: batch[name] for name in model.input}, training=False)
    finally:
        for layer in layers:
            layer.on_routing = None
    present = [scenario for scenario in range(number + 1) if rows[scenario]]
    if not present:
        return {}
    names = [*map(str, backbone.scenarios), "other"]
    return {
        "scenarios": [names[scenario] for scenario in present],
        "rows": [int(rows[scenario]) for scenario in present],
        "experts": names[:-1],
        "blocks": [
            {
                "own": [_share(own[i, c], rows[c]) if c < number else None for c in present],
                "load": [[_share(x, chosen[i, c].sum()) for x in chosen[i, c]] for c in present],
            }
            for i in range(len(layers))
        ],
    }


def _places(scenario, number: int) -> np.ndarray:
    """Ids to positions; missing and undeclared ones to `number`."""
    ids = np.array(ops.convert_to_numpy(scenario)).astype(int) - 1
    return np.where((ids < 0) | (ids >= number), number, ids)


def _share(part: float, whole: float) -> float:
    return round(float(part / whole), 4)
