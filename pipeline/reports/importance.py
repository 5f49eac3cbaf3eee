"""What a trained model makes of each feature: how much worse it gets when the feature's values change rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from mixrank.components.metrics import Metric, Rows, find_metric, headlines
from mixrank.pipeline.reports.intervals import draw_users, percentile_interval
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.naming import Declaration, nearest

if TYPE_CHECKING:
    from rich.table import Table

# In the folder of a run, for its report.
IMPORTANCE = "importance.json"
RESAMPLES = 200
# Rows that are decoded at once.
DECODED = 2000
Columns = Mapping[str, NDArray[Any]]


class Importance(Declaration):
    """What one group of features is worth to a model, by one metric of one task.

    Args:
        group: names of the features.
        task, metric: what is measured.
        model: the metric of the rows as they are.
        loss: mean over the permutations of how much worse the metric gets; below 0 it gets better.
        low, high: 95 % interval of `loss`, from resamples of users.
        rows, permutations: counts.
    """

    group: str
    task: str
    metric: str
    model: float
    loss: float
    low: float
    high: float
    rows: int
    permutations: int


def feature_groups(spec: FeatureSpec, wanted: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Group of features -> raw columns whose values change rows together.

    Args:
        spec: columns of a row.
        wanted: features, histories and `history.field`, those of one group with commas between them; empty for the
            scenario, each feature of the row and each history alone.

    Raises:
        ValueError: for any other name; suggests the nearest valid name.
    """
    known: dict[str, tuple[str, ...]] = {spec.scenario.name: (spec.scenario.name,)}
    weights = {feature.name: column for column, feature in spec.weights.items()}
    known |= {f.name: (f.name, *([weights[f.name]] if f.name in weights else [])) for f in spec.inputs}
    inside = {h.name: {field.name: column for column, field in spec.weights_in(h)} for h in spec.histories}
    known |= {h.name: (*map(h.column, h.of), *inside[h.name].values()) for h in spec.histories}
    alone = tuple(known)
    known |= {
        f"{h.name}.{field}": (h.column(field), *([inside[h.name][field]] if field in inside[h.name] else []))
        for h in spec.histories
        for field in h.of
    }
    groups = {}
    for group in wanted or alone:
        columns: list[str] = []
        for name in (each.strip() for each in group.split(",")):
            if name not in known and name in {feature.name for feature in spec.model_features}:
                raise ValueError(f"`{name}` is computed from other columns: name its features or histories")
            if name not in known:
                raise ValueError(f"`{name}` is neither a feature nor a history{nearest(name, known)}")
            columns += known[name]
        groups[group] = tuple(dict.fromkeys(columns))
    return groups


def measure_importance(
    spec: FeatureSpec,
    columns: Columns,
    truth: Columns,
    score: Callable[[Columns], Columns],
    groups: Mapping[str, tuple[str, ...]],
    *,
    permutations: int = 3,
    resamples: int = RESAMPLES,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Importance]:
    """Permutation importance (Breiman 2001; Fisher, Rudin, Dominici 2019) of groups of features.

    Each permutation gives every row the group's values of another row, the same for all columns of the group, and
    leaves all other columns as they are. The interval is that of the paired difference: both metrics are computed on
    the same resamples of users, and the differences averaged over the permutations.

    Args:
        spec: columns of a row.
        columns: what `score` takes; `(rows, ...)`.
        truth: user, labels and row weights; `(rows,)`.
        score: columns -> output of the model -> predictions, `(rows,)`.
        groups: as of `feature_groups`.
        permutations: int >= 1. Of each group.
        resamples: int >= 1. Behind each interval.
        seed: of permutations and resamples.
        say: takes a line whenever a group is done.

    Returns:
        By task and metric, the most important group first.
    """
    rng = np.random.default_rng(seed)
    _, user = np.unique(truth[spec.user.name], return_inverse=True)
    drawn = draw_users(int(user.max()) + 1, resamples=resamples, seed=seed).astype(np.float64)
    measures = [
        _Measure(label, metric, truth, spec.weight_of(label), user, drawn)
        for label in spec.labels
        for metric in measured_by(label)
    ]
    plain = score(columns)
    before = [measure.of(plain) for measure in measures]
    found = []
    for number, (group, names) in enumerate(groups.items(), start=1):
        differences: list[list[tuple[float, NDArray[np.float64]]]] = [[] for _ in measures]
        for _ in range(permutations):
            order = rng.permutation(len(user))
            after = score({**columns, **{name: columns[name][order] for name in names}})
            for measure, (value, sample), kept in zip(measures, before, differences, strict=True):
                changed, changed_sample = measure.of(after)
                sign = 1 if measure.metric.higher_is_better else -1
                kept.append((sign * (value - changed), sign * (sample - changed_sample)))
        for measure, (value, _), kept in zip(measures, before, differences, strict=True):
            low, high = percentile_interval(np.mean([sample for _, sample in kept], axis=0))
            found.append(
                Importance(
                    group=group,
                    task=measure.label.name,
                    metric=measure.metric.name,
                    model=value,
                    loss=float(np.mean([loss for loss, _ in kept])),
                    low=low,
                    high=high,
                    rows=len(measure.counted),
                    permutations=permutations,
                )
            )
        say(f"{number} of {len(groups)}: {group}")
    order_of = {(measure.label.name, measure.metric.name): place for place, measure in enumerate(measures)}
    return sorted(found, key=lambda each: (order_of[each.task, each.metric], -each.loss))


def measured_by(label: Label) -> list[Metric]:
    """The first headline metric of order that has intervals, and the mean of the loss."""
    from mixrank.layers.task_kinds import TASK_KINDS

    order = next(metric for metric in headlines(label.kind, requests=False) if metric.of_resamples)
    return [order, find_metric(TASK_KINDS[label.kind].loss_metric)]


