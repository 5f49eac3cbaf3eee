"""Model and training settings of a run; written in a config's YAML, read by the Trainer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mixrank.components.calibration import Calibration, parse_method
from mixrank.components.metrics import directed, find_metric
from mixrank.layers import losses, registry
from mixrank.layers.heads import check_heads, heads_for
from mixrank.layers.ranking import field_names
from mixrank.schemas import KEYS, FeatureSpec
from mixrank.schemas.naming import Declaration, nearest
from mixrank.schemas.safe_text import shown

OPTIMIZERS = ("adam", "adamw", "adagrad", "rmsprop", "sgd", "lamb", "lion")
TABLE_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "lazy_adam")
# Options of Keras' optimizers that a training cannot honour.
_REFUSED = {
    "gradient_accumulation_steps": "it does not work on replicas; set `train.accumulate_steps`",
    "loss_scale_factor": "a training in float32 or bfloat16 scales no loss",
    "use_ema": "rounds, early stopping and the export use the weights themselves, not their averages",
}
# `warm_start` value: the newest version in the push folder at that time.
PUSHED = "pushed"
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


def parse_count(value: Any) -> Any:
    """A number of parameters as people write it.

    Args:
        value: "1M", "1.5B", "300k", "1_000_000"; anything but text is returned as it is.

    Raises:
        ValueError: if the text is not a number or ends in an unknown suffix.

    >>> parse_count("1.5B")
    1500000000
    """
    if not isinstance(value, str):
        return value
    number, suffix = re.fullmatch(r"([\d_.,]*)\s*(.*)", value.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    if suffix.upper() not in SUFFIXES:
        raise ValueError(f"a count may end in K, M or B, such as 1M; received {shown(value)}")
    try:
        return round(float(number.replace(",", "").replace("_", "")) * SUFFIXES[suffix.upper()])
    except ValueError:
        raise ValueError(f"a count is a number such as 1000000 or 1.5M, received {shown(value)}") from None


class ModelSettings(Declaration):
    """Architecture of the model.

    Args:
        name: a model that `mixrank models` lists, the path of a .py file, or a dotted path of a module or class.
        preset: a preset of that model, or None for its defaults.
        params: constructor parameters that override the preset.
        heads: heads in place of the model's own: `kind`, one of those that `mixrank heads` lists, and its options, such
            as `{kind: mmoe, experts: 8}`. None keeps the model's own.
        match_params: int >= 1, "1M" or None. Target number of dense parameters (no embeddings): the preset is scaled to
            this size, so that models can be compared at one budget. None uses the preset as it is.
        embedding_width: float > 0. Factor on the width of every embedding that the log's spec declares.
    """

    name: str = "hemix"
    preset: str | None = "tiny"
    params: dict[str, Any] = {}
    heads: dict[str, Any] | None = None
    match_params: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(parse_count)] = None
    embedding_width: float = Field(default=1.0, gt=0)

    @field_validator("heads")
    @classmethod
    def _check_heads(cls, heads: dict[str, Any] | None) -> dict[str, Any] | None:
        check_heads(heads)
        return heads

    def check(self, spec: FeatureSpec) -> None:
        """Refuses a spec that model or heads cannot read, and names in their options that it does not have.

        Args:
            spec: the log's declaration.

        Raises:
            ValueError: naming what is missing.
        """
        registry.check_spec(self.name, spec, field_names(spec), self.params, self.preset)
        heads_for(self.heads, spec)


def named_loss(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Reference and options of a loss as a config has it.

    Raises:
        ValueError: if a mapping has no `name`.

    >>> named_loss({"name": "focal", "gamma": 1.5})
    ('focal', {'gamma': 1.5})
    """
    if isinstance(given, str):
        return given, {}
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"a loss with options needs its `name`, received {shown(given)}")
    return name, options


