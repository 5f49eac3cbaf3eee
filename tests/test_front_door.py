"""`import mixrank`: what it gives, what it leaves alone, and what Keras finds after it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import mixrank
from mixrank.host_memory import keep_freed_memory
from mixrank.keras_names import HOME, stand_ins
from mixrank.layers import registry

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"keras", "numpy", "pydantic", "lazy_loader", "mixrank", *sys.stdlib_module_names}
# They read and write files of TensorFlow and Arrow; nothing that scores a row imports them.
WRITERS = {"schemas/tfmd.py", "schemas/encode.py", "schemas/arrow.py", "schemas/stores.py", "schemas/simulation/log.py"}
# Imports TensorFlow where it is Keras' backend.
WRITERS |= {"layers/tokens/rows.py"}


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_it_imports_neither_keras_nor_tensorflow():
    code = (
        "import sys, mixrank; from mixrank import schemas, layers, models\n"
        "print([name for name in ('keras', 'tensorflow', 'jax', 'pandas') if name in sys.modules])"
    )
    assert _python(code) == "[]"


def test_every_public_name_is_there():
    for name in mixrank.__all__:
        assert getattr(mixrank, name) is not None
    assert {"HeMix", "DLRM"} <= set(dir(mixrank.models))
    for name in dir(mixrank.models):
        assert getattr(mixrank.models, name).__name__ == name
    with pytest.raises(AttributeError, match="no model `HeMixx`"):
        _ = mixrank.models.HeMixx


def test_the_stub_of_the_models_names_those_that_exist():
    (named,) = [
        {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names} - {"Backbone"}
        for tree in [ast.parse((HOME / "models.pyi").read_text())]
    ]
    assert named <= set(dir(mixrank.models))


def test_every_class_that_a_file_may_name_has_a_stand_in():
    for name in registry.names():
        registry.load_class(name)
    importlib.import_module("mixrank.components.training.optimizing.optimizers")
    known = {name for name in keras.saving.get_custom_objects() if name.startswith("mixrank>")}
    assert len(known) > 40
    assert known <= set(stand_ins())


def test_a_preset_is_built_by_the_class():
    model = mixrank.models.HeMix.from_preset("tiny", num_layers=1)
    assert (model.dim, model.num_layers) == (32, 1)
    with pytest.raises(ValueError, match="HeMix has no preset `tini`; did you mean `tiny`"):
        mixrank.models.HeMix.from_preset("tini")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["keras", "mixrank"])
def test_keras_loads_a_file_from_before_the_package_had_one_name(first, tmp_path):
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, mixrank.layers.HeteroMixing(heads=2, rank=3)(inputs))
    model.save(tmp_path / "now.keras")
    with zipfile.ZipFile(tmp_path / "now.keras") as now, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in now.namelist():
            text = now.read(name)
            old.writestr(name, text.replace(b"mixrank.layers.mixing.", b"layers.") if name == "config.json" else text)
        assert "layers.token_mixing" in json.dumps(json.loads(old.read("config.json")))
    rows = np.random.default_rng(0).normal(size=(3, 4, 8)).astype("float32")
    np.save(tmp_path / "rows.npy", rows)
    second = {"keras": "mixrank", "mixrank": "keras"}[first]
    code = (
        f"import {first}\nimport {second}\nimport sys, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1] + '/old.keras')\n"
        "np.save(sys.argv[1] + '/found.npy', model(np.load(sys.argv[1] + '/rows.npy')))\n"
    )
    _python(code, str(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), model(rows))


def test_scoring_needs_keras_numpy_pydantic_and_lazy_loader_only():
    for path in [*(ROOT / "layers").rglob("*.py"), *(ROOT / "schemas").rglob("*.py")]:
        if path.relative_to(ROOT).as_posix() in WRITERS or path.is_relative_to(ROOT / "schemas" / "raw"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= MAY_IMPORT, f"{path}: {names}"


@pytest.mark.parametrize(
    "settings",
    [
        # Made inside the test: a metric has variables, and they start TensorFlow.
        lambda: {"loss": "binary_crossentropy"},
        lambda: {"loss": {"click": keras.losses.BinaryCrossentropy()}},
        lambda: {"loss": "mse", "metrics": {"click": [keras.metrics.AUC()]}},
        lambda: {"loss": "mse", "metrics": {"click": [keras.metrics.BinaryCrossentropy()]}},
    ],
    ids=["loss of all", "loss of a task", "metric", "metric named as a loss"],
)
def test_a_ranker_refuses_a_loss_or_metric_that_takes_probabilities(settings):
    x = keras.Input((2,), name="x")
    ranker = mixrank.Ranker({"x": x}, {"click": keras.layers.Dense(1)(x)})
    with pytest.raises(ValueError, match="outputs are logits, and `.*` takes probabilities: give it from_logits=True"):
        ranker.compile(**settings())


def test_a_ranker_takes_losses_of_logits_and_comes_back_compiled(tmp_path):
    x = keras.Input((2,), name="x")
    ranker = mixrank.Ranker({"x": x}, {"click": keras.layers.Dense(1)(x)})
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    ranker.compile("adam", loss={"click": loss}, metrics={"click": [keras.metrics.AUC(from_logits=True)]})
    found = ranker.train_on_batch({"x": np.eye(2)}, {"click": np.eye(2)[:, :1]}, return_dict=True)
    assert 0 < found["loss"] < 10
    ranker.save(tmp_path / "ranker.keras")
    loaded = keras.models.load_model(tmp_path / "ranker.keras")
    assert type(loaded) is mixrank.Ranker and loaded.loss["click"].from_logits
    assert loaded.optimizer.iterations == 1


def _snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_snippets_of_the_library_page_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = [snippet for snippet in _snippets() if "import jax" not in snippet]
    assert len(here) == 6
    found: dict = {}
    for snippet in here:
        exec(snippet, found)
    assert np.isfinite(float(found["loss"]))
    np.testing.assert_array_equal(found["same"](found["ids"])["click"], found["ranker"](found["ids"])["click"])


@pytest.mark.slow
def test_the_training_loop_on_jax_learns():
    (snippet,) = [snippet for snippet in _snippets() if "import jax" in snippet]
    told = "\nimport sys; print(losses[0], losses[-1], 'tensorflow' in sys.modules)"
    first, last, tensorflow = _python(snippet + told).split()
    assert float(last) < 0.9 * float(first) and tensorflow == "False"


def test_tensorflow_keeps_the_memory_of_freed_tensors(monkeypatch):
    import tensorflow as tf

    pages = (64 << 20) // resource.getpagesize()
    x = tf.ones((pages, resource.getpagesize() // 4))

    @tf.function
    def chain() -> tf.Tensor:
        found = x
        for step in range(8):
            found = tf.sin(found) + step
        return tf.reduce_sum(found)

    chain()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    chain()
    # The kernel gives a page at the first touch; eight sums of as many pages were made.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "false")
    keep_freed_memory()
    assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "false"
    monkeypatch.delenv("TF_CPU_ALLOCATOR_USE_BFC")
    keep_freed_memory()
    assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "true"