class _Measure:
    """A metric of a task on all rows that count, and on the resamples.

    Args:
        label, metric: the task and its metric.
        truth: labels and row weights.
        weight: the row weight of the task, or None.
        user: column of each row's user in `drawn`.
        drawn: `(resamples, users)`.
    """

    def __init__(
        self,
        label: Label,
        metric: Metric,
        truth: Columns,
        weight: str | None,
        user: NDArray[np.int64],
        drawn: NDArray[np.float64],
    ) -> None:
        self.label, self.metric, self.user, self.drawn = label, metric, user, drawn
        self.counted = np.arange(len(user))[label.counted(truth)]
        # In the unit of the loss.
        self.labels = np.asarray(truth[label.name], np.float64)[self.counted] / label.scale
        self.weights = None if weight is None else np.asarray(truth[weight], np.float64)[self.counted]

    def of(self, scores: Columns) -> tuple[float, NDArray[np.float64]]:
        """The value, and that of every resample."""
        assert self.metric.of_resamples is not None
        label = self.label
        if label.classes:
            own = np.stack([scores[output][self.counted] for output in label.outputs], axis=1)
        else:
            own = scores[label.name][self.counted] / label.scale
        rows = Rows.of_answers(self.labels, own, self.user[self.counted], label.classes, weights=self.weights)
        return float(self.metric.of_rows(rows)), self.metric.of_resamples(rows, self.drawn)


def read_rows(spec: FeatureSpec, pattern: str, most: int, seed: int = 0) -> tuple[Columns, Columns]:
    """The columns that the signature `score_rows` takes, and user, labels and row weights, of evaluation rows.

    Args:
        spec: columns of a row.
        pattern: files of joined rows.
        most: int >= 1. With more rows, this many are drawn.
        seed: of the draw.

    Raises:
        ValueError: if there are no rows.
    """
    import tensorflow as tf

    from mixrank.schemas.encode import decode
    from mixrank.serving.base import untuned
    from mixrank.serving.export import to_columns

    files = sorted(tf.io.gfile.glob(pattern))
    records = untuned(tf.data.TFRecordDataset(files, compression_type="GZIP")) if files else ()
    examples = [record.numpy() for record in records]
    if not examples:
        raise ValueError(f"{pattern} holds no rows")
    kept = np.arange(len(examples))
    if len(examples) > most:
        kept = np.sort(np.random.default_rng(seed).choice(len(examples), most, replace=False))
    parts: list[tuple[Columns, Columns]] = []
    known = (spec.user.name, *spec.tasks, *spec.row_weights, *spec.mature)
    # Decoded rows are Python objects, ten times as large as arrays.
    for at in range(0, len(kept), DECODED):
        rows = [decode(spec, examples[place]) for place in kept[at : at + DECODED]]
        truth = {name: np.array([row[name] for row in rows]) for name in known}
        parts.append((to_columns(spec, rows), truth))
    columns, truth = (
        {n: np.concatenate([each[n] for each in side]) for n in side[0]} for side in zip(*parts, strict=True)
    )
    return columns, truth


def scorer(model: Path, batch: int = 2048) -> Callable[[Columns], Columns]:
    """The signature `score_rows` of an exported model as `measure_importance` takes it."""
    import tensorflow as tf

    from mixrank.serving.base import load_saved_model, untuned

    loaded = load_saved_model(model)
    signature = loaded.signatures["score_rows"]

    def score(columns: Columns) -> Columns:
        parts: dict[str, list[NDArray[Any]]] = {}
        tensors = {name: tf.constant(values) for name, values in columns.items()}
        for rows in untuned(tf.data.Dataset.from_tensor_slices(tensors).batch(batch)):
            for task, answer in signature(**rows).items():
                parts.setdefault(task, []).append(answer.numpy().reshape(-1).astype(np.float64))
        # The loaded object keeps the signature's variables alive.
        assert loaded is not None
        return {task: np.concatenate(found) for task, found in parts.items()}

    return score


_FILE = TypeAdapter(list[Importance])


def write_importance(folder: Path, found: Sequence[Importance]) -> Path:
    """Writes `importance.json` into the folder of a run."""
    from mixrank.schemas.files import write_text_atomically

    file = folder / IMPORTANCE
    write_text_atomically(file, _FILE.dump_json(list(found), indent=1).decode())
    return file


def read_importance(folder: Path) -> list[Importance]:
    """What `write_importance` wrote; nothing where it wrote nothing.

    Raises:
        ValueError: naming the file, if it is not like that.
    """
    from mixrank.schemas.naming import readable

    file = folder / IMPORTANCE
    if not file.is_file():
        return []
    try:
        return _FILE.validate_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not as `mixrank importance` wrote it: {readable(error)}") from None


def by_measure(found: Sequence[Importance]) -> Iterator[tuple[str, Metric, list[Importance]]]:
    """(task, metric, its groups in their order) for every table."""
    for task, name in dict.fromkeys((each.task, each.metric) for each in found):
        yield task, find_metric(name), [each for each in found if (each.task, each.metric) == (task, name)]


def importance_table(task: str, metric: Metric, found: Sequence[Importance]) -> Table:
    """One table for the terminal."""
    from rich import box
    from rich.table import Table

    first = found[0]
    table = Table(
        title=f"{task}: {metric.title} {first.model:.4f} of {first.rows:,} rows",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("feature", no_wrap=True)
    for name in ("lost", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        sure = each.low > 0 or each.high < 0
        interval = f"{each.low:+.4f} to {each.high:+.4f}"
        table.add_row(each.group, f"{each.loss:+.4f}", interval, style=None if sure else "dim")
    return table
