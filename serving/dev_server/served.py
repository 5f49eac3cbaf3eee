"""The versions of one model: loaded, served, unloaded, as its folder asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Condition

import tensorflow as tf

from mixrank.serving.dev_server.errors import Refused, of_tensorflow
from mixrank.serving.dev_server.loaded_model import LoadedModel
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.replay_warmup import warm_up

LOADING, AVAILABLE, UNLOADING, END = "LOADING", "AVAILABLE", "UNLOADING", "END"

# Every file's name, size and time: a version that could not be loaded is tried again once this changes.
Fingerprint = frozenset[tuple[str, int, int]]


@dataclass(frozen=True)
class VersionState:
    """What a server says of a version.

    Args:
        name: LOADING, AVAILABLE, UNLOADING or END.
        code: OK, or the gRPC status of what went wrong.
        message: what went wrong.
    """

    name: str
    code: str = "OK"
    message: str = ""


class ServedModel:
    """A model and its versions. One thread changes them, any may use them.

    Args:
        name: the model's name.
        metrics: counts loads.
        changed: notified after each change of a state.
        say: told each change that is worth a line.
    """

    def __init__(self, name: str, *, metrics: Metrics, changed: Condition, say: Callable[[str], None]) -> None:
        self.name = name
        self._metrics, self._changed, self._say = metrics, changed, say
        self._states: dict[int, VersionState] = {}
        self._loaded: dict[int, LoadedModel] = {}
        self._failed: dict[int, Fingerprint] = {}

    @property
    def states(self) -> dict[int, VersionState]:
        """Version -> state, the newest first."""
        with self._changed:
            return dict(sorted(self._states.items(), reverse=True))

    def available(self) -> dict[int, LoadedModel]:
        """The versions that answer requests."""
        with self._changed:
            return dict(self._loaded)

    def load(self, wanted: Mapping[int, Path]) -> None:
        """Loads what is wanted and not there; what has failed, only once its files have changed."""
        for version in set(self._failed) - set(wanted):
            del self._failed[version]
        for version, folder in sorted(wanted.items()):
            if version not in self._loaded and self._failed.get(version) != fingerprint(folder):
                self._load(version, folder)

    def unload(self, wanted: Collection[int]) -> None:
        """Unloads what is there and not wanted, unless nothing would be left of what is wanted."""
        if not wanted or set(wanted) & set(self._loaded):
            for version in sorted(set(self._loaded) - set(wanted)):
                self._unload(version)

    def _load(self, version: int, folder: Path) -> None:
        before, began = fingerprint(folder), time.monotonic()
        self._enter(version, VersionState(LOADING))
        try:
            model = LoadedModel(folder)
            try:
                requests = warm_up(model, folder)
            except BaseException:
                model.close()
                raise
        # Damaged files make TensorFlow and protobuf raise whatever they like.
        except Exception as error:
            refused = of_tensorflow(error) if isinstance(error, tf.errors.OpError) else error
            code = refused.code if isinstance(refused, Refused) else "UNKNOWN"
            self._failed[version] = before
            self._metrics.load(str(folder), False, time.monotonic() - began)
            self._enter(version, VersionState(END, code, str(refused) or type(refused).__name__))
            self._say(f"{self.name}: version {version} could not be loaded: {refused}")
            return
        seconds = time.monotonic() - began
        self._metrics.load(str(folder), True, seconds)
        self._failed.pop(version, None)
        with self._changed:
            self._loaded[version] = model
            self._enter(version, VersionState(AVAILABLE))
        self._say(f"{self.name}: version {version} is available ({seconds:.1f} s, {requests} warm-up requests)")

    def _unload(self, version: int) -> None:
        with self._changed:
            model = self._loaded.pop(version)
            self._enter(version, VersionState(UNLOADING))
        model.close()
        self._enter(version, VersionState(END))
        self._say(f"{self.name}: version {version} is unloaded")

    def _enter(self, version: int, state: VersionState) -> None:
        with self._changed:
            self._states[version] = state
            self._changed.notify_all()


def fingerprint(folder: Path) -> Fingerprint:
    """What changes when a file of a version does."""
    found = set()
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.add((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return frozenset(found)
