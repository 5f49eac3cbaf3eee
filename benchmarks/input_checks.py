"""What the assertions of the inputs' shapes cost: a request through an export with them, next to one without.

    python benchmarks/input_checks.py                       # hemix, KuaiRand's columns
    python benchmarks/input_checks.py dcnv2 --rounds 2000

Random weights, histories of 50 events, exported and loaded into sessions as a model server does. Requests go to both
exports in turns; shown are the medians and the median of the ratios of neighbours, by the clock and by the processor
time of all threads, to which other programs add less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from rank_candidates import toy_transform, with_histories

from mixrank.components.training import vocabulary_sizes
from mixrank.layers.ranking import build_ranker
from mixrank.schemas.datasets.kuairand import SPEC
from mixrank.schemas.encode import encode
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.export import export, request_and_item, to_columns, to_request_columns


class Loaded:
    """An export in a session."""

    def __init__(self, folder: str) -> None:
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], folder).signature_def

    def asker(self, signature: str, given: dict[str, Any]) -> Any:
        found = self.signatures[signature]
        feed = {found.inputs[name].name: value for name, value in given.items()}
        return self.session.make_callable([each.name for each in found.outputs.values()], list(feed)), feed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="hemix")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 128], help="rows or candidates of a request")
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    spec = with_histories(SPEC, 50)
    with tempfile.TemporaryDirectory() as folder:
        graph = toy_transform(spec, folder)
        model = build_ranker(spec, vocabulary_sizes(spec, graph), model=options.model, preset="tiny")
        export(f"{folder}/with", spec=spec, model=model, transform_output=graph)
        with mock.patch("mixrank.serving.export.signatures.checked", lambda inputs, axes, note="": inputs):
            export(f"{folder}/without", spec=spec, model=model, transform_output=graph)
        loaded = [Loaded(f"{folder}/{which}") for which in ("with", "without")]
        print(f"{options.model}, milliseconds by the clock and of processor time, {options.rounds} rounds")
        print(f"{'signature':18}{'rows':>6}" + 2 * f"{'with':>9}{'without':>9}{'ratio':>8}")
        for number in options.rows:
            rows = list(toy_rows(spec, number, seed=5))
            split = [request_and_item(spec, row) for row in rows]
            calls = {
                "serving_default": {"examples": np.array([encode(spec, row) for row in rows], object)},
                "score_rows": to_columns(spec, rows),
                "rank_candidates": to_request_columns(spec, split[0][0], [item for _, item in split]),
            }
            for signature, given in calls.items():
                askers = [each.asker(signature, given) for each in loaded]
                times: list[list[tuple[float, float]]] = [[], []]
                answers = [ask(*feed.values()) for ask, feed in askers]
                for one, other in zip(*answers, strict=True):
                    np.testing.assert_array_equal(one, other)
                for turn in range(options.rounds):
                    for which in (0, 1) if turn % 2 else (1, 0):
                        ask, feed = askers[which]
                        began = time.perf_counter(), time.process_time()
                        ask(*feed.values())
                        times[which].append((time.perf_counter() - began[0], time.process_time() - began[1]))
                line = f"{signature:18}{number:6}"
                for clock in (0, 1):
                    one, other = ([spent[clock] for spent in each] for each in times)
                    ratio = statistics.median(a / b for a, b in zip(one, other, strict=True))
                    line += f"{1e3 * statistics.median(one):9.2f}{1e3 * statistics.median(other):9.2f}{ratio:8.3f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
