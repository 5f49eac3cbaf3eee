"""A fingerprint changes with every line of code that can change a result, and with no other."""

from __future__ import annotations

import sys

import pytest

from mixrank.pipeline import fingerprint
from mixrank.pipeline.fingerprint import of_values, source

FILES = {
    "house/__init__.py": "",
    "house/door.py": "from house.rooms import kitchen\nimport json\n",
    "house/rooms/__init__.py": "",
    "house/rooms/kitchen.py": "def cook():\n    from house.tools import knife\n    return knife\n",
    "house/rooms/attic.py": "DUST = 1\n",
    "house/tools.py": "import house.door\nknife = 1\n",
    "house/lonely.py": "x = 1\n",
    "elsewhere/__init__.py": "",
    "elsewhere/thing.py": "y = 1\n",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package in which `door` imports `kitchen`, which imports `tools` inside a function, which imports `door`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("house", "elsewhere")]:
        del sys.modules[name]


def edit(house, name):
    (house / name).write_text((house / name).read_text() + "# changed\n")


@pytest.mark.parametrize("name", ["house/door.py", "house/rooms/kitchen.py", "house/tools.py"])
def test_an_edit_of_what_is_imported_however_deep_changes_it(house, name):
    before = source("house.door")
    assert source("house.door") == before
    edit(house, name)
    assert source("house.door") != before


@pytest.mark.parametrize("name", ["house/lonely.py", "house/rooms/attic.py", "elsewhere/thing.py"])
def test_an_edit_of_what_is_not_imported_does_not_change_it(house, name):
    before = source("house.door")
    edit(house, name)
    assert source("house.door") == before


def test_a_package_stands_for_all_its_modules(house):
    before = source("house.rooms")
    edit(house, "house/rooms/attic.py")
    after = source("house.rooms")
    assert after != before
    edit(house, "house/tools.py")
    assert source("house.rooms") != after, "and for what they import"


def test_a_new_module_in_a_package_changes_it(house):
    before = source("house.rooms")
    (house / "house/rooms/cellar.py").write_text("")
    assert source("house.rooms") != before


def test_swapped_contents_are_a_change(house):
    before = source("house.lonely", "house.rooms.attic")
    (house / "house/lonely.py").write_text(FILES["house/rooms/attic.py"])
    (house / "house/rooms/attic.py").write_text(FILES["house/lonely.py"])
    assert source("house.lonely", "house.rooms.attic") != before


def test_other_packages_are_not_ours(house):
    before = source("house.door", "elsewhere.thing")
    (house / "house/door.py").write_text("import elsewhere.thing\n" + FILES["house/door.py"])
    changed = source("house.door")
    edit(house, "elsewhere/thing.py")
    assert source("house.door") == changed != before


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", "json.tool.deeper"])
def test_a_module_that_does_not_exist_is_named(name):
    with pytest.raises(ValueError, match=f"there is no module `{name}`"):
        source(name)


def test_what_the_components_pass_on_covers_the_layers_and_the_schemas(monkeypatch):
    seen = set()
    find = fingerprint._find
    monkeypatch.setattr(fingerprint, "_find", lambda name: seen.add(name) or find(name))
    source("mixrank.components.training.trainer", "mixrank.layers.models")
    assert {
        "mixrank.layers.models.hemix.hemix",
        "mixrank.layers.mixing.token_mixing",
        "mixrank.schemas.features.spec",
        "mixrank.serving.export.signatures",
    } <= seen
    assert not any(name.startswith("pipeline") for name in seen)


def test_values_do_not_run_into_each_other():
    assert of_values("ab", "c") == of_values("ab", "c") != of_values("a", "bc")
