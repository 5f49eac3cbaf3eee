"""A check as text and as a page."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from mixrank.pipeline.checking import print_check, write_check_page
from mixrank.pipeline.checking.text_report import duration, percent


@pytest.fixture
def strange(shop):
    """A log with a label of one class and a text that would be markup."""
    for row in shop.rows:
        row["click"] = 0
        row["country"] = "<b>x</b>\x1b[31m"
    return shop.write()


def test_the_text_fits_into_100_columns_and_ends_with_what_is_wrong(strange):
    written = io.StringIO()
    print_check(strange.check(), strange.dataset().spec, Console(file=written, width=100, markup=False))
    lines = written.getvalue().splitlines()
    (last,) = [line for line in lines if "one_class_label" in line]
    assert last.startswith("stop: label `click` is 0 in all 160 rows of `train`")
    assert lines[1] == (
        "200 rows of the log were read; from 2024-03-01 08:00:00+00:00 to 2024-03-03 08:10:19+00:00 (UTC)"
    )
    table = [line for line in lines if re.match(r"\s*(train|eval) ", line)]
    assert table
    assert all(len(line) <= 100 for line in table)
    assert any(re.search(r"train\s+2024-03-01 .. 2024-03-02\s+160\s+0.0 %", line) for line in table)
    assert "\x1b" not in written.getvalue()


@pytest.mark.slow
def test_the_page_shows_figures_and_plots_and_escapes_what_comes_from_data(strange, tmp_path):
    page = tmp_path / "new" / "check.html"
    write_check_page(strange.check(), strange.dataset().spec, page)
    text = page.read_text()
    assert "&lt;b&gt;x" in text
    assert "<b>x</b>" not in text
    assert "gates: {allow: [&#34;one_class_label:click&#34;]}" in text
    assert [title for title in ("Rows by day", "Label rates", "Drift of") if f'alt="{title}' not in text] == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(30.4, "30 s"), (119, "119 s"), (121, "2 min"), (7100, "118 min"), (9000, "2.5 h")]
)
def test_a_duration_has_one_unit(seconds, words):
    assert duration(seconds) == words


def test_a_small_share_is_not_rounded_to_nothing():
    assert [percent(*pair) for pair in ((1, 2), (3, 100_000), (0, 5), (0, 0))] == ["50.0 %", "0.003 %", "0.0 %", "-"]
