"""The models of a server: their versions, and the choice of the version that answers a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixrank.serving import model_config
from mixrank.serving.base import versions
from mixrank.serving.dev_server.errors import Refused
from mixrank.serving.rollout import served

if TYPE_CHECKING:
    from mixrank.serving.dev_server.loaded_model import LoadedModel

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"


@dataclass(frozen=True)
class Version:
    """A version that a server knows.

    Args:
        state: LOADING, AVAILABLE or END.
        model: the loaded model, if AVAILABLE.
        message: the error, if it could not be loaded.
    """

    state: str
    model: LoadedModel | None = None
    message: str = ""


class Repository:
    """Follows folders of versions, and a models.config if there is one.

    One thread updates and any thread may read, because every change replaces the inner mapping.

    Args:
        models: name -> folder of versions (the newest is served) or one version; or a models.config.
        load: loads a version's folder as a model.
        say: called with a line for each change.

    Raises:
        ValueError: if a folder holds no version, or the models.config is not valid.
    """

    def __init__(
        self,
        models: Mapping[str, Path] | Path,
        *,
        load: Callable[[Path], LoadedModel],
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._load_model, self._say = load, say
        self._file = models if isinstance(models, Path) else None
        self._config = model_config.read(models) if isinstance(models, Path) else _config_of(models)
        # Model -> number -> version.
        self.models: dict[str, dict[int, Version]] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def start(self) -> None:
        """Loads all models.

        Raises:
            ValueError: naming a model that has no version, or none that can be loaded.
        """
        self.look()
        for entry in self._config.model_config_list.config:
            found = self.models.get(entry.name, {})
            if not _available(found):
                failed = "; ".join(f"version {number}: {each.message}" for number, each in found.items())
                raise ValueError(f"no version of model `{entry.name}` could be loaded; {failed or 'there is none'}")

    def look(self) -> None:
        """Follows the current folders and models.config: loads, unloads, then moves labels."""
        if self._file is not None:
            try:
                self._config = model_config.read(self._file)
            except ValueError as error:
                self._say(f"the old configuration stays: {error}")
        entries = {entry.name: entry for entry in self._config.model_config_list.config}
        for name in {**self.models, **entries}:
            self._follow(name, _wanted(entries[name]) if name in entries else {})
        self._move_labels({name: dict(entry.version_labels) for name, entry in entries.items()})

    def find(self, name: str, version: int | None = None, label: str | None = None) -> tuple[int, LoadedModel]:
        """The version that answers a request: the newest unless one is named.

        Raises:
            Refused: NOT_FOUND for an unknown model or version, INVALID_ARGUMENT for an unknown label or no model name.
        """
        if not name:
            raise Refused("ModelSpec has no name specified.")
        available = _available(self.models.get(name, {}))
        if label is not None and name in self.models:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise Refused(f"Unrecognized servable version label: {label}")
        chosen = max(available, default=None) if version is None else version
        if chosen is None or chosen not in available:
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Refused(f"Servable not found for request: {wanted}", "NOT_FOUND")
        return chosen, available[chosen]

    def states(self, name: str, version: int | None = None) -> dict[int, Version]:
        """The versions of a model, newest first, or one of them.

        Raises:
            Refused: NOT_FOUND if there is none.
        """
        found = self.models.get(name, {})
        if version is not None:
            found = {version: found[version]} if version in found else {}
        if not found:
            which = "any versions" if version is None else f"version {version}"
            raise Refused(f"Could not find {which} of model {name}", "NOT_FOUND")
        return dict(sorted(found.items(), reverse=True))

    def _follow(self, name: str, wanted: Mapping[int, Path]) -> None:
        """Loads the wanted versions, then drops the others, unless none of the wanted ones would be left."""
        for number, folder in wanted.items():
            before = self.models.get(name, {}).get(number, Version(END))
            if before.state == END and not before.message:
                self._load(name, number, folder)
        found = self.models.get(name, {})
        replaced = not wanted or bool(set(wanted) & set(_available(found)))
        for number, version in found.items():
            if number in wanted:
                continue
            if version.message:
                # It failed earlier; when it is wanted again, it gets another try.
                self._enter(name, number, Version(END))
            elif version.model and replaced:
                self._enter(name, number, Version(END))
                self._say(f"{name}: version {number} is unloaded")

    def _load(self, name: str, number: int, folder: Path) -> None:
        self._enter(name, number, Version(LOADING))
        began = time.monotonic()
        try:
            model = self._load_model(folder)
        # On damaged files TensorFlow and protobuf raise all kinds of errors.
        except Exception as error:
            self._enter(name, number, Version(END, message=str(error) or type(error).__name__))
            self._say(f"{name}: version {number} could not be loaded: {error}")
        else:
            self._enter(name, number, Version(AVAILABLE, model))
            self._say(f"{name}: version {number} is available ({time.monotonic() - began:.1f} s)")

    def _enter(self, name: str, number: int, version: Version) -> None:
        self.models = {**self.models, name: {**self.models.get(name, {}), number: version}}

    def _move_labels(self, wanted: dict[str, dict[str, int]]) -> None:
        """Moves all labels, or none if an existing label would move to a version that is not loaded."""
        for name, labels in wanted.items():
            for label, version in labels.items():
                if label in self._labels.get(name, {}) and version not in _available(self.models.get(name, {})):
                    return
        self._labels = wanted


def _available(found: Mapping[int, Version]) -> dict[int, LoadedModel]:
    return {number: version.model for number, version in found.items() if version.model is not None}


def _config_of(models: Mapping[str, Path]) -> Any:
    config = model_config.new()
    for name, folder in models.items():
        model = served(folder, name)
        entry = model_config.add(config, name, str(model.base))
        if model.version is not None:
            model_config.pin(entry, {model.version}, {})
    model_config.check(config, "the server")
    return config


def _wanted(entry: Any) -> dict[int, Path]:
    """Version -> folder, for the versions that an entry of a models.config asks for and that are there."""
    found = versions(Path(entry.base_path))
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "specific":
        return {version: found[version] for version in policy.specific.versions if version in found}
    if choice == "all":
        return found
    newest = sorted(found)[-(policy.latest.num_versions or 1) :]
    return {version: found[version] for version in newest}
