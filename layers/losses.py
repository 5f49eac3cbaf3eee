"""Losses that a label may be trained by in place of its kind's: which there are, and where one from outside stands.

A loss is named by one of `names()` (one of mixrank, or the entry point of another distribution), by the dotted path
`my_package.my_losses.LOSS`, or by the path of a .py file that defines `LOSS`. What stands there is an instance of
`keras.losses.Loss` of (labels, logits), both `(batch, 1)`; logits are `(batch, ...)` if the label has classes. Names
are looked up in the source text, so that a typo in a configuration is answered before Keras is imported; only `load`
imports the loss.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixrank.layers.references import announced, import_file, source_file
from mixrank.schemas.naming import nearest
from mixrank.schemas.task_kinds import BINARY, LOG_REGRESSION, REGRESSION, WATCH_TIME

if TYPE_CHECKING:
    import keras

# Distributions announce their losses in this group of entry points, as `my_package.my_losses:LOSS`.
ENTRY_POINTS = "mixrank.losses"
# Groups in which a loss may compare rows.
WITHIN = ("user", "request")
# What a file defines.
OF_FILE = "LOSS"


def focal(gamma: float = 2.0, alpha: float | None = None) -> keras.losses.Loss:
    """`-(1 - p_t)^gamma log p_t`, p_t the probability of the label's class (Lin et al. 2017, Eq. 4), from logits.

    Args:
        gamma: float >= 0. How much less a row counts the better it is predicted; 0 is the cross entropy.
        alpha: float between 0 and 1, or None. Weight of the positives, `1 - alpha` that of the negatives (Eq. 5).
    """
    import keras

    if not gamma >= 0:
        raise ValueError(f"`gamma` of the focal loss must be >= 0, received {gamma}")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"`alpha` of the focal loss must be above 0 and below 1, received {alpha}")
    balanced = {} if alpha is None else {"apply_class_balancing": True, "alpha": alpha}
    return keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True, **balanced)


def label_smoothing(epsilon: float = 0.1) -> keras.losses.Loss:
    """`mixrank.layers.task_kinds.smoothed_cross_entropy`."""
    from mixrank.layers.task_kinds import smoothed_cross_entropy

    return smoothed_cross_entropy(epsilon)


def huber(delta: float = 1.0) -> keras.losses.Loss:
    """`mixrank.layers.task_kinds.HuberLoss`."""
    from mixrank.layers.task_kinds import HuberLoss

    return HuberLoss(delta)


def quantile(q: float = 0.5, *, kind: str = REGRESSION.name) -> keras.losses.Loss:
    """`mixrank.layers.task_kinds.QuantileLoss` of a task of some kind."""
    from mixrank.layers.task_kinds import QuantileLoss

    return QuantileLoss(q, kind)


def pairwise(alpha: float = 0.5, within: str = "user") -> keras.losses.Loss:
    """`mixrank.layers.group_losses.PairwiseLoss` inside a `within`."""
    from mixrank.layers.group_losses import PairwiseLoss

    return PairwiseLoss(alpha)


def listwise(alpha: float = 0.5, within: str = "user") -> keras.losses.Loss:
    """`mixrank.layers.group_losses.ListwiseLoss` inside a `within`."""
    from mixrank.layers.group_losses import ListwiseLoss

    return ListwiseLoss(alpha)


def jrc(alpha: float = 0.5, within: str = "user") -> keras.losses.Loss:
    """`mixrank.layers.group_losses.JointLoss` inside a `within`."""
    from mixrank.layers.group_losses import JointLoss

    return JointLoss(alpha)


class Own(NamedTuple):
    """A loss of mixrank.

    Attributes:
        make: makes it; its arguments are the options, but for a keyword-only `kind`, that of the task.
        kinds: of the tasks that it fits.
        grouped: whether it is of the order inside a group; it then takes labels `(batch, 2)` as those of
            `mixrank.layers.group_losses`.
    """

    make: Callable[..., keras.losses.Loss]
    kinds: tuple[str, ...]
    grouped: bool = False


OWN = {
    "focal": Own(focal, (BINARY.name,)),
    "label_smoothing": Own(label_smoothing, (BINARY.name,)),
    "huber": Own(huber, (REGRESSION.name,)),
    "quantile": Own(quantile, (REGRESSION.name, LOG_REGRESSION.name, WATCH_TIME.name)),
    "pairwise": Own(pairwise, (BINARY.name,), grouped=True),
    "listwise": Own(listwise, (BINARY.name,), grouped=True),
    "jrc": Own(jrc, (BINARY.name,), grouped=True),
}


def names() -> list[str]:
    """Names of all losses: those of mixrank and those that installed distributions announce."""
    return sorted({*OWN, *announced(ENTRY_POINTS)})


def group_of(reference: str, options: Mapping[str, Any]) -> str | None:
    """Inside what a loss is of the order of rows, one of `WITHIN`; None for a loss of single rows."""
    if reference not in OWN or not OWN[reference].grouped:
        return None
    return str(options.get("within", WITHIN[0]))


def check(reference: str, options: Mapping[str, Any] | None = None, kind: str | None = None) -> None:
    """Refuses a loss that does not exist, options that it does not have, and a kind of task that it does not fit.

    Args:
        reference: a name of `names()`, a dotted path, or the path of a .py file.
        options: of a loss of mixrank, such as `{"gamma": 1.5}`.
        kind: as in `Label.kind`, if it is known.

    Raises:
        ValueError: with the nearest name, or what the file or module lacks.

    >>> check("fokal")
    Traceback (most recent call last):
    ValueError: there is no loss `fokal`; did you mean `focal`?
    """
    if reference in OWN:
        given = inspect.signature(OWN[reference].make).parameters.values()
        known = [option.name for option in given if option.kind is not option.KEYWORD_ONLY]
        for name in options or {}:
            if name not in known:
                raise ValueError(f"the loss `{reference}` has no option `{name}`{nearest(name, known)}")
        within = group_of(reference, options or {})
        if within is not None and within not in WITHIN:
            raise ValueError(f"`within` of the loss `{reference}` is {within!r}{nearest(within, WITHIN)}")
        if kind is not None and kind not in OWN[reference].kinds:
            raise ValueError(
                f"the loss `{reference}` is for labels of kind {' or '.join(OWN[reference].kinds)}, not {kind}"
            )
        return
    path, _, name = _place(reference)
    if options:
        raise ValueError(f"the loss `{reference}` takes no options: make it with them where `{name}` is defined")
    if not {name, "*", "__getattr__"} & _defined(path):
        raise ValueError(f"{path} must define `{name}`, a keras.losses.Loss, for the loss `{reference}`")


def load(reference: str, options: Mapping[str, Any] | None = None, kind: str | None = None) -> keras.losses.Loss:
    """The loss of a reference.

    Args:
        reference, options, kind: as in `check`.

    Returns:
        Keras loss of labels `(batch, 1)` and logits of as many elements.

    Raises:
        ValueError: as `check`, or if it is no Keras loss, one that takes probabilities, or has an option out of bounds.
    """
    check(reference, options, kind)
    if reference in OWN:
        make = OWN[reference].make
        of_kind = {"kind": kind} if kind is not None and "kind" in inspect.signature(make).parameters else {}
        return make(**(options or {}), **of_kind)
    path, module, name = _place(reference)
    found = getattr(import_file(path) if module is None else importlib.import_module(module), name, None)
    return _checked(reference, found)


def of_known(loss: keras.losses.Loss) -> keras.losses.Loss:
    """The loss, and 0 for every row whose label is NaN: `mean_i [y_i is known] l(y_i, z_i)` over all rows i of a batch.

    Args:
        loss: of labels `(batch, 1)` and logits of as many elements, without a condition of its own.
    """
    import keras
    from keras import ops

    class OfKnown(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            known = ops.isfinite(y_true)
            values = loss.call(ops.where(known, y_true, 0.0), _columns(y_pred))
            return values * ops.cast(known[:, 0], values.dtype)

    return OfKnown(name=loss.name, reduction=loss.reduction)


def of_kept(loss: keras.losses.Loss, keep: float) -> keras.losses.Loss:
    """The loss of `z - log(keep)`, the logit among rows of which only a share of the negatives was kept.

    With odds `e^z` in the whole log, those among the kept rows are `e^z / keep` (He et al. 2014, section 6.3), so that
    z, which is exported, stays the logit of the whole log.

    Args:
        loss: of labels `(batch, 1)` and logits of as many elements.
        keep: float above 0, at most 1.
    """
    import keras

    class OfKept(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return loss.call(y_true, y_pred - math.log(keep))

    return OfKept(name=loss.name, reduction=loss.reduction)


def over_entire_space(
    labels: Mapping[str, Any], logits: Mapping[str, Any], given: Mapping[str, str], tasks: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the losses see if some tasks that are given another are learned over all rows (Ma et al., SIGIR 2018).

    The label of such a task becomes `y_parent y`, its logit that of `p_parent p`; a parent that is given another itself
    is taken in the same way. p is still the probability given the parent, but every row has a part in learning it: in a
    row without the parent the label is a certain 0, whatever `y`, which is NaN there, would have been.

    Args:
        labels: task -> labels `(batch, 1)` or `(batch,)`, NaN where they are not known.
        logits: task -> logits `(batch,)` of the probability given the parent.
        given: task -> its parent, for every task that has one; both are binary.
        tasks: those that are learned over all rows.

    Returns:
        labels and logits, those of all other tasks as they were.
    """
    from keras import ops

    from mixrank.layers.task_kinds import product_logit

    whole: dict[str, tuple[Any, Any]] = {}

    def of_all_rows(task: str) -> tuple[Any, Any]:
        if task not in whole:
            y, z = labels[task], logits[task]
            if task in given:
                above, logit = of_all_rows(given[task])
                # Where the parent is not 1, it is 0, or not known.
                y, z = ops.where(above > 0, y, above), product_logit(logit, z)
            whole[task] = y, z
        return whole[task]

    found = {task: of_all_rows(task) for task in tasks}
    return (
        {**labels, **{task: y for task, (y, _) in found.items()}},
        {**logits, **{task: z for task, (_, z) in found.items()}},
    )


