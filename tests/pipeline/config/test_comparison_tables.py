"""Tables and variants: the shipped ones are sound, wrong ones are refused by name."""

from __future__ import annotations

import re

import pytest

from mixrank.layers import registry
from mixrank.pipeline.comparing.trial_plan import seen, settings, size, trials
from mixrank.pipeline.config import RunConfig, load_config
from mixrank.pipeline.config.comparison_tables import (
    CompareSettings,
    Range,
    Table,
    Tuned,
    Variant,
    shipped_tables,
    without_table,
)
from mixrank.schemas import Categorical, History, MultiCategorical, datasets

TWO = ({"name": "hemix", "model": {"name": "hemix"}}, {"name": "dlrm", "model": {"name": "dlrm"}})


def config(**changes):
    return RunConfig(**{"name": "a", "dataset": "kuairand", "data": ".", "output": "/nowhere", **changes})


@pytest.fixture
def earlier(record_of):
    return record_of(datasets.load("kuairand").spec)


@pytest.mark.slow
def test_the_shipped_tables_plan_trainings_that_differ_in_their_variant_only(earlier):
    tables = {name: table.filled() for name, table in shipped_tables().items()}
    assert {variant.name for variant in tables["models"].variants} == set(registry.names())
    for name, table in tables.items():
        planned = trials(config(), earlier, table)
        assert len({trial.folder for trial in planned}) == len(planned), name
        assert len(planned) == len(table.budgets) * len(table.variants) * 4
        assert len({str(trial.given.rows) + trial.given.spec.to_json() for trial in planned}) == 1


