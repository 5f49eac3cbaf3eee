"""Odd text in any field of a config, a declaration, a row or an answer ends in short, clean lines."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from mixrank.pipeline import cli
from mixrank.pipeline.config import SHIPPED
from mixrank.pipeline.config.run_config import RunConfig

SECRET = "hunter22-9XkQ"
# A control sequence, markup, a password, a NUL, a mark that reverses text, and more than a person reads.
NASTY = f"[/bad]\x1b]0;title\x07 http://me:{SECRET}@host \x00\u202e'\"`{{}}%s" + "x" * 30_000
BASE = yaml.safe_load((SHIPPED / "kuairand.yaml").read_text())


def leaves(value, at=()):
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, (*at, key))
    yield at


CONFIG_FIELDS = sorted({*leaves(BASE), *((name,) for name in RunConfig.model_fields)} - {()})


def replaced(at, value):
    config = json.loads(json.dumps(BASE))
    target = config
    for key in at[:-1]:
        target = target[key]
    target[at[-1]] = value
    return config


def check(result):
    """One error or an answer; nothing that a terminal obeys, no secret, no page of text."""
    assert result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit))
    assert result.exit_code == 0 or "error:" in result.output
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    assert SECRET not in result.output and "Traceback" not in result.output
    assert len(result.output) < 20_000


@pytest.mark.slow
def test_a_field_of_a_config_with_odd_text_ends_in_a_short_clean_error(tmp_path):
    file = tmp_path / "mine.yaml"
    options = ["--set", f"output={tmp_path}/runs", "--set", "data=/none"]
    for number, at in enumerate(CONFIG_FIELDS):
        file.write_text(yaml.safe_dump(replaced(at, (NASTY, [NASTY], {NASTY: NASTY})[number % 3])))
        check(CliRunner().invoke(cli.app, ["run", str(file), *options]))


@pytest.mark.parametrize("option", ["--set", "--output", "--model"])
def test_an_option_with_odd_text_ends_in_a_short_clean_error(option):
    for command in ("run", "train", "compare", "score", "drift", "report", "predict", "rollout", "models", "deploy"):
        check_usage(CliRunner().invoke(cli.app, [command, "kuairand", option, NASTY.replace("\x00", "")]))
        check_usage(CliRunner().invoke(cli.app, [command, NASTY.replace("\x00", "")]))


def check_usage(result):
    assert result.exit_code in (0, 1, 2)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    assert SECRET not in result.output and "Traceback" not in result.output


DECLARATION = """
from mixrank.schemas import *
DATASET = Dataset(
    spec=FeatureSpec(
        name={name!r},
        user=Key("user_id", dtype="int"), item=Key("item_id", dtype="int"), time=EventTime("ts", unit="s"),
        scenario=Scenario("page", values=({value!r}, "b")),
        features=(Categorical({column!r}, group="item", encoding=Hash(100)),),
        labels=(Label({label!r}),),
    ),
    source=LogSource(log=Table(files=("log.csv",))),
    window=Sliding(seconds=600),
    split=SplitByUserTail(valid=0.1, eval=0.1),
)
"""


@pytest.mark.parametrize("field", ["name", "value", "column", "label"])
def test_a_declaration_with_odd_text_ends_in_clean_lines(tmp_path, field):
    good = {"name": "shop", "value": "a", "column": "brand", "label": "click"}
    (tmp_path / "shop.py").write_text(DECLARATION.format(**good | {field: NASTY[:200]}))
    for command in ("features", "schema"):
        check(CliRunner().invoke(cli.app, [command, str(tmp_path / "shop.py")]))


@pytest.mark.parametrize("row", [{NASTY: 1}, {"x": NASTY}, {"x": [NASTY]}, {"x": 1, NASTY: [1]}, NASTY, [NASTY]])
def test_a_row_with_odd_text_ends_in_a_short_clean_error(tmp_path, tiny_server, row):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    check(
        CliRunner().invoke(cli.app, ["predict", tiny_server.rest_url, str(tmp_path / "rows.jsonl"), "--model", "tiny"])
    )
