"""Every kind of model of the registry leaves the pipeline in a form that every loader accepts."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import vocabulary_sizes
from mixrank.components.transform import KEYS
from mixrank.layers import registry
from mixrank.layers.ranking import build_ranker, request_ranker
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.encode import columns, encode
from mixrank.serving.export import export, request_and_item, signatures, to_columns, to_request_columns
from mixrank.serving.export.loaders import REQUESTS, score_everywhere

# Those with a request path or a freezing of their own, and dcnv2 as the plain one, are exported each by itself. From
# one of the others to the next only the graph behind the features differs, so they have one export together, with a
# task for each.
ALONE = ("dcnv2", "dien", "hemix", "hyformer", "mixformer", "mtgr", "mtmixatt", "onetrans", "sim")
# What a request may hold beside what the toy rows hold.
REQUEST_CASES: dict[str, dict] = {
    "as logged": {},
    "an unknown scenario and an unseen user": {"page": "elsewhere", "person": 10**12},
    "nothing optional": {"country": None, "age": None},
    "empty histories": {
        f"{history}_{field}": []
        for history in ("global", "realtime")
        for field in ("clip", "tag", "tag_weight", "action", "gap")
    },
}
ITEM_CASES: tuple[dict, ...] = ({}, {"clip": "never seen"}, {"tag": [], "tag_weight": [], "price": None, "look": None})


class Together:
    """Rankers of the same columns as one, whose tasks are `task_of` each model."""

    def __init__(self, rankers):
        (self.input, *others) = (ranker.input for ranker in rankers.values())
        assert all(each.keys() == self.input.keys() for each in others)
        self.rankers = rankers
        self.variables = [variable for ranker in rankers.values() for variable in ranker.variables]
        # An export tells where the tables are; those of one model will do.
        self.layers = next(iter(rankers.values())).layers

    def __call__(self, row, training):
        return {
            task_of(name, task): logits
            for name, ranker in self.rankers.items()
            for task, logits in ranker(row, training=training).items()
        }


def task_of(name, task):
    return f"{name}_{task}"


@pytest.fixture
def model_and_scores(one_block, toy_spec, toy_data, toy_transform, monkeypatch):
    """A function `(name)`: a model with random weights as it is exported, and the scores of the evaluation rows."""
    # A model is loaded once for all that it is asked.
    monkeypatch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
    (records,) = tf.data.TFRecordDataset(tf.io.gfile.glob(toy_data.patterns()["eval"]), "GZIP").batch(1000)
    row = tf.io.parse_example(records, toy_transform.transformed_feature_spec())
    order = np.argsort(row[KEYS["time"]].numpy())
    sizes = vocabulary_sizes(toy_spec, toy_transform)

    def make(name):
        model = build_ranker(toy_spec, sizes, name, one_block(name), "tiny", seed=3)
        rng = np.random.default_rng(0)
        for variable in model.trainable_variables:
            variable.assign(variable + rng.normal(scale=0.1, size=variable.shape))
        logits = model({tensor.name: row[tensor.name] for tensor in model.inputs}, training=False)
        # Before an export the Trainer freezes what need not be learned any more; the scores must not change.
        model.get_layer(name).freeze()
        return model, {task: tf.sigmoid(logits[task]).numpy()[order].reshape(-1, 1) for task in toy_spec.tasks}

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_a_model_answers_through_every_loader_as_in_memory(
    name, model_and_scores, toy_spec, toy_data, toy_transform, tmp_path
):
    model, scores = model_and_scores(name)
    export(tmp_path / "model", spec=toy_spec, model=model, transform_output=toy_transform)
    _check(tmp_path / "model", toy_spec, toy_data.rows["eval"], scores)


@pytest.mark.slow
def test_all_others_answer_through_every_loader_as_in_memory(
    model_and_scores, toy_spec, toy_data, toy_transform, tmp_path, monkeypatch
):
    found = {name: model_and_scores(name) for name in registry.names() if name not in ALONE}
    models = {name: model for name, (model, _) in found.items()}
    for_request = {name: request_ranker(toy_spec, model) for name, model in models.items()}
    monkeypatch.setattr(signatures, "request_ranker", lambda spec, model: Together(for_request))
    labels = tuple(Label(task_of(name, task)) for name in models for task in toy_spec.tasks)
    spec = FeatureSpec(**{**dict(toy_spec), "labels": labels})
    export(tmp_path / "model", spec=spec, model=Together(models), transform_output=toy_transform)
    of_log = {column.name: column.name for column in columns(spec)}
    of_log |= {task_of(name, task): task for name in models for task in toy_spec.tasks}
    rows = [{name: row[column] for name, column in of_log.items()} for row in toy_data.rows["eval"]]
    scores = {task_of(name, task): each for name, (_, scores) in found.items() for task, each in scores.items()}
    _check(tmp_path / "model", spec, rows, scores)


def _check(folder, spec, rows, expected):
    """Every loader and signature gives the expected scores, and requests those of their rows."""
    scores = score_everywhere(folder, [encode(spec, row) for row in rows])
    assert set(expected) == set(spec.tasks)
    for task in spec.tasks:
        assert np.std(expected[task]) > 1e-4, task
        for loader in ("tf2", "session"):
            for signature in ("serving_default", "score_rows"):
                got = scores[f"{loader}/{signature}/{task}"]
                np.testing.assert_allclose(got, expected[task], atol=1e-5, err_msg=task)
            ranked = scores[f"{loader}/rank_candidates/{task}"]
            assert ranked.shape == (REQUESTS, 1)
            np.testing.assert_allclose(ranked, expected[task][:REQUESTS], atol=1e-5, err_msg=task)
    _check_requests(tf.saved_model.load(str(folder)).signatures, spec, rows)


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
                    np.testing.assert_allclose(got[task], expected[task], atol=1e-5, err_msg=task)


def _call(signature, columns):
    answer = signature(**{name: tf.constant(value) for name, value in columns.items()})
    return {task: score.numpy() for task, score in answer.items()}
