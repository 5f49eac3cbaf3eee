"""Every page that mixrank writes, in headless Chromium: its plots are drawn, nothing is cut off, no script fails.

Chromium is `chromium` or `google-chrome` on the path, or the program that MIXRANK_CHROMIUM names.
"""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

NAMES = ("chromium", "google-chrome", "chromium-browser")
CHROMIUM = os.environ.get("MIXRANK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason=f"no Chromium: none of {', '.join(NAMES)} on the path, no MIXRANK_CHROMIUM"
    ),
]

WIDTHS = (1280, 400)
# In a page: the coloured share of each plot, how much smaller it is shown, and how far the page reaches to the right.
PROBE = """<script>
addEventListener("load", async () => {
  const plots = [];
  for (const image of document.images) {
    let drawn = 0;
    try {
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
      for (let at = 3; at < data.length; at += 4) drawn += data[at] > 0;
      drawn /= canvas.width * canvas.height;
    } catch (error) { /* it stays at 0 */ }
    const shown = image.getBoundingClientRect().width / image.naturalWidth;
    plots.push([image.alt, drawn, shown]);
  }
  const {clientWidth, scrollWidth} = document.documentElement;
  parent.postMessage(JSON.stringify({plots, width: innerWidth, room: clientWidth, reach: scrollWidth}), "*");
});
</script>"""
# Around the page: a window of Chromium has a least width, a frame has none.
FRAMES = """<!doctype html><body><script>
const seen = [];
addEventListener("message", event => {
  seen.push(JSON.parse(event.data));
  document.body.dataset.seen = JSON.stringify(seen);
});
</script>%s</body>"""
# Test modules cannot import each other.
TESTS = Path(__file__).parents[1]


def neighbour(name):
    return runpy.run_path(str(TESTS / name))


def look(page, folder):
    """What a page shows at every width, and what Chromium said about it."""
    (folder / "page.html").write_text(page.replace("</main>", PROBE + "</main>"))
    frames = "".join(
        f'<iframe src="page.html" width="{width}" height="900" frameborder="0"></iframe>' for width in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES % frames)
    # A container's root has no sandbox, and a small /dev/shm.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            *options,
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            "--dump-dom",
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(found[1])), said


# Of each page: its file and the number of its plots.


def write_run(folder):
    from mixrank.pipeline.reports import write_report

    run = neighbour("reports/test_run_report.py")["fake_run"](folder / "run")
    insights = neighbour("reports/test_run_report_insights.py")
    card = json.loads((run / "model/model.json").read_text())
    card["insights"] = {"grouping": insights["GROUPING"], "attention": insights["ATTENTION"]}
    (run / "model/model.json").write_text(json.dumps(card))
    write_report([run], folder / "report.html")
    return folder / "report.html", 7


def write_comparison(folder):
    from mixrank.pipeline.comparing import comparison_page
    from mixrank.pipeline.comparing.results import collect
    from mixrank.pipeline.config import Table

    trials = neighbour("comparing/test_results.py")
    table = Table(title="sizes", variants=trials["VARIANTS"], budgets=("100K", "1M", "10M"), scaling=True)
    found = trials["trained"](folder, trials["AUCS"], (10**5, 10**6, 10**7), slope=0.01)
    page, _ = comparison_page.write_pages(folder, {"sizes": collect(table, found)}, {}, "a shop")
    return page, 2


def write_check(folder):
    from mixrank.pipeline.checking import write_check_page

    shop = neighbour("checking/conftest.py")["Shop"](folder)
    for row in shop.rows[:50]:
        row["country"] = ""
    shop.write()
    write_check_page(shop.check(), shop.dataset().spec, folder / "check.html")
    return folder / "check.html", 4


def write_drift(folder):
    from mixrank.pipeline.reports import compare, write_page
    from mixrank.pipeline.reports.drift_sources import Known, Side
    from mixrank.serving.drift import Limits

    spec = neighbour("history/conftest.py")["SPEC"]
    sides = [
        Side(
            name=name,
            rows=900,
            statistics=None,
            unseen={"item": (seen, 900)},
            judged=pd.DataFrame(
                {"place": "0", "score_click": [0.1 + shift, 0.4, 0.7] * 300, "label_click": [0.0, 1.0, 1.0] * 300}
            ),
        )
        for name, shift, seen in (("the last run", 0.0, 3), ("a day with " + "a_very_long_name_" * 8, 0.2, 400))
    ]
    known = Known(spec, {})
    write_page(compare(*sides, known, Limits(), 100), known, folder / "drift.html")
    return folder / "drift.html", 1


def write_days(folder):
    from mixrank.pipeline.history import served_versions, write_history

    made = neighbour("history/conftest.py")
    days = made["make_days"](12, held=(3,), unscored=(4,))
    write_history("shop", days, made["SPEC"], served_versions(str(folder)), folder / "history.html")
    return folder / "history.html", 13


PAGES = {
    "run": write_run,
    "comparison": write_comparison,
    "check": write_check,
    "drift": write_drift,
    "history": write_days,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_draws_its_plots_and_fits_its_window(name, tmp_path):
    page, plots = PAGES[name](tmp_path)
    seen, said = look(page.read_text(), tmp_path)
    assert said == []
    assert sorted(each["width"] for each in seen) == sorted(WIDTHS)
    for each in seen:
        assert len(each["plots"]) == plots
        # Axes and a line cover a hundredth at least; an empty or broken image nothing.
        assert [title for title, drawn, _ in each["plots"] if drawn < 0.01] == []
        assert [title for title, _, shown in each["plots"] if shown < 0.74] == [], "too small to read"
        assert each["reach"] <= each["room"], "the page is wider than its window"


def test_what_is_broken_is_found(tmp_path):
    page = """<!doctype html><main><img alt="cut" src="data:image/svg+xml;base64,PHN2ZyB4">
    <p style="width: 700px">wide</p><script>nonsense()</script></main>"""
    seen, said = look(page, tmp_path)
    narrow = next(each for each in seen if each["width"] == 400)
    assert [title for title, drawn, _ in narrow["plots"] if drawn == 0] == ["cut"]
    assert narrow["reach"] > 700
    assert any("nonsense is not defined" in line for line in said)
