"""Every kind of model of the registry leaves the pipeline in a form that every loader accepts."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import vocabulary_sizes
from mixrank.components.transform import KEYS
from mixrank.layers import registry
from mixrank.layers.ranking import build_ranker
from mixrank.schemas.encode import encode
from mixrank.serving.export import export, request_and_item, to_columns, to_request_columns
from mixrank.serving.export.loaders import REQUESTS, score_everywhere

# Plain layers on the fields of `FieldBackbone`: dcnv2 stands for them, half a minute each.
PLAIN = ("deepfm", "dlrm", "finalmlp", "masknet", "wide_deep", "xdeepfm")
# What a request may hold beside what the toy rows hold.
REQUEST_CASES: dict[str, dict] = {
    "as logged": {},
    "an unknown scenario and an unseen user": {"page": "elsewhere", "person": 10**12},
    "nothing optional": {"country": None, "age": None},
    "empty histories": {
        f"{history}_{field}": [] for history in ("global", "realtime") for field in ("clip", "tag", "action", "gap")
    },
}
ITEM_CASES: tuple[dict, ...] = ({}, {"clip": "never seen"}, {"tag": [], "tag_weight": [], "price": None, "look": None})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.names() if name not in PLAIN])
def test_a_model_answers_through_every_loader_as_in_memory(
    name, one_block, toy_spec, toy_data, toy_transform, tmp_path, monkeypatch
):
    # A model is loaded once for all that it is asked.
    monkeypatch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
    sizes = vocabulary_sizes(toy_spec, toy_transform)
    model = build_ranker(toy_spec, sizes, name, one_block(name), "tiny", seed=3)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(scale=0.1, size=variable.shape))
    # Before an export the Trainer freezes what need not be learned any more; the scores must not change.
    model.get_layer(name).freeze()
    export(tmp_path / "model", spec=toy_spec, model=model, transform_output=toy_transform)
    examples = [encode(toy_spec, row) for row in toy_data.rows["eval"]]
    scores = score_everywhere(tmp_path / "model", examples)

    (records,) = tf.data.TFRecordDataset(tf.io.gfile.glob(toy_data.patterns()["eval"]), "GZIP").batch(1000)
    row = tf.io.parse_example(records, toy_transform.transformed_feature_spec())
    logits = model({tensor.name: row[tensor.name] for tensor in model.inputs}, training=False)
    order = np.argsort(row[KEYS["time"]].numpy())
    for task in toy_spec.tasks:
        expected = tf.sigmoid(logits[task]).numpy()[order].reshape(-1, 1)
        assert np.std(expected) > 1e-4
        for loader in ("tf2", "session"):
            for signature in ("serving_default", "score_rows"):
                np.testing.assert_allclose(scores[f"{loader}/{signature}/{task}"], expected, atol=1e-5)
            ranked = scores[f"{loader}/rank_candidates/{task}"]
            assert ranked.shape == (REQUESTS, 1)
            np.testing.assert_allclose(ranked, expected[:REQUESTS], atol=1e-5)
    _check_requests(tf.saved_model.load(str(tmp_path / "model")).signatures, toy_spec, toy_data.rows["eval"])


def _check_requests(signatures, spec, rows):
    """Requests of every kind get the scores of the same rows sent one by one."""
    split = [request_and_item(spec, row) for row in rows]
    for number, case in enumerate(REQUEST_CASES.values()):
        request = split[number][0] | case
        for candidates in (1, 7):
            items = [split[i][1] | ITEM_CASES[i % len(ITEM_CASES)] for i in range(candidates)]
            given = to_request_columns(spec, request, items)
            expected = _call(signatures["score_rows"], to_columns(spec, [request | item for item in items]))
            # Events beyond the length of a history, as a client may send them.
            longer = {
                name: np.concatenate([x, x]) if name.startswith(("global_", "realtime_")) else x
                for name, x in given.items()
            }
            for feed in (given, longer):
                got = _call(signatures["rank_candidates"], feed)
                for task in spec.tasks:
                    assert got[task].shape == (candidates, 1)
                    np.testing.assert_allclose(got[task], expected[task], atol=1e-5)


def _call(signature, columns):
    answer = signature(**{name: tf.constant(value) for name, value in columns.items()})
    return {task: score.numpy() for task, score in answer.items()}
