"""Rules that every model of the registry keeps, whatever its paper."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from mixrank import testing
from mixrank.layers import registry
from mixrank.layers.ranking import build_ranker

every_model = pytest.mark.parametrize("name", registry.names())
# The rules take a minute and a half for all models. The others are slow.
QUICK = ("dcnv2", "hemix", "mixformer")


@pytest.fixture(scope="module")
def cases():
    """name -> a model with what its rules are tried on; built once."""
    return functools.cache(testing.Case)


@pytest.mark.parametrize("rule", testing.CONTRACT, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in registry.names()]
)
def test_a_model_keeps_the_contract(name, rule, cases):
    rule(cases(name))


@pytest.mark.slow
@every_model
def test_training_fits_a_rule_in_the_data(name, one_block):
    model = build_ranker(testing.toy_spec(), testing.SIZES, name, one_block(name), "tiny", seed=0)
    rows = testing.toy_rows(model, batch=32)
    labels = {"click": (rows["clip"] % 2).astype("float32"), "like": (rows["person"] > 2).astype("float32")}
    labels = {task: values[:, None] for task, values in labels.items()}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.01), loss=loss, jit_compile=False)
    # A step that makes variables is traced a second time.
    model.optimizer.build(model.trainable_variables)
    # Step by step: an epoch of `fit` costs more than its one step.
    first = _loss_of_tasks(model, rows, labels)
    for _ in range(58):
        model.train_on_batch(rows, labels)
    # The loss is a mean since the last reset.
    model.reset_metrics()
    assert _loss_of_tasks(model, rows, labels) < 0.3 * first


def _loss_of_tasks(model, rows, labels) -> float:
    """After one more step; without what a layer adds, such as DIEN's loss of the next events."""
    found = model.train_on_batch(rows, labels, return_dict=True)
    return sum(found[f"{task}_loss"] for task in labels)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_another_backend_gives_the_same_logits(backend, cases, tmp_path):
    rankers = {name: cases(name).ranker for name in registry.names()}
    for name, ranker in rankers.items():
        ranker.save(tmp_path / f"{name}.keras")
    rows = testing.toy_rows(ranker, batch=5)
    np.savez(tmp_path / "rows.npz", **rows)
    code = (
        "import sys, mixrank, keras, numpy as np\n"
        "from pathlib import Path\n"
        "assert keras.backend.backend() == sys.argv[2]\n"
        "rows = dict(np.load(sys.argv[1] + '/rows.npz'))\n"
        "for path in Path(sys.argv[1]).glob('*.keras'):\n"
        "    model = keras.models.load_model(path)\n"
        "    np.savez(path.with_suffix('.logits.npz'), **model(rows))\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    # JAX compiles each operation for each shape; unoptimized that takes a third of the time.
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), backend], env=environment, check=True)
    for name, ranker in rankers.items():
        with np.load(tmp_path / f"{name}.logits.npz") as logits:
            expected = testing.scores(ranker(rows))
            np.testing.assert_allclose(testing.scores(dict(logits)), expected, atol=1e-4, err_msg=name)
