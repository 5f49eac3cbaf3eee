"""The one task of all libraries: a DCN-V2, its batches, and how a training is timed; needs NumPy only.

A logistic head on `[x_L; MLP(x_0)]`, where x_0 is all fields side by side and `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FIELDS, DIM = 40, 16
CROSSES, MLP = 3, (512, 256)
# Ids of every field, and of two fields (the second and the third) in the variant with large tables.
IDS, LARGE_FIELDS = 1000, 2
# Adam's, for every weight; and the spread of the first embeddings.
RATE, SPREAD = 1e-3, 0.05
ROWS = 2**16
# Fields that the label depends on, the last ones.
TELLING = 8
# Steps that are not timed. The losses of the first and of the last of them are compared.
WARM_UP, COMPARED = 40, 5


def names() -> list[str]:
    return [f"f{number}" for number in range(FIELDS)]


def sizes(large: int) -> list[int]:
    """Number of ids of every field, 0 included."""
    return [large if 1 <= number <= LARGE_FIELDS else IDS for number in range(FIELDS)]


def write(path: Path, large: int) -> None:
    """Random ids, equally frequent; a label of one row in five, more likely the more of the telling ids are odd."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(1, size, ROWS, dtype=np.int32) for size in sizes(large)], axis=1)
    logit = (2 * (ids[:, -TELLING:] % 2) - 1).sum(axis=1) / TELLING**0.5 - 1.7
    labels = rng.random(ROWS) < 1 / (1 + np.exp(-logit))
    np.savez(path, ids=ids, labels=labels.astype(np.float32))


def columns(path: Path, dtype: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All rows as one array of ids (rows,) per field, and their labels (rows, 1)."""
    with np.load(path) as file:
        ids, labels = file["ids"].astype(dtype), file["labels"]
    return {name: ids[:, at] for at, name in enumerate(names())}, labels[:, None]


def losses_of_means(means: list[float]) -> list[float]:
    """Loss of every step from Keras' mean of all steps so far."""
    sums = [(at + 1) * mean for at, mean in enumerate(means)]
    return [now - before for before, now in zip([0.0, *sums], sums, strict=False)]


def arguments() -> argparse.Namespace:
    """Those that `run.py` gives to the process of one measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--large", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--jit", default="auto", help="mixrank alone reads it")
    return parser.parse_args()


def report(step: Callable[[], float], given: argparse.Namespace, dense: int, *, means: bool = False) -> None:
    """Trains and prints the figures as one line.

    Args:
        step: one training step, which returns its loss.
        dense: number of weights outside the embedding tables.
        means: whether `step` returns the mean loss of all steps so far.
    """
    found = [step() for _ in range(WARM_UP)]
    losses = losses_of_means(found) if means else found
    steps, began, worked = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < given.seconds or steps < 3:
        step()
        steps += 1
    figures: dict[str, Any] = {
        "samples_per_second": steps * given.batch / spent,
        "processor_ms": 1000 * (time.process_time() - worked) / steps,
        "dense_parameters": dense,
        "first_loss": float(np.mean(losses[:COMPARED])),
        "last_loss": float(np.mean(losses[-COMPARED:])),
    }
    print(json.dumps(figures))


def cores() -> int:
    """All of the machine: TensorFlow takes as many threads by itself, and PyTorch is told to."""
    return os.cpu_count() or 1
