"""One request with N candidates through `rank_candidates`, next to the same N rows through `score_rows`.

    python benchmarks/rank_candidates.py                                     # every model, tiny
    python benchmarks/rank_candidates.py --check                             # 512 candidates; exits with 1 below a bar
    python benchmarks/rank_candidates.py hemix mixformer --sizes small --rounds 3
    python benchmarks/rank_candidates.py hemix --run runs/kuairand           # vocabularies and lengths of a run
    python benchmarks/rank_candidates.py mixformer --sizes small --count     # operations only, nothing is exported

Random weights on KuaiRand's columns with full histories, exported and loaded again; a time is that of a whole call of
the signature, parsing of the columns and Transform included. Both signatures are called in turn, and the shortest and
the median of the rounds are shown, because other programs only ever add to a time; then the least processor time, to
which they do not add; then median and 99th percentile of further calls of `rank_candidates` alone. `score_rows` gets at
most --batch rows per call, as behind a server with a largest batch; its time is the sum. Beside the measured ratio
stands the one that operations predict: matrix products of both graphs, 2 operations per multiply-add. Without --run,
Transform's vocabularies are those of toy rows.

The bar: 512 candidates cost at most a third of 512 rows, by the shortest times. The last line holds the ratios at the
last number of candidates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training import vocabulary_sizes
from mixrank.layers import registry
from mixrank.layers.ranking import build_ranker, request_ranker
from mixrank.schemas import FeatureSpec, History
from mixrank.schemas.datasets.kuairand import SPEC
from mixrank.schemas.encode import columns
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.export import export, request_and_item, to_columns, to_request_columns

# Time of the rows over that of as many candidates, at this number of them.
BAR, BAR_CANDIDATES = 3.0, 512


def with_histories(spec: FeatureSpec, length: int) -> FeatureSpec:
    """The spec with `length` events in each history."""
    features = (f.model_copy(update={"length": length}) if isinstance(f, History) else f for f in spec.features)
    return FeatureSpec(**{**dict(spec), "features": tuple(features)})


def toy_transform(spec: FeatureSpec, folder: str) -> tft.TFTransformOutput:
    """Transform's graph with the vocabularies of toy rows."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from mixrank.components.transform import transform
    from mixrank.schemas.encode import encode
    from mixrank.schemas.tfmd import schema

    with tf.io.TFRecordWriter(f"{folder}/rows") as writer:
        for row in toy_rows(spec, 500):
            writer.write(encode(spec, row))
    source = tfxio.TFExampleRecord(f"{folder}/rows", schema=schema(spec), telemetry_descriptors=["benchmark"])
    with beam.Pipeline("FnApiRunner") as pipeline, tft_beam.Context(temp_dir=f"{folder}/tmp"):
        data = (pipeline | source.BeamSource(), source.TensorAdapterConfig())
        found = data | tft_beam.AnalyzeDataset(lambda inputs: transform(spec, inputs))
        _ = found | tft_beam.WriteTransformFn(f"{folder}/graph")
    return tft.TFTransformOutput(f"{folder}/graph")


def of_run(run: Path) -> tuple[FeatureSpec, tft.TFTransformOutput]:
    """Spec and Transform's graph of a finished run."""
    graphs = sorted(run.glob("artifacts/Transform/transform_graph/*"), key=lambda path: int(path.name))
    exports = sorted(run.glob("serving/*/*/assets.extra/mixrank.json"))
    if not graphs or not exports:
        raise ValueError(f"`--run` {run} must be a finished run; it has no Transform graph or no pushed model")
    spec = FeatureSpec.model_validate(json.loads(exports[-1].read_text())["spec"])
    return spec, tft.TFTransformOutput(str(graphs[-1]))


def calls(spec: FeatureSpec, candidates: int, batch: int) -> dict[str, list[dict[str, tf.Tensor]]]:
    """Inputs of each call of both signatures: one user with full histories and `candidates` items."""
    rows = list(toy_rows(spec, candidates + 1, seed=5))
    items = [request_and_item(spec, row)[1] for row in rows[1:]]
    request = request_and_item(spec, rows[0])[0]
    rng = np.random.default_rng(0)
    for column in columns(spec):
        if column.history is not None:
            seen = [value for row in rows for value in row[column.name]] or [1]
            request[column.name] = [seen[i] for i in rng.integers(0, len(seen), column.length)]
    dense = to_columns(spec, [request | item for item in items])
    parts = [{n: x[at : at + batch] for n, x in dense.items()} for at in range(0, candidates, batch)]
    found = {"score_rows": parts, "rank_candidates": [to_request_columns(spec, request, items)]}
    return {name: [{n: tf.constant(x) for n, x in part.items()} for part in each] for name, each in found.items()}


