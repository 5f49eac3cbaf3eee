"""The input stream: a position in it is a number of steps."""

from __future__ import annotations

import collections
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training.batches import Sampled, TransformedRows, evaluation_batches, training_stream
from mixrank.components.training.model_factory import scenario_weights
from mixrank.components.transform import KEYS
from mixrank.schemas import Label

BATCH = 64


@pytest.fixture(scope="module")
def rows(toy_data, toy_transform):
    return TransformedRows.find(
        [toy_data.patterns()["valid"], toy_data.patterns()["train"]],
        toy_transform.transformed_feature_spec(),
        labels=("click", "buy"),
        inputs=(KEYS["time"], KEYS["user"]),
    )


def order(rows, **options):
    steps = rows.count() // BATCH
    stream = training_stream(rows, batch_size=BATCH, steps_per_pass=steps, steps=3 * steps, shuffle_rows=200, **options)
    return [identity(inputs) for inputs, _ in stream]


def identity(row):
    """A number per row: the splits share times, but hardly a time and a user."""
    return row[KEYS["time"]].numpy() * 100 + row[KEYS["user"]].numpy()


def test_every_row_is_counted(rows, toy_data):
    assert rows.count() == len(toy_data.rows["train"]) + len(toy_data.rows["valid"])


def test_a_pass_holds_no_row_twice_and_passes_differ(rows):
    batches = order(rows, seed=3)
    per_pass = len(batches) // 3
    first, second = (np.concatenate(batches[p * per_pass : (p + 1) * per_pass]) for p in (0, 1))
    assert len(first) == per_pass * BATCH
    assert len(np.unique(first)) >= len(first) - 5
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.sort(first))


