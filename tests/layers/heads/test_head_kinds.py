"""What a configuration may say about heads, and the answer to what it may not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mixrank.layers.heads import HEAD_KINDS, build_heads, check_heads, heads_for
from mixrank.schemas import Categorical


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_kind_has_described_options_and_is_built_by_its_name(kind, spec):
    options = HEAD_KINDS[kind].options
    assert "units" in [option.name for option in options]
    assert all(option.description for option in options)
    assert check_heads({"kind": kind}) == {"kind": kind}
    heads = build_heads(heads_for({"kind": kind}, spec), tasks=spec.tasks, units=(3,))
    assert type(heads).__name__ == HEAD_KINDS[kind].class_name
    assert heads.name == "heads" and heads.tasks == spec.tasks and heads.units == (3,)


def test_no_heads_are_those_of_the_model(spec):
    assert check_heads(None) is None and heads_for(None, spec) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experts": 4}, "`heads` needs a `kind`; expected one of `home`, `mmoe`, `pepnet`, `ple`, `shared_bottom`"),
        ({"kind": "mmo"}, "there are no heads `mmo`; did you mean `mmoe`?"),
        ({"kind": "mmoe", "expert": 4}, "heads `mmoe` has no parameter `expert`; did you mean `experts`?"),
        ({"kind": "mmoe", "experts": 0}, "`experts` of heads `mmoe` must be at least 1, received 0"),
        ({"kind": "ple", "levels": "two"}, "`levels` of heads `ple` must be a valid int, received 'two'"),
        ({"kind": "ple", "tasks": ["click"]}, "heads `ple` has no parameter `tasks`"),
        ({"kind": "home", "groups": [["click", "lik"]]}, "`groups` names 'lik', which is not a task of the log"),
        ({"kind": "pepnet", "domain": ["plac"]}, "`domain` names 'plac', which is not a feature of the log"),
        ({"kind": "pepnet", "personal": ["past"]}, "`personal` names 'past', which is not a feature of the log"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_meant(given, message, spec):
    with pytest.raises(ValueError) as refused:
        heads_for(given, spec)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "mmoe", "expert_units": []}, "must be at least 1 long, received ()"),
        ({"kind": "ple", "expert_units": []}, "must be at least 1 long, received ()"),
        ({"kind": "home", "expert_units": []}, "must be at least 1 long, received ()"),
        ({"kind": "ple", "task_experts": 0, "shared_experts": 0}, "must not both be 0"),
        ({"kind": "ple", "shared_experts": 0}, "`shared_experts` must be at least 1 with `levels` 2, received 0"),
        ({"kind": "home", "groups": [["click"], []]}, "`groups` must each name a task, received (('click',), ())"),
        ({"kind": "home", "groups": [["click"], ["click"]]}, "`groups` must name a task once, received 'click' twice"),
    ],
)
def test_what_the_heads_themselves_refuse(given, message, spec):
    with pytest.raises(ValueError) as refused:
        build_heads(heads_for(given, spec), tasks=spec.tasks, units=())
    assert message in str(refused.value)


def test_gates_read_scenario_user_and_item_unless_features_are_named(spec):
    found = heads_for({"kind": "pepnet"}, spec)
    assert found == {"kind": "pepnet", "domain": ("place",), "personal": ("person", "clip")}
    named = heads_for({"kind": "pepnet", "personal": ["clip", "tag"]}, spec)
    assert named == {"kind": "pepnet", "domain": ("place",), "personal": ("clip", "tag")}


def test_a_log_without_its_user_and_item_must_name_features(spec):
    bare = spec.model_copy(update={"features": (Categorical("country", group="context", dim=4),)})
    with pytest.raises(ValueError, match="`personal` of heads `pepnet` must name features: the log has none of its"):
        heads_for({"kind": "pepnet"}, bare)
    assert heads_for({"kind": "pepnet", "personal": ["country"]}, bare)["personal"] == ("country",)


def test_heads_are_checked_without_keras():
    code = (
        "import sys; from mixrank.layers.heads import HEAD_KINDS, check_heads\n"
        "check_heads({'kind': 'home', 'groups': [['a']]}); [k.options for k in HEAD_KINDS.values()]\n"
        "assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
