"""A version carries requests that a server answers before it serves any client."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from mixrank.schemas.encode import encode
from mixrank.serving.export.warmup import SIZES, WARMUP_FILE, write_warmup

SIGNATURES = ("serving_default", "score_rows", "rank_candidates")


@pytest.fixture(scope="module")
def version(toy_export, toy_spec, toy_data, tmp_path_factory):
    """A copy of the toy model with warm-up requests made of three rows."""
    folder = tmp_path_factory.mktemp("warm") / "toy" / "1"
    shutil.copytree(toy_export.folder, folder)
    examples = [encode(toy_spec, row) for row in toy_data.rows["eval"][:3]]
    assert write_warmup(folder, toy_spec, examples, SIGNATURES) == len(SIGNATURES) * len(SIZES)
    return folder


def logs(version):
    records = tf.data.TFRecordDataset(str(version / WARMUP_FILE)).as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]


def test_every_signature_answers_its_requests(version, toy_export):
    for request in logs(version):
        signature = toy_export.loaded.signatures[request.model_spec.signature_name]
        wanted = signature.structured_input_signature[1]
        assert set(request.inputs) == set(wanted)
        inputs = {
            name: tf.constant(tf.make_ndarray(value), wanted[name].dtype) for name, value in request.inputs.items()
        }
        assert np.isfinite(signature(**inputs)["click"].numpy()).all()


def test_requests_are_of_several_sizes(version, toy_export):
    sizes = {name: [] for name in SIGNATURES}
    for request in logs(version):
        item = "examples" if request.model_spec.signature_name == "serving_default" else "clip"
        sizes[request.model_spec.signature_name].append(request.inputs[item].tensor_shape.dim[0].size)
    assert sizes == {name: list(SIZES) for name in SIGNATURES}


def test_requests_need_rows(version, toy_spec):
    with pytest.raises(ValueError, match="warm-up requests need at least one row, received none"):
        write_warmup(version, toy_spec, [], SIGNATURES)


def test_an_unknown_signature_is_refused_and_nothing_is_written(version, toy_spec, toy_data):
    before = (version / WARMUP_FILE).read_bytes()
    examples = [encode(toy_spec, row) for row in toy_data.rows["eval"][:1]]
    with pytest.raises(ValueError, match="no way to make a request for the signature `classify`"):
        write_warmup(version, toy_spec, examples, ["score_rows", "classify"])
    assert (version / WARMUP_FILE).read_bytes() == before
