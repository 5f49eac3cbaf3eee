import pathlib

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from mixrank.components.judging.evaluation import (
    OVERALL,
    Thresholds,
    build_evaluator,
    eval_config,
    load_metrics,
    why_not_blessed,
)
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Request, Scenario

SPEC = FeatureSpec(
    name="shop",
    user=Key("member", dtype="str"),
    item=Key("article"),
    time=EventTime("time_ms"),
    scenario=Scenario("page", values=("home", "cart")),
    labels=(Label("click", row_weight="worth"), Label("buy", given="click", matures_after="1d")),
    features=(Categorical("article", group="item"),),
    request=Request("visit", dtype="str"),
)
ROWS = 611
# Every member visits every page, so that a slice must not rank rows of another page; "help" has one class only.
PAGES = np.array(["home", "cart", "help"])


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(11)
    page = PAGES[rng.choice(3, ROWS, p=[0.6, 0.35, 0.05])]
    columns = {"member": np.array([f"m{i}" for i in rng.integers(0, 60, ROWS)]), "page": page}
    columns["visit"] = np.array([f"v{i}" for i in rng.integers(0, 140, ROWS)])
    for task, model in (("click", "new"), ("buy", "new"), ("click", "old"), ("buy", "old")):
        # Seven levels: ties inside and between members.
        columns[f"{task}_{model}"] = rng.integers(1, 8, ROWS) / 8
        if model == "new":
            columns[task] = np.where(page == "help", 1, rng.random(ROWS) < columns[f"{task}_new"]).astype(int)
    columns["buy_is_mature"] = (rng.random(ROWS) < 0.9).astype(int)
    columns["worth"] = rng.uniform(0, 3, ROWS).astype(np.float32)
    columns["click_old"] = np.clip(columns["click"] * 0.5 + 0.25, 0, 1)
    return columns


@pytest.fixture(scope="module")
def root(log, tmp_path_factory):
    import tensorflow as tf

    root = tmp_path_factory.mktemp("evaluator")
    (root / "examples/Split-eval").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(root / "examples/Split-eval/data.gz"), options="GZIP") as writer:
        for row in range(ROWS):
            example = tf.train.Example()
            for name, column in log.items():
                feature = example.features.feature[name]
                if column.dtype.kind == "U":
                    feature.bytes_list.value.append(column[row].encode())
                elif column.dtype.kind == "f":
                    feature.float_list.value.append(column[row])
                else:
                    feature.int64_list.value.append(column[row])
            # A history of varying length that TFMA must not stumble over.
            example.features.feature["global_article"].int64_list.value.extend(range(row % 4))
            writer.write(example.SerializeToString())
    for name in ("new", "old"):
        save_model(root / name / "Format-Serving", name)
    return root


def save_model(path: pathlib.Path, name: str, tasks: tuple[str, ...] = SPEC.tasks) -> None:
    """A SavedModel that returns the columns `click_NAME` and `buy_NAME` as probabilities."""
    import tensorflow as tf

    class Columns(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serve(self, examples):
            wanted = {f"{task}_{name}": tf.io.FixedLenFeature([1], tf.float32) for task in tasks}
            parsed = tf.io.parse_example(examples, wanted)
            return {task: parsed[f"{task}_{name}"] for task in tasks}

    module = Columns()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})


def counted(log, task):
    """Rows of a task: `buy` is given `click`, and known of rows of some age."""
    return np.ones(ROWS, bool) if task == "click" else (log["click"] == 1) & (log["buy_is_mature"] == 1)


