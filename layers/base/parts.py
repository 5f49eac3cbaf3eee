"""Parameters and forward FLOPs of a model, part by part."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Part(NamedTuple):
    """One row of the table of parameters and FLOPs.

    Args:
        name: what it is, for instance "blocks: FFN".
        parameters: int. Trainable weights.
        flops: int. Forward floating-point operations per sample, 2 per multiply-add of a matrix product; lookups,
            norms, activations, biases and softmax are not counted.
    """

    name: str
    parameters: int
    flops: int


def counts(model) -> list[Part]:
    """Parameters and FLOPs of a ranker, from the arithmetic of its layers, not from its weights.

    Args:
        model: a `keras.Model` of `mixrank.layers.ranking.ranker.build_ranker`.

    Returns:
        One `Part` per part in the order of the data flow; parts of one name are added up.

    Raises:
        ValueError: if a layer with weights does not say what it consists of.
    """
    rows: dict[str, Part] = {}
    for layer in model.layers:
        if not hasattr(layer, "parts"):
            if layer.weights:
                raise ValueError(f"layer `{layer.name}` ({type(layer).__name__}) has weights but no `parts()`")
            continue
        for part in layer.parts():
            before = rows.get(part.name, Part(part.name, 0, 0))
            rows[part.name] = Part(part.name, before.parameters + part.parameters, before.flops + part.flops)
    return list(rows.values())


def dense_part(name: str, widths: list[int], *, rows: int = 1) -> Part:
    """A chain of dense layers with biases.

    Args:
        name: name of the part.
        widths: input width, then the width of each layer.
        rows: int. Vectors per sample that go through the chain.
    """
    products = sum(a * b for a, b in itertools.pairwise(widths))
    return Part(name, products + sum(widths[1:]), 2 * rows * products)