class _Rate(Declaration):
    """A learning rate over a training."""

    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(default=0.0, ge=0, lt=1)

    def scaled(self, factor: float) -> Self:
        """The same optimizer with `factor` times the rate."""
        return self.model_copy(update={"learning_rate": self.learning_rate * factor})

    def decay(self, steps: int) -> dict[str, Any] | None:
        """Arguments of Keras' `CosineDecay` for a training of `steps` steps; None if the rate never changes."""
        rising = round(self.warmup * steps)
        if self.schedule == "constant" and not rising:
            return None
        return {
            "initial_learning_rate": 0.0 if rising else self.learning_rate,
            "decay_steps": max(1, steps - rising),
            "alpha": 1.0 if self.schedule == "constant" else 0.0,
            "warmup_target": self.learning_rate if rising else None,
            "warmup_steps": rising,
        }


class Optimizer(_Rate):
    """A Keras optimizer by name, for the dense weights.

    Args:
        name: adam, adamw, adagrad, rmsprop, sgd, lamb or lion.
        learning_rate: float > 0. The peak rate.
        schedule: "constant", or "cosine": from the rate down to zero over the whole training.
        warmup: float in [0, 1). Share of the steps in which the rate first rises from zero.
        options: further constructor arguments of the Keras class.
    """

    name: str = "adam"
    learning_rate: float = Field(default=1e-4, gt=0)
    options: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _known(name, OPTIMIZERS, "optimizer")

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name in _REFUSED:
                raise ValueError(f"option `{name}` of an optimizer is refused: {_REFUSED[name]}")
        return options


class TableOptimizer(_Rate):
    """An optimizer of `mixrank.components.training.optimizing`, for the embedding tables.

    Args:
        name: rowwise_adagrad, adagrad or lazy_adam.
        learning_rate: float > 0. The peak rate.
        schedule, warmup: as in `Optimizer`.
        options: `clipvalue` and `global_clipnorm` of all three, `start` of the Adagrads, `beta_1`, `beta_2` and
            `epsilon` of lazy Adam.
        rates: feature, or scenario -> factor of the rate of its table, such as {user_id: 0.5}; 1 for all others, 0
            leaves a table as it begins.
    """

    name: str = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0)
    options: dict[str, Any] = {}
    rates: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return _known(name, TABLE_OPTIMIZERS, "optimizer of embedding tables")


def _known(name: str, names: Collection[str], what: str) -> str:
    if name not in names:
        raise ValueError(f"there is no {what} `{name}`{nearest(name, names)}")
    return name


class EarlyStopping(Declaration):
    """Stop when a validation metric no longer improves, and keep the best weights.

    Args:
        metric: "loss", or "<task>.<metric>" with a metric that has a direction, such as "click.auc".
        patience: int >= 1. Rounds without improvement.
        min_delta: float >= 0. Smallest change that counts.
    """

    metric: str = "loss"
    patience: int = Field(default=2, ge=1)
    min_delta: float = Field(default=0.0, ge=0)

    @property
    def higher_is_better(self) -> bool:
        return self.metric != "loss" and bool(find_metric(self.metric.rpartition(".")[2]).higher_is_better)

    def check(self, spec: FeatureSpec) -> None:
        """Refuses a metric that validation does not compute.

        Args:
            spec: columns of a row.

        Raises:
            ValueError: naming the metric and the nearest valid one.
        """
        requests = spec.request is not None
        named = {label.name: directed(label.kind, requests=requests) for label in spec.labels}
        known = ["loss", *(f"{task}.{metric.name}" for task, metrics in named.items() for metric in metrics)]
        if self.metric not in known:
            raise ValueError(f"`early_stopping.metric` is {self.metric!r}{nearest(self.metric, known)}")


