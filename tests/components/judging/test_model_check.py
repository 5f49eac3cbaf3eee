"""The check of an export gives reasons in plain words, and none for a good one."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from mixrank.components.judging.model_check import GOLDEN_ROWS, compare, read_examples, score_afresh, stamp
from mixrank.schemas.encode import encode
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.export import GOLDEN_FILE, WARMUP_FILE, LocalModel, check_golden, read_golden

SIGNATURES = ("serving_default", "score_rows", "rank_candidates")
NAMES = [f"{loader}/{signature}" for loader in ("tf2", "session") for signature in SIGNATURES]
# Rows that are also sent as requests with candidates.
REQUESTS = 7
KEYS = ["person", "clip", "at"]


@pytest.fixture
def rows(toy_spec):
    return list(toy_rows(toy_spec, 12, seed=6))


@pytest.fixture
def examples(toy_spec, rows):
    return [encode(toy_spec, row) for row in rows]


@pytest.fixture
def predictions(rows):
    """The Trainer's scores, in another order than the examples."""
    frame = pd.DataFrame([{key: row[key] for key in KEYS} for row in rows])
    frame["score_click"] = np.linspace(0.1, 0.9, len(rows)).astype("float32")
    frame["score_buy"] = np.linspace(0.6, 0.2, len(rows)).astype("float32")
    return frame.sample(frac=1, random_state=3, ignore_index=True)


@pytest.fixture
def scores():
    """Answers of a perfect export for the examples, in their order."""
    click, buy = np.linspace(0.1, 0.9, 12), np.linspace(0.6, 0.2, 12)
    return {
        f"{name}/{task}": values.astype("float32")[: REQUESTS if "rank" in name else None, None].copy()
        for name in NAMES
        for task, values in (("click", click), ("buy", buy))
    }


def test_equal_scores_give_no_reason(toy_spec, predictions, examples, scores):
    assert compare(toy_spec, predictions, examples, scores, tolerance=1e-6) == []


def test_a_differing_score_names_loader_signature_and_task(toy_spec, predictions, examples, scores):
    scores["session/score_rows/buy"][7] += 0.25
    assert compare(toy_spec, predictions, examples, scores, tolerance=1e-3) == [
        "session/score_rows/buy differs from the trained model by 0.25, allowed is 0.001"
    ]
    assert compare(toy_spec, predictions, examples, scores, tolerance=0.3) == []


def test_candidates_of_the_first_rows_are_compared(toy_spec, predictions, examples, scores, rows):
    scores["session/rank_candidates/click"][REQUESTS - 1] += 0.125
    assert compare(toy_spec, predictions, examples, scores, tolerance=1e-3) == [
        "session/rank_candidates/click differs from the trained model by 0.12, allowed is 0.001"
    ]
    late = predictions[predictions["at"].isin([row["at"] for row in rows[6:]])]
    scores["session/rank_candidates/click"] = scores["session/rank_candidates/click"][:6]
    assert compare(toy_spec, late, examples, scores, tolerance=1e-3) == [
        "session/rank_candidates/click answers for 6 rows, none of them among the Trainer's predictions"
    ]


def test_a_column_of_the_log_may_have_any_name(toy_spec, predictions, examples, scores):
    # The scenario's, say.
    named = predictions.assign(position="home", row="home", turn="home", index="home")
    assert compare(toy_spec, named, examples, scores, tolerance=1e-6) == []


def test_scores_of_swapped_rows_are_noticed(toy_spec, predictions, examples, scores):
    scores["tf2/serving_default/click"] = scores["tf2/serving_default/click"][::-1]
    (reason,) = compare(toy_spec, predictions, examples, scores, tolerance=1e-3)
    assert reason.startswith("tf2/serving_default/click differs from the trained model by 0.8")


def test_nan_and_infinity_are_counted(toy_spec, predictions, examples, scores):
    scores["tf2/score_rows/click"][[2, 3]] = np.nan
    scores["tf2/score_rows/click"][5] = np.inf
    assert compare(toy_spec, predictions, examples, scores, tolerance=1e-3) == [
        "tf2/score_rows/click answers NaN or infinity for 3 rows"
    ]


def test_too_few_common_rows_are_a_reason(toy_spec, predictions, examples, scores, rows):
    known = {row["at"] for row in rows[:5]}
    few = predictions[predictions["at"].isin(known)]
    assert compare(toy_spec, few, examples, scores, tolerance=1e-3) == [
        "only 5 of 12 evaluation rows are among the Trainer's predictions"
    ]
    assert compare(toy_spec, predictions, [], scores, tolerance=1e-3) == ["there are no evaluation rows to check"]


def test_rows_with_one_key_are_not_mixed_up(toy_spec, predictions, examples, scores, rows):
    """The same impression twice, with two scores: neither is compared, the others are."""
    twin = predictions[predictions["at"] == rows[0]["at"]].assign(score_click=0.0, score_buy=0.0)
    doubled = pd.concat([twin, predictions], ignore_index=True)
    assert compare(toy_spec, doubled, examples, scores, tolerance=1e-6) == []


def test_examples_are_read_in_file_order_up_to_a_count(toy_data):
    folder = str(toy_data.examples / "Split-valid")
    some, more = read_examples(folder, 3), read_examples(folder, 10_000)
    assert len(some) == 3
    assert len(more) == len(toy_data.rows["valid"])
    assert more[:3] == some


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no graph", "half the variables"])
def test_an_export_that_cannot_be_loaded_is_a_reason_not_a_crash(toy_export, examples, tmp_path, damage):
    model = tmp_path / "model"
    shutil.copytree(toy_export.folder, model)
    if damage == "no graph":
        (model / "saved_model.pb").unlink()
    else:
        (data,) = (model / "variables").glob("*.data-*")
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"^a fresh process could not load or score {model}: ") as caught:
        score_afresh(model, examples)
    reason = str(caught.value)
    assert "Traceback" not in reason and "\n" not in reason
    assert len(reason.rsplit(": ", 1)[1]) > 5


@pytest.mark.slow
def test_a_model_that_passed_is_handed_on_with_golden_rows_and_warm_up_requests(
    toy_export, toy_spec, toy_data, toy_scores, tmp_path
):
    examples = [encode(toy_spec, row) for row in toy_data.rows["eval"][:30]]
    answers = {f"tf2/score_rows/{task}": values[:30] for task, values in toy_scores.items()}
    stamp(toy_export.folder, tmp_path / "copy", toy_spec, examples, answers)

    rows = read_golden(tmp_path / "copy" / GOLDEN_FILE)
    assert len(rows) == GOLDEN_ROWS
    # A model that answers what the golden file says is let through, another one is not.
    model = LocalModel(tmp_path / "copy")
    options = {"version": 1, "folder": tmp_path / "copy", "tolerance": 1e-5}
    assert check_golden(rows, lambda _, instances: model.score(instances), **options) <= 1e-5
    with pytest.raises(ValueError, match="does not score the golden rows as expected"):
        check_golden(rows, lambda _, instances: model.score(instances[::-1]), **options)

    assert (tmp_path / "copy" / WARMUP_FILE).stat().st_size > 0
    same = {path.name for path in toy_export.folder.rglob("*") if path.is_file()}
    added = {path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()} - same
    assert added == {"golden.jsonl", "tf_serving_warmup_requests"}
