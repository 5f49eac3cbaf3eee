"""An export answers like the model it was made of, through every signature and every loader."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import vocabulary_sizes
from mixrank.layers.ranking import tables_of
from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import PADDING, Column, encode
from mixrank.schemas.wire import entry, example
from mixrank.serving.base import METADATA
from mixrank.serving.export import score_everywhere, to_columns
from mixrank.serving.export.loaders import REQUESTS
from mixrank.serving.export.signatures import _ragged, export, row_columns

TASKS = ("click", "buy")


def by_examples(toy_export, spec, rows):
    serialized = [row if isinstance(row, bytes) else encode(spec, row) for row in rows]
    answer = toy_export.signatures["serving_default"](examples=tf.constant(serialized))
    return {task: answer[task].numpy() for task in TASKS}


def by_rows(toy_export, spec, rows, **changes):
    columns = to_columns(spec, rows) | changes
    answer = toy_export.signatures["score_rows"](**{name: tf.constant(value) for name, value in columns.items()})
    return {task: answer[task].numpy() for task in TASKS}


def assert_same(one, other, atol=1e-5):
    for task in TASKS:
        np.testing.assert_allclose(one[task], other[task], atol=atol, rtol=0)


def test_both_signatures_answer_like_the_model_in_memory(toy_export, toy_scores, toy_spec, toy_data):
    rows = toy_data.rows["eval"]
    examples, columns = by_examples(toy_export, toy_spec, rows), by_rows(toy_export, toy_spec, rows)
    assert toy_scores["click"].shape == (len(rows), 1)
    assert toy_scores["click"].std() > 0.01
    assert not np.allclose(toy_scores["click"], toy_scores["buy"])
    assert_same(examples, toy_scores)
    assert_same(columns, toy_scores)


@pytest.mark.slow
def test_every_loader_answers_like_the_model_in_memory(toy_export, toy_scores, toy_spec, toy_data):
    scores = score_everywhere(toy_export.folder, [encode(toy_spec, row) for row in toy_data.rows["eval"]])
    loaders, signatures = ("tf2", "session"), ("serving_default", "score_rows", "rank_candidates")
    assert set(scores) == {"/".join(name) for name in itertools.product(loaders, signatures, TASKS)}
    for name, got in scores.items():
        expected = toy_scores[name.rsplit("/", 1)[1]]
        np.testing.assert_allclose(got, expected[: REQUESTS if "rank" in name else None], atol=1e-5)


def test_the_signature_takes_the_columns_of_the_spec(toy_export, toy_spec):
    # A structured signature also lists what the function captured.
    taken = toy_export.signatures["score_rows"].structured_input_signature[1]
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in taken.items()} == {
        name: (spec.shape.as_list(), spec.dtype) for name, spec in row_columns(toy_spec).items()
    }


def test_a_row_gets_the_same_score_alone_and_in_a_batch(toy_export, toy_spec, toy_data):
    rows = toy_data.rows["eval"][:5]
    together = by_examples(toy_export, toy_spec, rows)["click"]
    alone = [by_examples(toy_export, toy_spec, [row])["click"][0] for row in rows]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("column", ["clip", "page", "person"])
def test_a_missing_required_column_is_named(toy_export, toy_spec, toy_data, column):
    row = toy_data.rows["eval"][0]
    broken = example(
        entry(name, "int" if name == "person" else "str", [row[name]])
        for name in ("clip", "page", "person")
        if name != column
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"required column `{column}` is missing"):
        by_examples(toy_export, toy_spec, [encode(toy_spec, row), broken])
    padding = np.array([PADDING["int"]]) if column == "person" else np.array([b""], dtype=object)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"required column `{column}` is missing"):
        by_rows(toy_export, toy_spec, [row], **{column: padding})


ROW = {"page": "home", "person": 3, "clip": "v4"}
EVENTS = {"global_clip": ["v1", "v2"], "global_tag": ["v1"] * 6, "global_action": [1, 3], "global_gap": [5, 50]}
HARD = {
    "nothing optional": ROW,
    "an unknown scenario": ROW | {"page": "somewhere else"},
    "an unseen item and user": ROW | {"clip": "never seen", "person": 10**12},
    "an item of no known alphabet": ROW | {"clip": "日本\x00語"},
    "an empty history": ROW | {name: [] for name in EVENTS},
    "an event without attributes": ROW | EVENTS | {"global_clip": ["", ""], "global_tag": [""] * 6},
    "an unknown and a huge time gap": ROW | EVENTS | {"global_gap": [-1, 2**62]},
    "a bit mask beyond the flags": ROW | EVENTS | {"global_action": [2**40, -5]},
    "huge numbers": ROW | {"price": 1e38, "age": -1e38},
    "negative numbers": ROW | {"price": -3.0, "age": -1},
    "a vector of huge numbers": ROW | {"look": [3e38, -3e38, 3e38], "seconds": 3e38},
    "a vector of zeros": ROW | {"look": [0.0] * 3, "taste": [0.0] * 2},
}


@pytest.mark.parametrize("case", HARD)
def test_hard_rows_get_a_probability_from_both_signatures(toy_export, toy_spec, case):
    examples = by_examples(toy_export, toy_spec, [HARD[case]])
    assert_same(examples, by_rows(toy_export, toy_spec, [HARD[case]]))
    for task in TASKS:
        # A model without a norm may be as sure of huge numbers as float32 can say.
        assert 0 <= examples[task][0, 0] <= 1


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_counts_as_missing(toy_export, toy_spec, number):
    expected = by_rows(toy_export, toy_spec, [ROW])
    assert_same(by_rows(toy_export, toy_spec, [ROW], price=np.float32([number]), age=np.float32([number])), expected)
    required = [entry("page", "str", ["home"]), entry("person", "int", [3]), entry("clip", "str", ["v4"])]
    serialized = example([*required, entry("price", "float", [number]), entry("age", "float", [number])])
    assert_same(by_examples(toy_export, toy_spec, [serialized]), expected)


def test_a_vector_counts_only_as_a_whole(toy_export, toy_spec):
    row = ROW | {"look": [1.0, 2.0, 3.0]}
    nothing = np.full((1, 3), np.nan, np.float32)
    assert_same(by_rows(toy_export, toy_spec, [row], look=nothing), by_examples(toy_export, toy_spec, [ROW]))
    for place in range(3):
        part = np.float32([[1.0, 2.0, 3.0]])
        part[0, place] = np.nan
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="column `look` takes exactly 3 finite numbers, or none"
        ):
            by_rows(toy_export, toy_spec, [row], look=part)
    required = [entry("page", "str", ["home"]), entry("person", "int", [3]), entry("clip", "str", ["v4"])]
    for numbers in ([1.0], [1.0, np.inf, 2.0], [1.0] * 4):
        with pytest.raises(tf.errors.InvalidArgumentError, match="column `look` takes exactly 3"):
            by_examples(toy_export, toy_spec, [example([*required, entry("look", "float", numbers)])])


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        ("float", [[1, np.nan, 3], [np.inf, 2, np.nan], [np.nan] * 3], [[1, np.nan, 3], [np.nan, 2], []]),
        ("float", [[]], [[]]),
        ("int", [[4, PADDING["int"], 6], [PADDING["int"]] * 3], [[4, PADDING["int"], 6], []]),
        ("str", [["", "b", ""], ["a", "", ""], [""] * 3], [[b"", b"b"], [b"a"], []]),
    ],
)
def test_a_missing_value_inside_a_list_keeps_its_place(kind, rows, expected):
    values = tf.constant(rows, {"float": tf.float32, "int": tf.int64, "str": tf.string}[kind])
    for got, row in zip(_ragged(Column("mood", kind, length=3), values).to_list(), expected, strict=True):
        if kind == "float":
            np.testing.assert_array_equal(got, row)
        else:
            assert got == row


def test_a_list_with_a_gap_is_read_alike_by_both_signatures(toy_export, toy_spec):
    gap = ROW | {"tag": ["v1", "", "v2"]}
    examples = by_examples(toy_export, toy_spec, [gap])
    assert_same(examples, by_rows(toy_export, toy_spec, [gap]))
    assert not np.allclose(examples["click"], by_rows(toy_export, toy_spec, [ROW])["click"], atol=1e-6)


def test_events_beyond_the_length_of_a_history_do_not_count(toy_export, toy_spec):
    def row(events):
        required = [entry("page", "str", ["home"]), entry("person", "int", [3]), entry("clip", "str", ["v4"])]
        return example(
            [
                *required,
                entry("global_clip", "str", [f"v{i}" for i in range(events)]),
                entry("global_tag", "str", [f"v{i % 7}" for i in range(3 * events)]),
                entry("global_action", "int", [i % 4 for i in range(events)]),
                entry("global_gap", "int", [2**i for i in range(events)]),
            ]
        )

    six, nine, five = (by_examples(toy_export, toy_spec, [row(events)]) for events in (6, 9, 5))
    assert_same(six, nine)
    assert not np.allclose(six["click"], five["click"], atol=1e-6)


def test_metadata_holds_the_spec_and_finds_every_table(toy_export, toy_spec, toy_transform):
    metadata = json.loads((toy_export.folder / METADATA).read_text())
    assert metadata["note"] == "untrained"
    assert FeatureSpec.model_validate(metadata["spec"]) == toy_spec
    tables = {"person", "country", "clip", "tag", "there", "habit", "maker", "query"}
    assert set(metadata["embeddings"]) == tables
    checkpoint = tf.train.load_checkpoint(str(toy_export.folder / "variables" / "variables"))
    sizes = vocabulary_sizes(toy_spec, toy_transform)
    for name, table in metadata["embeddings"].items():
        first, (size, _) = table["first_row"], table["shape"]
        rows = checkpoint.get_tensor(table["variable"])[first : first + size]
        assert list(rows.shape) == table["shape"] == [sizes[name], toy_spec.get(name).dim]
        np.testing.assert_array_equal(rows, tables_of(toy_export.model)[name].read())
    assert metadata["embeddings"]["country"]["vocabulary"] is None
    words = (toy_export.folder / metadata["embeddings"]["clip"]["vocabulary"]).read_bytes().splitlines()
    assert words == toy_transform.vocabulary_by_name("clip")


def test_an_export_does_not_overwrite(toy_export, toy_spec, toy_transform):
    before = sorted(path.name for path in toy_export.folder.iterdir())
    with pytest.raises(ValueError, match=f"`directory` must be empty, {toy_export.folder} is not"):
        export(toy_export.folder, spec=toy_spec, model=toy_export.model, transform_output=toy_transform)
    assert sorted(path.name for path in toy_export.folder.iterdir()) == before


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing(toy_export, toy_spec, toy_transform, tmp_path, monkeypatch):
    def save_half(module, folder, signatures):
        tf.io.gfile.makedirs(folder)
        tf.io.gfile.GFile(f"{folder}/saved_model.pb", "w").write("half")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", save_half)
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path / "model", spec=toy_spec, model=toy_export.model, transform_output=toy_transform)
    assert list(tmp_path.iterdir()) == []