def with_uncertainty(loss: keras.losses.Loss, log_variance: keras.Variable) -> keras.losses.Loss:
    """`exp(-s) l + s / 2`, s the learned log variance of a task (Kendall, Gal, Cipolla, CVPR 2018, equation 10).

    At its best `exp(-s) = 1 / (2 E[l])`: every task weighs as much as it is well predicted. For squared errors the
    paper's form is `exp(-s) l / 2 + s / 2`, which is this one with s moved by log 2.

    Args:
        loss: of labels `(batch, 1)` and logits of as many elements.
        log_variance: scalar s, trained with the weights.
    """
    import keras
    from keras import ops

    class WithUncertainty(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            values = loss.call(y_true, y_pred)
            s = ops.cast(log_variance, values.dtype)
            return ops.exp(-s) * values + s / 2

    return WithUncertainty(name=loss.name, reduction=loss.reduction)


def origin(reference: str) -> str:
    """What to fingerprint for a loss: its module, or the path of its file."""
    if reference in OWN:
        return __name__
    path, module, _ = _place(reference)
    return str(path) if module is None else module


def takes_probabilities(loss: Any) -> bool:
    """Whether a Keras loss or metric, or its name in Keras, expects probabilities in place of logits."""
    if isinstance(loss, str):
        return "crossentropy" in loss.lower() or loss.lower() in ("bce", "auc")
    # Keras' metrics keep it in a private attribute, or among the arguments of the function they wrap.
    told = getattr(
        loss, "from_logits", getattr(loss, "_from_logits", getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    )
    return told is False


def _columns(logits: Any) -> Any:
    """Logits `(batch,)` as `(batch, 1)`; those of a task that has several as they are."""
    return logits[:, None] if len(logits.shape) == 1 else logits


def _place(reference: str) -> tuple[Path, str | None, str]:
    """File, module (None for a file by its path), and name inside it."""
    if reference.endswith(".py"):
        path = Path(reference).absolute()
        if not path.is_file():
            raise ValueError(f"loss file {reference} does not exist")
        return path, None, OF_FILE
    dotted = announced(ENTRY_POINTS).get(reference, reference)
    if not re.fullmatch(r"\w+(\.\w+)+", dotted):
        raise ValueError(f"there is no loss `{reference}`{nearest(reference, names())}")
    module, _, name = dotted.rpartition(".")
    found = source_file(module)
    if found is None:
        raise ValueError(f"there is no module `{module}` for the loss `{reference}`: is its package installed?")
    return found, module, name


def _defined(path: Path) -> set[str]:
    """Names that a file binds, and `*` if it imports all of another module's."""
    try:
        tree = ast.parse(path.read_text())
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name)
    return found


def _checked(reference: str, found: Any) -> keras.losses.Loss:
    import keras

    if not isinstance(found, keras.losses.Loss):
        raise ValueError(
            f"loss `{reference}` must be an instance of keras.losses.Loss, such as MyLoss(), received {found!r}"
        )
    if takes_probabilities(found):
        raise ValueError(f"loss `{reference}` takes probabilities, and a model gives logits: use from_logits=True")

    class OfColumns(keras.losses.Loss):
        # Keras gives a loss labels (batch, 1) and logits (batch,) as they are: a difference would be (batch, batch).
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return found.call(y_true, _columns(y_pred))

    return OfColumns(name=found.name, reduction=found.reduction)
