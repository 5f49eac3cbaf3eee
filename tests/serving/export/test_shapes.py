"""A graph refuses inputs of another shape than its own and names the column, where nothing before it compares them.

Python's `Session.run` and the TF 2 loader compare shapes themselves. A model server does not, so these requests go to
the C API as a server's do.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from mixrank.schemas.encode import columns, encode
from mixrank.serving.export.columns import request_and_item, to_columns, to_request_columns
from mixrank.serving.export.shapes import Count, checked, tensor_spec

TASKS = ("click", "buy")
ROWS = 3


class CApi:
    """A SavedModel whose inputs nobody looks at on their way to the graph."""

    def __init__(self, folder):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(folder)).signature_def
        self.session._extend_graph()

    def ask(self, signature, given):
        def of(info):
            return self.session.graph.get_tensor_by_name(info.name)._as_tf_output()

        inputs, outputs = self.signatures[signature].inputs, self.signatures[signature].outputs
        feed = {of(inputs[name]): np.asarray(value) for name, value in given.items()}
        answer = self.session._call_tf_sessionrun(None, feed, [of(outputs[task]) for task in TASKS], [], None)
        return dict(zip(TASKS, answer, strict=True))


@pytest.fixture(scope="module")
def api(toy_export):
    return CApi(toy_export.folder)


@pytest.fixture(scope="module")
def given(toy_spec, toy_data):
    """Signature -> inputs that fit."""
    rows = toy_data.rows["eval"][:ROWS]
    split = [request_and_item(toy_spec, row) for row in rows]
    return {
        "serving_default": {"examples": np.array([encode(toy_spec, row) for row in rows], object)},
        "score_rows": to_columns(toy_spec, rows),
        "rank_candidates": to_request_columns(toy_spec, split[0][0], [item for _, item in split]),
    }


def padded(array, axis):
    """The array with one more entry along an axis, a copy of the last."""
    return np.concatenate([array, np.take(array, [-1], axis)], axis)


def shapes_that_do_not_fit(array, request):
    """The array with an axis more or less, and with axes that are longer and shorter; free axes stay."""
    yield array[None]
    yield array[..., None]
    if array.ndim:
        yield np.asarray(array[0], array.dtype)
    for axis in range(0 if not request else 1, array.ndim):
        yield padded(array, axis)
        yield np.delete(array, -1, axis)


@pytest.mark.slow
@pytest.mark.parametrize("signature", ["serving_default", "score_rows", "rank_candidates"])
def test_what_fits_gets_the_scores_of_the_tf_2_loader(api, toy_export, given, signature):
    feed = {name: tf.constant(value) for name, value in given[signature].items()}
    expected = toy_export.signatures[signature](**feed)
    for task, score in api.ask(signature, given[signature]).items():
        np.testing.assert_allclose(score, expected[task].numpy(), atol=1e-5)


def refused(api, signature, given, name, wrong):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        api.ask(signature, given | {name: wrong})
    return str(caught.value)


@pytest.mark.parametrize("signature", ["serving_default", "score_rows", "rank_candidates"])
def test_a_column_of_another_shape_is_refused_with_both_shapes(api, given, toy_spec, signature):
    known = {column.name: column for column in columns(toy_spec)}
    for name, value in given[signature].items():
        of_request = signature == "rank_candidates" and not known[name].candidate
        for wrong in shapes_that_do_not_fit(value, request=of_request or name == "examples"):
            message = refused(api, signature, given[signature], name, wrong)
            # Where the first column has another number of rows, the second is the one that differs from it.
            named = re.search(r"column `(\w+)` must have shape \((.*?)\).*received\] \[([\d ]*)\]", message)
            assert named, (name, wrong.shape, message)
            if wrong.shape[:1] == value.shape[:1] or name not in ("page", "clip"):
                assert named[1] == name, (name, wrong.shape, message)
                assert named[3] == " ".join(map(str, wrong.shape))


def test_a_message_says_which_shape_was_expected(api, given):
    rows, request = given["score_rows"], given["rank_candidates"]
    wide = refused(api, "score_rows", rows, "global_tag", padded(rows["global_tag"], 1))
    assert "column `global_tag` must have shape (rows, 18), here] [3 18] [received] [3 19]" in wide
    short = refused(api, "score_rows", rows, "price", rows["price"][:2])
    assert "column `price` must have shape (rows,), here] [3] [received] [2]" in short
    items = refused(api, "rank_candidates", request, "tag", request["tag"][:, :2])
    assert "column `tag` must have shape (candidates, 3), as `inputs` and not as `instances`, here] [3 3]" in items
    assert "here] [3 3] [received] [3 2]" in items
    scalar = refused(api, "rank_candidates", request, "age", request["age"][None])
    assert "column `age` must have shape (), as `inputs` and not as `instances`, here] [] [received] [1]" in scalar
    events = refused(api, "rank_candidates", request, "global_tag", request["global_tag"][:-1])
    assert "column `global_tag` must have shape (3 * events of `global`,), as `inputs`" in events
    assert "here] [18] [received] [17]" in events


def test_a_request_in_row_form_is_refused_with_the_form_to_use(api, given):
    rows = {name: value[None] for name, value in given["rank_candidates"].items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"column `\w+` must have .* not as `instances`, here"):
        api.ask("rank_candidates", rows)


def test_histories_of_a_longer_model_are_not_read_across_rows(api, given):
    longer = {
        name: np.concatenate([value, value], 1) if name.startswith("global_") else value
        for name, value in given["score_rows"].items()
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"column `global_\w+` must have shape \(rows, \d+\)"):
        api.ask("score_rows", longer)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        *(((4, 2), True), ((0, 2), True)),
        *((shape, False) for shape in ((4, 3), (4, 1), (4, 0), (4,), (2,), (), (4, 2, 1), (1, 4, 2), (2, 2, 2))),
    ],
)
def test_a_column_must_have_its_rank_and_its_width(shape, fits):
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def width_two(x):
        return checked({"x": x}, {"x": (Count("rows"), 2)})["x"]

    if fits:
        assert width_two(tf.zeros(shape)).shape == shape
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"column `x` must have shape \(rows, 2\), here"):
            width_two(tf.zeros(shape))


@pytest.mark.parametrize(("sizes", "fits"), [((6, 2), True), ((0, 0), True), ((6, 3), False), ((5, 1), False)])
def test_columns_share_what_they_count(sizes, fits):
    axes = {"genre": (Count("events", 3),), "clip": (Count("events"),)}

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def both(genre, clip):
        found = checked({"genre": genre, "clip": clip}, axes)
        return found["genre"], found["clip"]

    given = [tf.zeros([size]) for size in sizes]
    if fits:
        both(*given)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must have shape \((3 \* )?events,\)"):
            both(*given)


def test_a_count_is_an_axis_of_any_size_in_a_signature():
    spec = tensor_spec("genre", tf.string, (Count("rows"), Count("events", 3), 2))
    assert (spec.shape.as_list(), spec.dtype, spec.name) == ([None, None, 2], tf.string, "genre")
