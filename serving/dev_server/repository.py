"""All models of a server: which versions they should have, and which one answers a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixrank.serving import model_config
from mixrank.serving.base import versions
from mixrank.serving.dev_server.errors import Refused, invalid
from mixrank.serving.dev_server.loaded_model import LoadedModel
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.served import AVAILABLE, END, ServedModel, VersionState
from mixrank.serving.rollout import served


class Repository:
    """Follows folders of versions, and a models.config if there is one.

    Args:
        models: name -> folder of versions, of which the newest is served, or one version; or a models.config.
        metrics: counts loads.
        poll_seconds: between two looks at the folders.
        say: told each change that is worth a line.

    Raises:
        ValueError: if a folder holds no version, or the models.config is not there or not valid, or names no model.
    """

    def __init__(
        self,
        models: Mapping[str, Path] | Path,
        *,
        metrics: Metrics,
        poll_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._file = models if isinstance(models, Path) else None
        self._text: str | None = None
        self._metrics, self._poll_seconds, self._say = metrics, poll_seconds, say
        self._changed = threading.Condition(threading.RLock())
        self._following, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._poll, name="mixrank-versions", daemon=True)
        self._served: dict[str, ServedModel] = {}
        self._labels: dict[tuple[str, str], int] = {}
        if isinstance(models, Path):
            self._text = _read(models)
            self._config = _parse(self._text, models)
        else:
            self._config = _config_of(models)

    @property
    def served(self) -> dict[str, ServedModel]:
        """Name -> model."""
        with self._changed:
            return dict(self._served)

    @property
    def labels(self) -> dict[tuple[str, str], int]:
        """Model and label -> version."""
        with self._changed:
            return dict(self._labels)

    def start(self) -> None:
        """Loads all models, then follows their folders in a thread.

        Raises:
            ValueError: naming a model that has no version, or none that can be loaded.
        """
        self.look()
        for entry in self._config.model_config_list.config:
            model = self.served[entry.name]
            if not model.available():
                failed = [f"version {version}: {state.message}" for version, state in model.states.items()]
                self.stop()
                raise ValueError(
                    f"model `{entry.name}`: no version of {entry.base_path} could be loaded; "
                    f"{'; '.join(failed) or 'it holds none'}"
                )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and unloads all models after their last request."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        for model in self.served.values():
            model.unload({})

    def look(self) -> None:
        """Does what the folders and the models.config ask for now."""
        with self._following:
            self._read_again()
            config = self._config
            wanted = {entry.name: _wanted(entry) for entry in config.model_config_list.config}
            for name, found in wanted.items():
                with self._changed:
                    if name not in self._served:
                        self._served[name] = ServedModel(
                            name, metrics=self._metrics, changed=self._changed, say=self._say
                        )
                self._served[name].load(found)
            # Between the two, so that no label names a version that is gone.
            self._set_labels(config)
            for name, model in self.served.items():
                model.unload(wanted.get(name, {}))

    def reload(self, config: Any) -> None:
        """Replaces the configuration, as TensorFlow Serving's ReloadConfig request does.

        Raises:
            Refused: INVALID_ARGUMENT if it is not valid, FAILED_PRECONDITION for a label of a version that is not
                AVAILABLE.
        """
        try:
            model_config.check(config, "the configuration")
        except ValueError as error:
            raise invalid(str(error)) from None
        for entry in config.model_config_list.config:
            model = self.served.get(entry.name)
            loaded = model.available() if model is not None else {}
            for label, version in entry.version_labels.items():
                if version not in loaded:
                    raise Refused(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {version} of model {entry.name} with label {label}, "
                        f"which is not currently available for inference",
                    )
        with self._following:
            self._config = config
        with self._changed:
            self._set_labels(config)

    @contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[tuple[int, LoadedModel]]:
        """The version that answers a request, kept loaded meanwhile: the newest unless one is named.

        Raises:
            Refused: NOT_FOUND for an unknown model or version, INVALID_ARGUMENT for an unknown label or no model name.
        """
        if not name:
            raise invalid("ModelSpec has no name specified.")
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        with self._changed:
            if label is not None and name in self._served:
                version = self._labels.get((name, label))
                if version is None:
                    raise invalid(f"Unrecognized servable version label: {label}")
            model = self._served.get(name)
            loaded = model.available() if model is not None else {}
            chosen = max(loaded, default=None) if version is None else version
            if chosen is None or chosen not in loaded:
                raise Refused("NOT_FOUND", f"Servable not found for request: {wanted}")
            # Entered under the lock that an unload takes first.
            using = loaded[chosen].in_use()
            using.__enter__()
        try:
            yield chosen, loaded[chosen]
        finally:
            using.__exit__(None, None, None)

    def states(self, name: str, version: int | None = None) -> dict[int, VersionState]:
        """Version -> state of a model, or of one of its versions.

        Raises:
            Refused: NOT_FOUND if there is none.
        """
        model = self.served.get(name)
        found = {} if model is None else model.states
        if version is not None:
            if version not in found:
                raise Refused("NOT_FOUND", f"Could not find version {version} of model {name}")
            return {version: found[version]}
        if not found:
            raise Refused("NOT_FOUND", f"Could not find any versions of model {name}")
        return found

    def wait_for(self, name: str, version: int, state: str, seconds: float) -> VersionState:
        """Waits until a version is in a state.

        Raises:
            TimeoutError: if that takes longer; ValueError if it can no longer happen, since the version ended.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                model = self._served.get(name)
                found = model.states.get(version, VersionState("UNKNOWN")) if model else VersionState("UNKNOWN")
                if found.name == state:
                    return found
                if found.name == END and found.message and state == AVAILABLE:
                    raise ValueError(f"version {version} of `{name}` could not be loaded: {found.message}")
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"version {version} of `{name}` is {found.name} after {seconds:g} s, not {state}"
                    )

    def _poll(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            try:
                self.look()
            except OSError as error:
                self._say(f"cannot look at the folders: {error}")

    def _read_again(self) -> None:
        if self._file is None:
            return
        try:
            text = _read(self._file)
            if text != self._text:
                self._text = text
                self._config = _parse(text, self._file)
                self._say(f"{self._file} has changed")
        except ValueError as error:
            self._say(f"the old configuration stays: {error}")

    def _set_labels(self, config: Any) -> None:
        labels = {}
        for entry in config.model_config_list.config:
            model = self.served.get(entry.name)
            loaded = model.available() if model is not None else {}
            for label, version in entry.version_labels.items():
                key = (entry.name, label)
                # A label waits at its old version until the new one is there.
                target = version if version in loaded else self._labels.get(key)
                if target is not None:
                    labels[key] = target
        with self._changed:
            self._labels = labels


def _config_of(models: Mapping[str, Path]) -> Any:
    config = model_config.new()
    for name, folder in models.items():
        model = served(folder, name)
        entry = model_config.add(config, name, str(model.base))
        if model.version is not None:
            model_config.pin(entry, {model.version}, {})
    model_config.check(config, "the server")
    return config


def _parse(text: str, file: Path) -> Any:
    config = model_config.parse(text, str(file))
    if not config.model_config_list.config:
        # As one that is just being written does.
        raise ValueError(f"{file} names no model")
    return config


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None


def _wanted(entry: Any) -> dict[int, Path]:
    """Version -> folder, for the versions that an entry of a models.config asks for and that are there as a whole."""
    found = {
        version: folder
        for version, folder in versions(Path(entry.base_path)).items()
        if (folder / "saved_model.pb").is_file() or (folder / "saved_model.pbtxt").is_file()
    }
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return {version: found[version] for version in policy.specific.versions if version in found}
    if choice == "all":
        return found
    newest = sorted(found)[-(policy.latest.num_versions or 1) :]
    return {version: found[version] for version in newest}
