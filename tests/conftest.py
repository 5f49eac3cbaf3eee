"""Fixtures for every room: a small log, its rows before and after Transform, and a model of it, exported."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import collections
import copy
import fcntl
import gc
import re
import shutil
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest

from mixrank import schemas as s
from mixrank.schemas.synthetic import toy_rows

# Draws are the same on every run under CI; a busy machine is not a failure.
hypothesis.settings.register_profile(
    "mixrank",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mixrank")

ROWS = {"train": 1500, "valid": 130, "eval": 150}
# Reads every kind of field, and both histories from the candidate's side. A larger model takes longer to trace and load
# and says nothing else about training, exports and servers; tests/serving/export/test_every_model.py exports them all.
MODEL = {
    "name": "dlrm",
    "preset": "tiny",
    "params": {"dim": 4, "bottom_units": (8,), "top_units": (16, 8), "pooling": "target"},
}


def pytest_configure(config: pytest.Config) -> None:
    """xdist starts files in the order below, not those with the most tests first."""
    config.option.loadscopereorder = False
    # TensorFlow, TFX and Beam are a million objects, and tracing makes many more that live on: by default a tenth of
    # the time goes into looking through them again and again.
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end, so that no collection looks at it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files: what takes long comes first, so that the short rest keeps both processes at work to the end.

    The whole run is the very first, so that nobody waits for it who looks at it later. The second file makes the toy
    rows while the other process is busy for as long with what needs none. Then come the files whose few tests take
    minutes, which their number does not tell.
    """
    first = (
        "test_whole_run.py",
        "test_trainer.py",
        "test_compiled_pipeline.py",
        "test_outside_model.py",
        "test_workers.py",
        "test_run_comparison.py",
        "test_learning.py",
        "test_faults.py",
    )
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow") is not None)

    def order(item: pytest.Item) -> tuple[int, bool, int, str]:
        place = first.index(item.path.name) if item.path.name in first else len(first)
        return place, slow[item.path] == 0, -slow[item.path], str(item.path)

    items.sort(key=order)


