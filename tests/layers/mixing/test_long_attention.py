"""Attention in chunks equals attention at once, forward and backward."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.mixing import attend, attend_in_chunks, is_long, long_attention

RNG = np.random.default_rng(6)
SHAPE = (3, 2, 11, 4)
Q, K, V, CHANGE = (RNG.normal(size=SHAPE).astype("float32") for _ in range(4))
# One row without an event, one with padding in front, one without.
VALID = np.arange(11) >= np.array([11, 4, 0])[:, None]


def _at_once(q, k, v, first):
    key, query = np.arange(11), np.arange(q.shape[2])[:, None]
    seen = np.ones((q.shape[2], 11), bool) if first is None else key <= first + query
    return attend(q, k, v, VALID[:, None, None, :] & seen)


def _in_chunks(q, k, v, first):
    return attend_in_chunks(q, k, v, VALID, first=first)


def _with_gradients(function, first, queries, compiled=False):
    inputs = [tf.constant(x) for x in (Q[:, :, :queries], K, V)]

    @tf.function(jit_compile=compiled)
    def run(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            found = function(*inputs, first)
            weights = tf.reshape(tf.transpose(tf.constant(CHANGE[:, :, :queries]), (0, 2, 1, 3)), found.shape)
            total = tf.reduce_sum(found * weights)
        return found, *tape.gradient(total, inputs)

    return [np.array(x) for x in run(*inputs)]


@pytest.mark.parametrize(("first", "queries"), [(None, 11), (None, 2), (0, 11), (6, 5)])
# Chunks of one query or key, of some that leave a rest, and of all.
@pytest.mark.parametrize("size", [1, 40, 1000])
def test_chunks_give_the_outputs_and_gradients_of_all_at_once(size, first, queries, monkeypatch):
    monkeypatch.setattr(long_attention, "CHUNK", size)
    expected = _with_gradients(_at_once, first, queries)
    assert all(np.abs(x).max() > 0.1 for x in expected) and np.all(expected[0][0] == 0)
    for found, wanted in zip(_with_gradients(_in_chunks, first, queries), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_compiled_chunks_give_the_same(monkeypatch):
    monkeypatch.setattr(long_attention, "CHUNK", 40)
    expected = _with_gradients(_at_once, 0, 11)
    for found, wanted in zip(_with_gradients(_in_chunks, 0, 11, compiled=True), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_another_backend_gives_the_same(backend, tmp_path):
    expected = _with_gradients(_at_once, 0, 11)
    np.savez(tmp_path / "arrays.npz", q=Q, k=K, v=V, valid=VALID, change=CHANGE.transpose(0, 2, 1, 3).reshape(3, 11, 8))
    code = (
        "import sys, numpy as np\n"
        "from mixrank.layers.mixing import attend_in_chunks, long_attention\n"
        "long_attention.CHUNK = 40\n"
        "x = dict(np.load(sys.argv[1] + '/arrays.npz'))\n"
        "inputs = x['q'], x['k'], x['v']\n"
        "def run(*inputs): return attend_in_chunks(*inputs, x['valid'], first=0)\n"
        "found = [run(*inputs)]\n"
        "if sys.argv[2] == 'jax':\n"
        "    import jax\n"
        "    found += jax.grad(lambda *inputs: (run(*inputs) * x['change']).sum(), (0, 1, 2))(*inputs)\n"
        "np.savez(sys.argv[1] + '/found.npz', *map(np.array, found))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), backend], env=environment, check=True)
    with np.load(tmp_path / "found.npz") as found:
        assert len(found) == (4 if backend == "jax" else 1)
        for array, wanted in zip(found.values(), expected, strict=False):
            np.testing.assert_allclose(array, wanted, atol=1e-5)


def test_half_precision_stays_close(monkeypatch):
    monkeypatch.setattr(long_attention, "CHUNK", 40)
    low = [tf.cast(x, "bfloat16") for x in (Q, K, V)]
    with tf.GradientTape() as tape:
        tape.watch(low)
        found = _in_chunks(*low, 0)
    assert {found.dtype, *(x.dtype for x in tape.gradient(found, low))} == {tf.bfloat16}
    np.testing.assert_allclose(tf.cast(found, "float32"), _at_once(Q, K, V, 0), atol=0.05)


def test_only_many_scores_are_made_in_chunks():
    assert not is_long(np.ones((1, 1, 512, 1)), np.ones((1, 1, 512, 1)))
    assert is_long(np.ones((1, 1, 512, 1)), np.ones((1, 1, 513, 1)))
    # A few queries may read any history at once.
    assert not is_long(np.ones((1, 1, 8, 1)), np.ones((1, 1, 10_000, 1)))
