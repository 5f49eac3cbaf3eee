"""Judging a trained model with TFMA: what is measured, what blocks the blessing, and why it was blocked.

TFX and TFMA are imported inside the functions, so that a configuration that holds `Thresholds` loads at once.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, RootModel, field_validator

from mixrank.components.metrics import bounds, find_metric, of_kinds
from mixrank.schemas import FeatureSpec
from mixrank.schemas.naming import Declaration, nearest
from mixrank.schemas.plain_names import plain
from mixrank.schemas.safe_text import shown

if TYPE_CHECKING:
    import tensorflow_model_analysis as tfma

OVERALL = "overall"


class Slice(Declaration):
    """Slices of the evaluation rows by a column.

    Args:
        column: a feature of the row, or a history by its number of events.
        edges: ascending numbers at which the values of a number, or numbers of events, are cut: k edges make k + 1
            slices, each of the rows from an edge on to below the next. Without any, the values or quantiles decide.

    >>> Slice.of("price"), Slice(column="price", edges=(1, 5)).edges
    (Slice(column='price', edges=()), (1.0, 5.0))
    """

    column: str
    edges: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()

    @field_validator("edges")
    @classmethod
    def _check_edges(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(left >= right for left, right in itertools.pairwise(edges)):
            raise ValueError(f"`edges` of `slices` must ascend, received {edges}")
        return edges

    @classmethod
    def of(cls, given: Any) -> Any:
        """A name as the slices by it; anything else as it is."""
        return cls(column=given) if isinstance(given, str) else given


class Thresholds(RootModel[dict[str, dict[str, float]]]):
    """Bounds that a model must meet on all evaluation rows to be blessed: bound -> task -> number >= 0.

    Every metric has its bounds: `min_auc` is the lowest AUC, `max_auc_drop` how far it may fall below the last
    pushed model's, `max_log_loss` the highest log loss, `max_log_loss_rise` how far it may rise above the last pushed
    model's. Bounds hold for the overall slice only: one scenario with few rows never blocks a release.

    Raises:
        ValueError: for a bound that no metric has, naming the nearest.

    >>> Thresholds(min_auc={"click": 0.7}, max_auc_drop={"click": 0.01}).root["min_auc"]
    {'click': 0.7}
    """

    model_config = ConfigDict(frozen=True)

    root: dict[str, dict[str, float]] = {}

    @field_validator("root")
    @classmethod
    def _check_names(cls, root: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name in root:
            if name not in (known := bounds()):
                raise ValueError(f"there is no bound `{name}`{nearest(name, known)}")
        return root


class MetricValue(NamedTuple):
    """One number of an evaluation; `slice` is "overall" or the raw scenario value as text."""

    task: str
    slice: str
    metric: str
    value: float


def eval_config(spec: FeatureSpec, thresholds: Thresholds, source: str = "") -> tfma.EvalConfig:
    """Every metric of every task, overall and per scenario.

    The model's `serving_default` takes serialised `tf.Example`s and returns one prediction per task under the task's
    name, and those of classes beside it; labels, user, request and scenario are raw columns of the examples.

    Args:
        spec: declaration of the log.
        thresholds: bounds of the overall slice.
        source: fingerprint of the code, so that the cache notices an edit.

    Raises:
        ValueError: if a threshold names a task that the spec does not have.
    """
    import tensorflow_model_analysis as tfma

    check_thresholds(thresholds, spec)
    overall = tfma.SlicingSpec()
    metrics_specs = []
    for label in spec.labels:
        names = [metric.name for metric in of_kinds(label.kind, requests=spec.request is not None)]
        config = {
            "group_key": spec.user.name,
            "names": names,
            "where": label.counts_where,
            "weight": spec.weight_of(label),
            "request_key": None if spec.request is None else spec.request.name,
            "classes": label.classes,
            "source": source,
        }
        ranking = tfma.MetricConfig(
            class_name="Ranking", module="mixrank.components.judging.tfma_metrics", config=json.dumps(config)
        )
        measured = tfma.MetricsSpec(output_names=[label.name], metrics=[ranking])
        for name, found in _tfma_thresholds(thresholds, label.name).items():
            measured.per_slice_thresholds[name].thresholds.extend(
                tfma.PerSliceMetricThreshold(slicing_specs=[overall], threshold=threshold) for threshold in found
            )
        metrics_specs.append(measured)
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                signature_name="serving_default",
                model_type="tf_generic",
                label_keys={task: task for task in spec.tasks},
            )
        ],
        slicing_specs=[overall, tfma.SlicingSpec(feature_keys=[spec.scenario.name])],
        metrics_specs=metrics_specs,
    )


def build_evaluator(
    examples: Any,
    model: Any,
    baseline_model: Any | None,
    spec: FeatureSpec,
    thresholds: Thresholds,
    example_split: str = "eval",
    source: str = "",
) -> Any:
    """The TFX Evaluator that measures `model`, compares it with `baseline_model` and blesses it or not.

    Args:
        examples: channel of Examples.
        model: channel of Model, the candidate.
        baseline_model: channel of Model, the last pushed one; None, or an artifact without a SavedModel, before the
            first push: bounds against it then do not apply.
        spec: declaration of the log.
        thresholds: bounds of the overall slice.
        example_split: split that is measured.
        source: as in `eval_config`.
    """
    from mixrank.components.judging.last_pushed import Evaluator

    return Evaluator(
        examples=examples,
        model=model,
        baseline_model=baseline_model,
        eval_config=eval_config(spec, thresholds, source),
        example_splits=[example_split],
        module_path=__name__,
    )


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """Called by the Evaluator's executor in place of TFMA's default extractors."""
    from mixrank.components.judging import tfma_batches

    return tfma_batches.extractors(eval_shared_model, eval_config, tensor_adapter_config)


def why_not_blessed(evaluation_uri: str) -> list[str]:
    """Reasons why a model was not blessed, one sentence per failed bound; empty if it was.

    Args:
        evaluation_uri: folder of the Evaluator's `evaluation` output.

    Raises:
        ValueError: if the folder holds no validation result.
    """
    import tensorflow_model_analysis as tfma

    try:
        result = tfma.load_validation_result(_plain(evaluation_uri))
    except AssertionError:
        raise ValueError(f"`evaluation_uri` {evaluation_uri} holds no validation result") from None
    if result.validation_ok:
        return []
    reasons = [_reason(failure) for sliced in result.metric_validations_per_slice for failure in sliced.failures]
    # TFMA reports a slice that no example fell into apart from the failures.
    if result.missing_slices:
        reasons.append("no example was evaluated: the split is empty or holds no readable row")
    return list(dict.fromkeys(reasons))


def load_metrics(evaluation_uri: str, model: str = "candidate") -> list[MetricValue]:
    """Every number of an evaluation.

    Args:
        evaluation_uri: folder of the Evaluator's `evaluation` output.
        model: "candidate", or "baseline" for the last pushed model on the same rows.

    Returns:
        `MetricValue`s sorted by task, slice and metric; metrics are those of the table.

    Raises:
        ValueError: if the folder holds no metrics.
    """
    import tensorflow_model_analysis as tfma

    if model not in ("candidate", "baseline"):
        raise ValueError(f"`model` must be 'candidate' or 'baseline', received {shown(model)}")
    if not (slices := list(tfma.load_metrics(_plain(evaluation_uri)))):
        raise ValueError(f"`evaluation_uri` {evaluation_uri} holds no metrics")
    # A single model has no name.
    names = ("", "candidate") if model == "candidate" else ("baseline",)
    rows = []
    for sliced in slices:
        keys = sliced.slice_key.single_slice_keys
        where = _text(getattr(keys[0], keys[0].WhichOneof("kind"))) if keys else OVERALL
        for entry in sliced.metric_keys_and_values:
            if entry.key.model_name in names and not entry.key.is_diff and entry.value.HasField("double_value"):
                rows.append(MetricValue(entry.key.output_name, where, entry.key.name, entry.value.double_value.value))
    return sorted(rows)


def _plain(uri: str) -> str:
    # TFMA takes the path for a pattern.
    return str(plain(uri))


def check_thresholds(thresholds: Thresholds, spec: FeatureSpec) -> None:
    """Refuses bounds of a task that the spec does not have, and bounds that are not finite numbers >= 0.

    Raises:
        ValueError: naming the bound, the task and the nearest valid task.
    """
    kinds = {label.name: label.kind for label in spec.labels}
    for bound, by_task in thresholds.root.items():
        for task, value in by_task.items():
            if task not in kinds:
                raise ValueError(f"`{bound}` names task `{task}`{nearest(task, spec.tasks)}")
            metric = find_metric(bounds()[bound].metric)
            if metric.per_request and spec.request is None:
                raise ValueError(
                    f"`{bound}` is of {metric.title}, and log `{spec.name}` declares no requests: give its spec "
                    '`request=Request("...")`, or leave the bound out'
                )
            if metric not in (known := of_kinds(kinds[task], requests=spec.request is not None)):
                raise ValueError(
                    f"`{bound}` names task `{task}` of kind {kinds[task]}, which {metric.title} does not measure; its "
                    f"metrics are {', '.join(each.name for each in known)}"
                )
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"`{bound}` of task `{task}` must be a finite number >= 0, received {value}")


def check_slices(slices: Iterable[Slice], spec: FeatureSpec) -> None:
    """Refuses what is no column to slice the evaluation rows by, and edges of what is no number.

    Args:
        slices: by features of the row and histories.
        spec: columns of a row.

    Raises:
        ValueError: naming the nearest that is.
    """
    known = [feature.name for feature in (*spec.inputs, *spec.histories)]
    numbers = [feature.name for feature in (*spec.numbers, *spec.histories)]
    for each in slices:
        name = each.column
        if name not in known:
            raise ValueError(f"`slices` names `{name}`, which is neither a feature nor a history{nearest(name, known)}")
        if each.edges and name not in numbers:
            raise ValueError(
                f"`edges` of `slices` are for a Numeric or a history, not for `{name}`{nearest(name, numbers)}"
            )


def _tfma_thresholds(thresholds: Thresholds, task: str) -> dict[str, list[Any]]:
    """TFMA's thresholds per metric of one task."""
    import tensorflow_model_analysis as tfma

    # Without a value bound TFX validates nothing and writes no blessing at all.
    values = {"example_count": {"lower_bound": {"value": 1.0}}}
    found: dict[str, list[Any]] = {}
    for name, by_task in thresholds.root.items():
        if task not in by_task:
            continue
        metric, side = bounds()[name]
        if side != "change":
            values.setdefault(metric, {})["lower_bound" if side == "min" else "upper_bound"] = {"value": by_task[task]}
            continue
        higher = find_metric(metric).higher_is_better
        change = tfma.GenericChangeThreshold(
            absolute={"value": -by_task[task] if higher else by_task[task]},
            direction=tfma.MetricDirection.HIGHER_IS_BETTER if higher else tfma.MetricDirection.LOWER_IS_BETTER,
        )
        found.setdefault(metric, []).append(tfma.MetricThreshold(change_threshold=change))
    for metric, limits in values.items():
        value = tfma.MetricThreshold(value_threshold=tfma.GenericValueThreshold(**limits))
        found.setdefault(metric, []).insert(0, value)
    return found


def _reason(failure: Any) -> str:
    metric = find_metric(failure.metric_key.name)
    subject = f"task {failure.metric_key.output_name}: {metric.title}"
    if not failure.HasField("metric_value"):
        return f"{subject} was not measured"
    value = failure.metric_value.double_value.value
    if math.isnan(value):
        return f"{subject} has no value, because all labels of the evaluation rows are equal"
    threshold = failure.metric_threshold
    if threshold.HasField("change_threshold"):
        allowed = abs(threshold.change_threshold.absolute.value)
        side = "below" if metric.higher_is_better else "above"
        return f"{subject} is {abs(value):.4f} {side} the last pushed model's, more than the {allowed:g} allowed"
    bound = threshold.value_threshold
    if bound.HasField("lower_bound") and value < bound.lower_bound.value:
        return f"{subject} is {value:.4f}, below the lower bound {bound.lower_bound.value:g}"
    return f"{subject} is {value:.4f}, above the upper bound {bound.upper_bound.value:g}"


def _text(value: bytes | float) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
