import base64
import html.parser
import json
import re
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mixrank.components.judging.evaluation import MetricValue
from mixrank.pipeline.commands.terminal import SafeConsole
from mixrank.pipeline.reports import metrics_tables, write_report
from mixrank.pipeline.run_record import Judgement, Rows, RunRecord
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Scenario

TASKS = ("click", "buy")
PAGES = {"0": "home", "1": "search", "2": "cart", "3": "help", "4": "new"}


def fake_run(folder, *, name="first run", rows=900, seed=0, baseline=True, labels=PAGES):
    """Writes a run folder with made-up predictions of a model that is better than its baseline."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    users = rng.integers(0, rows // 12, rows)
    scenario = rng.choice(["0", "1", "2", "3"], rows, p=[0.5, 0.3, 0.18, 0.02])
    frame = {"member": users, "article": rng.integers(0, 50, rows), "ms": np.arange(rows), "page": scenario}
    scores = {}
    for task, level in zip(TASKS, (-0.3, -1.4), strict=True):
        truth = 1 / (1 + np.exp(-(level + rng.normal(0, 1.2, rows))))
        # Page 2 has one class only; page 3 has too few rows.
        frame[f"label_{task}"] = np.where(scenario == "2", 1, rng.random(rows) < truth).astype(int)
        frame[f"score_{task}"] = np.clip(truth + rng.normal(0, 0.1, rows), 0.01, 0.99).astype(np.float32)
        scores[f"score_{task}"] = np.clip(truth + rng.normal(0, 0.4, rows), 0.01, 0.99).astype(np.float32)
    frame = pd.DataFrame(frame)
    (folder / "model").mkdir()
    frame.to_parquet(folder / "model/predictions.parquet", index=False)
    if baseline:
        shuffled = frame[["member", "article", "ms"]].assign(**scores).sample(frac=1, random_state=1)
        shuffled.to_parquet(folder / "additive.parquet", index=False)
    rounds = [
        {"round": i, "step": 40 * i, "samples": 2560 * i, "epoch": i / 4, "loss": 0.7 - 0.02 * i, "metrics": {},
         "curve": [{"samples": 2560 * i - 1280, "loss": 0.71 - 0.02 * i, "valid": {}},
                   {"samples": 2560 * i, "loss": 0.69 - 0.02 * i, "valid": {"loss": 0.66 - 0.01 * i}}],
         "valid": {"loss": 0.66 - 0.01 * i, "click.auc": 0.6 + 0.02 * i, "click.log_loss": 0.6},
         "samples_per_second": 5000.0 + i, "seconds": 2.0}
        for i in range(1, 6)
    ]  # fmt: skip
    (folder / "model/training.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rounds))
    parts = [
        {"name": "embedding", "parameters": 1_234_000, "flops": 0},
        {"name": "head", "parameters": 257, "flops": 512},
    ]
    card = {"name": "hemix", "params": {}, "preset": "tiny", "parts": parts, "parameters": 1_234_257, "flops": 512}
    (folder / "model/model.json").write_text(json.dumps(card))
    (folder / "examples").mkdir()
    counts = {
        "rows_read": {"log": 5300}, "bad_rows": {"log": 3}, "duplicates": 41, "rows": {"train": 4000, "eval": rows},
        "joins": {"item_0": {"rows": 4900, "matched": 4893}},
        "histories": {"global": {"train": {"rows": 4000, "empty": 500, "events": 69_000}}},
        "features": {"tags": {"present": {"train": 4000, "eval": rows}, "cut_rows": 6, "cut_values": 1234}},
        "labels": {
            task: {"train": {page: {"rows": 2000, "positives": 10 * share} for page in "01"}}
            for task, share in zip(TASKS, (82, 50), strict=True)
        },
    }  # fmt: skip
    (folder / "examples/report.json").write_text(json.dumps(counts))
    (folder / "model/unknown_ids.json").write_text(json.dumps({"article": {"values": 1000, "unknown": 32}}))
    judgement = Judgement(evaluation=folder / "evaluation", reasons=("task click: AUC is 0.6, below 0.7",))
    RunRecord(
        name=name,
        dataset="shop",
        config={"train": {"batch_size": 64}},
        spec=FeatureSpec(
            name="shop",
            user=Key("member"),
            item=Key("article"),
            time=EventTime("ms"),
            scenario=Scenario("page", values=tuple(labels), labels=tuple(labels.values())),
            labels=tuple(Label(task) for task in TASKS),
            features=(Categorical("article", group="item"),),
        ),
        splits=("train",),
        started=datetime(2024, 5, 1, 10),
        finished=datetime(2024, 5, 1, 10, 2),
        seconds={"ExampleGen": 12.5, "Trainer": 75.25},
        rows=Rows(
            examples=folder / "examples",
            statistics=folder / "statistics",
            transformed=folder / "transformed",
            transform_graph=folder / "graph",
        ),
        baselines=folder,
        model_run=folder / "model",
        export=None,
        judgement=judgement,
    ).write(folder)
    return folder


class Text(html.parser.HTMLParser):
    """Rows of cells, and all tags, of a page; fails on a tag that is closed out of turn."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.rows, self.open, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.rows and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data.strip() + " "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def written(folder):
    result = write_report([folder], folder / "deep/report.html")
    page = (folder / "deep/report.html").read_text()
    text = Text()
    text.feed(page)
    assert text.open == []
    return result, page, text


