"""Permutation importance of made-up models whose use of each column is known."""

import numpy as np
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression

from mixrank.pipeline.reports import (
    by_measure,
    feature_groups,
    measure_importance,
    read_importance,
    write_importance,
)
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Numeric, Scenario

SPEC = FeatureSpec(
    name="shop",
    user=Key("member"),
    item=Key("article"),
    time=EventTime("at"),
    scenario=Scenario("page", values=(1, 2)),
    labels=(Label("click"), Label("seconds", kind="regression", scale=10.0)),
    features=(
        Categorical("article", group="item"),
        *(Numeric(name, group="item") for name in ("strong", "weak", "unused")),
    ),
)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    columns = {name: rng.normal(size=3000) for name in ("strong", "weak", "unused")}
    logits = 2 * columns["strong"] + 0.4 * columns["weak"]
    columns |= {"page": rng.integers(1, 3, 3000), "article": rng.integers(0, 9, 3000)}
    truth = {
        "member": np.array([f"m{each}" for each in rng.integers(0, 400, 3000)]),
        "click": (rng.random(3000) < 1 / (1 + np.exp(-logits))).astype(int),
        "seconds": 10 * logits,
    }
    return columns, truth


def score(columns):
    logits = 2 * columns["strong"] + 0.4 * columns["weak"]
    return {"click": 1 / (1 + np.exp(-logits)), "seconds": 10 * logits}


@pytest.fixture(scope="module")
def found(rows):
    return measure_importance(SPEC, *rows, score, feature_groups(SPEC), permutations=4, resamples=100, seed=1)


def test_what_a_model_does_not_read_is_worth_nothing(found):
    for each in found:
        if each.group in ("unused", "page", "article"):
            assert (each.loss, each.low, each.high) == (0, 0, 0)


def test_features_are_ordered_and_each_interval_holds_its_loss(found):
    tables = {(task, metric.name): each for task, metric, each in by_measure(found)}
    assert list(tables) == [("click", "auc"), ("click", "log_loss"), ("seconds", "gxauc"), ("seconds", "mse")]
    for each in tables.values():
        assert [row.group for row in each[:2]] == ["strong", "weak"]
        assert all(0 < row.low < row.loss < row.high for row in each[:2])
        assert {row.rows for row in each} == {3000} and {row.permutations for row in each} == {4}


def test_it_agrees_with_scikit_learn(found, rows):
    columns, truth = rows
    names = ["strong", "weak", "unused"]
    table = np.stack([columns[name] for name in names], axis=1)
    model = LogisticRegression().fit(table[:2], [0, 1])
    model.coef_, model.intercept_ = np.array([[2.0, 0.4, 0.0]]), np.zeros(1)
    theirs = permutation_importance(model, table, truth["click"], scoring="roc_auc", n_repeats=4, random_state=0)
    ours = {each.group: each.loss for each in found if each.metric == "auc"}
    np.testing.assert_allclose([ours[name] for name in names], theirs.importances_mean, atol=0.01)


def test_columns_of_a_group_move_together(rows):
    columns, truth = rows
    twin = {**columns, "weak": columns["strong"]}

    def difference(given):
        gap = np.abs(given["strong"] - given["weak"])
        return {"click": 1 / (1 + np.exp(-given["strong"] - gap)), "seconds": gap}

    groups = feature_groups(SPEC, ["strong,weak", "weak"])
    both, one = (
        next(e for e in measure_importance(SPEC, twin, truth, difference, {name: groups[name]}, permutations=1)
             if e.task == "seconds" and e.metric == "mse")
        for name in groups
    )  # fmt: skip
    # Their difference stays 0 where both move alike.
    assert both.loss == 0 and one.loss != 0


def test_groups_are_columns_of_features_and_histories(toy_spec):
    alone = feature_groups(toy_spec)
    assert alone["page"] == ("page",) and alone["clip"] == ("clip",)
    assert alone["global"] == ("global_clip", "global_tag", "global_action", "global_gap", "global_tag_weight")
    assert "had" not in alone and "action" not in alone
    assert feature_groups(toy_spec, ["clip, realtime.tag"]) == {
        "clip, realtime.tag": ("clip", "realtime_tag", "realtime_tag_weight")
    }
    with pytest.raises(ValueError, match="`clp` is neither a feature nor a history; did you mean `clip`"):
        feature_groups(toy_spec, ["clp"])
    with pytest.raises(ValueError, match="`had` is computed from other columns"):
        feature_groups(toy_spec, ["had"])


def test_a_file_gives_the_numbers_back(found, tmp_path):
    assert read_importance(tmp_path) == []
    write_importance(tmp_path, found)
    assert read_importance(tmp_path) == found
    (tmp_path / "importance.json").write_text('[{"group": 1}]')
    with pytest.raises(ValueError, match="importance.json is not as `mixrank importance` wrote it"):
        read_importance(tmp_path)


@pytest.mark.slow
def test_an_exported_model_is_asked_through_its_signature(toy_export, toy_spec, toy_data, toy_scores):
    from mixrank.pipeline.reports import read_rows, scorer

    columns, truth = read_rows(toy_spec, f"{toy_data.examples}/Split-eval/*", most=10_000)
    ask = scorer(toy_export.folder, batch=64)
    np.testing.assert_allclose(ask(columns)["click"], toy_scores["click"][:, 0], atol=1e-5)
    found = measure_importance(
        toy_spec, columns, truth, ask, feature_groups(toy_spec, ["clip", "global"]), permutations=1, resamples=20
    )
    assert all(each.loss != 0 for each in found if each.metric == "log_loss")
    few, _ = read_rows(toy_spec, f"{toy_data.examples}/Split-eval/*", most=20)
    assert len(few["clip"]) == 20
