"""A report shows a model's own insights, and its calibration."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from mixrank.pipeline.reports import RunFolder, summarise_log, write_report

# Test modules cannot import each other.
neighbour = runpy.run_path(str(Path(__file__).with_name("test_run_report.py")))
Text, fake_run = neighbour["Text"], neighbour["fake_run"]

GROUPING = {
    "fields": ["member", "<b>tag</b>", "page", "price"],
    "weights": [[0.75, 0.25, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]],
    "never_selected": ["price"],
    "replaced": 3,
    "dealt": 4,
}
ATTENTION = {
    "examined": 512,
    "columns": ["before", "within"],
    "rows": [{"name": "dynamic 1", "weights": [0.41, 1.0]}, {"name": "fixed 1", "weights": [0.9, None]}],
}
ROUTING = {
    "scenarios": ["0", "other"],
    "rows": [900, 40],
    "experts": ["0", "1"],
    "blocks": [{"own": [0.975, None], "load": [[0.6, 0.4], [0.2, 0.8]]}],
}

GATES = {
    "examined": 4096,
    "tables": [
        {
            "title": "level 1",
            "columns": ["click 1", "<b>shared</b> 1", "buy 1"],
            "rows": [{"name": "click", "weights": [0.25, 0.75, None]}, {"name": "buy", "weights": [None, 0.5, 0.5]}],
        }
    ],
}


@pytest.mark.slow
def test_the_gates_of_heads_are_shown_as_tables(tmp_path):
    folder = fake_run(tmp_path / "run")
    card = json.loads((folder / "model/model.json").read_text())
    card["insights"] = {"gates": GATES}
    (folder / "model/model.json").write_text(json.dumps(card))
    write_report([folder], tmp_path / "report.html")
    text = Text()
    text.feed((tmp_path / "report.html").read_text())
    assert text.open == []
    rows = [[cell.strip() for cell in row] for row in text.rows]
    assert ["level 1", "click 1", "<b>shared</b> 1", "buy 1"] in rows
    assert ["click", "0.250", "0.750", "-"] in rows and ["buy", "-", "0.500", "0.500"] in rows


@pytest.mark.slow
def test_grouping_routing_and_attention_are_shown_with_a_warning(tmp_path):
    folder = fake_run(tmp_path / "run")
    card = json.loads((folder / "model/model.json").read_text())
    card["insights"] = {"grouping": GROUPING, "routing": ROUTING, "attention": ATTENTION}
    (folder / "model/model.json").write_text(json.dumps(card))
    write_report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    text = Text()
    text.feed(page)
    assert text.open == []
    pictures = [attributes["alt"] for tag, attributes in text.tags if tag == "img"]
    assert "Features of every token" in pictures and "Entropy of the attention" in pictures
    assert "the mean over the first 512 evaluation rows" in page
    assert "Learning replaced 3 of\nthe 4 features dealt to tokens at the start." in page
    assert "No token reads:</strong> price." in page
    rows = [[cell.strip() for cell in row] for row in text.rows]
    assert ["home", "900", "97.5 %", "home 60 %"] in rows
    assert ["other", "40", "-", "search 80 %"] in rows


@pytest.mark.slow
def test_a_calibration_is_shown_and_told_before_and_after(tmp_path):
    folder = fake_run(tmp_path / "run")
    card = json.loads((folder / "model/model.json").read_text())
    before, after = {"loss": 0.58, "ratio": 1.05, "error": 0.0123}, {"loss": 0.57, "ratio": float("nan"), "error": 0.01}
    line = {"knots": [0.0], "values": [0.25], "left": 0.9, "right": 0.9}
    found = {"rows": 1234, "curve": line, "scenarios": {"0": line}, "before": before, "after": after}
    card["calibration"] = {"method": "platt", "split": "valid", "tasks": {"click": found}}
    (folder / "model/model.json").write_text(json.dumps(card))
    write_report([folder], tmp_path / "report.html")
    text = Text()
    text.feed((tmp_path / "report.html").read_text())
    rows = [[cell.strip() for cell in row] for row in text.rows]
    figures = ["0.5800", "0.5700", "1.0500", "-", "0.0123", "0.0100"]
    assert ["click", "1,234", "0.9000 z +0.2500", "home", *figures] in rows
    told = dict(summarise_log(RunFolder.load(folder)))["calibration"]
    assert told == "click log loss 0.5800 -> 0.5700, calibration 1.050 -> nan, error 0.0123 -> 0.0100"


@pytest.mark.slow
def test_a_model_without_insights_has_neither(tmp_path):
    folder = fake_run(tmp_path / "run")
    write_report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "features of every token" not in page and "experts of the scenarios" not in page