class TrainSettings(Declaration):
    """Settings of the training.

    A *round* is `steps_per_round` steps: after each round the model is validated and a checkpoint written.

    Args:
        splits: "train", or "train" and "valid"; validation runs only on a split that is not trained on.
        scenario_balance: "rows" if every row counts alike in the loss, or "scenarios" if every scenario does: a row of
            scenario c weighs N / (C N_c), with N_c of the N training rows in it, and C scenarios that have rows
            (MTmixAtt, arXiv 2510.15286, section 3.5). Validation and evaluation count rows.
        batch_size: int >= 1. Rows per step, which is one update of the weights.
        batch_size_per: "step" if `batch_size` counts the rows of all replicas of all workers, or "replica".
        accumulate_steps: int >= 1. Parts in which a replica computes its rows one after another, for batches that do
            not fit into its memory; their gradients are averaged.
        learning_rate_scaling: "none", or how the rates of both optimizers grow with the rows per step over
            `base_batch_size`: "linear" (Goyal et al. 2017) or "sqrt" (Krizhevsky 2014).
        base_batch_size: int >= 1 or None. Rows per step that the rates were tuned for.
        epochs: int >= 1. Passes over the training rows.
        steps_per_round: int >= 1 or None for one pass. The number of rounds is the nearest to `epochs` passes.
        loss: task -> loss that it is trained by in place of its kind's: "focal", "label_smoothing", "huber" or
            "quantile", the name of an entry point `mixrank.losses`, a dotted path, or the path of a .py file that
            defines `LOSS`; with options, a mapping such as `{name: focal, gamma: 1.5}`; "pairwise", "listwise" or
            "jrc" for the order of the rows of a user or a request, which need `rows_together`.
        entire_space: tasks that are given another and yet learned over all rows, by the product of both probabilities
            (ESMM); what is predicted stays the probability given the other.
        task_weighting: "fixed" by the labels' weights; "uncertainty", by learned variances besides (Kendall et al.
            2018); or "pcgrad": gradients of tasks that conflict are projected (Yu et al. 2020).
        optimizer: for the dense weights.
        embedding_optimizer: for the embedding tables.
        early_stopping: when to stop, or None to run all epochs and keep the last weights.
        precision: "float32" or "mixed_bfloat16".
        jit_compile: "on", "off" or "auto": XLA on one GPU, and neither on a CPU nor on several replicas.
        replicas: "auto" (all GPUs of all workers, else one CPU each) or a number of GPUs or logical CPU devices.
        tables: where the embedding tables and their slots are: "device" beside the dense weights, or "host" in the
            machine's memory, for tables that do not fit on a GPU; then there is one replica.
        shuffle_rows: int >= 1. Shuffle buffer.
        rows_together: int >= 1. Rows side by side in a file, where up to 16 of a user are, that stay together when rows
            are shuffled: a loss of the order inside a user compares the rows of one batch.
        seed: int.
        warm_start: path of an earlier run, pushed model or export whose embedding rows are copied token by token; or of
            the `state` that a training kept, of which all that fits is taken: dense weights, rows, optimizer slots;
            "pushed" for the version last pushed by this config (fresh rows before the first push).
        calibration: how predictions are calibrated after training on the split `valid`, which then must not be trained
            on: a mapping as of `Calibration`, or "platt" or "isotonic" alone; None leaves them as they are.
        table_storage: how the export holds the embedding tables: float32, bfloat16 (half the size) or int8 (about a
            quarter). Training is in float32; the evaluation split is scored with the stored tables.
        keep_state: whether the training leaves all that a later one needs to go on: weights, random states, optimizer
            slots and the number of steps. With early stopping the weights are the best ones and the slots the last.
    """

    splits: tuple[Literal["train", "valid"], ...] = ("train",)
    scenario_balance: Literal["rows", "scenarios"] = "rows"
    batch_size: int = Field(default=256, ge=1)
    batch_size_per: Literal["step", "replica"] = "step"
    accumulate_steps: int = Field(default=1, ge=1)
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    base_batch_size: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=1, ge=1)
    steps_per_round: int | None = Field(default=None, ge=1)
    loss: dict[str, str | dict[str, Any]] = {}
    entire_space: tuple[str, ...] = ()
    task_weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    optimizer: Optimizer = Optimizer()
    embedding_optimizer: TableOptimizer = TableOptimizer()
    early_stopping: EarlyStopping | None = None
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: Literal["auto", "on", "off"] = "auto"
    replicas: Literal["auto"] | int = "auto"
    tables: Literal["device", "host"] = "device"
    shuffle_rows: int = Field(default=50_000, ge=1)
    rows_together: int = Field(default=1, ge=1)
    seed: int = 0
    warm_start: str | None = None
    calibration: Annotated[Calibration | None, BeforeValidator(parse_method)] = None
    table_storage: Literal["float32", "bfloat16", "int8"] = "float32"
    keep_state: bool = False

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, loss: dict[str, str | dict[str, Any]]) -> dict[str, str | dict[str, Any]]:
        for given in loss.values():
            losses.check(*named_loss(given))
        return loss

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.groups and self.entire_space:
            raise ValueError(
                f"`entire_space` does not go together with a loss of groups, which `{next(iter(self.groups))}` has"
            )
        if self.groups and self.rows_together == 1:
            raise ValueError(
                f"the loss of `{next(iter(self.groups))}` compares rows of one group, and a batch of shuffled rows has "
                "few of one: set `rows_together`, to 16 for instance"
            )
        if "train" not in self.splits:
            raise ValueError(f"`splits` must contain `train`, received {self.splits}")
        if self.early_stopping is not None and "valid" in self.splits:
            raise ValueError("`early_stopping` needs a split that is not trained on: leave `valid` out of `splits`")
        if self.calibration is not None and "valid" in self.splits:
            raise ValueError("`calibration` is fitted on a split that is not trained on: leave `valid` out of `splits`")
        if (self.learning_rate_scaling == "none") is not (self.base_batch_size is None):
            raise ValueError(
                "`learning_rate_scaling` and `base_batch_size` go together, "
                f"received {shown(self.learning_rate_scaling)} and {self.base_batch_size}"
            )
        if isinstance(self.replicas, int):
            if self.replicas < 1:
                raise ValueError(f"`replicas` must be >= 1, received {self.replicas}")
            self.on(self.replicas)
        if self.tables == "host" and self.replicas not in ("auto", 1):
            raise ValueError(
                f"`tables: host` is for one replica, received `replicas` {self.replicas}: set `tables` to device"
            )
        return self

    def check(self, spec: FeatureSpec, splits: Collection[str]) -> None:
        """Refuses tasks and splits that the log does not have, and a metric that validation does not compute.

        Args:
            spec: columns of a row.
            splits: those that the log is split into.

        Raises:
            ValueError: naming the field and the nearest valid name.
        """
        known, kinds = spec.tasks, {label.name: label.kind for label in spec.labels}
        for name in self.embedding_optimizer.rates:
            if name not in spec.trained_tables:
                raise ValueError(
                    f"`embedding_optimizer.rates` names `{name}`, which has no table of its own that is trained"
                    f"{nearest(name, spec.trained_tables)}"
                )
        for task in self.entire_space:
            if task not in known:
                raise ValueError(
                    f"`train.entire_space` names the task `{task}`, which the log does not have{nearest(task, known)}"
                )
            (label,) = [each for each in spec.labels if each.name == task]
            if label.given is None or not label.is_flag:
                what = f"of kind {label.kind}" if label.given is not None else "not given another"
                raise ValueError(f"`train.entire_space` is for binary labels with `given`: label `{task}` is {what}")
        if self.entire_space and spec.sampled is not None:
            raise ValueError(
                f"`train.entire_space` is over every row, and label `{spec.sampled.name}` has `keep_negatives`, which "
                "leaves rows out"
            )
        for task, given in self.loss.items():
            if task not in known:
                raise ValueError(
                    f"`train.loss` names the task `{task}`, which the log does not have{nearest(task, known)}"
                )
            losses.check(*named_loss(given), kinds[task])
        if spec.request is None and KEYS["request"] in self.groups.values():
            raise ValueError(
                "a loss `within: request` needs the log to declare `request=Request(...)`, or `within: user`"
            )
        if (sampled := [label.name for label in spec.labels if label.keep_negatives < 1]) and self.splits != ("train",):
            raise ValueError(
                f"`train.splits` must be train alone, received {', '.join(self.splits)}: `keep_negatives` of label "
                f"`{sampled[0]}` leaves rows out of that split only"
            )
        for split in self.splits:
            if split not in splits:
                raise ValueError(f"`train.splits` names `{split}`, which the log does not have{nearest(split, splits)}")
        if self.early_stopping is not None:
            if "valid" not in splits:
                raise ValueError(
                    "`early_stopping` needs a `valid` split, and this dataset has none: give its `split` one"
                )
            self.early_stopping.check(spec)
        if self.calibration is not None:
            self._check_calibration(self.calibration, spec, splits)

    def check_going_on(self, splits: Collection[str]) -> None:
        """Refuses what a training that goes on from the state of another cannot do.

        Args:
            splits: those that it has rows of; new rows alone have no `valid`.

        Raises:
            ValueError: naming the field.
        """
        if self.warm_start is not None:
            raise ValueError(
                f"`warm_start` is for fresh weights, and this training goes on from a state, which holds all of them: "
                f"leave it out, received {shown(self.warm_start)}"
            )
        for name, given in (("calibration", self.calibration), ("early_stopping", self.early_stopping)):
            if given is not None and "valid" not in splits:
                raise ValueError(
                    f"`{name}` needs rows of a `valid` split, and the rows that this training goes on with are all "
                    f"trained on: leave it out"
                )

    def _check_calibration(self, calibration: Calibration, spec: FeatureSpec, splits: Collection[str]) -> None:
        if "valid" not in splits:
            raise ValueError("`calibration` needs a `valid` split, and this dataset has none: give its `split` one")
        for task in calibration.tasks:
            if task not in spec.tasks:
                raise ValueError(
                    f"`calibration.tasks` names `{task}`, which the log does not have{nearest(task, spec.tasks)}"
                )
        covered = [label for label in spec.labels if calibration.covers(label)]
        named = [label for label in spec.labels if label.name in calibration.tasks and label not in covered]
        for label in named or ([] if covered else spec.labels):
            raise ValueError(
                f"`calibration` fits a curve of one logit that predicts a mean, which task `{label.name}` of kind "
                f"{label.kind} does not have: leave it out"
            )
        for label in covered:
            if not label.is_flag and label.name in self.loss:
                raise ValueError(
                    f"`calibration` makes predictions means, and task `{label.name}` is trained by "
                    f"{self.losses[label.name]} to predict something else: name the others in `calibration.tasks`"
                )

    @property
    def groups(self) -> dict[str, str]:
        """Task -> column of keys inside which its loss compares rows, for those with such a loss."""
        found = {task: losses.group_of(*named_loss(given)) for task, given in self.loss.items()}
        return {task: KEYS[within] for task, within in found.items() if within is not None}

    @property
    def losses(self) -> dict[str, str]:
        """Task -> reference of the loss that it is trained by in place of its kind's."""
        return {task: named_loss(given)[0] for task, given in self.loss.items()}

    def on(self, replicas: int) -> TrainSettings:
        """The same training in numbers: `batch_size` per step, and the scaled rates.

        Args:
            replicas: int >= 1. Replicas over all workers.

        Raises:
            ValueError: if the rows of a step cannot be divided evenly.
        """
        rows = self.batch_size * (replicas if self.batch_size_per == "replica" else 1)
        if rows % (replicas * self.accumulate_steps):
            times = f" times `accumulate_steps` {self.accumulate_steps}" if self.accumulate_steps > 1 else ""
            raise ValueError(
                f"`batch_size` must be divisible by {replicas} replicas{times}: "
                f"{rows} % {replicas * self.accumulate_steps} != 0"
            )
        ratio = rows / (self.base_batch_size or rows)
        factor = {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.learning_rate_scaling]
        return self.model_copy(
            update={
                "batch_size": rows,
                "batch_size_per": "step",
                "learning_rate_scaling": "none",
                "base_batch_size": None,
                "optimizer": self.optimizer.scaled(factor),
                "embedding_optimizer": self.embedding_optimizer.scaled(factor),
            }
        )
