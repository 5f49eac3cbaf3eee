import numpy as np
import pytest

from mixrank.components.baselines import AdditiveLogOdds
from mixrank.components.baselines.additive import AdditiveClasses, AdditiveMean


def test_prediction_adds_smoothed_log_odds_of_each_key():
    # Overall rate 3/5; smoothing 2 adds 1.2 clicks in 2 rows to every value.
    keys = {"page": ["a", "a", "b", "b", "b"], "item": [7, 8, 7, 8, 8]}
    model = AdditiveLogOdds(smoothing=2.0).fit(keys, [1, 0, 1, 1, 0])

    def odds(rate):
        return rate / (1 - rate)

    page = {"a": (1 + 1.2) / 4, "b": (2 + 1.2) / 5}
    item = {7: (2 + 1.2) / 4, 8: (1 + 1.2) / 5}
    for p, page_rate in page.items():
        for i, item_rate in item.items():
            expected = odds(page_rate) * odds(item_rate) / odds(0.6)
            got = model.predict({"page": [p], "item": [i]})[0]
            assert got == pytest.approx(expected / (1 + expected), abs=1e-12)


@pytest.mark.parametrize("kind", [AdditiveLogOdds, AdditiveMean])
def test_a_row_of_weight_k_counts_as_k_rows(kind):
    rng = np.random.default_rng(1)
    keys, labels, weights = {"page": rng.integers(0, 3, 40)}, rng.integers(0, 2, 40), rng.integers(0, 4, 40)
    taken = np.repeat(np.arange(40), weights)
    # Weights are over their mean, so smoothing by 5 rows of 40 is smoothing by 5 mean weights.
    repeated = kind(smoothing=5 * weights.mean()).fit({"page": keys["page"][taken]}, labels[taken])
    np.testing.assert_allclose(kind().fit(keys, labels, weights).predict(keys), repeated.predict(keys))


def test_weights_of_0_alone_are_refused():
    with pytest.raises(ValueError, match="`weights` must be >= 0, above 0 in some row"):
        AdditiveMean().fit({"page": [0, 1]}, [1.0, 2.0], [0.0, 0.0])


def test_an_unseen_value_adds_nothing():
    model = AdditiveLogOdds(smoothing=1.0).fit({"item": [2, 2, 5, 5, 5]}, [1, 0, 0, 0, 1])
    # Below, between and above the values of training.
    np.testing.assert_allclose(model.predict({"item": [-3, 4, 9]}), [0.4, 0.4, 0.4], atol=1e-12)


def test_more_smoothing_pulls_towards_the_overall_rate():
    keys, labels = {"item": [1, 1, 2, 2, 2, 2]}, [1, 1, 0, 0, 0, 1]
    near, far = (AdditiveLogOdds(smoothing=m).fit(keys, labels).predict({"item": [1]})[0] for m in (100.0, 0.1))
    assert 0.5 < near < 0.52
    assert far > 0.95


@pytest.mark.parametrize(
    ("keys", "labels", "message"),
    [
        ({"item": []}, [], "`labels` must have at least one row"),
        ({"item": [1, 2, 3]}, [1, 0], r"key `item` must have one value per label \(2,\), received \(3,\)"),
    ],
)
def test_fit_names_what_is_wrong(keys, labels, message):
    with pytest.raises(ValueError, match=message):
        AdditiveLogOdds().fit(keys, labels)


@pytest.mark.parametrize(("label", "rate"), [(0, 0.5 / 5), (1, 4.5 / 5)])
def test_labels_of_one_class_give_every_row_one_prediction(label, rate):
    model = AdditiveLogOdds().fit({"item": [1, 2, 2, 3], "page": ["a", "a", "b", "b"]}, [label] * 4)
    np.testing.assert_allclose(model.predict({"item": [1, 9], "page": ["b", "c"]}), [rate, rate], rtol=1e-12)


def test_predict_names_a_missing_key():
    model = AdditiveLogOdds().fit({"item": [1, 2], "page": [1, 1]}, [1, 0])
    with pytest.raises(ValueError, match=r"`keys` lacks \['page'\], received \['item'\]"):
        model.predict({"item": [1]})
    with pytest.raises(ValueError, match="`fit` must be called before `predict`"):
        AdditiveLogOdds().predict({"item": [1]})


def test_smoothing_must_be_positive():
    with pytest.raises(ValueError, match="`smoothing` must be > 0, received 0"):
        AdditiveLogOdds(smoothing=0)


def test_probabilities_of_classes_have_the_additive_mean_and_are_nearest_to_shares():
    rng = np.random.default_rng(5)
    classes, keys = (0, 1, 2, 5), {"page": rng.integers(0, 4, 200), "item": rng.integers(0, 9, 200)}
    labels = rng.choice(classes, 200, p=(0.4, 0.3, 0.2, 0.1))
    found = AdditiveClasses(classes).fit(keys, labels).predict(keys)
    mean, shares = found[:, 0], found[:, 1:]
    np.testing.assert_allclose(mean, AdditiveMean(least=0).fit(keys, labels).predict(keys), atol=1e-3)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(shares @ np.array(classes), mean, rtol=1e-9)
    # Logarithms of p_c / q_c are a line of c.
    counts = np.array([(labels == value).sum() for value in classes]) + 0.5
    slope = np.log(shares / (counts / counts.sum()))
    np.testing.assert_allclose(slope[:, 3] - slope[:, 2], 3 * (slope[:, 2] - slope[:, 1]), atol=2e-3)


def test_a_mean_beyond_the_classes_becomes_the_outermost_one():
    keys = {"page": [0] * 20 + [1] * 20, "item": [0] * 20 + [1] * 20}
    labels = [1] * 20 + [5] * 20
    low, high = AdditiveClasses((1, 3, 5), smoothing=0.1).fit(keys, labels).predict({"page": [0, 1], "item": [0, 1]})
    assert low[1] > 0.95 and high[3] > 0.95
