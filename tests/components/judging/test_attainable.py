"""Attainable metrics of a simulated log, on the rows that the pipeline evaluates."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from mixrank.components.examples import find_tables, read_batches
from mixrank.components.judging.attainable_metrics import (
    EVALUATED_DAYS,
    IDEAL,
    PRIOR,
    TRUTH,
    attainable,
    evaluated,
    gain,
    observers,
)
from mixrank.schemas.datasets.simulated import DATASET, SPEC
from mixrank.schemas.raw import convert
from mixrank.schemas.simulation import Observer, Simulation, make_world
from mixrank.schemas.simulation import log as simulated_log
from mixrank.schemas.simulation.log import LAST_DAY, blocks, draw_block, write_log

SIMULATION = Simulation(users=400, items=60, days=6, impressions=12.0, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated_log, "BLOCK_ROWS", 10_000)
        write_log(path, SIMULATION)
        yield path


@pytest.fixture(scope="module")
def found(folder):
    return attainable(folder, SPEC)


def test_the_evaluated_days_are_those_of_the_declaration():
    first, last = DATASET.source.split.splits["eval"]
    assert last == LAST_DAY.isoformat()
    assert first == (LAST_DAY - datetime.timedelta(EVALUATED_DAYS - 1)).isoformat()


def test_every_table_fits_the_declaration(folder):
    tables = find_tables(DATASET, str(folder))
    assert {name: [column.name for column in table.columns] for name, table in tables.items()} == {
        "log": ["user_id", "item_id", "time_ms", "click", "tab"],
        "user_0": ["user_id", "age_band"],
        "item_1": ["item_id", "topic"],
    }
    for table in tables.values():
        for number, piece in table.pieces():
            for batch in read_batches(table, number, piece):
                for column in table.columns:
                    assert not batch.bad and not convert(batch.table[column.name].combine_chunks(), column)[1]


def test_the_truth_is_below_no_pattern_of_the_declaration(folder):
    read = {file.path for table in find_tables(DATASET, str(folder)).values() for file in table.files}
    assert read and not [file for file in read if "truth" in file]


def test_metrics_are_those_of_the_readers_on_the_evaluated_rows(found):
    world = make_world(SIMULATION)
    labels, scores = [], []
    for number in range(len(blocks(SIMULATION))):
        events = draw_block(world, number)
        rows = np.flatnonzero(events.time_ms >= events.time_ms.max() // 86_400_000 * 86_400_000 - 86_400_000)
        np.testing.assert_array_equal(rows, evaluated(events, SIMULATION.days))
        labels.append(events.click[rows])
        scores.append(Observer(before=30, within=15).predict(world, events)[rows])
    y, p = np.concatenate(labels), np.concatenate(scores)
    # The share of pairs in the right order; equal predictions do not occur.
    assert found[IDEAL]["auc"] == pytest.approx((p[y == 1][:, None] > p[y == 0]).mean(), abs=1e-6)
    assert found[IDEAL]["log_loss"] == pytest.approx(-np.log(np.where(y, p, 1 - p)).mean())


def test_every_kind_of_knowledge_has_a_price(found):
    fewer = [name for name in found if name.startswith("without ") and name != PRIOR]
    assert len(fewer) == 4
    assert found[TRUTH]["auc"] > found[IDEAL]["auc"] + 0.01
    for name in fewer:
        assert found[PRIOR]["log_loss"] - 0.005 > found[name]["log_loss"] > found[IDEAL]["log_loss"] + 0.003, name
        assert found[name]["auc"] < found[IDEAL]["auc"] - 0.003, name
    assert found["constant"]["auc"] == 0.5


def test_readers_see_as_much_as_the_histories_of_the_spec():
    shorter = SPEC.model_copy(
        update={
            "features": tuple(
                feature.model_copy(update={"length": 7}) if feature.name == "global" else feature
                for feature in SPEC.features
            )
        }
    )
    assert observers(shorter)[IDEAL] == Observer(before=7, within=15)
    assert observers(SPEC)["without real-time history"] == Observer(before=30, within=0)


def test_the_gain_is_a_share_of_what_lies_between_prior_and_best():
    assert gain(0.73, 0.74, 0.70) == pytest.approx(0.75)
    assert gain(0.69, 0.74, 0.70) == pytest.approx(-0.25)