def evaluate(root, thresholds, baseline, spec=SPEC):
    """Runs the executor on exactly the properties that the component would hand it; returns (uri, blessed)."""
    from tfx.types import artifact_utils, channel_utils, standard_artifacts

    from mixrank.components.judging.last_pushed import EvaluatorExecutor as Executor

    examples = standard_artifacts.Examples()
    examples.uri = str(root / "examples")
    examples.split_names = artifact_utils.encode_split_names(["eval"])
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    inputs = {"examples": [examples]}
    # Before the first push there is an artifact, but no model in it.
    for key, name in (("model", "new"), ("baseline_model", "old" if baseline else "nothing")):
        inputs[key] = [standard_artifacts.Model()]
        inputs[key][0].uri = str(root / name)
    (root / "nothing").mkdir(exist_ok=True)
    component = build_evaluator(
        *(channel_utils.as_channel(inputs[key]) for key in ("examples", "model", "baseline_model")), spec, thresholds
    )
    out = root / f"out-{baseline}"
    outputs = {"evaluation": [standard_artifacts.ModelEvaluation()], "blessing": [standard_artifacts.ModelBlessing()]}
    for key, artifacts in outputs.items():
        artifacts[0].uri = str(out / key)
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(out / "scratch"), unique_id="1")
    Executor(context).Do(inputs, outputs, dict(component.exec_properties))
    return str(out / "evaluation"), (out / "blessing/BLESSED").exists()


@pytest.fixture(scope="module")
def blocked(root):
    thresholds = Thresholds(
        min_auc={"click": 0.95, "buy": 0.5},
        min_gauc={"buy": 0.99},
        max_log_loss={"buy": 0.1},
        max_auc_drop={"click": 0.01},
        max_log_loss_rise={"click": 0.001, "buy": 10},
        min_calibration={"click": 0.2},
        max_calibration={"click": 0.3},
        min_example_count={"buy": ROWS + 1},
    )
    return evaluate(root, thresholds, baseline=True)