@pytest.mark.slow
@pytest.mark.parametrize("first_step", [1, 24, 25, 60])
def test_a_resumed_stream_goes_on_where_it_stopped(rows, first_step):
    whole, rest = order(rows, seed=3), order(rows, seed=3, first_step=first_step)
    assert len(rest) == len(whole) - first_step
    for expected, got in zip(whole[first_step:], rest, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_another_seed_gives_another_order(rows):
    assert not np.array_equal(order(rows, seed=3)[0], order(rows, seed=4)[0])


def test_evaluation_reads_every_row_once_in_order(rows, toy_data):
    seen = np.concatenate([identity(batch) for batch in evaluation_batches(rows, 37)])
    written = [row for split in ("valid", "train") for row in toy_data.rows[split]]
    assert list(seen) == [row["at"] * 100 + row["person"] for row in written]


def test_nothing_tunes_itself_and_so_ends_late(rows):
    trained = training_stream(rows, batch_size=4, steps_per_pass=3, steps=9, seed=0, shuffle_rows=8)
    for dataset in (trained, evaluation_batches(rows, 5)):
        assert dataset.options().autotune.enabled is False
        assert dataset.options().deterministic is True


def test_labels_and_inputs_are_apart(rows):
    inputs, labels = next(iter(training_stream(rows, batch_size=2, steps_per_pass=1, steps=1, seed=0, shuffle_rows=1)))
    assert set(inputs) == {KEYS["time"], KEYS["user"]}
    assert set(labels) == {"click", "buy"}


def test_a_row_has_a_weight_by_task_and_by_scenario(rows):
    stream = {"batch_size": 50, "steps_per_pass": 1, "steps": 1, "seed": 0, "shuffle_rows": 1}
    inputs = (*rows.inputs, "page", "worth")
    weighted = replace(rows, inputs=inputs, weights={"buy": "worth"})
    ((inputs, labels, weights),) = training_stream(weighted, **stream)
    assert set(labels) == set(weights) and labels["buy"].shape == weights["buy"].shape == (50, 1)
    np.testing.assert_array_equal(weights["click"], np.ones((50, 1)))
    np.testing.assert_array_equal(weights["buy"][:, 0], inputs["worth"])

    by_page = np.array([9.0, 0.5, 2.0, 3.0, 9.0], np.float32)
    ((_, _, balanced),) = training_stream(replace(weighted, scenario_weights=("page", by_page)), **stream)
    np.testing.assert_array_equal(balanced["click"][:, 0], by_page[inputs["page"]])
    np.testing.assert_allclose(balanced["buy"][:, 0], by_page[inputs["page"]] * inputs["worth"])


def test_a_label_that_is_compared_has_the_number_of_its_group(rows):
    stream = {"batch_size": 90, "steps_per_pass": 1, "steps": 1, "seed": 0, "shuffle_rows": 1}
    ((inputs, labels),) = training_stream(replace(rows, groups={"click": KEYS["user"]}), **stream)
    assert labels["click"].shape == (90, 2) and labels["buy"].shape == (90, 1)
    users, numbers = inputs[KEYS["user"]].numpy(), labels["click"][:, 1].numpy()
    assert len(set(numbers)) == len(set(users)) == len(set(zip(users, numbers, strict=True))) > 1


@pytest.mark.parametrize("first_step", [0, 3])
def test_rows_that_follow_each_other_stay_together(rows, first_step):
    steps = rows.count() // 48
    options = {"batch_size": 48, "steps_per_pass": steps, "steps": 2 * steps, "seed": 3, "shuffle_rows": 200}
    kept = [identity(x) for x, _ in training_stream(rows, **options, rows_together=6, first_step=first_step)]
    assert len(kept) == 2 * steps - first_step
    written = np.concatenate([identity(batch) for batch in evaluation_batches(rows, 100)])
    place = {number: at for at, number in enumerate(written)}
    at = np.array([[place[number] for number in batch] for batch in kept])
    # Of six rows five follow the one before, but where a file ends.
    assert (np.diff(at, axis=1) == 1).mean() > 0.75
    assert not np.array_equal(at[0], np.sort(at[0]))


def test_a_kept_negative_stands_for_those_that_were_not(rows):
    kept = Sampled(Label("click", keep_negatives=0.25), ("buy",))
    sampled = replace(rows, inputs=("worth",), weights={"buy": "worth"}, sampled=kept)
    stream = {"batch_size": 50, "steps_per_pass": 1, "steps": 1, "seed": 0, "shuffle_rows": 1}
    ((inputs, labels, weights),) = training_stream(sampled, **stream)
    np.testing.assert_array_equal(weights["click"], np.ones((50, 1)))
    times = np.where(labels["click"][:, 0] > 0, 1, 4)
    assert set(times) == {1, 4}
    np.testing.assert_allclose(weights["buy"][:, 0], inputs["worth"] * times)


def test_every_scenario_weighs_alike(rows, toy_spec, toy_data):
    pages = collections.Counter(row["page"] for split in ("valid", "train") for row in toy_data.rows[split])
    weights = scenario_weights(toy_spec, rows)
    totals = [weights[number] * pages[page] for number, page in enumerate(toy_spec.scenario.values, 1)]
    np.testing.assert_allclose(totals, sum(pages.values()) / 3)
    # No row has an unknown page.
    assert weights[0] == weights[4] == 0


def test_too_few_rows_for_a_batch_says_what_to_lower(rows):
    with pytest.raises(ValueError, match="fewer training rows than one batch of 4096"):
        training_stream(rows, batch_size=4096, steps_per_pass=0, steps=1, seed=0, shuffle_rows=1)


def test_a_pattern_without_files_is_named():
    with pytest.raises(ValueError, match="no transformed examples match /nowhere"):
        TransformedRows.find(["/nowhere/*"], {}, (), ())


@pytest.mark.slow
def test_rows_are_decoded_once_where_they_fit_and_come_in_the_same_order(rows, monkeypatch):
    decoded, decode = [], TransformedRows.decoded
    monkeypatch.setattr(TransformedRows, "decoded", lambda self: decoded.append(self) or decode(self))
    steps = rows.count() // BATCH
    options = {"batch_size": BATCH, "steps_per_pass": steps, "seed": 5, "shuffle_rows": 200}

    def stream(passes, first_step=0):
        found = training_stream(rows, steps=passes * steps, first_step=first_step, **options)
        return list(found.as_numpy_iterator())

    held = stream(3)
    assert len(decoded) == 1
    # The last pass of a resumed training is a single one.
    stream(1), stream(3, first_step=2 * steps)
    assert len(decoded) == 1
    monkeypatch.setattr("mixrank.components.training.batches.HELD_BYTES", steps * BATCH * rows.bytes_per_row - 1)
    read = stream(3)
    assert len(decoded) == 1
    assert len(held) == len(read) == 3 * steps
    for a, b in zip(held, read, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
        assert [{name: x.shape for name, x in each.items()} for each in a] == [
            {name: x.shape for name, x in each.items()} for each in b
        ]
