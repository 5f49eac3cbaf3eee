"""Rules for every row of the table of metrics, and metrics that come from other packages."""

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score

from mixrank.components.judging import Thresholds
from mixrank.components.metrics import Metric, Rows, measure, ndcg_at
from mixrank.components.metrics import table as table_of_metrics
from mixrank.components.metrics.table import OF_NUMBERS, OF_REQUESTS, OWN, directed, find_metric, metrics
from mixrank.components.training.settings import EarlyStopping
from mixrank.pipeline.reports.intervals import draw_users

PAGE = Path(__file__).parents[3] / "docs" / "add-a-metric.md"


@pytest.fixture
def rows():
    rng = np.random.default_rng(4)
    # Seven levels: ties inside and between groups.
    groups = rng.integers(0, 9, 90)
    # Three requests of each user.
    requests = 3 * groups + rng.integers(0, 3, 90)
    return Rows(rng.integers(0, 2, 90), rng.integers(1, 8, 90) / 8, groups, requests)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a made-up distribution with the given lines under `[mixrank.metrics]` and the module `outside`."""

    def install(lines: str, module: str) -> None:
        about = tmp_path / "outside-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[mixrank.metrics]\n{lines}\n")
        (tmp_path / "outside_metrics.py").write_text(module)
        monkeypatch.syspath_prepend(tmp_path)
        metrics.cache_clear()

    yield install
    metrics.cache_clear()
    import sys

    sys.modules.pop("outside_metrics", None)


@pytest.mark.parametrize("metric", [*OWN, *OF_NUMBERS, *OF_REQUESTS], ids=lambda metric: metric.name)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_resample_equals_the_metric_on_the_repeated_rows(metric, rows, weighted):
    if metric.of_resamples is None:
        assert metric.higher_is_better is None or metric.name == "xauc", "a metric with a direction needs an interval"
        return
    if metric in OF_NUMBERS:
        rows = Rows(rows.labels + rows.groups % 3, rows.scores, rows.groups)
    elif metric in OF_REQUESTS:
        # Some requests without a positive.
        rows = replace(rows, labels=rows.labels * (rows.requests % 4 > 0))
    if weighted:
        rows = replace(rows, weights=np.random.default_rng(6).uniform(0, 2, 90))
    drawn = draw_users(9, resamples=4, seed=3)
    got = metric.of_resamples(rows, drawn.astype(float))
    for resample, times in enumerate(drawn):
        taken = np.repeat(np.arange(90), times[rows.groups])
        # A group that is drawn twice is two groups.
        copy = np.concatenate([np.arange(n) for n in times[rows.groups]])
        requests = None if rows.requests is None else rows.requests[taken] + 100 * copy
        weights = rows.weights[taken] if weighted else None
        again = Rows(rows.labels[taken], rows.scores[taken], rows.groups[taken] + 100 * copy, requests, weights)
        assert got[resample] == pytest.approx(metric.of_rows(again), abs=1e-12)


@pytest.mark.parametrize("metric", [*OWN, *OF_NUMBERS], ids=lambda metric: metric.name)
def test_a_row_of_weight_k_counts_as_k_rows(metric, rows):
    if metric.name in ("example_count", "ndcg@10"):
        return
    labels = rows.labels + rows.groups % 3 if metric in OF_NUMBERS else rows.labels
    weights = np.random.default_rng(8).integers(0, 4, 90)
    taken = np.repeat(np.arange(90), weights)
    again = Rows(labels[taken], rows.scores[taken], rows.groups[taken])
    got = metric.of_rows(Rows(labels, rows.scores, rows.groups, weights=weights))
    assert got == pytest.approx(metric.of_rows(again), abs=1e-12)
    # Their unit does not matter.
    assert metric.of_rows(Rows(labels, rows.scores, rows.groups, weights=weights / 7)) == pytest.approx(got, abs=1e-12)
    assert got != pytest.approx(metric.of_rows(Rows(labels, rows.scores, rows.groups))) or "groups" in metric.name


@pytest.mark.parametrize("k", [1, 3, 20])
def test_ndcg_equals_scikit_learn_group_by_group_with_ties(rows, k):
    total = weight = 0.0
    for group in range(9):
        labels, scores = rows.labels[rows.groups == group], rows.scores[rows.groups == group]
        if len(set(labels)) == 2:
            total += len(labels) * ndcg_score([labels], [scores], k=k)
            weight += len(labels)
    assert ndcg_at(k).of_rows(rows) == pytest.approx(total / weight, abs=1e-12)


def test_ndcg_leaves_out_groups_with_one_class():
    # Group 1 ranks its positive second of two; groups 2 and 3 have one class.
    some = Rows(np.array([0, 1, 1, 1, 0]), np.array([0.9, 0.1, 0.5, 0.5, 0.4]), np.array([1, 1, 2, 2, 3]))
    assert ndcg_at(5).of_rows(some) == pytest.approx(1 / np.log2(3))
    assert ndcg_at(1).of_rows(some) == 0
    assert np.isnan(ndcg_at(5).of_rows(Rows(np.array([1, 1]), np.array([0.1, 0.2]), np.array([1, 2]))))


def test_ndcg_needs_a_place():
    with pytest.raises(ValueError, match="`k` must be >= 1, received 0"):
        ndcg_at(0)


def test_normalized_entropy_is_log_loss_over_that_of_the_mean_label(rows):
    constant = np.full(90, rows.labels.mean())
    expected = log_loss(rows.labels, rows.scores) / log_loss(rows.labels, constant)
    metric = find_metric("normalized_entropy")
    assert metric.of_rows(rows) == pytest.approx(expected, abs=1e-12)
    assert metric.of_rows(Rows(rows.labels, constant, rows.groups)) == pytest.approx(1)
    assert np.isnan(metric.of_rows(Rows(np.ones(3), np.full(3, 0.5), np.arange(3))))


@pytest.mark.parametrize("metric", [metric for metric in OWN if metric.higher_is_better is not None])
def test_the_direction_of_a_metric_is_that_of_better_scores(metric, rows):
    better = Rows(rows.labels, 0.8 * rows.scores + 0.2 * rows.labels, rows.groups)
    assert (metric.of_rows(better) > metric.of_rows(rows)) is metric.higher_is_better


def test_a_metric_of_a_package_enters_thresholds_and_early_stopping(installed, rows, toy_spec):
    installed(
        "error_rate = outside_metrics:ERROR_RATE\nndcg3 = outside_metrics:NDCG_3",
        "from mixrank.components.metrics import Metric, ndcg_at\n"
        "wrong = lambda rows: float(((rows.scores > 0.5) != rows.labels).mean())\n"
        "ERROR_RATE = Metric('error_rate', 'error rate', wrong,"
        " higher_is_better=False)\n"
        "NDCG_3 = ndcg_at(3)\n",
    )
    by_hand = np.mean((rows.scores > 0.5) != rows.labels)
    assert measure(rows, directed("binary", requests=False))["error_rate"] == pytest.approx(by_hand)
    assert Thresholds(max_error_rate={"click": 0.2}, max_error_rate_rise={"click": 0.01}).root
    assert Thresholds(**{"min_ndcg@3": {"click": 0.2}}).root
    rule = EarlyStopping(metric="click.error_rate")
    rule.check(toy_spec)
    assert not rule.higher_is_better
    assert EarlyStopping(metric="click.ndcg@3").higher_is_better


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("odd = outside_metrics:missing", "entry point `odd` of `mixrank.metrics`, from `outside`, cannot be loaded"),
        ("odd = outside_metrics:NUMBER", "from `outside`, must be a `Metric`, received 7"),
        ("odd = outside_metrics:AUC", "from `outside`, is named `auc`, which is taken: give it another name"),
    ],
)
def test_a_wrong_entry_point_is_named(installed, line, message):
    installed(
        line,
        "from mixrank.components.metrics import Metric\nNUMBER = 7\nAUC = Metric('auc', 'mine', lambda rows: 0.0)\n",
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        metrics()


def test_a_misspelt_metric_names_the_nearest():
    with pytest.raises(ValueError, match="there is no metric `logloss`; did you mean `log_loss`"):
        find_metric("logloss")
    with pytest.raises(ValueError, match="there is no bound `max_auc`; did you mean `max_auc_drop`"):
        Thresholds(max_auc={"click": 0.1})


def test_the_page_on_metrics_shows_metrics_that_work(tmp_path, rows):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    shown: list[Metric] = []
    for number, block in enumerate(blocks):
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        shown += [value for value in runpy.run_path(str(file)).values() if isinstance(value, Metric)]
    assert [metric.name for metric in shown] == ["brier", "ndcg@5"]
    brier = shown[0]
    assert brier.of_rows(rows) == pytest.approx(np.mean((rows.scores - rows.labels) ** 2))
    drawn = np.ones((2, 9))
    np.testing.assert_allclose(brier.of_resamples(rows, drawn), brier.of_rows(rows))


def test_the_page_on_judging_lists_every_metric():
    text = (PAGE.parent / "judging.md").read_text()
    assert [metric.name for metric in table_of_metrics.OWN if f"`{metric.name}`" not in text] == []
