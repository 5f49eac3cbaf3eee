"""Pusher for a folder or an object store that a model server watches: a version appears whole or not at all."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tfx.components.pusher import executor
from tfx.components.util.model_utils import is_model_blessed
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils

from mixrank.schemas.files import locked
from mixrank.schemas.stores import check_url, is_url
from mixrank.serving.base import find_copy, newest, publish, publish_to_store, sweep, sweep_store


class Executor(executor.Executor):
    """Copies a blessed model to a temporary name beside its destination and renames it, unless it is there already."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        gates = artifact_utils.get_single_instance(input_dict["gate_blessing"])
        if not self.CheckBlessing(input_dict) or not is_model_blessed(gates):
            self._MarkNotPushed(pushed)
            return
        version = push(Path(self.GetModelPath(input_dict)), exec_properties["push_to"], Path(pushed.uri))
        self._MarkPushed(pushed, pushed_destination=version, pushed_version=version.rpartition("/")[2])


def push(model: Path, push_to: str, copy: Path) -> str:
    """Makes a model the newest version of a folder or an object store, and says so.

    Args:
        model: SavedModel folder.
        push_to: folder or address of the pushed versions.
        copy: folder that gets a copy of the version.

    Returns:
        The version's folder or address.
    """
    version = (_push_to_store if is_url(push_to) else _push)(model, push_to, copy)
    # Whatever fails afterwards, this has happened.
    _say(f"pushed: {version}")
    return version


def _push_to_store(model: Path, push_to: str, copy: Path) -> str:
    """As `_push`, without a lock: no two processes get the same number, and each writes to a place of its own."""
    base = check_url(push_to, "`push_to`")
    with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
        io_utils.copy_dir(str(publish(model, Path(scratch))), str(copy))
    sweep_store(base, _say)
    return publish_to_store(copy, base)


def _push(model: Path, push_to: str, copy: Path) -> str:
    """The new version's folder, or the newest version's if it is the same model already, as when a step is retried.

    Args:
        model: SavedModel folder.
        push_to: folder of the pushed versions.
        copy: folder of an artifact, which gets a copy of the version: what serves may be cleaned up.
    """
    base = Path(push_to)
    # A roll-out may be at work there; its commands end by themselves.
    with locked(base, "mixrank run: push", wait=_say):
        sweep(base, _say)
        number, folder = newest(push_to)
        if folder is None or find_copy(model, base) != int(number):
            folder = str(publish(model, base))
        io_utils.copy_dir(folder, str(copy))
        return folder


def _say(line: str) -> None:
    print(f"      {line}", file=sys.stderr, flush=True)


class PusherSpec(component_spec.ComponentSpec):
    """Parameters of TFX's Pusher, with the folder as plain text, so that it can be a runtime parameter."""

    PARAMETERS = {"push_to": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        **standard_component_specs.PusherSpec.INPUTS,
        "gate_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = standard_component_specs.PusherSpec.OUTPUTS


class Pusher(base_component.BaseComponent):
    """TFX component with the executor above.

    Args:
        model_blessing: the Evaluator's verdict.
        gate_blessing: ModelGates' verdict.
        infra_blessing: ModelCheck's verdict, and the model that it passes on; nothing is pushed unless all three bless.
        push_to: folder or address of the pushed versions.
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, model_blessing: Any, gate_blessing: Any, infra_blessing: Any, push_to: Any) -> None:
        super().__init__(
            PusherSpec(
                model_blessing=model_blessing,
                gate_blessing=gate_blessing,
                infra_blessing=infra_blessing,
                push_to=push_to,
                pushed_model=Channel(type=standard_artifacts.PushedModel),
            )
        )
