"""Models scaled to a number of weights, and those that cannot be."""

from __future__ import annotations

import pytest

from mixrank.layers import registry
from mixrank.layers.backbone import Widths
from mixrank.layers.ranking import budget

WIDTHS = Widths({"user": (30, 12), "item": (20,), "context": (2,)}, {"before": (7, 16)})
ARGUMENTS = (WIDTHS, ("click", "like"), (3, 7))


def test_dense_parameters_are_those_of_backbone_and_heads():
    # dcnv2 without crosses: 80 wide fields, an MLP of 5, and two logistic heads on both side by side.
    params = {"num_layers": 0, "mlp_units": (5,)}
    assert budget.dense_parameters("dcnv2", params, *ARGUMENTS) == 80 * 5 + 5 + 2 * (80 + 5 + 1)


@pytest.mark.parametrize("wanted", [50_000, 1_000_000])
def test_a_model_is_matched_to_a_budget_by_what_it_scales(wanted):
    params = {"cross": "low_rank", "rank": 3, "mlp_units": (24, 16)}
    matched = budget.match("dcnv2", wanted, *ARGUMENTS, params)
    assert {**matched, "mlp_units": (24, 16)} == params
    first, second = matched["mlp_units"]
    # Both widths grow by one factor and stay multiples of 8.
    assert first % 8 == second % 8 == 0 and first / second == pytest.approx(1.5, rel=0.05)
    assert budget.dense_parameters("dcnv2", matched, *ARGUMENTS) == pytest.approx(wanted, rel=0.05)


def test_no_other_factor_comes_nearer():
    """Every multiple of 8 up to the next power of two, one by one."""
    params = {"num_layers": 0, "mlp_units": (24,)}
    wanted = 12_345
    matched = budget.match("dcnv2", wanted, *ARGUMENTS, params)

    def distance(width):
        return abs(budget.dense_parameters("dcnv2", {**params, "mlp_units": (width,)}, *ARGUMENTS) - wanted)

    assert matched["mlp_units"] == (min(range(8, 512, 8), key=distance),)


def test_scaled_widths_stay_divisible_by_other_parameters():
    params = {"dim": 20, "attention_heads": 5, "num_layers": 1}
    matched = budget.match("transformer", 200_000, *ARGUMENTS, params)
    assert matched["dim"] % 40 == 0 and matched["attention_heads"] == 5
    registry.build("transformer", matched)


def test_a_model_shrinks_too():
    tiny = registry.check("mlp_mixer", preset="tiny")
    matched = budget.match("mlp_mixer", 5_000, *ARGUMENTS, preset="tiny")
    assert matched["dim"] < tiny["dim"] and matched["num_layers"] == tiny["num_layers"]
    assert budget.dense_parameters("mlp_mixer", matched, *ARGUMENTS) < 7_500


def test_a_budget_below_the_smallest_form_is_refused():
    # Three full crosses of 80 x 80 weights do not scale; the MLP goes down to 8, 8 and 8.
    with pytest.raises(
        ValueError, match=r"dcnv2 has at least 20,410 dense parameters .* above the budget 5,000; lower"
    ):
        budget.match("dcnv2", 5_000, *ARGUMENTS, {"num_layers": 3})


def test_a_model_that_scales_nothing_is_refused(monkeypatch):
    model = registry.model("dcnv2")._replace(scaled={})
    monkeypatch.setattr(registry, "model", lambda name: model)
    with pytest.raises(ValueError, match="dcnv2 names no parameter in SCALED, so it cannot be matched"):
        budget.match("dcnv2", 5_000, *ARGUMENTS)


def test_a_block_on_hemix_tokens_gets_a_width_that_it_can_cut():
    params = {"num_global": 4, "realtime_sequence": False, "num_realtime": 2, "block": "rankmixer"}
    matched = budget.match("hemix", 300_000, *ARGUMENTS, params, "tiny")
    # 6 feature tokens, 4 that read the history, 4 fixed queries; HeteroMixing would cut into 8.
    assert matched["dim"] % 14 == 0 and matched["dim"] % 8 != 0
