"""The models.config of TensorFlow Serving: read, checked, and written as text proto.

The messages are those of `tensorflow-serving-api`, which needs no TensorFlow to be imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.safe_text import shown

PLATFORM = "tensorflow"
HEADER = "# Written by mixrank; comments are not kept.\n"
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def new() -> Any:
    """An empty `ModelServerConfig`."""
    from tensorflow_serving.config import model_server_config_pb2

    return model_server_config_pb2.ModelServerConfig()


def parse(text: str, where: str = "models.config") -> Any:
    """Text proto -> checked `ModelServerConfig`.

    Raises:
        ValueError: naming file and line if the text is not a text proto of that message; or as `check`.
    """
    from google.protobuf import text_format

    try:
        config = text_format.Parse(text, new())
    except text_format.ParseError as error:
        raise ValueError(f"{where} is not a ModelServerConfig: {error}") from None
    check(config, where)
    return config


def render(config: Any) -> str:
    """`ModelServerConfig` -> text proto, checked and parsed back.

    Raises:
        ValueError: as `check`.
    """
    from google.protobuf import text_format

    check(config)
    text = HEADER + text_format.MessageToString(config)
    if parse(text) != config:
        raise RuntimeError("models.config does not read back as it was written")
    return text


def read(path: Path) -> Any:
    """The `ModelServerConfig` of a file; an empty one if there is no file.

    Raises:
        ValueError: as `parse`.
    """
    return parse(path.read_text(), str(path)) if path.exists() else new()


def write(path: Path, config: Any) -> bool:
    """Replaces a file with one rename, once its content is on disk; returns whether anything changed."""
    text = render(config)
    if path.exists() and path.read_text() == text:
        return False

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, text)
    return True


def check(config: Any, where: str = "models.config") -> None:
    """Refuses a config that TensorFlow Serving refuses, or that would break its later reloads.

    A reload without `model_platform` makes all later reloads fail until a restart; a label on a version that is not
    loaded blocks all labels of the reload, including those of other models.

    Raises:
        ValueError: naming the model and the violated rule.
    """
    names = set()
    for model in config.model_config_list.config:
        if not MODEL_NAME.fullmatch(model.name):
            raise ValueError(
                f"{where}: a model's name is made of letters, digits, `_`, `-` and `.`, received {shown(model.name)}"
            )
        if model.name in names:
            raise ValueError(f"{where}: two models have the name `{model.name}`")
        names.add(model.name)
        if model.model_platform != PLATFORM:
            raise ValueError(
                f'{where}: model `{model.name}` needs model_platform: "{PLATFORM}", '
                f"received {shown(model.model_platform)}"
            )
        if not model.base_path.startswith(("/", "gs://", "s3://", "hdfs://")):
            raise ValueError(
                f"{where}: model `{model.name}` needs an absolute base_path, received {shown(model.base_path)}"
            )
        policy = model.model_version_policy
        if policy.WhichOneof("policy_choice") == "latest" and policy.latest.num_versions < 1:
            raise ValueError(f"{where}: model `{model.name}` needs latest.num_versions of at least 1")
        if policy.WhichOneof("policy_choice") == "specific" and not policy.specific.versions:
            raise ValueError(f"{where}: model `{model.name}` has a specific policy without versions")
        for label, version in model.version_labels.items():
            if version not in policy.specific.versions:
                raise ValueError(
                    f"{where}: label `{label}` of model `{model.name}` names version {version}, which the policy "
                    f"does not load; add it under specific"
                )


def find(config: Any, name: str) -> Any | None:
    """The entry of a model, or None."""
    return next((model for model in config.model_config_list.config if model.name == name), None)


def add(config: Any, name: str, base_path: str) -> Any:
    """A new entry that serves the latest version."""
    model = config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    model.model_version_policy.latest.num_versions = 1
    return model


def pin(model: Any, loaded: set[int], labels: Mapping[str, int]) -> None:
    """Makes an entry serve exactly the given versions (at least one), with labels."""
    model.version_labels.clear()
    model.model_version_policy.Clear()
    model.model_version_policy.specific.versions.extend(sorted(loaded))
    model.version_labels.update(labels)


class Entry:
    """One model's part of a models.config file.

    Args:
        path: the file, which need not exist; other models in it are left unchanged.
        name: the model.
        base_path: its folder of versions as the server sees it, for a file that lacks the model.
    """

    def __init__(self, path: Path, name: str, base_path: str) -> None:
        self.path, self.name, self.base_path = path, name, base_path

    @property
    def labels(self) -> dict[str, int]:
        """Label -> version."""
        model = find(read(self.path), self.name)
        return {} if model is None else {label: model.version_labels[label] for label in sorted(model.version_labels)}

    @property
    def loaded(self) -> set[int]:
        """Versions that servers load by number; empty if they serve the latest."""
        model = find(read(self.path), self.name)
        return set() if model is None else set(model.model_version_policy.specific.versions)

    @property
    def serves_latest(self) -> bool:
        """Whether servers load the latest version automatically."""
        return find(read(self.path), self.name) is not None and not self.loaded

    def pin(self, labels: Mapping[str, int], loaded: set[int]) -> None:
        """Makes servers load exactly the given versions, with labels; a no-op if they already do."""
        config = read(self.path)
        model = find(config, self.name)
        if model is None:
            model = add(config, self.name, self.base_path)
        pin(model, loaded, labels)
        write(self.path, config)
