"""Every way to score a row gives the same score."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mixrank.schemas.encode import encode

ROWS = 40


@pytest.fixture(scope="module")
def examples(toy_spec, toy_data):
    return [encode(toy_spec, row) for row in toy_data.rows["eval"][:ROWS]]


@pytest.fixture(scope="module")
def compared(toy_export, toy_scores, examples):
    """The reference, the differences by way and task, and what was said on the way."""
    from mixrank.serving.parity import parity

    in_memory = {task: scores[:ROWS, 0].copy() for task, scores in toy_scores.items()}
    said = []
    reference, found = parity(toy_export.folder, examples, in_memory=in_memory, name="toy", say=said.append)
    return reference, {(each.way, each.task): each for each in found}, said


@pytest.mark.slow
def test_keras_savedmodel_rest_grpc_and_beam_agree(compared):
    reference, found, said = compared
    assert reference == "Keras in memory"
    signatures = ("serving_default", "score_rows", "rank_candidates")
    ways = [f"SavedModel, {loader}, {s}" for loader in ("TF 2 loader", "session loader") for s in signatures]
    ways += [f"{protocol}, {signature}" for protocol in ("REST", "gRPC") for signature in signatures[1:]]
    assert set(found) == {(way, task) for way in [*ways, "Beam"] for task in ("click", "buy")}
    assert all(each.largest <= 1e-5 for each in found.values()), found
    assert {each.rows for (way, _), each in found.items() if "rank_candidates" in way} == {32}
    assert {each.rows for (way, _), each in found.items() if "rank_candidates" not in way} == {ROWS}
    assert len(said) == 4


@pytest.mark.slow
def test_the_savedmodel_is_the_reference_where_no_other_is_given(toy_export, examples, tmp_path):
    from mixrank.serving.parity import REFERENCE, parity

    # As TFX names it, and with what is special to a path: no number, which a server would need.
    export = tmp_path / "Format-Serving [1] 100%"
    shutil.copytree(toy_export.folder, export)
    reference, found = parity(export, examples[:3], name="toy")
    assert reference == REFERENCE
    assert all(each.way != REFERENCE and each.largest <= 1e-5 for each in found)
    assert {"REST, score_rows", "gRPC, score_rows"} < {each.way for each in found}


def test_a_difference_names_the_row_it_is_largest_in():
    from mixrank.serving.parity import _difference

    found = _difference("Beam", "click", np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.25, 0.31]))
    assert (found.rows, found.row) == (3, 1)
    assert found.largest == pytest.approx(0.05)
    assert np.isnan(_difference("Beam", "click", np.array([0.1, 0.2]), np.array([0.9, np.nan])).largest)


@pytest.mark.parametrize("answer", [[], [0.1, 0.2, 0.3]])
def test_a_way_that_answers_too_few_or_too_many_rows_is_refused(answer):
    from mixrank.serving.parity import _difference

    with pytest.raises(ValueError, match=f"Beam answered {len(answer)} scores of click for 2 rows"):
        _difference("Beam", "click", np.array([0.1, 0.2]), np.array(answer))


def test_parity_needs_rows(toy_export):
    from mixrank.serving.parity import parity

    with pytest.raises(ValueError, match="parity needs at least one row, received none"):
        parity(toy_export.folder, [])