@pytest.fixture(scope="module")
def built():
    """Variants that were built for another table already."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("table", shipped_tables())
def test_every_training_of_a_shipped_table_has_a_model_that_can_be_built(table, earlier, built, monkeypatch):
    """Every model is made and counted at each of its sizes; of the sizes that a variant is scaled to, one is built.

    From size to size layers differ in their widths alone, and that a model has the layers that its arithmetic counts,
    the contract of models says.
    """
    from keras import ops

    from mixrank.components.training.model_factory import resolve
    from mixrank.layers.base import PerToken
    from mixrank.layers.ranking import build_ranker

    # Nobody looks at the values, and drawing the matrices of all experts one by one takes half of the time.
    monkeypatch.setattr(PerToken, "__call__", lambda self, shape, dtype=None, **kwargs: ops.zeros(shape, dtype))
    spec = datasets.load("kuairand").spec
    sizes = {each.name: 10 for each in spec.inputs if isinstance(each, Categorical | MultiCategorical)}
    models = {
        trial.title.partition(" seed")[0]: trial.given.model
        for trial in trials(config(), earlier, shipped_tables()[table].filled())
    }
    for model in models.values():
        scaled = resolve(spec, model)
        variant = model.model_copy(update={"match_params": None}).model_dump_json(), model.match_params is None
        if variant not in built:
            built.add(variant)
            build_ranker(
                spec, sizes, scaled.name, params=scaled.params, preset=scaled.preset, heads=scaled.heads, seed=0
            )


def test_a_training_is_named_by_everything_that_decides_it_and_by_nothing_else(earlier, record_of):
    table = Table(title="two", variants=TWO)
    first = {trial.title: trial for trial in trials(config(), earlier, table)}
    again = {trial.title: trial for trial in trials(config(), earlier, table.model_copy(update={"title": "other"}))}
    assert {trial.folder for trial in first.values()} == {trial.folder for trial in again.values()}
    for changed in (
        trials(config(train={"batch_size": 64}), earlier, table),
        trials(config(), record_of(earlier.spec, transformed="/other"), table),
        trials(config(compare={"seeds": [10, 11]}), earlier, table),
    ):
        assert not {trial.folder for trial in changed} & {trial.folder for trial in first.values()}
    # Speed does not depend on the seed.
    assert len({trial.cost for trial in first.values()}) == 2


def test_a_variant_lies_over_what_was_found_for_its_model_and_that_over_the_config():
    run = config(
        model={"name": "hemix", "params": {"rank": 4, "dim": 16}},
        train={"epochs": 3, "optimizer": {"learning_rate": 0.5}},
        compare={
            "tuned": {
                "hemix": {"params": {"dim": 24}, "train": {"optimizer": {"schedule": "cosine"}}},
                "dlrm": {"train": {"epochs": 2}, "embedding_width": 2},
            }
        },
    )
    variant = Variant(
        name="v", model={"name": "hemix", "params": {"fixed_queries": False}}, train={"optimizer": {"name": "sgd"}}
    )
    model, train = settings(run, variant, 5000, 7)
    assert model.params == {"rank": 4, "dim": 24, "fixed_queries": False}
    assert (model.match_params, train.seed, train.epochs) == (5000, 7, 3)
    assert train.optimizer.model_dump(include={"name", "learning_rate", "schedule"}) == {
        "name": "sgd",
        "learning_rate": 0.5,
        "schedule": "cosine",
    }
    model, train = settings(run, Variant(name="d", model={"name": "dlrm"}), None, 0)
    assert (model.params, model.embedding_width, train.epochs) == ({}, 2.0, 2)
    model, _ = settings(run, Variant(name="d", model={"name": "dlrm", "embedding_width": 0.5}), None, 0)
    assert model.embedding_width == 0.5


def test_a_model_without_a_feature_does_not_see_it_in_histories_either():
    spec = datasets.load("kuairand").spec
    less = seen(spec, ("realtime", "author_id"))
    assert [history.name for history in less.histories] == ["global"]
    assert not {"author_id", "same_author_id"} & {feature.name for feature in less.features}
    assert less.get("same_video_id") == spec.get("same_video_id")
    (history,) = (feature for feature in less.features if isinstance(feature, History))
    assert history.of == ("video_id", "tag", "action", "gap")
    without = seen(spec, ("realtime.action", "gap"))
    assert without.get("same_tag").flags == () and not without.get("same_tag").recency
    blind = {history.name: history.of for history in seen(spec, ("realtime.action",)).histories}
    assert blind["realtime"] == ("video_id", "author_id", "tag", "gap")
    assert blind["global"] == ("video_id", "author_id", "tag", "action", "gap")
    assert seen(spec, ()) == spec
    with pytest.raises(ValueError, match="`real_time`, which is not a feature or history; did you mean `realtime`"):
        seen(spec, ("real_time",))


def test_what_is_computed_from_a_feature_leaves_with_it(toy_spec):
    less = seen(toy_spec, ("country",))
    names = {feature.name for feature in toy_spec.features} - {feature.name for feature in less.features}
    assert names == {"country", "there", "habit"}
    assert {f.name for f in toy_spec.features} - {f.name for f in seen(toy_spec, ("age",)).features} == {"age", "rate"}
    left = {feature.name for feature in seen(toy_spec, ("clip", "last")).features}
    assert left.isdisjoint({"last", "clip", "maker", "words"}) and "pull" in left
    blind = seen(toy_spec, ("global.clip",))
    assert (blind.get("maker").histories, blind.get("words").histories) == ((), ())
    assert {"last", "clip"}.isdisjoint(f.name for f in seen(toy_spec, ("clip", "last")).features)
    every = {feature.name for feature in toy_spec.features}
    # What only events have leaves with the last history that lists it.
    assert every - {f.name for f in seen(toy_spec, ("orders",)).features} == {"orders", "bought"}
    both = {f.name for f in seen(toy_spec, ("orders", "viewed")).features}
    assert every - both == {"orders", "bought", "viewed", "viewed_it", "paid"}
    # Of `viewed` a number alone would be left.
    assert {"viewed", "viewed_it"}.isdisjoint(left)
    with pytest.raises(ValueError, match="`without` names `clip`, whose table `last` uses: name both"):
        seen(toy_spec, ("clip",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variants": TWO[:1]}, "at least 2 items"),
        ({"variants": (TWO[0], TWO[0])}, "two variants are named `hemix`"),
        ({"variants": TWO, "reference": "dlmr"}, "not a variant of the table; did you mean `dlrm`"),
        ({"variants": TWO, "scaling": True}, "`scaling` needs three `budgets`"),
        ({"variants": ({"name": "a", "model": {"name": "hemmix"}}, TWO[0])}, "no model `hemmix`; did you mean `hemix`"),
        (
            {"variants": ({"name": "a", "model": {"name": "hemix", "params": {"dims": 3}}}, TWO[0])},
            "no parameter `dims`",
        ),
        (
            {"variants": ({"name": "a", "model": {"name": "hemix", "match_params": 5}}, TWO[0])},
            "takes name, preset",
        ),
        (
            {"variants": ({"name": "a", "model": {"name": "hemix", "heads": {"kind": "mmo"}}}, TWO[0])},
            "no heads `mmo`; did you mean `mmoe`",
        ),
        ({"variants": ({"name": "a", "model": {}}, TWO[0])}, "needs a `name`"),
        ({}, "give `variants` or `every_model: true`, received 0 variants"),
        ({"variants": TWO, "every_model": True}, "give `variants` or `every_model: true`, received 2 variants"),
    ],
)
def test_a_wrong_table_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Table(title="a table", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": (1, 1)}, "`seeds` must differ"),
        ({"seeds": (1,)}, "at least 2 items"),
        ({"tuned": {"hemix": {"params": {"dims": 3}}}}, "no parameter `dims`"),
        ({"search": {"epochs": (1, 2)}}, "begins with train. or params., or is embedding_width; received 'epochs'"),
        ({"search": {"train.epochs": ()}}, "nothing to choose from for train.epochs"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CompareSettings(**values)


def test_other_mistakes_are_named(earlier):
    with pytest.raises(ValueError, match="there is no table `model`; did you mean `models`"):
        CompareSettings().table("model")
    with pytest.raises(ValueError, match="`high` must be above `low`"):
        Range(low=2, high=1)
    table = Table(title="two", variants=({**TWO[0], "train": {"epochs": 0}}, TWO[1]))
    with pytest.raises(ValueError, match=re.escape("variant `hemix`: epochs: Input should be greater than")):
        trials(config(), earlier, table)


def test_tables_of_a_config_join_the_shipped_ones_and_sizes_read_well(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: a\ndataset: kuairand\ndata: .\ncompare:\n  tables:\n    mine:\n      title: Mine\n"
        "      variants:\n        - {name: one, model: {name: hemix}}\n"
        "        - {name: two, model: {name: dlrm}, without: [realtime]}\n"
        "    scaling: {budgets: [75K, 150K, 1M]}\n"
    )
    run = load_config(str(file))
    assert run.compare.table("mine").variants[1].without == ("realtime",)
    assert run.compare.table("hemix").reference == "hemix"
    scaling, shipped = run.compare.table("scaling"), shipped_tables()["scaling"]
    assert scaling == shipped.model_copy(update={"budgets": (75_000, 150_000, 1_000_000)}) != shipped
    assert run.compare.tuned == {} == Tuned().train
    assert [size(n) for n in (None, 999, 250_000, 1_500_000, 2_000_000_000)] == ["preset", "999", "250K", "1.5M", "2B"]


def test_a_table_without_features_compares_with_all_of_them(earlier):
    table = without_table("dcnv2", 250_000, ["video_id", "author_id, tag"])
    planned = {each.variant: each.given for each in trials(config(), earlier, table)}
    assert list(planned) == ["all features", "without video_id", "without author_id, tag"]
    assert table.tested == "reference" and table.budgets == (250_000,)
    names = {name: {f.name for f in given.spec.features} for name, given in planned.items()}
    assert names["all features"] - names["without author_id, tag"] >= {"author_id", "tag"}
    spec = planned["without video_id"].spec
    assert not any("video_id" in history.of for history in spec.histories)
    assert not any(match.of == "video_id" for match in spec.matches)
    assert spec.item.name == "video_id", "the key of the row stays"
    # Those that are matched by other fields are still there.
    assert spec.matches


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a,,b"], "names with commas between them, received 'a,,b'"),
        (["a", "a"], "two variants are named `without a`"),
    ],
)
def test_wrong_groups_of_features_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        without_table("dcnv2", None, groups)
