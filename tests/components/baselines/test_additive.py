import numpy as np
import pytest

from mixrank.components.baselines.additive import AdditiveLogOdds, read_columns


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
        ({"item": [1, 2]}, [1, 1], "`labels` must hold both 0 and 1, received 2 rows with mean 1.0"),
        ({"item": [1, 2, 3]}, [1, 0], r"key `item` must have one value per label \(2,\), received \(3,\)"),
    ],
)
def test_fit_names_what_is_wrong(keys, labels, message):
    with pytest.raises(ValueError, match=message):
        AdditiveLogOdds().fit(keys, labels)


def test_predict_names_a_missing_key():
    model = AdditiveLogOdds().fit({"item": [1, 2], "page": [1, 1]}, [1, 0])
    with pytest.raises(ValueError, match=r"`keys` lacks \['page'\], received \['item'\]"):
        model.predict({"item": [1]})
    with pytest.raises(ValueError, match="`fit` must be called before `predict`"):
        AdditiveLogOdds().predict({"item": [1]})


def test_smoothing_must_be_positive():
    with pytest.raises(ValueError, match="`smoothing` must be > 0, received 0"):
        AdditiveLogOdds(smoothing=0)


@pytest.fixture
def examples(tmp_path):
    """Two files of two and three rows, with a history next to the columns."""
    import tensorflow as tf

    for part, numbers in (("b", (4, 0, 9)), ("a", (7, -2))):
        with tf.io.TFRecordWriter(str(tmp_path / f"data-{part}.gz"), options="GZIP") as writer:
            for number in numbers:
                example = tf.train.Example()
                example.features.feature["item"].int64_list.value.append(number)
                example.features.feature["price"].float_list.value.append(number / 2)
                example.features.feature["page"].bytes_list.value.append(f"pä{number}".encode())
                example.features.feature["history"].int64_list.value.extend([1] * max(number, 0))
                writer.write(example.SerializeToString())
    return str(tmp_path / "data-*")


def test_columns_are_read_in_file_order_with_their_types(examples):
    got = read_columns(examples, ["item", "price", "page"])
    assert list(got) == ["item", "price", "page"]
    np.testing.assert_array_equal(got["item"], np.array([7, -2, 4, 0, 9], np.int64))
    np.testing.assert_array_equal(got["price"], np.array([3.5, -1.0, 2.0, 0.0, 4.5], np.float32))
    assert got["page"].tolist() == ["pä7", "pä-2", "pä4", "pä0", "pä9"]
    assert (got["item"].dtype, got["price"].dtype) == (np.int64, np.float32)


def test_missing_columns_and_files_are_named(examples, tmp_path):
    with pytest.raises(ValueError, match="has no column `label`"):
        read_columns(examples, ["item", "label"])
    with pytest.raises(ValueError, match=r"`columns` \['history'\] need one value in every row"):
        read_columns(examples, ["history"])
    with pytest.raises(ValueError, match="none-\\* matches no file"):
        read_columns(str(tmp_path / "none-*"), ["item"])
