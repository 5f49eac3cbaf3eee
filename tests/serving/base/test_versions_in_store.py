"""Versions in an object store: whole or not there, whoever is killed and however many push at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mixrank.schemas import stores
from mixrank.schemas.files import owner
from mixrank.serving.base import fetch_version, newest, publish, publish_to_store, sweep_store
from mixrank.serving.base.checksums import check_sums

FILES = {"saved_model.pb": "graph", "variables/variables.index": "index", "assets/a b.txt": "text"}


@pytest.fixture
def save(tmp_path):
    """A function that makes a local version with the given graph."""

    def make(graph):
        model = tmp_path / graph / "model"
        for name, text in {**FILES, "saved_model.pb": graph}.items():
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_text(text)
        return publish(model, tmp_path / graph / "versions")

    return make


def numbers(base):
    return sorted({name.split("/")[0] for name in stores.files(base)})


@pytest.mark.slow
def test_a_version_is_pushed_and_fetched_whole(bucket, save, tmp_path):
    base = f"{bucket}/models [v2]/films #1"
    assert newest(base) == ("", None)
    place = publish_to_store(save("one"), base)
    number, found = newest(f"{base}/")
    assert found == place == f"{base}/{number}"
    fetch_version(place, tmp_path / "copy")
    check_sums(tmp_path / "copy")
    assert (tmp_path / "copy" / "saved_model.pb").read_text() == "one"
    assert numbers(base) == [number]


def test_a_stored_version_that_was_changed_is_not_taken(bucket, save, tmp_path):
    place = publish_to_store(save("one"), bucket)
    stores.delete(f"{place}/variables")
    stores.create(f"{place}/variables/variables.index", "other")
    with pytest.raises(ValueError, match="variables.index was changed after the version was written"):
        fetch_version(place, tmp_path / "copy")


def test_a_stored_name_does_not_lead_out_of_the_folder(bucket, tmp_path):
    stores.create(f"{bucket}/7/../../../evil", "text")
    with pytest.raises(ValueError, match="evil has a name that leads out of its folder"):
        fetch_version(f"{bucket}/7", tmp_path / "a" / "b" / "c")
    assert list(tmp_path.rglob("evil")) == []


def test_a_later_model_has_a_larger_number_and_the_same_one_none(bucket, save):
    one = publish_to_store(save("one"), bucket)
    two = publish_to_store(save("two"), bucket)
    assert int(two.rpartition("/")[2]) > int(one.rpartition("/")[2])
    assert publish_to_store(save("two"), bucket) == two
    again = publish_to_store(save("one"), bucket)
    assert newest(bucket)[1] == again and len(numbers(bucket)) == 3


def test_the_graph_comes_last(bucket, save, monkeypatch):
    seen, copy = [], stores.move

    def watch(source, target, names):
        assert newest(bucket) == ("", None)
        seen.extend(names)
        copy(source, target, names)

    monkeypatch.setattr(stores, "move", watch)
    publish_to_store(save("one"), bucket)
    assert seen[-1] == "saved_model.pb" and len(seen) == len(set(seen)) == 4


@pytest.mark.parametrize("step", ["upload", "move"])
def test_a_push_that_fails_leaves_nothing(bucket, save, monkeypatch, step):
    act, calls = getattr(stores, step), []

    def fail(*arguments):
        calls.append(arguments)
        if step == "move":
            act(arguments[0], arguments[1], arguments[2][:2])
        elif len(calls) < 3:
            return act(*arguments)
        raise OSError("the network is gone")

    monkeypatch.setattr(stores, step, fail)
    with pytest.raises(OSError, match="gone"):
        publish_to_store(save("one"), bucket)
    assert stores.files(bucket) == {}


KILLED = """
import os, sys
from pathlib import Path
from mixrank.schemas import stores
from mixrank.serving.base import publish_to_store

upload, calls = stores.upload, []

def move(source, target, names):
    client, path = stores._client(target)
    _, before = stores._client(source)
    for name in names[:2]:
        client.cp_file(f"{before}/{name}", f"{path}/{name}")
    os._exit(9)

def upload_two(*arguments):
    calls.append(upload(*arguments))
    if len(calls) == 2:
        os._exit(9)

setattr(stores, sys.argv[1], {"move": move, "upload": upload_two}[sys.argv[1]])
stores.configure(sys.argv[4:])
publish_to_store(Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["upload", "move"])
def test_what_a_killed_push_leaves_is_no_version_and_is_swept(bucket, save, step):
    one = publish_to_store(save("one"), bucket)
    command = [sys.executable, "-c", KILLED, step, str(save("two")), bucket, *stores.settings()]
    assert subprocess.run(command, check=False).returncode == 9
    left = set(numbers(bucket)) - {one.rpartition("/")[2]}
    assert left and newest(bucket)[1] == one
    said = []
    sweep_store(bucket, said.append)
    assert numbers(bucket) == [one.rpartition("/")[2]]
    assert len(said) == 1 and "left unfinished" in said[0]


def test_a_push_of_another_machine_is_swept_when_it_is_old(bucket):
    stores.create(f"{bucket}/.17.partial/owner", "0123abcd-1-1-0123456789abcdef")
    stores.create(f"{bucket}/17/variables/variables.index", "half")
    sweep_store(bucket, print)
    assert len(stores.files(bucket)) == 2
    sweep_store(bucket, print, older_s=-60.0)
    assert stores.files(bucket) == {}


def test_a_push_at_work_and_what_others_put_there_stay(bucket):
    stores.create(f"{bucket}/.17.partial/owner", owner())
    stores.create(f"{bucket}/.hidden/x", "")
    stores.create(f"{bucket}/.x.partial/x", "")
    stores.create(f"{bucket}/3/notes.txt", "no model")
    sweep_store(bucket, print)
    assert len(stores.files(bucket)) == 4 and newest(bucket) == ("", None)


def test_a_version_that_was_whole_stays_when_its_push_is_swept(bucket):
    stores.create(f"{bucket}/17/saved_model.pb", "graph")
    stores.create(f"{bucket}/.17.partial/owner", "0123abcd-1-1-0123456789abcdef")
    sweep_store(bucket, print, older_s=-60.0)
    assert list(stores.files(bucket)) == ["17/saved_model.pb"]


@pytest.mark.slow
def test_pushes_at_once_get_versions_of_their_own(bucket, save):
    models = [save(f"graph {number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda model: publish_to_store(model, bucket), models))
    assert len(set(places)) == 4 and len(numbers(bucket)) == 4
    graphs = {stores.read(f"{place}/saved_model.pb").decode() for place in places}
    assert graphs == {f"graph {number}" for number in range(4)}


def test_a_local_folder_is_asked_the_same_way(tmp_path):
    assert newest(str(tmp_path)) == ("", None)
    (tmp_path / "010").mkdir()
    assert newest(str(tmp_path)) == ("10", str(Path(tmp_path, "010")))
