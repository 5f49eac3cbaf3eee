"""A feature type has a branch in every fold, and nobody asks for a type elsewhere.

A fold takes one of the unions of `schemas/features/unions.py` apart, branch by branch, and ends with `assert_never`.
These tests read the code, so that a type that lacks a branch fails with the name of the fold.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from mixrank.schemas.encode import columns
from mixrank.schemas.features import AnyFromFile, Encoding, EventField, Feature, Key, RowFeature, Valued, spec

ROOT = Path(__file__).parents[1]
HOME = "schemas/features"
# `Encoding` is annotated with the key that tells its members apart.
UNIONS = {
    "Feature": get_args(Feature),
    "RowFeature": get_args(RowFeature),
    "EventField": get_args(EventField),
    "AnyFromFile": get_args(AnyFromFile),
    "Encoding": get_args(get_args(Encoding)[0]),
}
MEMBERS = {name: {member.__name__ for member in union} for name, union in UNIONS.items()}
TYPES = MEMBERS["Feature"]


@dataclass(frozen=True)
class Fold:
    """A `match` that ends with `assert_never`: its file, its function and the types that have a branch."""

    file: str
    function: str
    branches: frozenset[str]


def product():
    """(file, syntax tree) of every file of the five storeys."""
    for storey in ("schemas", "layers", "serving", "components", "pipeline"):
        for path in sorted((ROOT / storey).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def names(node):
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def folds():
    for file, tree in product():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for match in (node for node in ast.walk(function) if isinstance(node, ast.Match)):
                patterns = [pattern for case in match.cases for pattern in ast.walk(case.pattern)]
                found = {ast.unparse(pattern.cls) for pattern in patterns if isinstance(pattern, ast.MatchClass)}
                if "assert_never" in names(match.cases[-1]) and found & (TYPES | MEMBERS["Encoding"]):
                    yield Fold(file, function.name, frozenset(found))


FOLDS = list(folds())


def lacking(fold, unions):
    """Types that a fold has no branch for, of the union that it comes closest to."""
    return min((union - fold.branches for union in unions.values() if union >= fold.branches), key=len)


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: f"{fold.file}:{fold.function}")
def test_every_type_has_a_branch(fold):
    assert not lacking(fold, MEMBERS), f"{fold.function} of {fold.file} lacks {lacking(fold, MEMBERS)}"


@pytest.mark.parametrize("fold", FOLDS, ids=lambda fold: f"{fold.file}:{fold.function}")
def test_a_type_that_is_new_is_missed_in_every_fold(fold):
    wider = {name: {*union, "New"} for name, union in MEMBERS.items()}
    assert lacking(fold, wider) == {"New"}


def test_a_type_is_asked_for_in_folds_and_beside_the_types_only():
    asked = [
        f"{file}:{call.lineno}"
        for file, tree in product()
        if not file.startswith(f"{HOME}/")
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and names(call.func) == {"isinstance"} and names(call.args[1]) & TYPES
    ]
    assert not asked, "make it a property of the types, or a `match` that ends with `assert_never`"


def test_the_page_names_the_files_that_a_new_type_needs():
    page = (ROOT / "docs" / "add-a-feature.md").read_text().partition("## A new type")[2].partition("\n## ")[0]
    wanted = {fold.file for fold in FOLDS if fold.branches & TYPES}
    assert len(wanted) > 8 and f"{HOME}/unions.py" in wanted
    assert set(re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)) == wanted


class Mood(Valued):
    """A type that `schemas/features` knows, and nothing else."""


def test_a_type_without_a_branch_stops_a_run_where_it_is_missed(toy_spec, monkeypatch):
    for question in ("is_of_row", "is_of_event"):
        known = getattr(spec, question)
        monkeypatch.setattr(spec, question, lambda f, known=known: isinstance(f, Mood) or known(f))
    wider = toy_spec.model_copy(update={"features": (Mood("mood"), *toy_spec.features), "user": Key("who")})
    with pytest.raises(AssertionError, match="mood"):
        columns(wider)
