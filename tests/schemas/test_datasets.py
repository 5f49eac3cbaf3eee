"""A dataset is found by name, by module or by file."""

from __future__ import annotations

import sys

import pytest

from mixrank.schemas import Dataset, datasets

OWN = """
from mixrank.schemas.datasets.movielens import DATASET as FILMS

DATASET = FILMS.model_copy(update={"spec": FILMS.spec.model_copy(update={"name": "own"})})
"""
IMPORT = "from mixrank.schemas import Categorical"


def test_every_shipped_dataset_loads_under_its_file_name():
    assert datasets.names() == ["kuairand", "movielens", "repeat", "simulated"]
    for name in datasets.names():
        found = datasets.load(name)
        assert isinstance(found, Dataset)
        assert found.spec.name == name


def test_a_dotted_path_names_a_module_anywhere(tmp_path, monkeypatch):
    assert datasets.load("mixrank.schemas.datasets.kuairand") is datasets.load("kuairand")
    (tmp_path / "my_logs").mkdir()
    (tmp_path / "my_logs" / "shop.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert datasets.load("my_logs.shop").spec.name == "own"
    sys.modules.pop("my_logs.shop"), sys.modules.pop("my_logs")


def test_a_file_needs_no_package(tmp_path):
    (tmp_path / "shop.py").write_text(OWN)
    assert datasets.load(str(tmp_path / "shop.py")).spec.name == "own"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("movielns", r"there is no dataset `movielns`; did you mean `movielens`\?"),
        ("os", "there is no dataset `os`; expected one of `kuairand`, `movielens`, `repeat`, `simulated`"),
        ("no.such", "there is no dataset `no.such`"),
        ("./movielens", r"there is no dataset `./movielens`; did you mean `movielens`\?"),
        ("..", "there is no dataset"),
        ("/nowhere/shop.py", "dataset file /nowhere/shop.py does not exist"),
        ("mixrank.schemas.features", "mixrank.schemas.features must define DATASET = .*, found NoneType"),
    ],
)
def test_a_reference_to_nothing_is_named(reference, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(reference)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            'Categorical(\n    "clip",\n    group="itm",\n)',
            "group: Input should be 'user', 'item', 'context' or 'event', received 'itm'",
        ),
        ('Categorical("clip", grop="item")', "Categorical has no field `grop`; did you mean `group`?"),
        ('Categorical("clip", "item")', "Named.__init__() takes 2 positional arguments but 3 were given"),
    ],
)
def test_a_wrong_declaration_in_a_file_is_named_by_its_line(tmp_path, declared, message):
    file = tmp_path / "shop.py"
    file.write_text(f"{IMPORT}\n\nGOOD = Categorical('clip', group='item')\nBAD = {declared}\n")
    with pytest.raises(ValueError) as caught:
        datasets.load(str(file))
    assert str(caught.value) == f"{file}, line 4: {message}"


def test_a_module_that_lacks_its_own_import_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "logs_of_mine").mkdir()
    (tmp_path / "logs_of_mine" / "shop.py").write_text("import no_such_module_of_mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_mine"):
        datasets.load("logs_of_mine.shop")


def test_a_file_without_a_dataset_says_what_it_must_define(tmp_path):
    (tmp_path / "shop.py").write_text("DATASET = 3\n")
    with pytest.raises(ValueError, match=r"must define DATASET = Dataset\(spec=..., source=...\), found int"):
        datasets.load(str(tmp_path / "shop.py"))