def test_numbers_are_those_of_scikit_learn_on_the_predictions(folder, written):
    frame = pd.read_parquet(folder / "model/predictions.parquet")
    (run,) = written[0]["runs"]
    for task in TASKS:
        for page, title in (("overall", "all rows"), ("0", "home")):
            own = frame if page == "overall" else frame[frame["page"] == page]
            area = roc_auc_score(own[f"label_{task}"], own[f"score_{task}"])
            loss = log_loss(own[f"label_{task}"], own[f"score_{task}"].astype(float))
            got = run["tasks"][task][page]
            assert (got["auc"], got["log_loss"]) == (pytest.approx(area), pytest.approx(loss))
            assert any(
                cells[0].strip() == title and cells[4].startswith(f"{area:.4f}") and cells[6].startswith(f"{loss:.4f}")
                for cells in written[2].rows
                if len(cells) > 6
            )


def test_the_baseline_stands_beside_the_model(folder, written):
    frame = pd.read_parquet(folder / "model/predictions.parquet")
    joined = frame.merge(pd.read_parquet(folder / "additive.parquet"), on=["member", "article", "ms"])
    model = roc_auc_score(joined["label_click"], joined["score_click_x"])
    base = roc_auc_score(joined["label_click"], joined["score_click_y"])
    (cells,) = [c for c in written[2].rows if c[0].strip() == "all rows" and c[4].startswith(f"{model:.4f}")]
    assert cells[11].startswith(f"{model - base:+.4f}")
    assert cells[13].split("log loss")[0].strip() == f"{100 * ((model - 0.5) / (base - 0.5) - 1):+.1f} %"
    assert any(len(c) > 4 and c[3].strip() == "baseline" and c[4].startswith(f"{base:.4f}") for c in written[2].rows)


def test_slices_that_cannot_be_judged_show_a_dash_and_say_why(written):
    cells = {row[0].strip(): row for row in written[2].rows if len(row) > 10}
    assert cells["cart"][3].strip() == "every label is 1"
    assert re.fullmatch(r"only \d\d rows", cells["help"][3].strip())
    assert cells["new"][3].strip() == "no rows"
    for title in ("cart", "help", "new"):
        assert [cell.strip() for cell in cells[title][4:]] == ["-"] * 10
    assert "nan" not in re.sub(r"base64,[^\"]*", "", written[1]).lower()


def test_the_page_needs_no_network_and_no_script(written):
    for tag, attributes in written[2].tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    plots = [attributes["alt"] for tag, attributes in written[2].tags if tag == "img"]
    assert plots == [
        "AUC by scenario",
        "Calibration curve",
        "ROC curve",
        "Distribution of scores by label",
        "Training curves",
    ]


def test_data_time_and_parameters_are_listed(written):
    rows = [[cell.strip() for cell in row] for row in written[2].rows]
    assert ["train", "4,000", "41.0 %", "25.0 %"] in rows
    assert ["eval", "900", "-", "-"] in rows
    assert ["rows read from log", "5,300"] in rows
    lost = (
        "3 bad rows of log, 41 duplicates, 7 rows without a match in item_0 (0.1%), 1,234 values of tags cut in 6 rows"
    )
    assert ["lost", lost] in rows
    assert ["empty", "global 12.5%"] in rows
    assert ["unknown", "article 3.2%"] in rows
    assert ["global", "train", "17.2", "12.5 %"] in rows
    assert ["Trainer", "1 min 15 s", ""] in rows
    assert ["embedding", "1.23 M", "0"] in rows
    assert "task click: AUC is 0.6, below 0.7" in written[1]


@pytest.mark.slow
def test_names_from_data_are_escaped(tmp_path):
    labels = {"0": "<b>home</b> & more", "1": 'a"b', "2": "c", "3": "d"}
    folder = fake_run(tmp_path / "run", name="<script>alert(1)</script>", rows=300, baseline=False, labels=labels)
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page and "<b>home" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;home&lt;/b&gt; &amp; more" in page
    console = SafeConsole(width=200, record=True)
    console.print(*metrics_tables([folder]))
    assert "<b>home</b> & more" in console.export_text()