@pytest.fixture(scope="session", autouse=True)
def two_cpu_devices(request: pytest.FixtureRequest) -> None:
    """Splits the CPU in two for mirrored training, before any other test makes TensorFlow take it whole."""
    mirrored = ("test_trainer.py", "test_training_step.py", "test_states.py", "test_kept_state.py")
    if any(item.path.name in mirrored for item in request.session.items):
        from mixrank.components.training import prepare_devices

        prepare_devices(2)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function `(name, make)`: the folder of that name, filled by `make(folder)` in the process that needs it first.

    The other processes of xdist wait until it is complete, and must not change it. What could not be made fails at once
    for each later user, with the same traceback.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, complete, failed = (common / f"{name}{ending}" for ending in ("", ".complete", ".failed"))
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if failed.exists():
                pytest.fail(f"`{name}` could not be made before:\n{failed.read_text()}", pytrace=False)
            if not complete.exists():
                # What a process that was killed left.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                try:
                    make(folder)
                except (Exception, pytest.fail.Exception):
                    failed.write_text(traceback.format_exc())
                    raise
                complete.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def toy_spec(made_once: Callable[..., Path]) -> s.FeatureSpec:
    """Every feature type once, keys of both kinds."""
    from mixrank.schemas.raw import with_side_files

    fields = ("clip", "tag", "action", "gap")
    spec = s.FeatureSpec(
        name="toy",
        user=s.Key("person"),
        item=s.Key("clip", dtype="str"),
        time=s.EventTime("at"),
        scenario=s.Scenario("page", values=("home", "search", "cart"), dim=3),
        labels=(
            s.Label("click"),
            s.Label("buy", weight=0.5, given="click", row_weight="worth", matures_after="2d"),
        ),
        features=(
            s.Categorical("person", group="user", vocab=s.Vocab(min_count=2, oov=3), dim=4),
            s.Categorical("country", group="user", dtype="str", vocab=s.Hash(size=7, functions=2), dim=2),
            s.Categorical("clip", group="item", dtype="str", vocab=s.Vocab(oov=2), dim=5, required=True),
            s.Categorical("last", group="user", dtype="str", vocab=s.Vocab(oov=2), dim=5, table="clip"),
            s.MultiCategorical("tag", group="item", max_length=3, pooling="attention", weights="tag_weight", dim=3),
            s.Numeric("price", group="item", transform="log1p_standardize"),
            s.Numeric("age", group="user", transform="bucketize", buckets=4, dim=2),
            s.Numeric("hour", group="context", transform="bucketize", edges=(1.0, 2.5, 6.0), default=3.0, dim=2),
            s.Numeric("seconds", group="item", transform="piecewise_linear", buckets=4, clip=(0.5, 9.0)),
            s.Vector("look", group="item", dim=3, normalize=True),
            s.Vector("taste", group="user", dim=2),
            s.Action("action", flags=("click", "buy"), dim=2),
            s.TimeGap("gap", dim=2),
            s.History("global", of=fields, length=6, window="before"),
            s.History("realtime", of=fields, length=4, window="within"),
            s.Match("had", of="clip", flags=("click",)),
            s.Cross("there", of=("page", "country", "clip"), group="item", vocab=s.Vocab(min_count=2, oov=3), dim=3),
            s.Expression(
                "rate", formula="price / (age + 1) - min(hour, 2)", group="item", transform="log1p_standardize"
            ),
            s.Cross("habit", of=("country", "page"), group="user", vocab=s.Hash(size=40), dim=2),
            s.Lookup("maker", of="clip", file="clips.parquet", group="item", dim=3, histories=("global",)),
            s.NumericLookup(
                "pull",
                of="person",
                file="people.csv",
                key="id",
                value="friends",
                group="user",
                transform="autodis",
                buckets=4,
                dim=3,
            ),
            s.VectorTable("words", of="clip", file="clips.parquet", group="item", dim=5, histories=("global",)),
            s.Numeric("paid", group="event", transform="log1p_standardize"),
            s.Categorical("query", group="event", dtype="str", vocab=s.Hash(size=9), dim=2),
            s.Vector("temper", group="event", dim=2),
            s.History(
                "orders", of=("clip", "price", "seconds", "paid", "gap"), length=3, window="before", events="orders"
            ),
            s.History("searches", of=("query", "look", "temper"), length=2, window="within", events="searches"),
            s.Match("bought", of="clip", histories=("orders",)),
            s.History("viewed", of=("clip", "paid"), length=3, window="within", in_row="oldest_first"),
            s.Match("viewed_it", of="clip", histories=("viewed",), recency=False),
            s.NumericLookup("weight", of="clip", file="clips.parquet", group="item", histories=("global", "viewed")),
        ),
        position=s.Position("rank", size=4, per_scenario=True),
    )
    return with_side_files(spec, str(made_once("side_files", _write_side_files)))


@pytest.fixture(scope="session")
def lean_spec(toy_spec: s.FeatureSpec) -> s.FeatureSpec:
    """The same log by fewer features, for trainings of which a test looks at nothing but their results.

    Such a model cannot be exported: the ids of `clip` come from a part of the transform graph that wants all columns.
    """
    few = ("person", "country", "clip", "tag", "price", "age", "action", "gap", "global", "realtime", "had")
    features = tuple(feature for feature in toy_spec.features if feature.name in few)
    return s.FeatureSpec(**{**dict(toy_spec), "features": features})


@pytest.fixture(scope="session")
def toy_events(toy_spec: s.FeatureSpec) -> dict[str, s.EventTable]:
    """The event tables that the toy spec's histories name; nobody reads their files."""
    named = {history.events for history in toy_spec.histories if history.events is not None}
    return {name: s.EventTable(table=s.Table(files=(f"{name}.csv",))) for name in sorted(named)}


def _write_side_files(folder: Path) -> None:
    """What the toy spec looks up; neither file knows every clip or person."""
    import pandas as pd

    rng = np.random.default_rng(5)
    clips = [f"v{number}" for number in rng.permutation(60)[:45]]
    words = [None if number % 9 == 4 else rng.normal(size=5) for number in range(len(clips))]
    makers = [None if number % 7 == 3 else f"maker {number % 5}" for number in range(len(clips))]
    weights = [None if number % 8 == 5 else number / 4 for number in range(len(clips))]
    sides = {"clip": clips, "words": words, "maker": makers, "weight": weights}
    pd.DataFrame(sides).to_parquet(folder / "clips.parquet")
    people = "\n".join(f"{number},{number * number or ''}" for number in range(0, 50, 2))
    (folder / "people.csv").write_text(f"id,friends\n{people}\n")


