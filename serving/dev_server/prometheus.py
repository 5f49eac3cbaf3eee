"""Prometheus metrics under the names that TensorFlow Serving exports."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

# Microseconds; TensorFlow Serving's buckets.
BUCKETS = [10 * 1.8**power for power in range(33)]
# What the library adds to counters, and TensorFlow Serving does not.
_CREATED = re.compile(r"^(# \w+ )?[\w:]+_created\b.*\n", re.MULTILINE)
_TOTAL = re.compile(r"^((?:# \w+ )?:tensorflow:[\w:]+)_total\b", re.MULTILINE)


@dataclass
class Tally:
    """Requests of a model, for the status page.

    Args:
        requests: how many.
        refused: how many of them were not answered with predictions.
        microseconds: spent on all of them.
    """

    requests: int = 0
    refused: int = 0
    microseconds: float = 0.0


class Metrics:
    """What a server counts; each has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._requests = self._counter("serving:request_count", "Requests.", "model_name", "status")
        self._request = self._histogram("serving:request_latency", "Whole request.", "model_name", "API", "entrypoint")
        self._runtime = self._histogram("serving:runtime_latency", "In TensorFlow.", "model_name", "API", "runtime")
        self._loads = self._counter("cc:saved_model:load_attempt_count", "Versions loaded.", "model_path", "status")
        self._load = self._counter("cc:saved_model:load_latency", "Microseconds of loading.", "model_path")

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(model, status).inc()
        self._request.labels(model, api, entrypoint).observe(seconds * 1e6)
        tally = self.tallies[model]
        tally.requests += 1
        tally.refused += status != "OK"
        tally.microseconds += seconds * 1e6

    def runtime(self, model: str, seconds: float) -> None:
        """Counts the time that a request spent in TensorFlow, waiting for its batch included."""
        self._runtime.labels(model, "Predict", "TF1").observe(seconds * 1e6)

    def load(self, path: str, succeeded: bool, seconds: float) -> None:
        """Counts an attempt to load a version."""
        self._loads.labels(path, "success" if succeeded else "fail").inc()
        if succeeded:
            self._load.labels(path).inc(seconds * 1e6)

    def text(self) -> str:
        """What Prometheus reads."""
        return _TOTAL.sub(r"\1", _CREATED.sub("", generate_latest(self.registry).decode()))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f":tensorflow:{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(f":tensorflow:{name}", meaning, labels, registry=self.registry, buckets=BUCKETS)
