"""The Pusher puts whole, blessed versions into the push folder, and nothing else."""

from pathlib import Path

import pytest

from mixrank.schemas import stores
from mixrank.serving.base import newest


@pytest.fixture
def push(tmp_path):
    """Runs the executor on a model with the given graph; returns the artifact and the versions there are."""
    from tfx.types import standard_artifacts
    from tfx.utils import path_utils

    from mixrank.components.judging.model_check import HAS_MODEL
    from mixrank.components.pushing.pusher import Executor

    def run(graph, blessed=1, passed=1, let_in=1, push_to=None):
        blessing, gates = standard_artifacts.ModelBlessing(), standard_artifacts.ModelBlessing()
        infra = standard_artifacts.InfraBlessing()
        infra.uri = str(tmp_path / f"checked-{graph}")
        folder = Path(path_utils.stamped_model_path(infra.uri))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_text(graph)
        blessing.set_int_custom_property("blessed", blessed)
        gates.set_int_custom_property("blessed", let_in)
        infra.set_int_custom_property("blessed", passed)
        infra.set_int_custom_property(HAS_MODEL, passed)
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(tmp_path / "pushed")
        Executor().Do(
            {"model_blessing": [blessing], "gate_blessing": [gates], "infra_blessing": [infra]},
            {"pushed_model": [pushed]},
            {"push_to": push_to or str(tmp_path / "serving")},
        )
        found = (tmp_path / "serving").glob("[0-9]*")
        return pushed, {int(path.name): (path / "saved_model.pb").read_text() for path in found}

    return run


def test_a_blessed_model_is_the_next_version(push, capsys):
    pushed, versions = push("one")
    assert list(versions.values()) == ["one"]
    # At once: the run may fail afterwards.
    assert f"pushed: {pushed.get_string_custom_property('pushed_destination')}\n" in capsys.readouterr().err
    assert pushed.get_string_custom_property("pushed_destination").endswith(f"serving/{max(versions)}")
    _, versions = push("two")
    assert [versions[number] for number in sorted(versions)] == ["one", "two"]


def test_a_step_that_is_tried_again_pushes_once(push):
    push("one")
    before, _ = push("two")
    after, versions = push("two")
    assert [versions[number] for number in sorted(versions)] == ["one", "two"]
    name = "pushed_destination"
    assert after.get_string_custom_property(name) == before.get_string_custom_property(name)


@pytest.mark.slow
def test_a_step_that_is_tried_again_pushes_to_a_store_once(push, bucket):
    first, _ = push("one", push_to=f"{bucket}/models/")
    again, _ = push("one", push_to=f"{bucket}/models")
    place = first.get_string_custom_property("pushed_destination")
    assert place == again.get_string_custom_property("pushed_destination") == newest(f"{bucket}/models")[1]
    assert stores.read(f"{place}/saved_model.pb") == b"one"
    assert (Path(first.uri) / "saved_model.pb").read_text() == "one"


def test_an_earlier_model_may_come_back_as_a_new_version(push):
    push("one")
    push("two")
    _, versions = push("one")
    assert [versions[number] for number in sorted(versions)] == ["one", "two", "one"]


@pytest.mark.parametrize("verdict", [{"blessed": 0}, {"passed": 0}, {"let_in": 0}])
def test_a_model_that_one_judge_refuses_is_not_pushed(push, verdict):
    pushed, versions = push("one", **verdict)
    assert versions == {}
    assert pushed.get_int_custom_property("pushed") == 0