@pytest.fixture(scope="session")
def plain_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is no part of mixrank: the file that docs/add-a-model.md shows."""
    page = Path(__file__).parents[1] / "docs" / "add-a-model.md"
    (text,) = re.findall(r"```python\n(\"\"\"A plain network.*?)```", page.read_text(), re.DOTALL)
    file = tmp_path_factory.mktemp("outside") / "plain_network.py"
    file.write_text(text)
    return file


@pytest.fixture(scope="session")
def record_of() -> Any:
    """Makes the record of a run, with folders that may not exist; what a test is about it gives itself."""
    from mixrank.pipeline.run_record import Judgement, Rows, RunRecord

    def make(spec: s.FeatureSpec, folder: Path = Path("/nowhere"), **changes: Any) -> RunRecord:
        rows = Rows(
            examples=changes.pop("examples", folder / "examples"),
            statistics=changes.pop("statistics", folder / "statistics"),
            transformed=changes.pop("transformed", folder / "transformed"),
            transform_graph=changes.pop("transform_graph", folder / "graph"),
        )
        usual = {
            "name": spec.name,
            "dataset": spec.name,
            "config": {},
            "spec": spec,
            "splits": ("train",),
            "started": datetime(2024, 5, 1, 10),
            "finished": datetime(2024, 5, 1, 10, 2),
            "seconds": {"ExampleGen": 12.5, "Trainer": 75.25},
            "rows": rows,
            "baselines": folder / "baselines",
            "model_run": folder / "model_run",
            "export": folder / "export",
            "judgement": Judgement(evaluation=folder / "evaluation"),
        }
        return RunRecord(**usual | changes)

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 in a process of its own: its address."""
    log = tmp_path_factory.mktemp("s3") / "log.txt"
    with log.open("w") as file:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield found[0]
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_options(s3_server: str) -> Iterator[tuple[str, ...]]:
    """Options of Beam for that server; what they leave out is in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("STORE_ID", "somebody")
        patch.setenv("STORE_KEY", "somebody's key")
        yield (
            f"--s3_endpoint_url={s3_server}",
            "--s3_region_name=eu-west-1",
            "--s3_access_key_id=env:STORE_ID",
            "--s3_secret_access_key=env:STORE_KEY",
        )


@pytest.fixture
def bucket(s3_options: tuple[str, ...], request: pytest.FixtureRequest) -> str:
    """Address of an empty bucket, for which this process has the key."""
    return _new_bucket(s3_options, f"test-{zlib.crc32(request.node.nodeid.encode())}")


@pytest.fixture(scope="session")
def s3_bucket(s3_options: tuple[str, ...]) -> str:
    """Address of a bucket for whole runs."""
    return _new_bucket(s3_options, "whole-runs")


def _new_bucket(options: tuple[str, ...], name: str) -> str:
    from mixrank.pipeline.named_secrets import resolve
    from mixrank.schemas import stores

    stores.configure(resolve(options))
    address = f"s3://{name}"
    client, path = stores._client(address)
    client.mkdir(path)
    return address


@dataclass(frozen=True)
class ToyData:
    """Rows of the toy log, raw and transformed.

    Args:
        rows: split -> rows.
        examples: folder with `Split-*/` of raw tf.Examples.
        transformed: folder with `Split-*/` of transformed tf.Examples.
        graph: folder of the transform graph.
    """

    rows: dict[str, list[dict[str, Any]]]
    examples: Path
    transformed: Path
    graph: Path

    def patterns(self) -> dict[str, str]:
        return {split: str(self.transformed / f"Split-{split}" / "*") for split in self.rows}


@pytest.fixture(scope="session")
def toy_data(toy_spec: s.FeatureSpec, made_once: Callable[..., Path]) -> ToyData:
    """Toy rows, written and sent through the real Transform code on Beam."""
    rows = {split: list(toy_rows(toy_spec, n, seed=number)) for number, (split, n) in enumerate(ROWS.items())}
    root = made_once("toy", lambda folder: _transform(toy_spec, rows, folder))
    return ToyData(rows, root / "examples", root / "transformed", root / "graph")


def _transform(spec: s.FeatureSpec, rows: dict[str, list[dict[str, Any]]], root: Path) -> None:
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from mixrank.components.transform import transform
    from mixrank.schemas.encode import encode
    from mixrank.schemas.tfmd import schema

    for split, part in rows.items():
        folder = root / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data.gz"), "GZIP") as writer:
            for row in part:
                writer.write(encode(spec, row))

    def source(split: str) -> Any:
        pattern = str(root / "examples" / f"Split-{split}" / "*")
        return tfxio.TFExampleRecord(pattern, schema=schema(spec), telemetry_descriptors=["test"])

    def preprocessing_fn(inputs: Any) -> Any:
        return transform(spec, inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            beam.Pipeline("FnApiRunner") as pipeline,
            tft_beam.Context(temp_dir=str(root / "tmp"), use_deep_copy_optimization=True),
        ):
            train = source("train")
            data = (pipeline | "Read train" >> train.BeamSource(), train.TensorAdapterConfig())
            transform_fn = data | "Analyze" >> tft_beam.AnalyzeDataset(preprocessing_fn)
            _ = transform_fn | "Write graph" >> tft_beam.WriteTransformFn(str(root / "graph"))
            for split in rows:
                one = source(split)
                raw = (pipeline | f"Read {split} again" >> one.BeamSource(), one.TensorAdapterConfig())
                _ = (
                    (raw, transform_fn)
                    | f"Transform {split}" >> tft_beam.TransformDataset(output_record_batches=False)
                    | f"Encode {split}" >> tft_beam.EncodeTransformedDataset()
                    | f"Write {split}"
                    >> beam.io.WriteToTFRecord(
                        str(root / "transformed" / f"Split-{split}" / "data"),
                        file_name_suffix=".gz",
                        num_shards=1,
                    )
                )


@pytest.fixture(scope="session")
def toy_transform(toy_data: ToyData) -> Any:
    """`TFTransformOutput` of the toy rows."""
    import tensorflow_transform as tft

    return tft.TFTransformOutput(str(toy_data.graph))


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function `(base, version, factor=2.0, tasks=("click", "buy"))` that writes a small SavedModel as a version.

    `serving_default` answers `y = factor * x` and refuses negative numbers; `words` echoes text under two names;
    `score_rows` and `rank_candidates` answer `click = factor * x` and `buy = 1 - click`, as far as they are tasks.
    """
    import tensorflow as tf

    from mixrank.serving.base import write_sums

    saved: dict[Any, Path] = {}

    class Tiny(tf.Module):
        def __init__(self, factor: float, tasks: tuple[str, ...]) -> None:
            super().__init__()
            self.factor, self.tasks = tf.Variable(factor), tasks

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def default(self, x: Any) -> Any:
            with tf.control_dependencies([tf.debugging.assert_non_negative(x, message="x must not be negative")]):
                return {"y": self.factor * x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def words(self, word: Any) -> Any:
            return {"text": word, "raw_bytes": word}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.string, "page")])
        def score_rows(self, x: Any, page: Any) -> Any:
            click = self.factor * x[:, tf.newaxis]
            return {task: {"click": click, "buy": 1 - click}[task] for task in self.tasks}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([], tf.int64, "user")])
        def rank_candidates(self, x: Any, user: Any) -> Any:
            return self.score_rows(x, tf.constant([""]))

    def write(base: Path, version: int, *, factor: float = 2.0, tasks: tuple[str, ...] = ("click", "buy")) -> Path:
        if (factor, tasks) not in saved:
            tiny, folder = Tiny(factor, tasks), tmp_path_factory.mktemp("tiny")
            names = ("words", "score_rows", "rank_candidates")
            signatures = {"serving_default": tiny.default} | {name: getattr(tiny, name) for name in names}
            tf.saved_model.save(tiny, str(folder), signatures=signatures)
            write_sums(folder)
            saved[factor, tasks] = folder
        base.mkdir(exist_ok=True)
        temporary = base / f".{version}.partial"
        shutil.copytree(saved[factor, tasks], temporary)
        return temporary.rename(base / str(version))

    return write


