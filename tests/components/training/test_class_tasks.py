"""Tasks that answer more than a number, from a log whose truth is known to every way of scoring its rows."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import spearmanr

from mixrank.components.baselines import fit_additive
from mixrank.components.metrics import Rows, find_metric
from mixrank.components.training import train_model
from mixrank.components.training.settings import ModelSettings, Optimizer, TableOptimizer, TrainSettings
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Numeric, Scenario, Vocab
from mixrank.schemas.encode import encode

SPEC = FeatureSpec(
    name="rated",
    user=Key("member"),
    item=Key("clip"),
    time=EventTime("at"),
    scenario=Scenario("page", values=(0, 1), dim=2),
    labels=(
        Label("click"),
        Label("stars", kind="ordinal", classes=(1, 2, 3, 5)),
        Label("done", kind="multiclass", classes=(0, 1, 4), given="click"),
        Label("seen", kind="watch_quantile", duration="length", scale=10.0),
    ),
    features=(
        Categorical("clip", group="item", vocab=Vocab(), dim=4),
        Categorical("member", group="user", dim=2),
        Numeric("length", group="item", transform="log1p"),
    ),
)
CLIPS = 12
SCORES = np.linspace(-2, 2, CLIPS)
SHARES = np.random.default_rng(4).dirichlet([1, 1, 1], CLIPS)
# Half of the clips are twelve times as long, and a clip is watched to a part that has nothing to do with it.
LENGTHS = np.repeat([10.0, 120.0], CLIPS // 2)
PARTS = np.tile(np.linspace(0.2, 0.8, CLIPS // 2), 2)
OUTPUTS = (
    "click",
    "stars",
    "stars_1",
    "stars_2",
    "stars_3",
    "stars_5",
    "done",
    "done_0",
    "done_1",
    "done_4",
    "seen",
    "seen_rank",
)


def of_stars():
    above = expit(SCORES[:, None] - np.array([-1.0, 0.3, 1.2]))
    above = np.column_stack([np.ones(CLIPS), above, np.zeros(CLIPS)])
    return above[:, :-1] - above[:, 1:]


def rows(count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        clip = int(rng.integers(CLIPS))
        click = int(rng.random() < 0.6)
        yield {
            "member": int(rng.integers(30)),
            "clip": clip,
            "at": 1_000_000 + number,
            "page": int(rng.integers(2)),
            "click": click,
            "stars": int(rng.choice((1, 2, 3, 5), p=of_stars()[clip])),
            "done": int(rng.choice((0, 1, 4), p=SHARES[clip])) if click else 0,
            "length": float(LENGTHS[clip]),
            "seen": float(LENGTHS[clip] * rng.beta(4 * PARTS[clip], 4 * (1 - PARTS[clip]))),
        }


@pytest.fixture(scope="module")
def log():
    return {split: list(rows(n, seed)) for seed, (split, n) in enumerate({"train": 6000, "eval": 300}.items())}


@pytest.fixture(scope="module")
def folder(log, made_once, transform_log):
    return made_once("rated", lambda folder: transform_log(SPEC, log, folder))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    import tensorflow_transform as tft

    root = tmp_path_factory.mktemp("trained")
    train_model(
        spec=SPEC,
        model_settings=ModelSettings(
            name="dlrm",
            preset="tiny",
            params={"dim": 4, "bottom_units": (4,), "top_units": (16,)},
            heads={"kind": "mmoe", "experts": 2, "expert_units": (8,)},
        ),
        settings=TrainSettings(
            batch_size=100,
            epochs=15,
            optimizer=Optimizer(learning_rate=0.01),
            embedding_optimizer=TableOptimizer(name="lazy_adam", learning_rate=0.02),
            replicas=1,
            jit_compile="off",
            task_weighting="uncertainty",
        ),
        patterns={split: str(folder / f"transformed/Split-{split}/*") for split in ("train", "eval")},
        transform_output=tft.TFTransformOutput(str(folder / "graph")),
        checkpoints=root / "checkpoints",
        run_dir=root / "run",
        export_dir=root / "export",
    )
    return root


@pytest.fixture(scope="module")
def predictions(trained):
    return pd.read_parquet(trained / "run/predictions.parquet")


@pytest.mark.slow
def test_probabilities_of_the_classes_come_close_to_those_of_the_log(predictions):
    assert [name for name in predictions if name.startswith("score_")] == [f"score_{name}" for name in OUTPUTS]
    clip = predictions["clip"].to_numpy()
    for task, classes, truth in (("stars", (1, 2, 3, 5), of_stars()), ("done", (0, 1, 4), SHARES)):
        found = predictions[[f"score_{task}_{value}" for value in classes]].to_numpy()
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(found @ np.array(classes), predictions[f"score_{task}"], rtol=1e-5)
        # Of what the mean shares of all clips are off.
        assert np.abs(found - truth[clip]).mean() < 0.4 * np.abs(truth.mean(axis=0) - truth[clip]).mean()
    # Of rows without a click nothing is known.
    assert (predictions["label_done"].notna() == (predictions["label_click"] > 0)).all()


@pytest.mark.slow
def test_ranks_among_equal_durations_are_those_of_the_interest(predictions):
    clip = predictions.groupby("clip")[["score_seen", "score_seen_rank", "label_seen"]].mean()
    # The label is in its own unit.
    np.testing.assert_allclose(predictions["label_seen"].mean(), (LENGTHS * PARTS).mean(), rtol=0.1)
    assert spearmanr(clip["score_seen_rank"], PARTS).statistic > 0.9
    assert spearmanr(clip["score_seen"], PARTS).statistic < 0.7
    np.testing.assert_allclose(clip["score_seen"], LENGTHS * PARTS, rtol=0.35)


@pytest.mark.slow
def test_every_way_of_scoring_gives_the_same_classes(trained, log, predictions):
    from mixrank.serving.parity import parity

    examples = [encode(SPEC, row) for row in log["eval"][:30]]
    in_memory = {name: predictions[f"score_{name}"].to_numpy()[:30] for name in OUTPUTS}
    _, found = parity(trained / "export", examples, in_memory=in_memory, name="rated")
    assert {each.task for each in found} == set(OUTPUTS)
    assert len({each.way for each in found}) == 11
    assert all(each.largest <= 1e-5 for each in found), found


@pytest.mark.slow
def test_the_additive_baseline_has_classes_too_and_is_beaten(folder, predictions, tmp_path):
    patterns = {split: str(folder / f"examples/Split-{split}/*") for split in ("train", "eval")}
    base = pd.read_parquet(fit_additive(SPEC, patterns, ["train"], tmp_path / "additive.parquet"))
    both = predictions[["member", "clip", "at", "page"]].assign(
        **{name: predictions[name] for name in predictions if name.startswith("label_")},
        **{name: base[name] for name in base if name.startswith("score_")},
    )
    for task in ("stars", "done"):
        loss = find_metric("class_log_loss")
        own, other = (loss.of_rows(Rows.of(frame, task, SPEC)) for frame in (predictions, both))
        assert own < other + 0.01
        shares = [f"score_{name}" for name in OUTPUTS if name.startswith(f"{task}_")]
        np.testing.assert_allclose(base[shares].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.slow
def test_thresholds_are_counted_and_saved(trained):
    card = json.loads((trained / "run/model.json").read_text())
    assert {"name": "thresholds", "parameters": 3, "flops": 0} in card["parts"]
