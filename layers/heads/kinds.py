"""Kinds of heads that any model may have in place of its own; what exists and which options it takes.

A configuration names one as `heads: {kind: mmoe, experts: 4}`. Options are the constructor arguments of the kind's
class, but for what a spec decides; they are read from the source text, so that a wrong configuration is refused before
Keras is imported. Only `build_heads` imports the class.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixrank.layers.base import Parameter, check_named, check_parameters, read_parameters
from mixrank.schemas.naming import nearest

if TYPE_CHECKING:
    from mixrank.layers.heads.base import Heads
    from mixrank.schemas import FeatureSpec


def _priors(spec: FeatureSpec) -> dict[str, Any]:
    """The domain and the persons of PEPNet's gates: the scenario, and the features of the log's user and item."""
    names = [feature.name for feature in spec.model_features]
    found = tuple(key.name for key in (spec.user, spec.item) if key.name in names)
    return {"domain": (spec.scenario.name,), "personal": found}


class HeadKind(NamedTuple):
    """A kind of heads.

    Args:
        title: of the paper.
        source: where it stands.
        module: file in this room.
        class_name: of the layer in it.
        of_spec: options that are empty by default and that the spec then fills in.
    """

    title: str
    source: str
    module: str
    class_name: str
    of_spec: Callable[[FeatureSpec], dict[str, Any]] = lambda spec: {}

    @property
    def options(self) -> tuple[Parameter, ...]:
        """What a configuration may set."""
        return _options(self.module, self.class_name)


HEAD_KINDS = {
    "shared_bottom": HeadKind("Multitask Learning", "Machine Learning 28, 1997", "task_heads", "TaskHeads"),
    "mmoe": HeadKind(
        "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
        "KDD 2018",
        "mmoe",
        "MMoEHeads",
    ),
    "ple": HeadKind(
        "Progressive Layered Extraction: A Novel Multi-Task Learning Model for Personalized Recommendations",
        "RecSys 2020",
        "ple",
        "PLEHeads",
    ),
    "home": HeadKind(
        "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at Kuaishou", "2408.05430", "home", "HoMEHeads"
    ),
    "pepnet": HeadKind(
        "PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior Information",
        "2302.01115",
        "pepnet",
        "PEPNetHeads",
        _priors,
    ),
}


def check_heads(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The heads that a configuration asks for, with tuples in place of lists.

    Args:
        given: `kind` and its options; None for the model's own heads.

    Raises:
        ValueError: no or unknown kind, unknown option, with the nearest name, or a value of another type.

    >>> check_heads({"kind": "mmoe", "expert": 4})
    Traceback (most recent call last):
    ValueError: heads `mmoe` has no parameter `expert`; did you mean `experts`?
    """
    if given is None:
        return None
    if "kind" not in given:
        raise ValueError(f"`heads` needs a `kind`{nearest('', HEAD_KINDS)}")
    kind = given["kind"]
    if kind not in HEAD_KINDS:
        raise ValueError(f"there are no heads `{kind}`{nearest(kind, HEAD_KINDS)}")
    options = {name: value for name, value in given.items() if name != "kind"}
    return {"kind": kind, **check_parameters(f"heads `{kind}`", HEAD_KINDS[kind].options, options)}


def heads_for(given: Mapping[str, Any] | None, spec: FeatureSpec) -> dict[str, Any] | None:
    """`check_heads` for a log: the tasks and features that options name must be its own, and those left out are.

    Args:
        given: as in `check_heads`.
        spec: the log's declaration.

    Raises:
        ValueError: as `check_heads`, or naming what the log does not have.
    """
    found = check_heads(given)
    if found is None:
        return None
    kind = HEAD_KINDS[found["kind"]]
    fields = [spec.scenario.name, *(feature.name for feature in spec.model_features)]
    for option in kind.options:
        value = found.get(option.name, ())
        if "TaskName" in option.type:
            check_named(option.name, value, spec.logits, "a task of the log")
        if "FieldName" in option.type:
            check_named(option.name, value, fields, "a feature of the log")
    for name, value in kind.of_spec(spec).items():
        if not found.get(name):
            if not value:
                raise ValueError(
                    f"`{name}` of heads `{found['kind']}` must name features: the log has none of its user "
                    f"`{spec.user.name}` or item `{spec.item.name}`, which would be taken otherwise"
                )
            found[name] = value
    return found


def build_heads(chosen: Mapping[str, Any], *, tasks: tuple[str, ...], units: tuple[int, ...]) -> Heads:
    """The layer of some heads, not yet built.

    Args:
        chosen: as `heads_for` returns it.
        tasks: names of the tasks.
        units: widths of the hidden layers of every task's tower, if `chosen` does not say.

    Raises:
        ValueError: a value that the layer's constructor refuses.
    """
    # Each by its name, so that an edit of its file changes the fingerprint of a training.
    from mixrank.layers.heads.home import HoMEHeads
    from mixrank.layers.heads.mmoe import MMoEHeads
    from mixrank.layers.heads.pepnet import PEPNetHeads
    from mixrank.layers.heads.ple import PLEHeads
    from mixrank.layers.heads.task_heads import TaskHeads

    classes: dict[str, type[Heads]] = {
        cls.__name__: cls for cls in (HoMEHeads, MMoEHeads, PEPNetHeads, PLEHeads, TaskHeads)
    }
    options = {name: value for name, value in chosen.items() if name != "kind"}
    return classes[HEAD_KINDS[chosen["kind"]].class_name](**{"units": units, **options}, tasks=tasks, name="heads")


@functools.cache
def _options(module: str, class_name: str) -> tuple[Parameter, ...]:
    path = Path(__file__).with_name(f"{module}.py")
    nodes = ast.parse(path.read_text()).body
    (node,) = [each for each in nodes if isinstance(each, ast.ClassDef) and each.name == class_name]
    return read_parameters(path, node)
