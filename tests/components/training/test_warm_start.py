"""Embedding rows follow their tokens from an old model into a new one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training.warm_start import find_export, warm_start
from mixrank.layers.ranking import tables_of
from mixrank.layers.tokens import rows
from mixrank.schemas import Vocab
from mixrank.serving.base import METADATA

OLD = {"person": [b"7", b"3", b"9"], "clip": [b"a", b"b"], "tag": [b"red", b"blue", b"green", b"pink"]}
NEW = {"person": [b"9", b"1", b"7", b"4"], "clip": [b"a", b"b", b"c"], "tag": [b"pink", b"red"]}
OOV = {"person": 3, "clip": 2, "tag": 1}
HASHED = 7
# Ids of features that the old model did not have.
CROSSES = {"there": 6, "habit": 41, "maker": 7, "query": 10}


def write_export(folder, tables, vocabularies, functions=2):
    """The parts of an export that `warm_start` reads: variables, vocabularies, hash functions and their places."""

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = [tf.Variable(tables[name]) for name in tables]

    tf.saved_model.save(Model(), str(folder))
    (folder / METADATA).parent.mkdir()
    described = {
        name: {
            "variable": f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE",
            "vocabulary": f"assets/{name}" if name in vocabularies else None,
            "shape": list(tables[name].shape),
            **({"functions": functions} if name == "country" else {}),
        }
        for number, name in enumerate(tables)
    }
    (folder / METADATA).write_text(json.dumps({"embeddings": described}))
    write_vocabularies(folder / "assets", vocabularies)


def write_vocabularies(folder, vocabularies):
    folder.mkdir(exist_ok=True)
    for name, tokens in vocabularies.items():
        (folder / name).write_bytes(b"".join(token + b"\n" for token in tokens))


def old_tables(spec, **changes):
    """Row r of an old table holds the numbers r, r + 0.1, ..."""
    rows = {name: 1 + len(tokens) + OOV[name] for name, tokens in OLD.items()} | {"country": 1 + HASHED}
    return {
        name: (np.arange(rows[name])[:, None] + 0.1 * np.arange(spec.get(name).dim)).astype("float32") for name in rows
    } | changes


@pytest.fixture
def new(build_small, tmp_path):
    """A fresh model and the vocabularies it was built for."""
    sizes = {name: 1 + len(tokens) + OOV[name] for name, tokens in NEW.items()} | {"country": 1 + HASHED}
    model = build_small({**sizes, **CROSSES}, seed=1)
    fresh = {name: table_of(model, name) for name in sizes}
    files = tmp_path / "vocabularies"
    write_vocabularies(files, NEW)
    transform = SimpleNamespace(vocabulary_file_by_name=lambda name: str(files / name))
    return SimpleNamespace(model=model, transform=transform, fresh=fresh)


def table_of(model, name):
    return tables_of(model)[name].read()


def test_rows_follow_their_tokens_through_another_order_and_size(toy_spec, new, tmp_path):
    old = old_tables(toy_spec)
    write_export(tmp_path / "model", old, OLD)
    copied = warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))
    assert copied == {"person": 2, "clip": 2, "tag": 2, "country": HASHED}
    person = table_of(new.model, "person")
    np.testing.assert_array_equal(person[1], old["person"][3])  # 9
    np.testing.assert_array_equal(person[3], old["person"][1])  # 7
    np.testing.assert_array_equal(table_of(new.model, "tag")[1:3], old["tag"][[4, 1]])  # pink, red
    np.testing.assert_array_equal(table_of(new.model, "country")[1:], old["country"][1:])


def test_new_tokens_padding_and_buckets_keep_their_fresh_rows(toy_spec, new, tmp_path):
    write_export(tmp_path / "model", old_tables(toy_spec), OLD)
    warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))
    np.testing.assert_array_equal(
        table_of(new.model, "person")[[0, 2, 4, 5, 6, 7]], new.fresh["person"][[0, 2, 4, 5, 6, 7]]
    )
    np.testing.assert_array_equal(table_of(new.model, "country")[0], new.fresh["country"][0])
    assert (new.fresh["person"][[2, 4]] != 0).all()


def test_only_embeddings_are_taken_over(toy_spec, new, tmp_path):
    write_export(tmp_path / "model", old_tables(toy_spec), OLD)

    def weights():
        dense = {v.path: np.array(v) for v in new.model.variables if not v.path.startswith("tables_")}
        return dense | {name: table_of(new.model, name) for name in tables_of(new.model)}

    before = weights()
    warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))
    changed = {name for name, value in weights().items() if not np.array_equal(value, before[name])}
    assert changed == {"person", "clip", "tag", "country"}


def test_a_table_of_another_width_is_left_alone(toy_spec, new, tmp_path):
    narrow = np.ones((6, toy_spec.get("person").dim - 1), "float32")
    write_export(tmp_path / "model", old_tables(toy_spec, person=narrow), OLD)
    assert warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))["person"] == 0
    np.testing.assert_array_equal(table_of(new.model, "person"), new.fresh["person"])


def test_hashed_rows_need_the_same_number_of_buckets(toy_spec, new, tmp_path):
    more = np.ones((9, toy_spec.get("country").dim), "float32")
    write_export(tmp_path / "model", old_tables(toy_spec, country=more), OLD)
    assert warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))["country"] == 0
    np.testing.assert_array_equal(table_of(new.model, "country"), new.fresh["country"])


def test_hashed_rows_need_the_same_hash_functions(toy_spec, new, tmp_path):
    write_export(tmp_path / "model", old_tables(toy_spec), OLD, functions=1)
    assert warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))["country"] == 0
    np.testing.assert_array_equal(table_of(new.model, "country"), new.fresh["country"])


def test_rows_are_matched_as_by_a_dictionary_in_blocks_of_any_size(toy_spec, build_small, tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    tokens = np.array([b"%d" % number for number in rng.permutation(900)])
    before, now = tokens[:600].tolist(), tokens[300:][rng.permutation(600)].tolist()
    tables = {"person": rng.normal(size=(604, toy_spec.get("person").dim)).astype("float32")}
    write_export(tmp_path / "model", tables, {"person": before})
    write_vocabularies(tmp_path / "new", {"person": now})
    model = build_small({"person": 604, "country": 8, "clip": 6, "tag": 4, **CROSSES}, seed=1)
    expected = table_of(model, "person")
    row_of = {token: row for row, token in enumerate(before, start=1)}
    pairs = [(row_of[token], row) for row, token in enumerate(now, start=1) if token in row_of]
    expected[[b for _, b in pairs]] = tables["person"][[a for a, _ in pairs]]
    monkeypatch.setattr(rows, "BLOCK", 100)
    transform = SimpleNamespace(vocabulary_file_by_name=lambda name: str(tmp_path / "new" / name))
    assert warm_start(model, toy_spec, transform, str(tmp_path / "model")) == {"person": len(pairs)}
    assert len(pairs) == 300
    np.testing.assert_array_equal(table_of(model, "person"), expected)


def test_a_feature_that_changed_its_encoding_starts_afresh(toy_spec, new, tmp_path):
    # The old model counted countries and hashed people.
    tables = old_tables(toy_spec)
    write_export(
        tmp_path / "model", tables, {**{k: v for k, v in OLD.items() if k != "person"}, "country": [b"DE"] * 7}
    )
    copied = warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))
    assert (copied["person"], copied["country"]) == (0, 0)
    np.testing.assert_array_equal(table_of(new.model, "person"), new.fresh["person"])


def test_a_feature_the_old_model_did_not_have_starts_afresh(toy_spec, new, tmp_path):
    tables = {name: table for name, table in old_tables(toy_spec).items() if name != "tag"}
    write_export(tmp_path / "model", tables, {name: tokens for name, tokens in OLD.items() if name != "tag"})
    assert "tag" not in warm_start(new.model, toy_spec, new.transform, str(tmp_path / "model"))
    np.testing.assert_array_equal(table_of(new.model, "tag"), new.fresh["tag"])


@pytest.fixture
def model(tmp_path):
    """A function that makes a folder look like an export."""

    def make(name):
        (tmp_path / name / METADATA).parent.mkdir(parents=True)
        (tmp_path / name / METADATA).write_text("{}")
        return tmp_path / name

    return make


def test_a_reference_may_be_an_export_or_a_folder_of_versions(model, tmp_path):
    export = model("artifacts/9/export")
    assert find_export(str(export)) == export
    # 9 < 10 as numbers, not as text.
    _, newest = model("serving/9"), model("serving/10")
    (tmp_path / "serving" / ".11.partial").mkdir()
    assert find_export(str(tmp_path / "serving")) == newest


@pytest.mark.parametrize("reference", ["nowhere", "empty", "other"])
def test_a_reference_to_no_model_says_where_it_looked(tmp_path, reference):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "3").mkdir(parents=True)
    (tmp_path / "other" / "3" / "saved_model.pb").write_bytes(b"no mixrank model")
    with pytest.raises(
        ValueError, match=f"`warm_start`={tmp_path}/{reference} holds no model: expected {METADATA} in it"
    ):
        find_export(str(tmp_path / reference))


def test_a_real_export_is_taken_over_whole(toy_export, build_small, toy_spec, toy_transform):
    from mixrank.components.training import vocabulary_sizes

    sizes = vocabulary_sizes(toy_spec, toy_transform)
    new = build_small(sizes, seed=2)
    copied = warm_start(new, toy_spec, toy_transform, str(toy_export.folder))
    assert copied
    for name, number in copied.items():
        vocab = toy_spec.get(name).vocab
        assert number == sizes[name] - 1 - (vocab.oov if isinstance(vocab, Vocab) else 0)
        old = table_of(toy_export.model, name)
        np.testing.assert_array_equal(table_of(new, name)[1 : 1 + number], old[1 : 1 + number])