@pytest.fixture(scope="session")
def tiny_server(save_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The development server with the model `tiny`, whose click is a tenth of x.

    Version 12 answers where none is named; 7 is broken; 3 is `stable`, its click a fifth of x and its only task.
    """
    from mixrank.serving import model_config
    from mixrank.serving.dev_server import running

    base = tmp_path_factory.mktemp("tiny_server") / "tiny"
    save_tiny(base, 3, factor=0.2, tasks=("click",))
    save_tiny(base, 7)
    (base / "7" / "saved_model.pb").write_bytes(b"no graph")
    save_tiny(base, 12, factor=0.1)
    config = model_config.new()
    model_config.pin(model_config.add(config, "tiny", str(base)), {3, 7, 12}, {"stable": 3})
    model_config.write(base / "models.config", config)
    with running(base / "models.config") as server:
        yield server


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Requests to development servers of this process: `seen` has the inputs of every request.

    `answer`, where a test sets it, gets the inputs and answers in the model's place: outputs, or a `Refused`.
    """
    from mixrank.serving.dev_server.loaded_model import LoadedModel

    run, about = LoadedModel.run, SimpleNamespace(seen=[], answer=None)

    def plain(value: np.ndarray) -> Any:
        return np.vectorize(bytes.decode, otypes=[object])(value).tolist() if value.dtype == object else value.tolist()

    def watched(self: Any, signature: Any, inputs: Any, outputs: Any = ()) -> Any:
        about.seen.append({name: plain(value) for name, value in inputs.items()})
        if about.answer is None:
            return run(self, signature, inputs, outputs)
        return {name: np.asarray(value) for name, value in about.answer(about.seen[-1]).items()}

    monkeypatch.setattr(LoadedModel, "run", watched)
    return about


@pytest.fixture(scope="session")
def one_block() -> Callable[[str], dict[str, int]]:
    """A function `(model)`: the parameters that leave a model one of its equal blocks, which is traced in less time."""
    from mixrank.layers import registry

    def params(model: str) -> dict[str, int]:
        return {"num_layers": 1} if any(each.name == "num_layers" for each in registry.parameters(model)) else {}

    return params


@pytest.fixture(scope="session")
def small_model() -> dict[str, Any]:
    """Name, preset and parameters of a model for tests of what is around a model."""
    return copy.deepcopy(MODEL)


@pytest.fixture(scope="session")
def build_small(toy_spec: s.FeatureSpec, small_model: dict[str, Any]) -> Callable[..., Any]:
    """A function `(sizes, **options)` that builds it for the toy log."""
    from mixrank.layers.ranking import build_ranker

    model, preset, params = (small_model[key] for key in ("name", "preset", "params"))
    return lambda sizes, **options: build_ranker(toy_spec, sizes, model, params, preset, **options)


@pytest.fixture(scope="session")
def toy_export(
    toy_spec: Any, toy_transform: Any, build_small: Callable[..., Any], made_once: Callable[..., Path]
) -> SimpleNamespace:
    """A DLRM with random weights, biases included.

    `model` is the Keras model, `base` a folder of versions as a model server reads it, `folder` its only version, 1,
    `loaded` that version and `signatures` its signatures.
    """
    import tensorflow as tf

    from mixrank.components.training import vocabulary_sizes
    from mixrank.serving.export import export

    model = build_small(vocabulary_sizes(toy_spec, toy_transform), seed=3)

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        model.set_weights([w + rng.normal(scale=0.2, size=w.shape).astype(w.dtype) for w in model.get_weights()])
        model.save_weights(folder / "model.weights.h5")
        (folder / "toy").mkdir()
        note = {"note": "untrained"}
        export(folder / "toy" / "1", spec=toy_spec, model=model, transform_output=toy_transform, metadata=note)

    served = made_once("served", write)
    model.load_weights(served / "model.weights.h5")
    base = served / "toy"
    loaded = tf.saved_model.load(str(base / "1"))
    return SimpleNamespace(model=model, base=base, folder=base / "1", loaded=loaded, signatures=loaded.signatures)


@pytest.fixture(scope="session")
def toy_scores(toy_export: SimpleNamespace, toy_spec: Any, toy_data: Any, toy_transform: Any) -> dict[str, np.ndarray]:
    """Task -> `(rows, 1)` probabilities of the evaluation rows, by the Keras model on rows that Beam transformed."""
    import tensorflow as tf

    from mixrank.components.transform import KEYS

    files = tf.io.gfile.glob(toy_data.patterns()["eval"])
    (records,) = tf.data.TFRecordDataset(files, "GZIP").batch(1000)
    columns = tf.io.parse_example(records, toy_transform.transformed_feature_spec())
    logits = toy_export.model({name: columns[name] for name in toy_export.model.input}, training=False)
    order = np.argsort(columns[KEYS["time"]].numpy())
    return {task: tf.sigmoid(logits[task]).numpy()[order].reshape(-1, 1) for task in toy_spec.tasks}


@pytest.fixture(scope="session")
def transform_log() -> Callable[[s.FeatureSpec, dict[str, list[dict[str, Any]]], Path], None]:
    """A function `(spec, rows by split, folder)` that writes the rows and sends them through the real Transform."""
    return _transform