@pytest.mark.slow
def test_runs_stand_side_by_side(folder, tmp_path):
    second = fake_run(tmp_path / "other", name="second run", seed=4, rows=700, baseline=False)
    result = write_report([folder, second], tmp_path / "both.html")
    assert [run["name"] for run in result["runs"]] == ["first run", "second run"]
    text = Text()
    text.feed((tmp_path / "both.html").read_text())
    rows = [[cell.strip() for cell in row] for row in text.rows if len(row) > 10 and row[0].strip() == "all rows"]
    assert [row[3] for row in rows] == ["first run", "second run"] * 2
    assert [row[1] for row in rows] == ["900", "700"] * 2


def test_runs_of_long_names_stand_side_by_side_in_80_columns(folder, tmp_path):
    name = "films/20260131-120000-tfrs-dlrm"
    second = fake_run(tmp_path / "other", name=name, seed=4, rows=700)
    console = SafeConsole(width=80, record=True)
    console.print(*metrics_tables([folder, second]))
    text = console.export_text()
    assert "…" not in text
    rows = [line.split() for line in text.splitlines() if " all rows " in line]
    assert [row[3:5] for row in rows] == [["1", "900"], ["2", "700"]] * 2
    assert "run 1: first run" in text and f"run 2: {name}" in text


def test_the_terminal_table_names_what_is_not_judged(folder):
    console = SafeConsole(width=160, record=True)
    console.print(*metrics_tables([folder]))
    text = console.export_text()
    frame = pd.read_parquet(folder / "model/predictions.parquet")
    assert f"{roc_auc_score(frame['label_buy'], frame['score_buy']):.4f}" in text
    assert "not judged: cart: every label is 1; help: only" in text
    assert "nan" not in text.replace("\n", " ").split()


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "message"), [(0.0, "agree with those above"), (0.002, "1 numbers differ")])
def test_a_number_on_which_tfma_disagrees_is_flagged(folder, tmp_path, monkeypatch, shift, message):
    frame = pd.read_parquet(folder / "model/predictions.parquet")
    area = roc_auc_score(frame["label_click"], frame["score_click"])
    rows = [MetricValue("click", "overall", "auc", area + shift), MetricValue("click", "2", "auc", float("nan"))]
    run = write_report([folder], tmp_path / "r.html")["runs"][0]["tasks"]
    rows += [
        MetricValue(task, page, metric, value)
        for task, pages in run.items()
        for page, values in pages.items()
        for metric, value in values.items()
        if (task, page, metric) != ("click", "overall", "auc")
    ]
    monkeypatch.setattr("mixrank.components.judging.load_metrics", lambda uri: rows)
    copy = tmp_path / "copy"
    copy.mkdir()
    RunRecord.read(folder).model_copy(update={"judgement": Judgement(evaluation=tmp_path)}).write(copy)
    assert write_report([copy], tmp_path / "r.html")["runs"][0]["disagreements"] == int(shift > 0)
    assert message in (tmp_path / "r.html").read_text()


def test_an_incomplete_run_is_named(tmp_path, folder):
    with pytest.raises(ValueError, match=r"is not a run folder: it holds no run\.json"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(ValueError, match="at least one run folder"):
        metrics_tables([])
    with pytest.raises(ValueError, match=r"distinct run names, received \['first run', 'first run'\]"):
        metrics_tables([folder, folder])
    broken = fake_run(tmp_path / "broken", rows=300)
    pd.read_parquet(broken / "additive.parquet").iloc[5:].to_parquet(broken / "additive.parquet")
    with pytest.raises(ValueError, match=r"additive.parquet has no score for 5 of the 300 rows"):
        metrics_tables([broken])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model/training.jsonl", '{"samples": 1, "curve": []}', "samples_per_second: Field required"),
        ("model/training.jsonl", "7", "Input should be a valid dictionary"),
        ("model/training.jsonl", "{", "Expecting property name"),
        ("model/model.json", '{"parameters": 7}', "flops: Field required"),
        ("model/model.json", "[" * 50_000, "recursion"),
        ("examples/report.json", '{"rows": [1]}', "rows: Input should be an object"),
    ],
)
def test_a_changed_file_of_a_run_is_named(tmp_path, file, text, message):
    run = fake_run(tmp_path / "changed", rows=300)
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file} is not as the run wrote it: .*{message}"):
        write_report([run], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
def test_control_characters_and_secrets_from_data_reach_no_page_and_no_plot(tmp_path):
    labels = {"0": "bell\x07 \x1b[31m", "1": "nul\x00", "2": "http://me:hunter22@host", "3": "x"}
    folder = fake_run(tmp_path / "run", name="esc\x1b]0;title", rows=300, labels=labels)
    write_report([folder], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_bytes().decode()
    plots = "".join(base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page))
    assert "bell\\x07" in plots and "nul\\x00" in page
    for text in (page, plots):
        assert "hunter22" not in text and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
