"""The written declaration is formatted, and its comments stay comments."""

from __future__ import annotations

import subprocess
import sys

from mixrank.pipeline.starting.plan import Noted, Plan
from mixrank.pipeline.starting.python_file import comments, python_file
from mixrank.schemas import (
    Categorical,
    Cut,
    Dataset,
    EventTime,
    Join,
    Key,
    Label,
    Request,
    Scenario,
    SplitByDay,
    Table,
    Vocab,
)

WIDE = tuple(f"a_rather_long_value_{number}" for number in range(12))
PLAN = Plan(
    name="shop",
    folder="shop",
    user=Noted(Key("user"), "its name", "is it?"),
    item=Noted(Key("sku", dtype="str"), "x" * 300),
    time=Noted(EventTime("ts", unit="s"), 'a\nb\r"""\u2028import os'),
    scenario=Noted(Scenario("page", values=WIDE), 'says "page"'),
    labels=[Noted(Label("click"))],
    features=[
        Noted(Categorical("sku", group="item", dtype="str", vocab=Vocab(min_count=2, oov=4), dim=16)),
        Noted(None, "left out: title"),
    ],
    log=Noted(Table(files=("a.csv",), rename={f"A long name of a column {n}": f"c{n}" for n in range(9)})),
    joins=[Noted(Join(table=Table(files=('it\'s "x".csv', "back\\slash.csv")), on="item"))],
    labels_from={},
    derive={"band": Noted(Cut("age", edges=(25.0, 35.0), names=("young", "middle", "old")))},
    popularity={},
    window=None,
    split=Noted(
        SplitByDay(splits={"train": ("2024-01-01", "2024-01-02"), "eval": ("2024-01-03", "2024-01-03")}, timezone="UTC")
    ),
    fields=(),
    rows=10,
    validates=False,
    zone=Noted("UTC", "Zone."),
    request=Noted(Request("visit", dtype="str"), "its name"),
)


def loaded(text: str) -> Dataset:
    names: dict = {}
    exec(text, names)
    return names["DATASET"]


def test_the_text_says_what_was_planned_however_odd_its_values():
    text = python_file(PLAN, "mixrank init shop")
    assert loaded(text) == PLAN.dataset
    assert "# ? is it?" in text
    assert "timezone=ZONE" in text


def test_the_text_is_formatted_as_ruff_formats_it(tmp_path):
    path = tmp_path / "shop.py"
    path.write_text(python_file(PLAN, "mixrank init shop"))
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length=120", "--target-version=py311"]
    found = subprocess.run([*ruff, "format", "--diff", *options, path], capture_output=True, text=True)
    assert found.stdout == ""
    assert subprocess.run([*ruff, "check", "--select=E,F,I,UP", *options, path], capture_output=True).returncode == 0


def test_long_reasons_are_wrapped_and_no_line_leaves_the_comment():
    lines = comments(Noted(None, "word " * 60, "a\nb"), 8)
    assert all(len(line) <= 120 and line.startswith("        # ") for line in lines)
    assert lines[-1] == "        # ? a b"


def test_a_command_that_would_end_the_docstring_is_not_repeated():
    text = python_file(PLAN, 'mixrank init """x')
    assert '"""x' not in text.splitlines()[0]
    assert loaded(text) == PLAN.dataset