def products(model: Any, size: int) -> int:
    """Operations of the matrix products of a ranker for `size` rows or candidates."""
    shapes = {
        name: tf.TensorSpec((tensor.shape[0] or size, *tensor.shape[1:]), tensor.dtype)
        for name, tensor in model.input.items()
    }
    graph = tf.function(lambda given: model(given, training=False), autograph=False).get_concrete_function(shapes).graph
    total = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += 2 * op.inputs[0].shape[-2 if transposed else -1] * op.outputs[0].shape.num_elements()
    return total


def seconds(signatures: Any, given: dict[str, list], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time and processor time of both signatures in turn, after one round that compares the answers."""

    def run(name: str) -> np.ndarray:
        answers = [signatures[name](**part) for part in given[name]]
        return np.concatenate([np.stack([a.numpy() for a in answer.values()]) for answer in answers], axis=1)

    np.testing.assert_allclose(*(run(name) for name in given), atol=1e-5)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in given}
    for _ in range(rounds):
        for name, spent in times.items():
            began = time.perf_counter(), time.process_time()
            run(name)
            spent.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return times


def percentiles(signature: Any, given: dict[str, tf.Tensor], number: int) -> tuple[float, float]:
    """Median and 99th percentile of the milliseconds of some calls."""
    spent = []
    for _ in range(number):
        began = time.perf_counter()
        for answer in signature(**given).values():
            answer.numpy()
        spent.append(1e3 * (time.perf_counter() - began))
    half, most = np.percentile(spent, [50, 99])
    return float(half), float(most)


def shown(times: dict[str, list[tuple[float, float]]], clock: int, statistic: Callable[[list[float]], float]) -> str:
    """Milliseconds of both signatures by one of the clocks, and their ratio."""
    rows, ranked = (
        1e3 * statistic([spent[clock] for spent in times[name]]) for name in ("score_rows", "rank_candidates")
    )
    return f"{rows:10.1f}{ranked:9.1f}{rows / ranked:7.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names; all if left out")
    parser.add_argument("--sizes", nargs="+", default=["tiny"], help="presets")
    parser.add_argument("--candidates", nargs="+", type=int, help="1, 16, 64, 256 and 512 if left out")
    parser.add_argument("--length", type=int, default=100, help="events in each history")
    parser.add_argument("--batch", type=int, default=128, help="most rows in one call of score_rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=100, help="calls that the percentiles are taken from")
    parser.add_argument("--run", type=Path, help="folder of a finished run, which then decides the length too")
    parser.add_argument("--count", action="store_true", help="operations only")
    parser.add_argument(
        "--check", action="store_true", help=f"only {BAR_CANDIDATES} candidates; exit with 1 where the bar is missed"
    )
    options = parser.parse_args()
    if options.check and (options.count or options.candidates):
        parser.error(f"--check measures {BAR_CANDIDATES} candidates: leave --count and --candidates out")
    numbers = options.candidates or ([BAR_CANDIDATES] if options.check else [1, 16, 64, 256, BAR_CANDIDATES])
    ratios: dict[str, float] = {}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if options.run:
            spec, graph = of_run(options.run)
        else:
            spec = with_histories(SPEC, options.length)
            graph = toy_transform(spec, folder)
        lengths = ", ".join(f"{history.name} {history.length}" for history in spec.histories)
        print(f"events: {lengths}; {options.rounds} rounds; milliseconds, score_rows / rank_candidates")
        print(
            f"{'model':12}{'size':>7}{'N':>5}{'GFLOP':>9}{'GFLOP':>9}{'ratio':>7}"
            + f"{'shortest':>26}{'median':>26}{'processor':>26}{'p50':>9}{'p99':>9}"
        )
        for size in options.sizes:
            for name in options.models or registry.names():
                model = build_ranker(spec, vocabulary_sizes(spec, graph), model=name, preset=size)
                by_request, signatures = request_ranker(spec, model), None
                if not options.count:
                    target = f"{folder}/{name}-{size}"
                    export(target, spec=spec, model=model, transform_output=graph)
                    loaded = tf.saved_model.load(target)
                    signatures = loaded.signatures
                for number in numbers:
                    flops = [products(model, number), products(by_request, number)]
                    line = f"{name:12}{size:>7}{number:5}{flops[0] / 1e9:9.2f}{flops[1] / 1e9:9.2f}"
                    line += f"{flops[0] / flops[1]:7.2f}"
                    if signatures is not None:
                        given = calls(spec, number, options.batch)
                        times = seconds(signatures, given, options.rounds)
                        line += shown(times, 0, min) + shown(times, 0, statistics.median) + shown(times, 1, min)
                        (request,) = given["rank_candidates"]
                        half, most = percentiles(signatures["rank_candidates"], request, options.calls)
                        line += f"{half:9.1f}{most:9.1f}"
                        least = {each: min(spent[0] for spent in times[each]) for each in times}
                        ratios[f"{name}_{size}"] = float(f"{least['score_rows'] / least['rank_candidates']:.3g}")
                    print(line, flush=True)
    print(json.dumps(ratios))
    missed = [name for name, value in ratios.items() if value < BAR]
    if options.check and missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
