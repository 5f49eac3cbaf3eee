"""Several workers train as one; when one is killed the others say so, and all go on from the last state."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.training.batches import training_stream
from mixrank.components.training.model_factory import transformed_rows
from mixrank.components.training.settings import ModelSettings, TrainSettings
from mixrank.components.training.strategy import build_strategy, prepare_devices
from mixrank.components.training.trainer import train_model
from mixrank.components.training.workers import Workers

WORKER = Path(__file__).with_name("train_as_worker.py")
# Plain gradient descent in small steps: Adam divides tiny gradients by their own size and so blows up the last bit of a
# sum, and so do larger steps. Validation is best after the first round, so all workers stop after the third, and the
# first is exported.
TRAIN = {
    "batch_size": 150,
    "epochs": 5,
    # Nothing gains that much, so the first round stays the best.
    "early_stopping": {"metric": "loss", "patience": 2, "min_delta": 1.0},
    "optimizer": {"name": "sgd", "learning_rate": 0.02},
    "shuffle_rows": 300,
    "jit_compile": "off",
}
TWO = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


def workers_of(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    return Workers.of_environment()


def test_one_process_is_its_own_chief(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for workers in (
        Workers.of_environment(),
        workers_of(monkeypatch, ""),
        workers_of(monkeypatch, {}),
        workers_of(monkeypatch, {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}),
    ):
        assert workers.chief
        assert not workers.several
        assert workers.total(build_strategy(1), 3) == 3


def test_worker_0_is_the_chief_unless_there_is_a_task_of_that_type(monkeypatch):
    assert not workers_of(monkeypatch, TWO).chief
    assert workers_of(monkeypatch, {**TWO, "task": {"type": "worker", "index": 0}}).chief
    cluster = {"worker": ["a:1"], "chief": ["c:3"]}
    assert not workers_of(monkeypatch, {"cluster": cluster, "task": {"type": "worker", "index": 0}}).chief
    chief = workers_of(monkeypatch, {"cluster": cluster, "task": {"type": "chief", "index": 0}})
    assert (chief.chief, chief.addresses) == (True, ("c:3", "a:1"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("worker", "TF_CONFIG must be JSON with `cluster` and `task`, received 'worker'"),
        ("[]", "TF_CONFIG must be JSON with `cluster` and `task`"),
        ({**TWO, "task": {"type": "worker", "index": 2}}, "`task` must be one of its `cluster`, received .*'index': 2"),
        ({**TWO, "task": {}}, "`task` must be one of its `cluster`, received {}"),
        ({**TWO, "cluster": {**TWO["cluster"], "ps": ["c:3"]}}, "type chief and worker, received ps as well"),
    ],
)
def test_another_tf_config_is_refused(monkeypatch, config, message):
    with pytest.raises(ValueError, match=message):
        workers_of(monkeypatch, config)


def test_several_workers_are_joined_first_of_all_and_by_the_trainer_alone(monkeypatch):
    workers = workers_of(monkeypatch, TWO)
    with pytest.raises(ValueError, match="this command is for one process"):
        prepare_devices("auto")
    with pytest.raises(ValueError, match="`replicas` must be auto where TF_CONFIG names several workers, received 2"):
        build_strategy(2, workers)
    tf.constant(0)
    with pytest.raises(ValueError, match="TensorFlow must join before it does anything else"):
        build_strategy("auto", workers)


def test_the_message_names_who_has_gone_and_the_state_to_go_on_from(monkeypatch, tmp_path):
    workers = workers_of(monkeypatch, {**TWO, "task": {"type": "worker", "index": 0}})

    def fail(error):
        with workers.watched(tmp_path):
            raise error

    gone = tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:1 is down\nmore")
    with pytest.raises(RuntimeError, match=r"^worker 1 \(b:2\) no longer answers, so worker 0 .* from the beginning"):
        fail(gone)
    (tmp_path / "round-000002").mkdir()
    with pytest.raises(RuntimeError, match="Start all 2 again .* after round 2 in .*task:1 is down$"):
        fail(gone)
    with pytest.raises(tf.errors.InvalidArgumentError):
        fail(tf.errors.InvalidArgumentError(None, None, "a wrong shape"))


def test_workers_share_the_rows_of_every_batch(toy_spec, toy_data, toy_transform):
    rows = transformed_rows(toy_spec, [toy_data.patterns()["train"]], toy_transform)
    options = {"batch_size": 12, "steps_per_pass": 3, "steps": 5, "seed": 4, "shuffle_rows": 50, "first_step": 1}
    whole = [inputs["price"].numpy() for inputs, *_ in training_stream(rows, **options)]
    shares = [
        [x["price"].numpy() for x, *_ in training_stream(rows, **options, share=tf.distribute.InputContext(2, i, 4))]
        for i in range(2)
    ]
    # Four replicas on two workers: each worker has two batches of three rows per step.
    assert [len(share) for share in shares] == [8, 8]
    for step, batch in enumerate(whole):
        parts = [share[2 * step + replica] for share in shares for replica in range(2)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_a_worker_that_is_not_the_chief_ends_the_pipelines_step_without_an_export(monkeypatch):
    from mixrank.components.training.component import Executor

    seen = []
    monkeypatch.setattr("mixrank.components.training.trainer.run_fn", seen.append)
    monkeypatch.setattr(Executor, "_GetFnArgs", lambda self, inputs, outputs, properties: properties)
    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO))
    Executor().Do({}, {}, {"custom_config": json.dumps({"model": '{"name": "hemix"}'}), "preset": "tiny"})
    (properties,) = seen
    model = json.loads(json.loads(properties["custom_config"])["model"])
    assert model == {"name": "hemix", "preset": "tiny"}


@pytest.fixture(scope="module")
def arguments(toy_spec, toy_data, small_model):
    return {
        "spec": toy_spec.to_json(),
        "model": small_model,
        "train": TRAIN,
        "patterns": toy_data.patterns(),
        "graph": str(toy_data.graph),
    }


def run_two(folder, arguments, die_after=None):
    """Exit codes and output of two workers that begin together; worker 1 kills itself if told to."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{taken.getsockname()[1]}" for taken in sockets]
    for taken in sockets:
        taken.close()
    processes = []
    for index in range(2):
        file = folder / f"worker-{index}.json"
        # Worker 1 names folders of its own: it must not write there.
        places = {"run": str(folder / f"run-{index}"), "export": str(folder / f"export-{index}")}
        places["checkpoints"] = str(folder / "checkpoints")
        file.write_text(json.dumps({**arguments, **places, "die_after": die_after if index else None}))
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        root = str(Path(__file__).parents[3])
        environment = {**os.environ, "TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": root}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(WORKER), str(file)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def killed_and_resumed(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_workers")
    killed = run_two(folder, arguments, die_after=2)
    states = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return folder, killed, states, run_two(folder, arguments)


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_with_a_message(killed_and_resumed):
    folder, (codes, said), states, _ = killed_and_resumed
    assert codes == [1, -9]
    assert "WorkerLostError" in said[0]
    assert "no longer answers, so worker 0 has stopped as well. Start all 2 again" in said[0]
    assert f"from the state after round 2 in {folder / 'checkpoints'}" in said[0]
    assert states == ["best-000001", "round-000002"]


@pytest.mark.slow
def test_two_workers_killed_and_resumed_end_like_one(
    killed_and_resumed, small_model, toy_spec, toy_data, toy_transform, tmp_path, monkeypatch
):
    folder, _, _, (codes, said) = killed_and_resumed
    assert codes == [0, 0], said
    assert "resuming after round 2 of 5" in said[0]
    assert "stopping early: loss was best in round 1" in said[0]
    assert not list(folder.glob("*-1"))
    assert not (folder / "checkpoints").exists()

    monkeypatch.delenv("TF_CONFIG", raising=False)
    train_model(
        spec=toy_spec,
        model_settings=ModelSettings(**small_model),
        settings=TrainSettings(**{**TRAIN, "replicas": 1}),
        patterns=toy_data.patterns(),
        transform_output=toy_transform,
        checkpoints=tmp_path / "checkpoints",
        run_dir=tmp_path / "run",
        export_dir=tmp_path / "export",
    )
    logs = [
        [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
        for run in (folder / "run-0", tmp_path / "run")
    ]
    scores = [pd.read_parquet(run / "predictions.parquet") for run in (folder / "run-0", tmp_path / "run")]
    assert [entry["round"] for entry in logs[0]] == [1, 2, 3]
    # Two workers add the halves of a sum in another order, in float32, over 30 steps: as two replicas do.
    np.testing.assert_allclose([e["loss"] for e in logs[0]], [e["loss"] for e in logs[1]], rtol=1e-5)
    np.testing.assert_allclose(logs[0][-1]["valid"]["loss"], logs[1][-1]["valid"]["loss"], rtol=1e-5)
    np.testing.assert_allclose(scores[0]["score_click"], scores[1]["score_click"], atol=1e-4)
    loaded = tf.saved_model.load(str(folder / "export-0"))
    assert {"serving_default", "score_rows"} <= set(loaded.signatures)
