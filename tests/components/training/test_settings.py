"""Training settings refuse what cannot work."""

from __future__ import annotations

import pytest

from mixrank.components.training.settings import (
    EarlyStopping,
    ModelSettings,
    Optimizer,
    TableOptimizer,
    TrainSettings,
    parse_count,
)
from mixrank.schemas import KEYS, Label


def test_the_defaults_are_the_papers():
    settings = TrainSettings()
    assert (settings.batch_size, settings.optimizer.name, settings.optimizer.learning_rate) == (256, "adam", 1e-4)


def test_early_stopping_needs_an_untouched_split():
    with pytest.raises(ValueError, match="needs a split that is not trained on"):
        TrainSettings(splits=("train", "valid"), early_stopping=EarlyStopping())


def test_a_batch_divides_among_replicas():
    with pytest.raises(ValueError, match="7 % 2 != 0"):
        TrainSettings(batch_size=7, replicas=2)
    with pytest.raises(ValueError, match="`replicas` must be >= 1, received 0"):
        TrainSettings(replicas=0)
    with pytest.raises(ValueError, match=r"2 replicas times `accumulate_steps` 3: 256 % 6 != 0"):
        TrainSettings(replicas=2, accumulate_steps=3)
    with pytest.raises(ValueError, match=r"3 replicas: 256 % 3 != 0"):
        TrainSettings().on(3)


@pytest.mark.parametrize(
    ("options", "rows", "rate"),
    [
        ({}, 64, 0.01),
        ({"batch_size_per": "replica"}, 256, 0.01),
        ({"batch_size_per": "replica", "learning_rate_scaling": "linear", "base_batch_size": 64}, 256, 0.04),
        ({"batch_size_per": "replica", "learning_rate_scaling": "sqrt", "base_batch_size": 64}, 256, 0.02),
        ({"learning_rate_scaling": "linear", "base_batch_size": 128}, 64, 0.005),
    ],
)
def test_rows_per_step_and_rates_follow_the_replicas(options, rows, rate):
    optimizer = Optimizer(learning_rate=0.01, warmup=0.1)
    embedding = TableOptimizer(name="adagrad", learning_rate=0.5)
    settings = TrainSettings(batch_size=64, optimizer=optimizer, embedding_optimizer=embedding, **options).on(4)
    assert settings.batch_size == rows
    assert (settings.optimizer.learning_rate, settings.optimizer.warmup) == (pytest.approx(rate), 0.1)
    assert settings.embedding_optimizer.learning_rate == pytest.approx(0.5 * rate / 0.01)
    # In numbers, nothing depends on the replicas any more.
    assert settings.on(4) == settings


def test_heads_are_checked_with_the_model(toy_spec):
    with pytest.raises(ValueError, match="there are no heads `mmo`; did you mean `mmoe`"):
        ModelSettings(heads={"kind": "mmo"})
    groups = ModelSettings(name="dcnv2", heads={"kind": "home", "groups": [["click", "bye"]]})
    with pytest.raises(ValueError, match="`groups` names 'bye', which is not a task of the log; did you mean `buy`"):
        groups.check(toy_spec)
    ModelSettings(name="dcnv2", heads={"kind": "home", "groups": [["click", "buy"]]}).check(toy_spec)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("bye", "`train.entire_space` names the task `bye`, which the log does not have; did you mean `buy`"),
        ("click", "`train.entire_space` is for binary labels with `given`: label `click` is not given another"),
        ("spent", "`train.entire_space` is for binary labels with `given`: label `spent` is of kind count"),
    ],
)
def test_only_binary_tasks_given_another_are_learned_over_all_rows(task, message, toy_spec):
    labels = (Label("click"), Label("buy", given="click"), Label("spent", kind="count", given="click"))
    spec = toy_spec.model_copy(update={"labels": labels})
    TrainSettings(entire_space=("buy",)).check(spec, ("train",))
    with pytest.raises(ValueError) as refused:
        TrainSettings(entire_space=(task,)).check(spec, ("train",))
    assert message in str(refused.value)


def test_scaling_of_rates_needs_what_they_were_tuned_for():
    for options in ({"learning_rate_scaling": "linear"}, {"base_batch_size": 64}):
        with pytest.raises(ValueError, match="`learning_rate_scaling` and `base_batch_size` go together, received"):
            TrainSettings(**options)


def test_accumulation_is_no_option_of_an_optimizer():
    with pytest.raises(ValueError, match=r"set `train.accumulate_steps`"):
        Optimizer(options={"gradient_accumulation_steps": 4})


def test_training_needs_the_training_split():
    with pytest.raises(ValueError, match="must contain `train`"):
        TrainSettings(splits=("valid",))


