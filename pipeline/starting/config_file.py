"""The config of a first run: a model that reads what the log has, and training settings for its number of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

import yaml

from mixrank.pipeline.starting.plan import Plan

# Rows per step of a training of at least so many rows.
BATCHES = ((0, 64), (20_000, 128), (200_000, 256), (1_000_000, 512), (5_000_000, 2048), (50_000_000, 4096))
# Passes over small logs; of larger ones a second pass costs more than it brings.
EPOCHS = ((0, 5), (20_000, 3), (100_000, 2), (500_000, 1))
# The rates suit a step of this many rows, and grow with the root of it.
BASE_BATCH = 128


def config_file(plan: Plan, declaration: str) -> str:
    """The file's text.

    Args:
        plan: the log.
        declaration: path of the Python file, as `dataset` gives it.
    """
    batch, epochs = _step(BATCHES, plan.rows), _step(EPOCHS, plan.rows)
    lines = [
        f"name: {_scalar(plan.name)}",
        f"dataset: {_scalar(declaration)}",
        "# Where the files are, from the folder in which the command is started.",
        f"data: {_scalar(plan.folder)}",
        *_model(plan),
        "train:",
        f"  # For about {plan.rows:,} rows.",
        f"  batch_size: {batch}",
        f"  epochs: {epochs}",
    ]
    if plan.validates and epochs > 1:
        lines += [
            "  # Stops when `valid` gets no better, and keeps the best weights.",
            "  early_stopping: {metric: loss, patience: 1}",
        ]
    rate = (batch / BASE_BATCH) ** 0.5
    lines += [
        f"  optimizer: {{name: adam, learning_rate: {_rate(0.001 * rate)}, schedule: cosine}}",
        f"  embedding_optimizer: {{name: lazy_adam, learning_rate: {_rate(0.005 * rate)}}}",
    ]
    return "\n".join([*lines, ""])


def _model(plan: Plan) -> list[str]:
    windows = {history.window for history in plan.spec.histories}
    if not windows:
        return [
            "# Reads no history, and the log has none; `mixrank models` lists the others.",
            "model: {name: dcnv2, preset: tiny}",
        ]
    off = [f"{name}: false" for window, name in _SEQUENCES if window not in windows]
    params = f", params: {{{', '.join(off)}}}" if off else ""
    return ["# `mixrank models` lists the others.", f"model: {{name: hemix, preset: tiny{params}}}"]


_SEQUENCES = (("before", "global_sequence"), ("within", "realtime_sequence"))


def _step(table: Iterable[tuple[int, int]], rows: int) -> int:
    return [value for least, value in table if rows >= least][-1]


def _rate(rate: float) -> str:
    return f"{rate:.2g}"


def _scalar(text: str) -> str:
    """A text as YAML reads it back: quoted only where it must be."""
    return text if _reads_as(text) == text else json.dumps(text)


def _reads_as(text: str) -> object:
    try:
        return yaml.safe_load(f"key: {text}")["key"]
    except (yaml.YAMLError, TypeError, KeyError):
        return None
