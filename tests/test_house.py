"""Rooms and their faces."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREYS = ("schemas", "layers", "serving", "components", "pipeline")
FACES = sorted(path for storey in STOREYS for path in (ROOT / storey).rglob("__init__.pyi"))


def _names(stub: Path) -> dict[str, str]:
    """Public name -> the file it comes from."""
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def _room(stub: Path) -> str:
    return ".".join(["mixrank", *stub.parent.relative_to(ROOT).parts])


@pytest.mark.parametrize("stub", FACES, ids=_room)
def test_a_face_hands_out_what_its_files_define(stub):
    for name, file in _names(stub).items():
        room = stub.parent / file / "__init__.pyi"
        if room.exists():
            assert name in _names(room), f"{_room(stub)} promises {name}, which the face of {file} does not"
            continue
        tree = ast.parse((stub.parent / f"{file}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        defined |= {target.id for node in tree.body for target in _targets(node)}
        assert name in defined, f"{_room(stub)} promises {name}, which {file}.py does not define"


def _targets(node: ast.stmt) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    flat = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [each for each in flat if isinstance(each, ast.Name)]


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module's statements bind, those under an `if`, `try` or `with` included."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        else:
            yield from (target.id for target in _targets(node))
            for part in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))


@cache
def _importable(module: str) -> frozenset[str] | None:
    """What can be imported from a module of ours, its files included; None if there is no such module."""
    place = ROOT.joinpath("mixrank", *module.split(".")[1:])
    base = place / "__init__" if place.is_dir() else place
    sources = [base.with_suffix(suffix) for suffix in (".py", ".pyi") if base.with_suffix(suffix).exists()]
    if not sources and not place.is_dir():
        return None
    inside = {path.stem for path in place.glob("*") if path.is_dir() or path.suffix == ".py"}
    return frozenset(inside.union(*(_bound(ast.parse(source.read_text()).body) for source in sources)))


def missing(code: str) -> list[str]:
    """The imports of a program that mixrank does not have."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            wanted = [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names]
        else:
            continue
        for module, name in wanted:
            names = _importable(module) if module.split(".")[0] == "mixrank" else frozenset({name})
            if names is None or (name and name not in names):
                found.append(f"{module}.{name}".rstrip("."))
    return found


def test_tests_benchmarks_and_pages_import_only_what_is_there():
    programs = {
        path: path.read_text() for top in ("tests", "benchmarks", "docs") for path in (ROOT / top).rglob("*.py")
    }
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        # A page may leave the rest of a program out.
        programs[page] = "\n".join(
            re.findall(r"^ *((?:from|import) mixrank\b(?:[^(\n]*\([^)]*\)|.*))", page.read_text(), re.M)
        )
    wrong = {str(path.relative_to(ROOT)): missing(code) for path, code in programs.items()}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_an_import_of_what_is_gone_is_found():
    code = """
import numpy, mixrank.schemas, mixrank.nowhere
from mixrank.schemas import FeatureSpec, Gone, features
from mixrank.schemas.features import Categorical, Lost
def inside():
    from mixrank import models, modells
"""
    expected = ["mixrank.nowhere", "mixrank.schemas.Gone", "mixrank.schemas.features.Lost", "mixrank.modells"]
    assert missing(code) == expected


@pytest.mark.parametrize("stub", FACES, ids=_room)
def test_no_public_name_is_hidden_by_a_file_of_the_room(stub):
    # Importing the file would put the module in the name's place.
    assert not set(_names(stub)) & {path.stem for path in stub.parent.glob("*.py")}


def test_no_room_holds_more_than_fifteen_files():
    for storey in STOREYS:
        for folder in [ROOT / storey, *(ROOT / storey).rglob("*/")]:
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= 15, f"{folder.relative_to(ROOT)} holds {len(files)} files"


def test_every_storey_is_reached_under_the_one_name_only():
    for storey in STOREYS:
        assert importlib.util.find_spec(f"mixrank.{storey}") is not None
    code = f"import importlib.util as u; print([n for n in {STOREYS} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_tests_name_has_at_most_eighty_characters():
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("*.py")]
    names = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for name in names if len(name) > 80} == set()


def test_parquet_files_are_read_where_programs_in_them_are_refused():
    for storey in STOREYS:
        for file in (ROOT / storey).rglob("*.py"):
            assert "pd.read_parquet" not in file.read_text(), f"{file}: use mixrank.schemas.arrow.read_frame"