@pytest.mark.parametrize(
    ("text", "count"),
    [("1M", 10**6), ("1.5b", 1_500_000_000), ("300k", 300_000), ("1_000", 1000), ("1,000", 1000), (7, 7)],
)
def test_counts_are_read_as_people_write_them(text, count):
    assert parse_count(text) == count
    assert ModelSettings(match_params=text).match_params == count


@pytest.mark.parametrize("text", ["1X", "M", "", "1.2.3", "-1M", "many"])
def test_other_counts_are_refused(text):
    with pytest.raises(ValueError, match=f"a count .*received '{text}'"):
        parse_count(text)


def test_a_budget_is_at_least_one_parameter():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        ModelSettings(match_params=0)
    assert ModelSettings().match_params is None


@pytest.mark.parametrize(("metric", "higher"), [("loss", False), ("click.log_loss", False), ("click.gauc", True)])
def test_the_direction_of_a_metric_is_known(metric, higher):
    assert EarlyStopping(metric=metric).higher_is_better is higher


@pytest.mark.parametrize("settings", [ModelSettings(), ModelSettings(match_params="2M"), TrainSettings()])
def test_settings_survive_the_way_to_the_trainer(settings):
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


def test_a_label_is_trained_by_its_loss_or_by_its_kinds():
    import keras

    from mixrank.components.training.model_factory import task_loss

    settings = TrainSettings(loss={"click": "focal"})
    assert isinstance(task_loss(Label("click"), settings), keras.losses.BinaryFocalCrossentropy)
    assert isinstance(task_loss(Label("buy"), settings), keras.losses.BinaryCrossentropy)


def test_a_loss_that_is_not_there_or_of_another_task_is_refused(toy_spec):
    with pytest.raises(ValueError, match="there is no loss `focl`; did you mean `focal`"):
        TrainSettings(loss={"click": "focl"})
    with pytest.raises(ValueError, match="`train.loss` names the task `clik`, .* did you mean `click`"):
        TrainSettings(loss={"clik": "focal"}).check(toy_spec, ["train"])
    with pytest.raises(ValueError, match="the loss `huber` is for labels of kind regression, not binary"):
        TrainSettings(loss={"click": {"name": "huber", "delta": 2}}).check(toy_spec, ["train"])
    with pytest.raises(ValueError, match="a loss with options needs its `name`, received"):
        TrainSettings(loss={"click": {"gamma": 2}})


def test_rows_without_sampled_negatives_are_trained_on_alone(toy_spec):
    spec = toy_spec.model_copy(update={"labels": (Label("click", keep_negatives=0.1),)})
    TrainSettings().check(spec, ["train", "valid"])
    with pytest.raises(ValueError, match="`train.splits` must be train alone, received train, valid: `keep_negatives`"):
        TrainSettings(splits=("train", "valid")).check(spec, ["train", "valid"])


def test_a_loss_of_groups_needs_rows_that_stay_together():
    with pytest.raises(ValueError, match="the loss of `click` compares rows of one group, .* set `rows_together`"):
        TrainSettings(loss={"click": "jrc"})
    settings = TrainSettings(loss={"click": {"name": "pairwise", "alpha": 0.2}, "buy": "focal"}, rows_together=16)
    assert settings.groups == {"click": KEYS["user"]}


def test_a_loss_inside_requests_needs_requests(toy_spec):
    settings = TrainSettings(loss={"click": {"name": "jrc", "within": "request"}}, rows_together=16)
    assert settings.groups == {"click": KEYS["request"]}
    spec = toy_spec.model_copy(update={"request": None})
    with pytest.raises(ValueError, match="a loss `within: request` needs the log to declare `request=Request"):
        settings.check(spec, ["train"])


def test_tasks_over_the_entire_space_need_every_row(toy_spec):
    labels = (Label("click", keep_negatives=0.5), Label("buy", given="click"))
    with pytest.raises(ValueError, match="`train.entire_space` is over every row, and label `click` has"):
        TrainSettings(entire_space=("buy",)).check(toy_spec.model_copy(update={"labels": labels}), ("train",))
    with pytest.raises(ValueError, match="`entire_space` does not go together with a loss of groups"):
        TrainSettings(entire_space=("buy",), loss={"click": "jrc"}, rows_together=8)


def test_rates_are_of_tables_that_are_trained(toy_spec):
    splits = ["train", "valid", "eval"]
    TrainSettings(embedding_optimizer={"rates": {"clip": 0.5, "page": 0}}).check(toy_spec, splits)
    for name, hint in (("clp", "; did you mean `clip`"), ("last", ""), ("words", ""), ("price", "")):
        settings = TrainSettings(embedding_optimizer={"rates": {name: 0.5}})
        with pytest.raises(
            ValueError, match=f"`embedding_optimizer.rates` names `{name}`, which has no table .*{hint}"
        ):
            settings.check(toy_spec, splits)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TrainSettings(embedding_optimizer={"rates": {"clip": -1}})