@pytest.mark.slow
def test_every_slice_equals_scikit_learn_on_its_rows(blocked, log):
    got = {(row.task, row.slice, row.metric): row.value for row in load_metrics(blocked[0])}
    assert {slice for _, slice, _ in got} == {OVERALL, *PAGES}
    for task in SPEC.tasks:
        for page in (OVERALL, "home", "cart"):
            rows = counted(log, task) & ((log["page"] == page) | (page == OVERALL))
            labels, scores, members = log[task][rows], log[f"{task}_new"][rows], log["member"][rows]
            weights = log["worth"][rows] if task == "click" else np.ones(rows.sum())
            counts, areas, gains = [], [], []
            for member in np.unique(members):
                mine = members == member
                if len(set(labels[mine])) == 2:
                    counts.append(weights[mine].sum())
                    areas.append(roc_auc_score(labels[mine], scores[mine], sample_weight=weights[mine]))
                    gains.append(ndcg_score([labels[mine]], [scores[mine]], k=10))
            visits = [log["visit"][rows] == visit for visit in np.unique(log["visit"][rows])]
            hits = [mine for mine in visits if labels[mine].any()]
            # scikit-learn takes no single row, whose order is always the best.
            gained = [ndcg_score([labels[m]], [scores[m]], k=10) if m.sum() > 1 else 1.0 for m in hits]
            mean_label = np.full(len(labels), np.average(labels, weights=weights))
            loss, least = (log_loss(labels, each, sample_weight=weights) for each in (scores, mean_label))
            expected = {
                "auc": roc_auc_score(labels, scores, sample_weight=weights),
                "gauc": np.average(areas, weights=counts),
                "gauc_uniform": np.mean(areas),
                "ndcg@10": np.average(gains, weights=counts),
                "normalized_entropy": loss / least,
                "request_ndcg@10": np.average(gained, weights=[weights[m].mean() for m in hits]),
                "requests_used": len(hits),
                "requests_skipped": len(visits) - len(hits),
                "gauc_groups_used": len(areas),
                "gauc_groups_skipped": len(np.unique(members)) - len(areas),
                "log_loss": loss,
                "calibration": (weights * scores).sum() / (weights * labels).sum(),
                "example_count": rows.sum(),
            }
            assert {metric: got[task, page, metric] for metric in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_metrics_of_the_last_blessed_model_are_told_apart(blocked, log):
    old = {(row.task, row.slice, row.metric): row.value for row in load_metrics(blocked[0], "baseline")}
    assert old["click", OVERALL, "auc"] == 1
    home = counted(log, "buy") & (log["page"] == "home")
    assert old["buy", "home", "auc"] == pytest.approx(roc_auc_score(log["buy"][home], log["buy_old"][home]), abs=1e-9)


@pytest.mark.slow
def test_each_failed_bound_is_told_in_words(blocked, log):
    clicked = counted(log, "buy")
    area = roc_auc_score(log["click"], log["click_new"], sample_weight=log["worth"])
    loss = log_loss(log["buy"][clicked], log["buy_new"][clicked])
    new, old = (log_loss(log["click"], log[f"click_{each}"], sample_weight=log["worth"]) for each in ("new", "old"))
    rise = new - old
    reasons = why_not_blessed(blocked[0])
    assert not blocked[1]
    assert f"task click: AUC is {area:.4f}, below the lower bound 0.95" in reasons
    assert f"task click: AUC is {1 - area:.4f} below the last pushed model's, more than the 0.01 allowed" in reasons
    assert f"task buy: log loss is {loss:.4f}, above the upper bound 0.1" in reasons
    assert any(reason.startswith("task buy: GAUC is 0.") for reason in reasons)
    assert f"task click: log loss is {rise:.4f} above the last pushed model's, more than the 0.001 allowed" in reasons
    assert any(reason.startswith("task click: calibration is ") for reason in reasons)
    assert f"task buy: number of examples is {clicked.sum()}.0000, below the lower bound {ROWS + 1}" in reasons
    assert len(reasons) == 7


@pytest.mark.slow
def test_a_bad_small_scenario_and_a_missing_predecessor_do_not_block(root):
    uri, blessed = evaluate(root, Thresholds(min_auc={"click": 0.5}, max_auc_drop={"click": 0.0}), baseline=False)
    assert blessed
    assert why_not_blessed(uri) == []
    (auc,) = [row.value for row in load_metrics(uri) if row[:3] == ("click", "help", "auc")]
    assert np.isnan(auc)


def test_a_threshold_of_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="`min_auc` names task `clik`; did you mean `click`"):
        eval_config(SPEC, Thresholds(min_auc={"clik": 0.7}))


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match="`max_auc_drop` of task `buy` must be a finite number >= 0, received -0.1"):
        eval_config(SPEC, Thresholds(max_auc_drop={"buy": -0.1}))


def test_thresholds_refuse_an_unknown_bound():
    with pytest.raises(ValueError, match="there is no bound `min_acu`; did you mean `min_auc`"):
        Thresholds(min_acu={"click": 0.5})


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no validation result"):
        why_not_blessed(str(tmp_path))
    with pytest.raises(ValueError, match="holds no metrics"):
        load_metrics(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("baseline", [False, True])
def test_a_log_with_one_label_is_judged(root, log, tmp_path, baseline):
    (tmp_path / "examples").symlink_to(root / "examples")
    for name in ("new", "old"):
        save_model(tmp_path / name / "Format-Serving", name, ("click",))
    spec = FeatureSpec(**{**SPEC.model_dump(), "labels": [{"name": "click"}]})
    thresholds = Thresholds(min_auc={"click": 0.5}, max_auc_drop={"click": 0.01})
    evaluation, blessed = evaluate(tmp_path, thresholds, baseline, spec)
    for model, column in {"candidate": "click_new", **({"baseline": "click_old"} if baseline else {})}.items():
        found = {(row.task, row.slice, row.metric): row.value for row in load_metrics(evaluation, model)}
        assert found["click", OVERALL, "auc"] == pytest.approx(roc_auc_score(log["click"], log[column]), abs=1e-6)
    # The old model's scores order the labels perfectly.
    assert blessed is not baseline
