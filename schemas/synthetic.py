"""FeatureSpec -> reproducible toy rows, for tests, examples and warm-up without a log.

Values are drawn from small pools; a hidden quality per item and per scenario makes the labels learnable.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from typing import Any, assert_never

from mixrank.schemas.features import (
    Action,
    Categorical,
    Cross,
    Expression,
    FeatureSpec,
    History,
    Lookup,
    Match,
    MultiCategorical,
    Numeric,
    NumericLookup,
    TimeGap,
    Vector,
    VectorTable,
)

POOL = 50
# Rows of a request.
REQUEST = 6
START_MS = 1_650_000_000_000


def toy_rows(spec: FeatureSpec, count: int, seed: int = 0, missing: float = 0.05) -> Iterator[dict[str, Any]]:
    """Draws rows with every column of the spec.

    Args:
        spec: the columns.
        count: int >= 0. Number of rows.
        seed: int. The same seed gives the same rows.
        missing: float in [0, 1]. Share of optional values left out (None).

    Yields:
        Column -> value: a scalar or None for single-valued columns, a list for multi-valued and history columns.
    """
    draw = random.Random(seed)
    for number in range(count):
        row: dict[str, Any] = {
            spec.user.name: _value(spec.user.dtype, draw.randrange(POOL)),
            spec.item.name: _value(spec.item.dtype, draw.randrange(POOL)),
            spec.time.name: START_MS + 1000 * number,
            spec.scenario.name: draw.choice(spec.scenario.values),
        }
        if spec.request is not None:
            row[spec.request.name] = _value(spec.request.dtype, number // REQUEST)
        for feature in spec.features:
            match feature:
                case Categorical() | MultiCategorical() | Numeric() | Vector() if feature.group == "event":
                    pass  # Drawn for every event of the histories.
                case Categorical():
                    if feature.name not in row:
                        absent = draw.random() < missing and not feature.required
                        row[feature.name] = None if absent else _value(feature.dtype, _skewed(draw))
                case MultiCategorical():
                    length = draw.randint(int(feature.required), feature.max_length)
                    row[feature.name] = [_value(feature.dtype, _skewed(draw)) for _ in range(length)]
                    if feature.weights is not None:
                        row[feature.weights] = [round(draw.uniform(0.1, 2), 3) for _ in range(length)]
                case Numeric():
                    absent = draw.random() < missing and not feature.required
                    row[feature.name] = None if absent else round(draw.lognormvariate(1.0, 1.0), 3)
                case Vector():
                    absent = draw.random() < missing and not feature.required
                    row[feature.name] = [] if absent else [round(draw.gauss(0, 1), 3) for _ in range(feature.dim)]
                case History():
                    # Events that the row brings, and weights, have draws of their own: all other columns of a spec stay
                    # as they are when it gets one of these.
                    own = random.Random(f"{seed} {number} {feature.name}")
                    row.update(_history(spec, feature, draw if feature.in_row is None else own, own, missing))
                case Action() | TimeGap():
                    pass  # Drawn for every event of the histories.
                case Match() | Cross() | Expression() | Lookup() | NumericLookup() | VectorTable():
                    pass  # Computed by Transform.
                case _:
                    assert_never(feature)
        for label in spec.labels:
            item, scenario = (_hidden(row[column], label.name) for column in (spec.item.name, spec.scenario.name))
            row[label.name] = label.values.toy(draw.random(), 0.7 * item + 0.3 * scenario)
        for label in spec.labels:
            if label.given is not None and not row[label.given]:
                row[label.name] = 0
        for name in spec.row_weights:
            # A quarter of the rows counts nothing.
            row[name] = max(0.0, round(4 * draw.random() - 1, 3))
        for name in spec.mature:
            row[name] = int(draw.random() > missing)
        if spec.position is not None:
            row[spec.position.name] = None if draw.random() < missing else draw.randrange(2 * spec.position.size)
        yield row


def _history(
    spec: FeatureSpec, history: History, draw: random.Random, own: random.Random, missing: float
) -> dict[str, list[Any]]:
    events = draw.randint(0, history.length)
    columns: dict[str, list[Any]] = {}
    for column, field in spec.history_fields(history):
        match field:
            case Action():
                columns[column] = [draw.randrange(2 ** len(field.flags)) for _ in range(events)]
            case TimeGap():
                columns[column] = sorted(draw.randrange(100_000) for _ in range(events))
            case Categorical() | MultiCategorical():
                columns[column] = [_value(field.dtype, _skewed(draw)) for _ in range(events * field.width)]
            case Numeric():
                numbers = (round(draw.lognormvariate(1.0, 1.0), 3) for _ in range(events))
                columns[column] = [math.nan if draw.random() < missing else number for number in numbers]
            case Vector():
                columns[column] = [round(draw.gauss(0, 1), 3) for _ in range(events * field.dim)]
            case _:
                assert_never(field)
    for column, weighted in spec.weights_in(history):
        weights = (round(own.uniform(0.1, 2), 3) for _ in range(events * weighted.width))
        columns[column] = [math.nan if own.random() < missing else weight for weight in weights]
    return columns


def _skewed(draw: random.Random) -> int:
    return int(POOL * draw.random() ** 2)


def _value(dtype: str, number: int) -> int | str:
    return number if dtype == "int" else f"v{number}"


def _hidden(value: int | str, task: str) -> float:
    # A stable hash: Python's own differs between processes.
    return zlib.crc32(f"{task}:{value}".encode()) / 2**32
